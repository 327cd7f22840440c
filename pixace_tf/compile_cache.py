"""Keeps the programs that XLA compiles for later processes.

A command spends most of its first seconds compiling. TensorFlow can keep
compiled programs in a folder; they hold no weights, so all runs whose models
have the same sizes share them.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import stat
import time
from typing import BinaryIO

from pixace_tf import machine

MAX_BYTES = 500 * 10**6
_FLAGS = "TF_XLA_FLAGS"
_STRIDE = 1 << 18


def enable() -> bool:
    """Let TensorFlow keep compiled programs; call it before the import.

    They are in `machine.cache_folder()`. A folder that others can write to is
    not used, since its programs are executed.

    Returns:
        Whether programs are kept.
    """
    flags = os.environ.get(_FLAGS, "")
    folder = _folder()
    if "persistent_cache" in flags:
        return True
    if folder is None:
        return False
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(folder):
            return False
        # Another process may tidy at the same time.
        with contextlib.suppress(FileNotFoundError):
            _tidy(folder)
    except OSError:  # A full or read-only disk.
        return False
    option = f"--tf_xla_persistent_cache_directory={folder}"
    os.environ[_FLAGS] = f"{flags} {option}".strip()
    return True


def align_names() -> None:
    """Give the functions traced next the same names as in other processes.

    TensorFlow looks up a compiled program by the name of its function, among
    other things, and numbers functions by a counter that each eager tensor
    advances. This function advances the counter to the next round number. Call
    it before tracing, and trace in one thread.
    """
    # The counter is not public.
    from tensorflow.python.framework.ops import uid

    while (uid() + 1) % _STRIDE:
        pass


def _folder() -> pathlib.Path | None:
    """Return the folder of this machine's programs, or None for no cache."""
    folder = machine.cache_folder()
    # GPUs are untested; white space would end the option.
    if folder is None or re.search(r"\s", str(folder)):
        return None
    if os.path.exists("/dev/nvidia0"):
        return None
    return folder / f"xla-{_machine()}"


def _machine() -> str:
    """Return a digest of everything that compiled programs depend on."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = platform.processor() + platform.machine()
    lines = re.findall(r"^(?:vendor_id|cpu family|model|flags)\b.*", text, re.M)
    parts = [
        importlib.metadata.version("tensorflow"),
        str(machine.num_schedulable_cores()),
        *sorted(set(lines or [text])),
    ]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=6).hexdigest()


def _is_private(folder: pathlib.Path) -> bool:
    """Tell whether only this user can write into a folder."""
    if not hasattr(os, "getuid"):
        return False
    state = folder.stat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return state.st_uid == os.getuid() and not state.st_mode & others


def _tidy(folder: pathlib.Path) -> None:
    """Remove damaged programs, and the oldest beyond `MAX_BYTES`."""
    states = [(f, f.stat()) for f in folder.iterdir()]
    total = 0
    for file, state in sorted(states, key=lambda pair: -pair[1].st_mtime):
        if file.suffix == ".tmp" and time.time() - state.st_mtime < 3600:
            continue  # Another process is writing it.
        total += state.st_size
        if total > MAX_BYTES or not _is_whole(file, state.st_size):
            file.unlink(missing_ok=True)


def _is_whole(file: pathlib.Path, size: int) -> bool:
    """Tell whether a file is complete; a power failure may cut it off.

    TensorFlow would fail on such a file. The file is a protocol buffer: each
    field of bytes follows its number and its length.
    """
    with file.open("rb") as stream:
        while stream.tell() < size:
            tag = _varint(stream)
            value = _varint(stream)
            if tag & 7 == 2:  # Bytes follow.
                stream.seek(value, os.SEEK_CUR)
            elif tag & 7:
                return False
        return 0 < size == stream.tell()


def _varint(stream: BinaryIO) -> int:
    """Read an integer of seven bits per byte, lowest bits first."""
    value, shift = 0, 0
    while byte := stream.read(1):
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            break
    return value

"""Files and folders that appear complete or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import pathlib
import secrets
import shutil
import struct
import sys
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np

from pixace_tf.errors import UserError

StrPath = str | os.PathLike[str]

# The "Software" of the images that this program writes.
SOFTWARE = "pixace-tf"
# A folder with this file is a run.
RUN_FILE = "run.json"
# A folder with this file was made by this program.
MARK_FILE = ".pixace"
_META = "meta"
_UNFINISHED = ".unfinished"
# The ending of an unfinished folder, and a file in it.
_NEW = ".new"
_WRITER_FILE = ".pixace-writer"
# Errors of file systems that cannot lock or sync.
_UNSUPPORTED = {
    *(errno.EINVAL, errno.ENOLCK, errno.ENOSYS),
    *(errno.ENOTSUP, errno.EOPNOTSUPP),
}


def write_atomic(path: StrPath, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, complete.

    Raises:
        OSError: If it cannot be written; an old file stays as it was.
    """
    with new_file(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_json(path: StrPath, value: Any) -> None:
    """Write indented JSON; see `write_atomic`."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: StrPath) -> Any:
    """Read a JSON file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_npz(
    path: StrPath, arrays: dict[str, np.ndarray], meta: dict[str, Any]
) -> None:
    """Write arrays and a JSON-ready dict as one `.npz`; see `write_atomic`."""
    packed = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with new_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{_META: packed}, **arrays)  # type: ignore[arg-type]


class Npz:
    """The arrays of an open `.npz` file, each read only when asked for.

    They must be uncompressed, so none needs more memory than its share of the
    file.

    Attributes:
        meta: The dict that `write_npz` was given.
        shapes: The shape of each array by name.
        dtypes: The type of each array by name.
    """

    def __init__(self, path: StrPath, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        with _explaining_damage(path):
            self._archive = zipfile.ZipFile(file)
            # The offset of the numbers, and their order in memory.
            self._places: dict[str, tuple[int, Literal["C", "F"]]] = {}
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.dtypes: dict[str, np.dtype[Any]] = {}
            for info in self._archive.infolist():
                self._read_header(info)
            self.meta: dict[str, Any] = json.loads(self.read(_META).tobytes())
        del self.shapes[_META], self.dtypes[_META]

    def read(self, name: str, rows: Any = None) -> np.ndarray:
        """Read an array.

        Args:
            name: One of `shapes`.
            rows: An index of its first dimension, such as a slice or integers;
                then no other rows are read and no checksum is verified.

        Raises:
            UserError: If the array is missing or its checksum is wrong.
        """
        with _explaining_damage(self._path):
            shape = self.shapes[name]
            if rows is None or not math.prod(shape):
                with self._archive.open(f"{name}.npy") as member:
                    array = np.lib.format.read_array(member)
                return array if rows is None else array[rows]
            offset, order = self._places[name]
            mapped = np.memmap(
                self._file, self.dtypes[name], "r", offset, shape, order
            )
        return np.array(mapped[rows])

    def _read_header(self, info: zipfile.ZipInfo) -> None:
        name = info.filename.removesuffix(".npy")
        # A local header has 30 bytes, which end in the lengths of the name and
        # of the extra field that follow.
        self._file.seek(info.header_offset + 26)
        lengths = struct.unpack("<HH", self._file.read(4))
        begin = self._file.seek(sum(lengths), os.SEEK_CUR)
        if np.lib.format.read_magic(self._file) != (1, 0):
            raise ValueError(f"{name} has an unknown version.")
        header = np.lib.format.read_array_header_1_0(self._file)
        shape, is_fortran, dtype = header
        offset = self._file.tell()
        size = offset - begin + math.prod(shape) * dtype.itemsize
        if not size == info.file_size == info.compress_size:
            raise ValueError(f"{name} has another size than it declares.")
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects.")
        self._places[name] = offset, "F" if is_fortran else "C"
        self.shapes[name], self.dtypes[name] = shape, dtype


@contextlib.contextmanager
def open_npz(path: StrPath) -> Iterator[Npz]:
    """Open a file of `write_npz`; runs no code from it.

        with storage.open_npz("tokens.npz") as file:
            if len(file.shapes["train"]) > 6:
                images = file.read("train", rows=slice(6))

    Raises:
        UserError: If the file is missing or damaged.
    """
    with contextlib.ExitStack() as stack:
        with _explaining_damage(path):
            file = stack.enter_context(open(path, "rb"))
        yield Npz(path, file)


def read_npz(path: StrPath) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a whole file of `write_npz`; see `open_npz`."""
    with open_npz(path) as file:
        return {name: file.read(name) for name in file.shapes}, file.meta


def npz_digest(path: StrPath) -> str:
    """Return a digest of a file of `write_npz`, from the checksums in it.

    Raises:
        UserError: If the file is missing or damaged.
    """
    with _explaining_damage(path), zipfile.ZipFile(path) as archive:
        sums = [f"{i.filename} {i.CRC:08x}" for i in archive.infolist()]
    return hashlib.blake2b("\n".join(sums).encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def _explaining_damage(path: StrPath) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"The file {path} is missing.") from None
    except (PermissionError, MemoryError):
        raise
    except Exception:  # A damaged archive can raise anything.
        raise UserError(f"The file {path} is damaged.") from None


def mark_folder(path: StrPath) -> None:
    """Mark a folder as made by this program: scans for images skip it."""
    note = f"Made by {SOFTWARE}: not scanned for images to train on.\n"
    write_atomic(os.path.join(path, MARK_FILE), note.encode())


@contextlib.contextmanager
def new_folder(path: StrPath) -> Iterator[str]:
    """Yield a temporary folder that becomes `path` unless the block fails.

    Raises:
        FileExistsError: If `path` exists by then.
    """
    parent, name = os.path.split(os.path.abspath(path))
    with _temporary_folder(parent, name) as temporary:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for each in ("", *names):
                _sync(os.path.join(folder, each))
        os.unlink(os.path.join(temporary, _WRITER_FILE))
        try:
            os.rename(temporary, path)
        except OSError as error:
            # The error for a folder that is not empty differs by system.
            if os.path.exists(path):
                raise FileExistsError(error.errno, "Exists", path) from None
            raise
    _sync(parent)


def remove_folder(path: StrPath) -> None:
    """Remove a folder so that a reader sees it complete or not at all."""
    parent, name = os.path.split(os.path.abspath(path))
    with (
        _temporary_folder(parent, name) as grave,
        # Another process may have removed it.
        contextlib.suppress(FileNotFoundError),
    ):
        os.rename(path, os.path.join(grave, name))


@contextlib.contextmanager
def _temporary_folder(parent: str, name: str) -> Iterator[str]:
    """Make a hidden folder in `parent`; remove it unless it is renamed.

    Folders of killed writers, whose files are not locked, are removed first.
    """
    for other in pathlib.Path(parent).glob(f".*{_NEW}"):
        if _is_abandoned(other / _WRITER_FILE):
            shutil.rmtree(other, ignore_errors=True)
    temporary = _temporary_name(parent, name, _NEW)
    os.mkdir(temporary)
    try:
        with _new_locked_file(os.path.join(temporary, _WRITER_FILE)):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: StrPath) -> Iterator[str]:
    """Yield an empty file, to be written in place, that replaces `path`.

    After an error it is removed.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = _temporary_name(folder, name, _UNFINISHED)
    try:
        with _new_locked_file(temporary):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # It has replaced `path`.
            os.unlink(temporary)
    _sync(folder)


def remove_unfinished(folder: StrPath) -> None:
    """Remove the files of `new_file` whose writers were killed."""
    for path in pathlib.Path(folder).glob(f".*{_UNFINISHED}"):
        if _is_abandoned(path):
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def lock(
    folder: StrPath, message: str, *, error: type[UserError] = UserError
) -> Iterator[None]:
    """Hold a folder by the file `.lock`, so that no two processes work in it.

    If another process holds it, `error` is raised with the message. Where the
    file system has no locks, as on some network drives, a line on standard
    error says so and nothing keeps other processes out.
    """
    with open(os.path.join(folder, ".lock"), "w") as file:
        try:
            if not _try_lock(file.fileno()):
                print(
                    f"The file system of {os.fspath(folder)} has no locks: do "
                    "not let a second process work in that folder.",
                    file=sys.stderr,
                )
        except BlockingIOError:
            raise error(message) from None
        yield


def _temporary_name(folder: str, name: str, ending: str) -> str:
    return os.path.join(folder, f".{name}.{secrets.token_hex(8)}{ending}")


@contextlib.contextmanager
def _new_locked_file(path: str) -> Iterator[None]:
    """Create an empty file and hold its lock as a sign of a living writer."""
    unlocked = f"{path}~"
    file = os.open(unlocked, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        _try_lock(file)
        # Only a locked file gets this name.
        os.rename(unlocked, path)
        yield
    finally:
        os.close(file)


def _is_abandoned(path: pathlib.Path) -> bool:
    """Return whether a file of `_new_locked_file` has no living writer."""
    try:
        with open(path, "r+b") as file:
            return _try_lock(file.fileno())
    except OSError:  # Missing, held, or of another user.
        return False


def _try_lock(file: int) -> bool:
    """Lock an open file; return False if the file system has no locks.

    A BlockingIOError says that another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _sync(path: StrPath) -> None:
    """Flush a file or folder to the disk, if the file system supports it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(handle)

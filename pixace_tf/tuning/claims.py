"""Claims: files in a shared folder that tell which process trains a trial."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
import time
from typing import Any

import psutil

from pixace_tf import storage

# Workers touch their claims twice a second; machines and drives may stall.
SILENCE_S = 60.0
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A trial that this process works on.

    Attributes:
        trial_id: The trial.
        path: A file that this process has created, touches and keeps locked.
    """

    trial_id: str
    path: str
    _file: int

    @classmethod
    def make(cls, trial_id: str, path: str, progress: int) -> "Claim | None":
        """Create the file of a claim, unless another process has done so.

        `progress` is a number that changes when the trial makes progress.
        """
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return None
        with contextlib.suppress(OSError):  # Some network drives cannot lock.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Other processes test the lock only after they have read this.
        content = {"machine": _machine(), "progress": progress}
        os.write(file, json.dumps(content).encode())
        return cls(trial_id, path, file)

    def beat(self) -> None:
        """Show other machines that this process is alive."""
        with contextlib.suppress(OSError):  # The next beat may succeed.
            os.utime(self._file)

    def close(self) -> None:
        """End the claim; its file stays and counts as a death."""
        os.close(self._file)

    def withdraw(self) -> None:
        """Leave the trial to others, as if it had never been claimed."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.close()


class Watch:
    """Tells the claims of live and dead processes apart."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def is_dead(self, path: str) -> bool:
        """Return whether the process that made a claim is gone.

        On this machine, its lock tells at once. Some network drives only
        pretend to lock for other machines, so their processes count as gone
        after a minute of silence by the clock of this machine.
        """
        is_here = read_claim(path).get("machine") == _machine()
        if is_here and _is_unlocked(path):
            return True
        try:
            touched = os.stat(path).st_mtime_ns
        except FileNotFoundError:  # Withdrawn.
            return True
        now = time.monotonic()
        if self._seen.get(path, (None, 0))[0] != touched:
            self._seen[path] = touched, now
        return now - self._seen[path][1] > SILENCE_S


def read_claim(path: str) -> dict[str, Any]:
    """Read "machine" and "progress"; a claim may be empty or withdrawn."""
    try:
        return dict(storage.read_json(path))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _is_unlocked(path: str) -> bool:
    try:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:  # Locked, withdrawn, or on a drive that cannot lock.
        return False


def _machine() -> str:
    """Return a text that identifies this machine since its start."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # macOS
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"

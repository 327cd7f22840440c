"""Child processes that stay within limits and never outlive their parent."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import psutil

POLL_S = 0.5
# For a training to save its state.
STOP_S = 20.0

# This module, which as the main one goes by another name.
_NAME = "pixace_tf.tuning.processes"

Process = subprocess.Popen[bytes]


class LimitExceededError(Exception):
    """A process took more time or memory than it may."""


def start(
    module: str,
    arguments: Sequence[str],
    log: str,
    environment: dict[str, str] | None = None,
) -> Process:
    """Start a module of this package, tied to this process by its stdin.

    Args:
        module: Its full name.
        arguments: Of its command line.
        log: The file that its output is appended to.
        environment: Variables beside those of this process.

    Returns:
        The process. It does not get the terminal's Ctrl-C: who starts it
        decides what to do about that.
    """
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", _NAME, module, *arguments],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )


def _end_with_parent() -> None:
    """Make this process, begun by `start`, end when its parent does.

    Whatever ends the parent closes the pipe to our stdin. A training gets some
    time to save its state.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_S)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def stop(process: Process) -> None:
    """End a process: ask first, then kill."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def wait_within(
    process: Process,
    seconds: float | None,
    memory_bytes: int | None,
    on_poll: Callable[[], None] = lambda: None,
) -> int:
    """Wait for a process; end it where it passes a limit.

    Args:
        process: As `start` returns it.
        seconds: Wall time from now, None for no limit.
        memory_bytes: Resident memory, None for no limit.
        on_poll: Called some times a second.

    Returns:
        Its exit code; negative is the number of a signal.

    Raises:
        LimitExceededError: If it took too much and was ended.
    """
    began = time.monotonic()
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_S)
            on_poll()
            if seconds is not None and time.monotonic() - began > seconds:
                raise LimitExceededError(
                    f"It took more than {seconds / 60:.4g} minutes."
                )
            used = _resident_bytes(process.pid)
            if memory_bytes is not None and used > memory_bytes:
                process.kill()
                raise LimitExceededError(
                    f"It took {used / 1e9:.1f} GB of memory, more than the "
                    f"limit of {memory_bytes / 1e9:.4g} GB."
                )
    finally:
        stop(process)


def reason(code: int, log: str) -> str:
    """Say in one line why a process failed.

    Args:
        code: Its exit code.
        log: What it wrote.
    """
    if code < 0:
        names = {s.value: s.name for s in signal.Signals}
        name = names.get(-code, f"signal {-code}")
        hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"It was ended by {name}{hint}; see {log}."
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else f"It failed with code {code}."


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # It has just ended.
        return 0


if __name__ == "__main__":  # Before the module's imports, which take long.
    _end_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

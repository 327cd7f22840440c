"""The trials that this machine trains, each in its own process.

So memory that Keras leaks is freed, and a trial that takes too much time or
memory can be ended.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import psutil

from pixace_tf.training.interruption import StopRequest
from pixace_tf.tuning.claims import Claim
from pixace_tf.tuning.space import LOGS
from pixace_tf.tuning.trials import Search, fail

POLL_S = 0.5
# Time for a training to save its state.
STOP_S = 20.0
_LOOK_S = 0.02
# The exit codes of a training that was asked to stop.
_STOPPED = {-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT}


class Limits(NamedTuple):
    """A trial that takes more has failed; None is no limit."""

    seconds: float | None = None
    memory_bytes: int | None = None


def work(
    search: Search,
    command: Callable[[str], Sequence[str]],
    workers: int,
    limits: Limits,
    stop: StopRequest,
    on_poll: Callable[[], None] = lambda: None,
) -> None:
    """Train some trials at a time until the search is over on all machines.

    `command` returns the command line that trains a trial; `on_poll` is called
    about twice a second.

    Raises:
        InterruptedTraining: If a signal asked to stop; the trials save their
            state first.
    """
    jobs: list[Job] = []
    try:
        while True:
            while len(jobs) < workers:
                claim = search.next()
                if claim is None:
                    break
                jobs.append(Job(claim, command(claim.trial_id), search.folder))
            on_poll()
            if search.is_over:
                return
            _wait(jobs, stop)
            stop.check()
            jobs = [job for job in jobs if not job.look(search, limits)]
    finally:
        _end(jobs)
        for job in jobs:
            job.claim.withdraw()


class Job:
    """A process that trains a claimed trial."""

    def __init__(
        self, claim: Claim, command: Sequence[str], folder: str
    ) -> None:
        self.claim = claim
        self._log = os.path.join(folder, LOGS, f"{claim.trial_id}.log")
        os.makedirs(os.path.dirname(self._log), exist_ok=True)
        self._began = time.monotonic()
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # See `end_with_parent`.
                stdout=log,
                stderr=log,
                start_new_session=True,  # Keeps Ctrl-C from the trial.
            )

    def look(self, search: Search, limits: Limits) -> bool:
        """Return whether the process has ended; record a failure.

        A process that exceeds its limits, or whose trial another process has
        taken over, is ended.
        """
        code = self.process.poll()
        failure = _reason(code, self._log) if code else self._excess(limits)
        if code is None and not failure and not search.is_lost(self.claim):
            self.claim.beat()
            return False
        _end([self])
        if failure and code not in _STOPPED and not search.is_lost(self.claim):
            fail(search.folder, self.claim.trial_id, failure)
        self.claim.close()
        return True

    def _excess(self, limits: Limits) -> str:
        """Return how the process exceeds its limits, "" if it does not."""
        seconds, memory_bytes = limits
        if seconds and time.monotonic() - self._began > seconds:
            return f"It took more than {seconds / 60:.4g} minutes."
        used = _resident_bytes(self.process.pid)
        if memory_bytes and used > memory_bytes:
            self.process.kill()
            return (
                f"It took {used / 1e9:.1f} GB of memory, more than the limit "
                f"of {memory_bytes / 1e9:.4g} GB."
            )
        return ""


def _wait(jobs: Sequence[Job], stop: StopRequest) -> None:
    """Wait until a job has ended, at most half a second."""
    end = time.monotonic() + POLL_S
    while time.monotonic() < end and not stop.signum:
        if any(job.process.poll() is not None for job in jobs):
            return
        time.sleep(_LOOK_S)


def _end(jobs: Sequence[Job]) -> None:
    """End processes: ask all of them first, then kill."""
    end = time.monotonic() + STOP_S
    for job in jobs:
        job.process.terminate()
    for job in jobs:
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.process.wait(max(0.0, end - time.monotonic()))
        job.process.kill()
        job.process.wait()
        assert job.process.stdin is not None
        job.process.stdin.close()


def _reason(code: int, log: str) -> str:
    """Return one line that says why a process failed, from code and output."""
    if code < 0:
        names = {s.value: s.name for s in signal.Signals}
        name = names.get(-code, f"signal {-code}")
        hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"The process was ended by {name}{hint}; see {log}."
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else f"It failed with code {code}."


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # It has just ended.
        return 0


def end_with_parent() -> None:
    """Make this process, which a `Job` started, end when its parent does.

    Standard input closes then, whatever ended the parent. A training gets some
    time to save its state.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_S)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

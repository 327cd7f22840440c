"""The trials that this machine trains, each in its own process.

A process of its own: keras leaks memory from one training to the next, and a
trial that takes too much time or memory can be ended.
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
    """What a trial may take before it counts as failed; None: no limit."""

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
    """Train trials until the search is over, on all machines that take part.

    Args:
        search: Hands out the trials.
        command: Returns the command line that trains a trial.
        workers: Trials to train at a time.
        limits: Of each trial.
        stop: Ends this early; trials save their state first.
        on_poll: Called about twice a second.

    Raises:
        InterruptedTraining: If a signal asked to stop.
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
    """A process that trains a claimed trial.

    Args:
        claim: The claim.
        command: The command line.
        folder: The sweep's.
    """

    def __init__(
        self, claim: Claim, command: Sequence[str], folder: str
    ) -> None:
        logs = os.path.join(folder, LOGS)
        os.makedirs(logs, exist_ok=True)
        self.claim = claim
        self._log = os.path.join(logs, f"{claim.trial_id}.log")
        self._began = time.monotonic()
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # It closes when this process dies.
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process.
            )

    def look(self, search: Search, limits: Limits) -> bool:
        """Tell whether the process has ended; end it if it has to.

        A failure is recorded.
        """
        code = self.process.poll()
        failure = reason(code, self._log) if code else self._excess(limits)
        if code is None and not failure and not search.is_lost(self.claim):
            self.claim.beat()
            return False
        _end([self])
        if failure and code not in _STOPPED and not search.is_lost(self.claim):
            fail(search.folder, self.claim.trial_id, failure)
        self.claim.close()
        return True

    def _excess(self, limits: Limits) -> str:
        """Return how the process exceeds its limits; nothing if it does not."""
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
    """Wait until a job has ended, but not for long."""
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


def reason(code: int, log: str) -> str:
    """Say in one line why a process failed.

    Args:
        code: Its exit code.
        log: The file that holds its output.
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


def end_with_parent() -> None:
    """Make this process, started as a `Job`, end when its parent does.

    Its standard input closes then, whatever ended the parent. A training gets
    some time to save its state.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_S)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

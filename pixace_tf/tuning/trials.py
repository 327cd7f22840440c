"""The trials of a sweep, as files that any number of machines may share.

    trials/0003/values.json   the choices of the oracle
    trials/0003/oracle.json   the state of the oracle after that
    trials/0003/claim-1       the first process that trained it; see `claims`
    trials/0003/failed.json   why it failed
    runs/0003/figures.json    its figures

A folder in `trials` appears whole and once: if several processes add the same
trial, one of them succeeds. No file changes later. So processes can be killed
at any moment, and need no lock.
"""

import contextlib
import dataclasses
import glob
import os
from collections.abc import Callable
from typing import Any

from pixace_tf import storage
from pixace_tf.runs.run_config import CHECKPOINT_FILE
from pixace_tf.tuning.claims import Claim, Watch, read_claim
from pixace_tf.tuning.space import FIGURES_FILE, RUNS, TRIALS

# A trial fails after this many deaths without a new checkpoint.
MAX_DEATHS = 5
COMPLETED = "COMPLETED"
FAILED = "FAILED"
RUNNING = "RUNNING"
_VALUES_FILE = "values.json"
_ORACLE_FILE = "oracle.json"
_FAILED_FILE = "failed.json"


@dataclasses.dataclass(frozen=True)
class Trial:
    """The state of a trial.

    Attributes:
        trial_id: Name of its run.
        values: The choices of the oracle, by name.
        figures: See `trial.measure`; empty unless completed.
        message: Why the trial failed; empty unless it did.
    """

    trial_id: str
    values: dict[str, Any]
    figures: dict[str, float]
    message: str

    @property
    def status(self) -> str:
        """The status in keras-tuner's words, one of the constants above."""
        if self.figures:
            return COMPLETED
        return FAILED if self.message else RUNNING

    @property
    def is_completed(self) -> bool:
        """Whether the trial has figures."""
        return self.status == COMPLETED

    @property
    def is_ended(self) -> bool:
        """Whether the trial is completed or has failed."""
        return self.status != RUNNING


@dataclasses.dataclass(frozen=True)
class Proposal:
    """The next trial that an oracle chose, and its state after that."""

    trial_id: str
    values: dict[str, Any]
    oracle: dict[str, Any]


# Takes the trials so far and the state after the last one. Returns None if no
# trial can be added now.
Oracle = Callable[[list[Trial], dict[str, Any] | None], Proposal | None]


def read_trials(folder: str) -> list[Trial]:
    """Read the trials of a sweep, in the order they were added."""
    names = glob.glob("*", root_dir=os.path.join(folder, TRIALS))
    return [read_trial(folder, name) for name in sorted(names)]


def read_trial(folder: str, trial_id: str) -> Trial:
    """Read one trial of a sweep."""
    path = os.path.join(folder, TRIALS, trial_id)
    completed = os.path.join(folder, RUNS, trial_id, FIGURES_FILE)
    failed = os.path.join(path, _FAILED_FILE)
    figures, message = {}, ""
    if os.path.exists(completed):  # Even if another process reported a failure.
        figures = storage.read_json(completed)
    elif os.path.exists(failed):
        message = storage.read_json(failed)["message"]
    values = storage.read_json(os.path.join(path, _VALUES_FILE))
    return Trial(trial_id, values, figures, message)


def fail(folder: str, trial_id: str, message: str) -> None:
    """Record why a trial failed; it is not tried again."""
    path = os.path.join(folder, TRIALS, trial_id, _FAILED_FILE)
    storage.write_json(path, {"message": message})


class Search:
    """Hands out the trials of the sweep in a folder to this process.

    Attributes:
        is_over: Whether all trials have ended and the oracle wants no more.
    """

    def __init__(self, folder: str, oracle: Oracle) -> None:
        self.folder = folder
        self.is_over = False
        self._oracle = oracle
        self._watch = Watch()
        os.makedirs(os.path.join(folder, TRIALS), exist_ok=True)

    def next(self) -> Claim | None:
        """Claim a trial that no process works on; add one if needed.

        Return None if there is nothing to do now.
        """
        while True:
            trials = read_trials(self.folder)
            running = [t.trial_id for t in trials if not t.is_ended]
            for trial_id in running:
                claim = self._claim(trial_id)
                if claim is not None:
                    return claim
            proposal = self._propose(trials)
            if proposal is None:
                self.is_over = not running
                return None
            path = os.path.join(self.folder, TRIALS, proposal.trial_id)
            # Another process may have added it meanwhile.
            with (
                contextlib.suppress(FileExistsError),
                storage.new_folder(path) as new,
            ):
                values, oracle = proposal.values, proposal.oracle
                storage.write_json(os.path.join(new, _VALUES_FILE), values)
                storage.write_json(os.path.join(new, _ORACLE_FILE), oracle)

    def is_lost(self, claim: Claim) -> bool:
        """Return whether another process has taken over a trial."""
        return self._claims(claim.trial_id)[-1:] != [claim.path]

    def _propose(self, trials: list[Trial]) -> Proposal | None:
        if not trials:
            return self._oracle(trials, None)
        last = os.path.join(self.folder, TRIALS, trials[-1].trial_id)
        state = storage.read_json(os.path.join(last, _ORACLE_FILE))
        return self._oracle(trials, state)

    def _claim(self, trial_id: str) -> Claim | None:
        claims = self._claims(trial_id)
        if claims and not self._watch.is_dead(claims[-1]):
            return None
        progress = _progress(self.folder, trial_id)
        deaths = [read_claim(path).get("progress") for path in claims]
        if deaths.count(progress) >= MAX_DEATHS:
            message = f"{MAX_DEATHS} processes died while they trained it."
            fail(self.folder, trial_id, message)
            return None
        number = _number(claims[-1]) + 1 if claims else 1
        path = os.path.join(self.folder, TRIALS, trial_id, f"claim-{number}")
        return Claim.make(trial_id, path, progress)

    def _claims(self, trial_id: str) -> list[str]:
        """Return the claims of a trial, oldest first."""
        folder = os.path.join(self.folder, TRIALS, trial_id)
        names = glob.glob("claim-*", root_dir=folder)
        paths = [os.path.join(folder, name) for name in names]
        return sorted(paths, key=_number)


def _number(path: str) -> int:
    return int(path.rpartition("-")[2])


def _progress(folder: str, trial_id: str) -> int:
    """Return a number that changes with each checkpoint of a trial."""
    path = os.path.join(folder, RUNS, trial_id, CHECKPOINT_FILE)
    return os.stat(path).st_mtime_ns if os.path.exists(path) else 0

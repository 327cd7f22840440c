"""All that reaches into keras-tuner, private parts included.

The oracles here outlive the processes around them. keras-tuner's own write
files in place, so that a kill leaves half of one; a grid forgets where it was;
after a restart the trials of workers that still live are handed out again; a
trial whose worker is gone is waited for without end; one that kills its workers
would go on doing so. The tuner trains each trial in a process of its own.

Private names may change with any version: `setup.cfg` pins the range that was
tested, and a test names what is missing in another.
"""

import collections
import contextlib
import functools
import io
import json
import math
import os
import pathlib
import time
import traceback
from collections.abc import Callable
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FailedTrialError, FatalRuntimeError
from keras_tuner.src import config
from keras_tuner.src.distribute import oracle_client
from keras_tuner.src.distribute.utils import is_chief_oracle as is_chief

from pixace_tf import storage
from pixace_tf.tuning import processes
from pixace_tf.tuning.space import (
    FIGURES_FILE,
    LOGS,
    RUNS,
    TUNER,
    WORKERS,
    PixaceHyperModel,
    Sweep,
    load_sweep,
)

__all__ = [
    "FatalRuntimeError",
    "SweepTuner",
    "end_process_on_errors",
    "is_chief",
    "make_oracle",
]

config.DEBUG = False  # It prints the traceback of every failed trial.
COMPLETED = "COMPLETED"
FAILED = "FAILED"
IDLE = "IDLE"
RUNNING = "RUNNING"
STOPPED = "STOPPED"
# Runs of a trial whose worker died each time, before it is given up.
MAX_RUNS = 5
# keras-tuner stops a search that fails thrice in a row, and then hangs.
_NEVER = 10**9
# A chief that was killed is back long before that.
_PATIENCE_S = 300.0
_PAUSE_S = 0.5


class LastingOracle(keras_tuner.Oracle):
    """What is the same for all kinds of search; a mixin.

    Attributes:
        is_exhausted: Whether a worker was told that there is nothing left.
    """

    is_exhausted = False
    trials: dict[str, Any]
    _resumed: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verbose = 0
        self._handed_out: dict[str, int] = collections.Counter()

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Any:
        """Hand out a trial; a worker that comes back gets its old one.

        A trial that took several workers with it counts as failed.
        """
        trial = self.ongoing_trials.get(tuner_id)
        if trial and self._handed_out[trial.trial_id] >= MAX_RUNS:
            trial.status = FAILED
            trial.message = f"Its worker died {MAX_RUNS} times."
            self.end_trial(trial)
        trial = super().create_trial(tuner_id)
        if trial.status == STOPPED and self.ongoing_trials:
            # One of those may need another worker; it must be told to stop.
            trial.status = IDLE
            self.tuner_ids.add(tuner_id)
        elif trial.status == STOPPED:
            self.is_exhausted = True
        elif trial.status == RUNNING:
            self._handed_out[trial.trial_id] += 1
        return trial

    @keras_tuner.synchronized
    def end_trial(self, trial: Any) -> None:
        """Record a trial, once, whoever reports it.

        A worker that was thought gone may report a failure, and the one that
        got its trial a success: that counts.
        """
        if trial.trial_id in self.end_order:
            known = self.trials[trial.trial_id]
            if (known.status, trial.status) != (FAILED, COMPLETED):
                return
            self.end_order.remove(trial.trial_id)
        while trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        super().end_trial(trial)

    @keras_tuner.synchronized
    def release(self, tuner_id: str) -> None:
        """Give the trial of a worker that is gone to the next one."""
        trial = self.ongoing_trials.pop(tuner_id, None)
        if trial is not None:
            self._retry_queue.append(trial.trial_id)
            self.save()

    @keras_tuner.synchronized
    def busy_workers(self) -> list[str]:
        """Return the workers that have a trial."""
        return list(self.ongoing_trials)

    def save(self) -> None:
        """Write the state, whole or not at all."""
        storage.write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Any) -> None:
        folder = self._get_trial_dir(trial.trial_id)
        path = os.path.join(folder, "trial.json")
        storage.write_json(path, trial.get_state())

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over a state, and remember who was at work."""
        super().set_state(state)
        self._resumed = dict(self.ongoing_trials)

    def reload(self) -> None:
        """Go on from the files, with the same trials at the same workers."""
        super().reload()
        for tuner_id, trial in self._resumed.items():
            self._retry_queue.remove(trial.trial_id)
            # It is written before it is taken from the ongoing ones.
            if trial.trial_id not in self.end_order:
                self.ongoing_trials[tuner_id] = trial
        # Written, but killed before it was handed out.
        self.trials = {name: self.trials[name] for name in self.start_order}


class LastingGrid(LastingOracle, keras_tuner.oracles.GridSearchOracle):
    """A grid that finds its place again, and keeps all workers busy."""

    def reload(self) -> None:
        """Go on from the files, behind the combinations that were tried."""
        super().reload()

        def compare(first: str, second: str) -> int:
            one, other = self.trials[first], self.trials[second]
            return self._compare(
                one.hyperparameters.values, other.hyperparameters.values
            )

        for name in sorted(self.trials, key=functools.cmp_to_key(compare)):
            self._ordered_ids.insert(name)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Choose the next combination, without waiting for a trial to end.

        keras-tuner waits, since a trial might bring new hyperparameters.
        """
        self._populate_next = list(self.start_order)
        chosen: dict[str, Any] = super().populate_space(trial_id)
        return chosen


class LastingRandom(LastingOracle, keras_tuner.oracles.RandomSearchOracle):
    """A random search."""


class LastingHyperband(LastingOracle, keras_tuner.oracles.HyperbandOracle):
    """Many short trainings, of which the better ones go on.

    Its rounds are no larger than the space: keras-tuner's would wait for more
    combinations than there are, and end before any training goes on.
    """

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        choices = (len(hp.values) for hp in self.hyperparameters.space)
        most = math.ceil(math.prod(choices) / self.factor**round_num)
        return min(super()._get_size(bracket_num, round_num), most)


class LastingBayesian(
    LastingOracle, keras_tuner.oracles.BayesianOptimizationOracle
):
    """Trials where a Gaussian process expects the best; wants scikit-learn."""


def make_oracle(sweep: Sweep) -> LastingOracle:
    """Return the oracle that a sweep asks for."""
    options: dict[str, Any] = {
        "objective": keras_tuner.Objective(sweep.objective, "min"),
        "seed": sweep.seed + 1,  # 0 would be a random one.
        "max_consecutive_failed_trials": _NEVER,
    }
    if sweep.tuner == "hyperband":
        return LastingHyperband(max_epochs=sweep.fixed["epochs"], **options)
    options["max_trials"] = sweep.max_trials
    kinds: dict[str, type[LastingOracle]] = {
        "grid": LastingGrid,
        "random": LastingRandom,
        "bayesian": LastingBayesian,
    }
    return kinds[sweep.tuner](**options)


class SweepTuner(BaseTuner):
    """Runs the trials of a sweep, as keras-tuner's variables say.

    By itself it searches; as a chief it serves an oracle; as a worker it asks
    the chief. A trial that fails is recorded, and the search goes on.

    Args:
        folder: The sweep's.
        on_poll: Called some times a second.
    """

    def __init__(
        self, folder: str, on_poll: Callable[[], None] = lambda: None
    ) -> None:
        self.oracle: Any
        self.folder = folder
        self.sweep = load_sweep(folder)
        self._on_poll = on_poll
        for name in (TUNER, WORKERS, LOGS, RUNS):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(
                make_oracle(self.sweep),
                PixaceHyperModel(self.sweep),
                directory=folder,
                project_name=TUNER,
            )
        if self._is_worker():
            self.oracle = _PatientClient(self.oracle)

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Train one trial in a process of its own.

        Returns:
            Its figures; see `trial.measure`.

        Raises:
            FailedTrialError: If it failed, with the reason in one line.
        """
        trial_id, values = trial.trial_id, trial.hyperparameters.values
        log = os.path.join(self.folder, LOGS, f"{trial_id}.log")
        process = processes.start(
            "pixace_tf.tuning.trial",
            [self.folder, trial_id, json.dumps(values)],
            log,
        )
        try:
            code = processes.wait_within(
                process,
                self.sweep.time_limit_s,
                self.sweep.memory_limit_bytes,
                self._beat,
            )
        except processes.LimitExceededError as error:
            raise FailedTrialError(str(error)) from None
        if code:
            raise FailedTrialError(processes.reason(code, log))
        path = os.path.join(self.folder, RUNS, trial_id, FIGURES_FILE)
        with open(path, encoding="utf-8") as file:
            figures: dict[str, float] = json.load(file)
        return figures

    def pre_create_trial(self) -> None:
        """Wait a little before the next trial.

        Otherwise keras-tuner asks again at once while there is nothing to do.
        """
        time.sleep(_PAUSE_S)
        self._beat()

    def on_trial_end(self, trial: Any) -> None:
        """Report a trial, with the reason in one line where it failed."""
        if trial.message:  # A traceback, of which the last line tells.
            last = trial.message.strip().splitlines()[-1]
            trial.message = last.partition(": ")[2] or last
        super().on_trial_end(trial)

    def save(self) -> None:
        """Write the state; it is all in the oracle."""
        if not self._is_worker():
            self.oracle.save()

    def reload(self) -> None:
        """Go on from what was saved."""
        if not self._is_worker():
            self.oracle.reload()

    def _populate_initial_space(self) -> None:
        # Without building a model: the space has no conditions to find.
        space = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(space)
        self.oracle.update_space(space)

    def _get_tuner_fname(self) -> str:
        # The oracle's state is all of the tuner's, whoever ran it before.
        return os.path.join(self.project_dir, "oracle.json")

    def _beat(self) -> None:
        """Show the chief, through the shared folder, that a worker lives."""
        with contextlib.suppress(OSError):  # Next time, perhaps.
            pathlib.Path(self.folder, WORKERS, self.tuner_id).touch()
        self._on_poll()


class _PatientClient:
    """A client of the chief's oracle that bears the chief's being restarted."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # An hour otherwise, for a chief that is gone.
        oracle_client.TIMEOUT = _PATIENCE_S

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return self._patiently(value) if callable(value) else value

    def _patiently(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def patient(*args: Any, **kwargs: Any) -> Any:
            end = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    return call(*args, **kwargs)
                except grpc.RpcError as error:
                    is_away = error.code() is grpc.StatusCode.UNAVAILABLE
                    if not is_away or time.monotonic() > end:
                        raise FatalRuntimeError(
                            f"The chief does not answer: {error.details()}"
                        ) from None
                time.sleep(_PAUSE_S)

        return patient


def end_process_on_errors(oracle: LastingOracle) -> None:
    """Let an error in an oracle end its process, so that it is started again.

    keras-tuner would keep the oracle locked, and nobody would hear of it.
    """

    def or_end(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except Exception:
                traceback.print_exc()
                os._exit(1)

        return checked

    for name in ("create_trial", "update_trial", "end_trial"):
        setattr(oracle, name, or_end(getattr(oracle, name)))

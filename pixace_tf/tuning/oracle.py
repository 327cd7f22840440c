"""keras-tuner's oracles, made to outlive the processes around them.

What they lack, each with its remedy here: files are written in place, so that
a kill leaves half of one; a grid forgets where it was; after a restart the
trials of workers that still live are handed out again; a trial whose worker
is gone is waited for without end; one that kills its workers would go on
doing so.
"""

import collections
import functools
import math
import os
from typing import Any

import keras_tuner

from pixace_tf import storage
from pixace_tf.tuning.space import Sweep

COMPLETED = "COMPLETED"
FAILED = "FAILED"
IDLE = "IDLE"
RUNNING = "RUNNING"
STOPPED = "STOPPED"
# Runs of a trial whose worker died each time, before it is given up.
MAX_RUNS = 5
# keras-tuner stops a search that fails thrice in a row, and then hangs.
_NEVER = 10**9


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

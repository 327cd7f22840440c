"""keras-tuner's oracles, which choose the trials of a sweep.

An oracle makes one choice: it is built from the files of the trials (see
`trials`), asked, and dropped. So it needs no server and loses nothing by a
kill. keras-tuner's own files are not written.
"""

import itertools
import math
from typing import Any

import keras_tuner
from keras_tuner.engine import trial as keras_trial

from pixace_tf.tuning.space import Sweep
from pixace_tf.tuning.trials import RUNNING, Proposal, Trial

# keras-tuner ends a search after three failures in a row.
_NEVER = 10**9


def propose(
    sweep: Sweep, trials: list[Trial], state: dict[str, Any] | None
) -> Proposal | None:
    """Choose the next trial, given those so far.

    `state` is that of the oracle after it proposed the last trial. Return None
    if the oracle waits for trials to end, or has finished.
    """
    oracle = make_oracle(sweep)
    for trial in trials:
        oracle.trials[trial.trial_id] = keras_trial.Trial(
            _space(sweep, trial.values), trial.trial_id
        )
    if state is not None:
        # Each trial is its own worker; `end_trial` below reports ended ones.
        ongoing = {trial.trial_id: trial.trial_id for trial in trials}
        oracle.set_state({**state, "ongoing_trials": ongoing, "end_order": []})
    objective = sweep.arguments.objective
    for trial in trials:
        if trial.is_completed:
            bits = trial.figures[objective]
            oracle.update_trial(trial.trial_id, {objective: bits})
        if trial.is_ended:
            ended = keras_trial.Trial(
                _space(sweep, trial.values), trial.trial_id, trial.status
            )
            oracle.end_trial(ended)
    chosen = oracle.create_trial("next")
    if chosen.status != RUNNING:
        return None
    return Proposal(
        chosen.trial_id, chosen.hyperparameters.values, oracle.get_state()
    )


def make_oracle(sweep: Sweep) -> keras_tuner.Oracle:
    """Return the oracle of a sweep, without trials."""
    options: dict[str, Any] = {
        "objective": keras_tuner.Objective(sweep.arguments.objective, "min"),
        "hyperparameters": _space(sweep, {}),
        "seed": sweep.training.seed + 1,  # 0 would be replaced at random.
        "max_consecutive_failed_trials": _NEVER,
    }
    tuner = sweep.arguments.tuner
    if tuner == "hyperband":
        return _Hyperband(max_epochs=sweep.training.epochs, **options)
    kinds = {"grid": _Grid, "random": _Random, "bayesian": _Bayesian}
    return kinds[tuner](max_trials=sweep.arguments.max_trials, **options)


def _space(sweep: Sweep, values: dict[str, Any]) -> keras_tuner.HyperParameters:
    """Return the space of a sweep with these values chosen."""
    space = keras_tuner.HyperParameters()
    for name, choices in sweep.space.items():
        space.Choice(name, choices)
    space.values = dict(values)
    return space


class _Unsaved(keras_tuner.Oracle):
    """A mixin for oracles that neither print nor write files."""

    trials: dict[str, Any]
    ongoing_trials: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verbose = 0

    def save(self) -> None:
        """Write nothing."""

    def _save_trial(self, trial: Any) -> None:
        """Write nothing."""


class _Grid(_Unsaved):
    """All combinations, in order.

    The grid of keras-tuner waits for a trial to end before it chooses another.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Choose the next combination."""
        space = self.hyperparameters.space
        every = itertools.product(*(hp.values for hp in space))
        for chosen in itertools.islice(every, len(self.trials), None):
            names = (hp.name for hp in space)
            values = dict(zip(names, chosen, strict=True))
            return {"status": RUNNING, "values": values}
        return {"status": "STOPPED"}


class _Random(_Unsaved, keras_tuner.oracles.RandomSearchOracle):
    """Random combinations, each at most once."""


class _Hyperband(_Unsaved, keras_tuner.oracles.HyperbandOracle):
    """Many short trainings; the best ones continue.

    A round is no larger than the space: that of keras-tuner waits for more
    combinations than there are, and ends before any training continues.
    """

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        choices = (len(hp.values) for hp in self.hyperparameters.space)
        most = math.ceil(math.prod(choices) / self.factor**round_num)
        return min(super()._get_size(bracket_num, round_num), most)


class _Bayesian(_Unsaved, keras_tuner.oracles.BayesianOptimizationOracle):
    """The trials that a Gaussian process expects to be best."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Choose as if running trials had ended like the worst one so far.

        That keeps workers apart (the "constant liar" of Ginsbourger et al.,
        2010). keras-tuner asks the Gaussian process before it is fitted.
        """
        ended = [t.score for t in self.trials.values() if t.score is not None]
        running = list(self.ongoing_trials.values()) if ended else []
        ongoing, self.ongoing_trials = self.ongoing_trials, {}
        for trial in running:
            trial.status, trial.score = "COMPLETED", max(ended)
        try:
            chosen: dict[str, Any] = super().populate_space(trial_id)
        finally:
            self.ongoing_trials = ongoing
            for trial in running:
                trial.status, trial.score = RUNNING, None
        return chosen

"""The callbacks of `model.fit`: pace, checkpoints, validation, pictures."""

import contextlib
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from pixace_tf import storage
from pixace_tf.runs import run_folder
from pixace_tf.runs.run_folder import Run

WARM_UP_SHARE = 0.05
MIN_WARM_UP_STEPS = 10
MAX_WARM_UP_STEPS = 100
FINAL_LEARNING_RATE_SHARE = 0.02


class InterruptedTraining(KeyboardInterrupt):
    """Training was stopped by a signal; the checkpoint is written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclasses.dataclass
class Progress:
    """Where training is; all of it rides in the checkpoint.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the running epoch.
        seconds: Wall time of training so far.
        loss_sum: Sum of the losses of those steps, nats per pixel.
        best: Lowest validation bits per pixel so far.
        history: One entry per finished epoch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    best: float | None = None
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def position(self, steps_per_epoch: int) -> float:
        """Return the epochs done, the running one as a fraction."""
        return self.epoch + self.step / steps_per_epoch

    def is_closed(self, steps_per_epoch: int) -> bool:
        """Tell whether the last step is followed by its history entry."""
        position = self.position(steps_per_epoch)
        return bool(self.history) and self.history[-1]["epoch"] == position


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to train: `epochs` or `max_minutes`, the other is None."""

    epochs: int | None
    max_minutes: float | None
    steps_per_epoch: int

    def share(self, progress: Progress) -> float:
        """Return how much of the budget is spent, from 0 to 1."""
        if self.max_minutes is not None:
            return min(progress.seconds / (60 * self.max_minutes), 1.0)
        assert self.epochs is not None
        return min(
            self.steps(progress) / (self.epochs * self.steps_per_epoch), 1
        )

    def steps(self, progress: Progress) -> int:
        """Return the optimizer steps taken so far."""
        return progress.epoch * self.steps_per_epoch + progress.step

    def is_spent(self, progress: Progress) -> bool:
        """Tell whether training is over."""
        return self.share(progress) >= 1


def learning_rate_share(share: float, step: int) -> float:
    """Return the learning rate relative to its peak: warm-up, then cosine.

    The warm-up takes the first 5% of the budget, but from 10 to 100 steps.

    Args:
        share: Spent share of the budget, in `[0, 1]`.
        step: Optimizer steps taken so far.

    Returns:
        A number in `(0, 1]`.
    """
    warm_up = max(share / WARM_UP_SHARE, (step + 1) / MAX_WARM_UP_STEPS)
    warm_up = min(warm_up, (step + 1) / MIN_WARM_UP_STEPS, 1.0)
    low = FINAL_LEARNING_RATE_SHARE
    return warm_up * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


class StopRequest:
    """Remembers that a signal asked to stop.

    The first SIGINT or SIGTERM is remembered, the second acts at once.
    """

    def __init__(self) -> None:
        self.signum = 0

    def check(self, *_: object) -> None:
        """Raise InterruptedTraining if a signal came."""
        if self.signum:
            raise InterruptedTraining(self.signum)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for signals; outside the main thread, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)
        }

        def remember(signum: int, _: object) -> None:
            self.signum = signum
            os.write(2, b"\nStopping after this step; again stops at once.\n")
            for each, handler in before.items():
                signal.signal(each, handler)

        for each in before:
            signal.signal(each, remember)
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


class Pace(keras.callbacks.Callback):
    """Keeps the clock, the learning rate and the end of the budget.

    Args:
        progress: Where training is.
        budget: How long to train.
        learning_rate: The peak.
    """

    def __init__(
        self, progress: Progress, budget: Budget, learning_rate: float
    ) -> None:
        super().__init__()
        self._progress = progress
        self._budget = budget
        self._learning_rate = learning_rate
        self._start = time.monotonic() - progress.seconds

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        share = self._budget.share(self._progress)
        step = self._budget.steps(self._progress)
        factor = learning_rate_share(share, step)
        self.model.optimizer.learning_rate.assign(self._learning_rate * factor)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._progress.seconds = time.monotonic() - self._start
        self._progress.step += 1
        if self._budget.max_minutes and self._budget.is_spent(self._progress):
            self.model.stop_training = True


class Checkpoint(keras.callbacks.Callback):
    """Keeps the state of training on disk, and brings it back.

    Args:
        run: The run with the model.
        progress: Where training is.
        steps_per_epoch: Steps of a whole epoch.
        every_seconds: Time between two checkpoints.
        stop: Asks to stop.
    """

    def __init__(
        self,
        run: Run,
        progress: Progress,
        steps_per_epoch: int,
        every_seconds: float,
        stop: StopRequest,
    ) -> None:
        super().__init__()
        self._run = run
        self._progress = progress
        self._steps_per_epoch = steps_per_epoch
        self._every_seconds = every_seconds
        self._stop = stop
        self._saved_at = time.monotonic()
        self._loss_sum = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._loss_sum = self._progress.loss_sum

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        mean = float(logs["loss"])
        if not math.isfinite(mean):
            raise ValueError(_not_finite("loss", self._run.path))
        self._progress.loss_sum = self._loss_sum + mean * (batch + 1)
        if self._progress.step < self._steps_per_epoch:
            self._stop.check()
            self.save_if_due()

    def save_if_due(self) -> None:
        """Save if the last checkpoint is old enough."""
        if time.monotonic() - self._saved_at >= self._every_seconds:
            self.save()

    def save(self) -> None:
        """Write weights, optimizer, random states and progress."""
        weights = run_folder.get_weights(self._run.model)
        if not all(np.isfinite(w).all() for w in weights.values()):
            raise ValueError(_not_finite("weights", self._run.path))
        storage.write_npz(
            self._run.file(run_folder.CHECKPOINT_FILE),
            {**weights, **_numbered(self._hidden_variables())},
            dataclasses.asdict(self._progress),
        )
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Bring back the state of the last checkpoint.

        Raises:
            ValueError: If the checkpoint is damaged or does not fit.
        """
        file = self._run.file(run_folder.CHECKPOINT_FILE)
        arrays, meta = storage.read_npz(file)
        run_folder.set_weights(self._run, arrays, file)
        hidden = self._hidden_variables()
        for name, variable in zip(_numbered(hidden), hidden, strict=True):
            if name not in arrays:
                raise ValueError(f"The file {file} does not fit this model.")
            variable.assign(arrays[name])
        for field in dataclasses.fields(Progress):
            setattr(self._progress, field.name, meta[field.name])

    def _hidden_variables(self) -> list[Any]:
        """Return random states and the optimizer's variables, in order."""
        model = self._run.model
        known = {id(v) for v in (*model.weights, *model.metrics_variables)}
        random = [v for v in model.variables if id(v) not in known]
        return [*random, *model.optimizer.variables]


class EpochEnd(keras.callbacks.Callback):
    """Closes an epoch: validation, best weights, history, checkpoint.

    Args:
        run: The run with the model.
        progress: Where training is.
        steps_per_epoch: Steps of a whole epoch.
        checkpoint: Saves the state.
        validate: Returns the validation bits per pixel, or None without
            validation pictures.
        listeners: Called with the new entry of the history.
    """

    def __init__(
        self,
        run: Run,
        progress: Progress,
        steps_per_epoch: int,
        checkpoint: Checkpoint,
        validate: Any,
        listeners: list[Any],
    ) -> None:
        super().__init__()
        self._run = run
        self._progress = progress
        self._steps_per_epoch = steps_per_epoch
        self._checkpoint = checkpoint
        self._validate = validate
        self._listeners = listeners

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        progress = self._progress
        bits = progress.loss_sum / max(progress.step, 1) / math.log(2)
        entry = {
            "epoch": progress.position(self._steps_per_epoch),
            "seconds": progress.seconds,
            "bits_per_pixel": bits,
        }
        validation_bits = self._validate()
        if validation_bits is not None:
            entry["val_bits_per_pixel"] = validation_bits
        judged = bits if validation_bits is None else validation_bits
        if not math.isfinite(judged):
            raise ValueError(_not_finite("validation", self._run.path))
        if progress.best is None or judged < progress.best:
            storage.write_npz(
                self._run.file(run_folder.WEIGHTS_FILE),
                run_folder.get_weights(self._run.model),
                entry,
            )
            progress.best = judged
        progress.history.append(entry)
        if progress.step >= self._steps_per_epoch:
            progress.epoch += 1
            progress.step = 0
            progress.loss_sum = 0.0
        self._checkpoint.save_if_due()
        storage.write_json(
            self._run.file(run_folder.HISTORY_FILE), progress.history
        )
        for listener in self._listeners:
            listener(entry)
        if logs is not None:
            logs.update(entry)


def _not_finite(what: str, path: str) -> str:
    return (
        f"The {what} became infinite or not a number. What was saved before in "
        f"{path} is good; try a lower --learning-rate or --precision float32 "
        "in a new run."
    )


def _numbered(variables: list[Any]) -> dict[str, np.ndarray]:
    """Name variables by their place: their own names depend on the process."""
    return {
        f"hidden/{i:04d}": np.asarray(v.value) for i, v in enumerate(variables)
    }

"""The loss of the current epoch, read at intervals."""

import math
from typing import Any

import keras

from pixace_tf.errors import UserError
from pixace_tf.training.schedule import TrainingState


class Losses(keras.callbacks.Callback):
    """Adds up the losses of an epoch in `state.loss_sum`.

    Reading a loss waits for the device, so it is read every `every` steps and
    by callers that need the sum. `path`, the run folder, is for the error.

    Attributes:
        is_fresh: Whether `state.loss_sum` includes all steps.
    """

    def __init__(self, state: TrainingState, path: str, every: int) -> None:
        super().__init__()
        self._state, self._path, self._every = state, path, every
        self._sum_before, self._steps, self._mean = 0.0, 0, 0.0
        self.is_fresh = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._sum_before = self._state.loss_sum

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The loss is the mean since `fit` began the epoch or the rest of it.
        self._steps, self._mean = batch + 1, logs["loss"]
        self.is_fresh = False
        if self._state.step % self._every == 0:
            self.read()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.read()

    def read(self) -> None:
        """Update `state.loss_sum`.

        Raises:
            UserError: If the loss is not finite.
        """
        if self.is_fresh:
            return
        mean = float(self._mean)
        if not math.isfinite(mean):
            raise UserError(not_finite("loss", self._path))
        self._state.loss_sum = self._sum_before + mean * self._steps
        self.is_fresh = True


def not_finite(name: str, path: str) -> str:
    """Return the message for a loss or weights that are no longer finite."""
    return (
        f"The {name} became infinite or not a number. The files in {path} were "
        "written earlier and are good; try a lower --learning-rate or "
        "--precision float32 in a new run."
    )

"""The loss of the running epoch, read only now and then."""

import math
from typing import Any

import keras

from pixace_tf.errors import UserError
from pixace_tf.training.schedule import TrainingState


class Losses(keras.callbacks.Callback):
    """Adds up the losses of an epoch.

    To read a loss is to wait for the device, so a GPU is read from only every
    `every` steps, and by those who need the sum.

    Args:
        state: The progress; its `loss_sum` is kept here.
        path: The run folder, for the error.
        every: Steps between two looks.

    Attributes:
        is_fresh: Whether `state.loss_sum` holds the losses of all steps.
    """

    def __init__(self, state: TrainingState, path: str, every: int) -> None:
        super().__init__()
        self._state, self._path, self._every = state, path, every
        self._sum_before, self._steps, self._mean = 0.0, 0, 0.0
        self.is_fresh = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._sum_before = self._state.loss_sum

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The loss is the mean since the epoch, or the rest of it, began.
        self._steps, self._mean = batch + 1, logs["loss"]
        self.is_fresh = False
        if self._state.step % self._every == 0:
            self.read()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.read()

    def read(self) -> None:
        """Bring `state.loss_sum` up to date.

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
    """Return the message for numbers of a run that stop being finite."""
    return (
        f"The {name} became infinite or not a number. The files in {path} were "
        "written before and are good; try a lower --learning-rate or "
        "--precision float32 in a new run."
    )

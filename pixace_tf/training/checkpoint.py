"""The checkpoint: all that an interrupted training needs to go on, exactly."""

import contextlib
import dataclasses
import math
import time
from typing import Any

import keras
import numpy as np

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.runs import run_folder
from pixace_tf.runs.run_config import CHECKPOINT_FILE, WEIGHTS_FILE
from pixace_tf.runs.run_folder import Run
from pixace_tf.training import devices
from pixace_tf.training.interruption import StopRequest
from pixace_tf.training.schedule import TrainingState

# A single device takes a large batch in several steps.
_OF_STEPS = "gradient_accumulator"


class Checkpoint(keras.callbacks.Callback):
    """Keeps the state of training on disk, and brings it back.

    Args:
        run: The run with the model.
        state: Where training is.
        steps_per_epoch: Steps of a whole epoch.
        every_seconds: Time between two checkpoints.
        stop: Asks to stop.
    """

    def __init__(
        self,
        run: Run,
        state: TrainingState,
        steps_per_epoch: int,
        every_seconds: float,
        stop: StopRequest,
    ) -> None:
        super().__init__()
        self._run = run
        self._state = state
        self._steps_per_epoch = steps_per_epoch
        self._every_seconds = every_seconds
        self._stop = stop
        self._saved_at = time.monotonic()
        self._loss_sum = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._loss_sum = self._state.loss_sum

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        mean = float(logs["loss"])
        if not math.isfinite(mean):
            raise UserError(not_finite("loss", self._run.path))
        self._state.loss_sum = self._loss_sum + mean * (batch + 1)
        if self._state.step < self._steps_per_epoch:
            self._stop.check()
            self.save_if_due()

    def save_if_due(self) -> None:
        """Save if the last checkpoint is old enough."""
        if time.monotonic() - self._saved_at >= self._every_seconds:
            self.save()

    def save(self) -> None:
        """Write weights, optimizer, random states and the training state."""
        devices.sync(self._run.model)
        weights = run_folder.get_weights(self._run.model)
        if not all(np.isfinite(w).all() for w in weights.values()):
            raise UserError(not_finite("weights", self._run.path))
        hidden = {
            name: run_folder.array_of(variable)
            for name, variable in self._hidden_variables().items()
        }
        storage.write_npz(
            self._run.file(CHECKPOINT_FILE),
            {**weights, **hidden},
            dataclasses.asdict(self._state),
        )
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Bring back the state of the last checkpoint.

        Raises:
            UserError: If the checkpoint is damaged or belongs to another
                model; nothing is changed then.
        """
        file = self._run.file(CHECKPOINT_FILE)
        arrays, meta = storage.read_npz(file)
        variables = {
            **{v.path: v for v in self._run.model.weights},
            **self._hidden_variables(),
        }
        for name in {**variables, **arrays}:
            if (name in variables) != (name in arrays) and _OF_STEPS in name:
                raise UserError(
                    f"{file} was written by another number of devices. Go on "
                    "with the --devices of then."
                )
            expected = variables[name].shape if name in variables else None
            found = arrays[name].shape if name in arrays else None
            if expected is None or found != tuple(expected):
                raise UserError(
                    f"The file {file} does not fit this model: {name} should "
                    f"have the shape {expected}. Received: {found}"
                )
        for name, variable in variables.items():
            variable.assign(arrays[name])
        for field in dataclasses.fields(TrainingState):
            setattr(self._state, field.name, meta[field.name])
        self._recall_best()

    def _recall_best(self) -> None:
        """Take up the best validation since the checkpoint, if it was better.

        Where the clock sets the learning rate, what is trained again may be
        worse than the weights that are kept already.
        """
        with contextlib.suppress(UserError):  # They are missing or damaged.
            with storage.open_npz(self._run.file(WEIGHTS_FILE)) as weights:
                kept = weights.meta.get("val_bits_per_pixel")
            if kept is not None:
                best = self._state.best
                self._state.best = kept if best is None else min(best, kept)

    def _hidden_variables(self) -> dict[str, Any]:
        """Return random states and the optimizer's variables by name.

        Each variable of the optimizer goes by its path, in which Keras names
        the weight that it belongs to. Random states are numbered, since their
        paths depend on the process.
        """
        model = self._run.model
        known = {id(v) for v in (*model.weights, *model.metrics_variables)}
        random = [v for v in model.variables if id(v) not in known]
        optimizer = model.optimizer.variables
        named = {
            **{f"random/{i:04d}": v for i, v in enumerate(random)},
            **{f"optimizer/{v.path}": v for v in optimizer},
        }
        assert len(named) == len(random) + len(optimizer), "equal names"
        return named


def not_finite(what: str, path: str) -> str:
    """Return what to say when numbers of a run stop being finite."""
    return (
        f"The {what} became infinite or not a number. What was saved before in "
        f"{path} is good; try a lower --learning-rate or --precision float32 "
        "in a new run."
    )

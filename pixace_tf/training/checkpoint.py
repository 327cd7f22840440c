"""The checkpoint: all that an interrupted training needs to go on, exactly."""

import contextlib
import dataclasses
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
from pixace_tf.training.losses import Losses, not_finite
from pixace_tf.training.schedule import TrainingState

# Part of the names of the sums over the parts of a batch.
_OF_PARTS = "gradient_accumulator"


class Checkpoint(keras.callbacks.Callback):
    """Keeps the state of training on disk, and brings it back.

    Args:
        run: The run with the model.
        state: The progress.
        losses: Adds up the losses in the state.
        steps_per_epoch: Steps of a whole epoch.
        every_seconds: Time between two checkpoints.
        stop: Asks to stop.
    """

    def __init__(
        self,
        run: Run,
        state: TrainingState,
        losses: Losses,
        steps_per_epoch: int,
        every_seconds: float,
        stop: StopRequest,
    ) -> None:
        super().__init__()
        self._run = run
        self._state = state
        self._losses = losses
        self._steps_per_epoch = steps_per_epoch
        self._every_seconds = every_seconds
        self._stop = stop
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._state.step < self._steps_per_epoch:
            self._stop.check()
            self.save_if_due()

    def save_if_due(self) -> None:
        """Save if the last checkpoint is old enough."""
        if time.monotonic() - self._saved_at >= self._every_seconds:
            self.save()

    def save(self) -> None:
        """Write weights, optimizer, random states and the training state."""
        self._losses.read()
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
        self._cut_batches_anew(arrays, meta, variables)
        for name in {**variables, **arrays}:
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

    def _cut_batches_anew(
        self,
        arrays: dict[str, np.ndarray],
        meta: dict[str, Any],
        variables: dict[str, Any],
    ) -> None:
        """Adapt a checkpoint to the number of parts in a batch of today.

        Another device may have written it. A batch that was not finished begins
        again.
        """
        before, now = meta.get("parts", self._state.parts), self._state.parts
        meta["parts"] = now
        if before == now:
            return
        step = meta["step"] // before * now
        meta["loss_sum"] *= step / max(meta["step"], 1)
        meta["step"] = step
        for name in list(arrays):
            if _OF_PARTS in name:
                del arrays[name]
            elif name.endswith("/iteration"):
                arrays[name] = arrays[name] // before * now
        for name, variable in variables.items():
            if _OF_PARTS in name:
                arrays[name] = np.zeros(variable.shape, variable.dtype)

    def _recall_best(self) -> None:
        """Recall the best validation since the checkpoint, if it was better.

        If the clock sets the learning rate, the steps that are trained again
        may end worse than the weights on disk.
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

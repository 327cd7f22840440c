"""The checkpoint: all that an interrupted training needs to resume exactly."""

import contextlib
import dataclasses
import time
from typing import Any

import keras
import numpy as np

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.runs import model_weights
from pixace_tf.runs.run_config import CHECKPOINT_FILE, WEIGHTS_FILE
from pixace_tf.training import devices
from pixace_tf.training.losses import Losses, not_finite
from pixace_tf.training.schedule import Training, TrainingState

# Part of the names of the sums over the parts of a batch.
_ACCUMULATOR = "gradient_accumulator"


class Checkpoint(keras.callbacks.Callback):
    """Saves and restores the state of training."""

    def __init__(
        self, training: Training, losses: Losses, every_seconds: float
    ) -> None:
        super().__init__()
        self._training, self._losses = training, losses
        self._run, self._state = training.run, training.state
        self._every_seconds = every_seconds
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._state.step < self._training.budget.steps_per_epoch:
            self._training.stop.check()
            self.save_if_due()

    def save_if_due(self) -> None:
        """Save if the last checkpoint is old enough."""
        if time.monotonic() - self._saved_at >= self._every_seconds:
            self.save()

    def save(self) -> None:
        """Write weights, optimizer, random states and progress."""
        self._losses.read()
        devices.sync(self._run.model)
        weights = model_weights.get_weights(self._run.model)
        if not all(np.isfinite(w).all() for w in weights.values()):
            raise UserError(not_finite("weights", self._run.path))
        for name, variable in self._hidden_variables().items():
            weights[name] = model_weights.array_of(variable)
        path = self._run.file(CHECKPOINT_FILE)
        storage.write_npz(path, weights, dataclasses.asdict(self._state))
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Restore the last checkpoint.

        Raises:
            UserError: If it is damaged or of another model; nothing changes.
        """
        file = self._run.file(CHECKPOINT_FILE)
        arrays, meta = storage.read_npz(file)
        variables = {v.path: v for v in self._run.model.weights}
        variables |= self._hidden_variables()
        self._adapt_parts(arrays, meta, variables)
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

    def _adapt_parts(
        self,
        arrays: dict[str, np.ndarray],
        meta: dict[str, Any],
        variables: dict[str, Any],
    ) -> None:
        """Adapt a checkpoint to the current number of parts in a batch.

        Another device may have written it. An unfinished batch starts over.
        """
        before, now = meta.get("parts", self._state.parts), self._state.parts
        meta["parts"] = now
        if before == now:
            return
        step = meta["step"] // before * now
        meta["loss_sum"] *= step / max(meta["step"], 1)
        meta["step"] = step
        for name in list(arrays):
            if _ACCUMULATOR in name:
                del arrays[name]
            elif name.endswith("/iteration"):
                arrays[name] = arrays[name] // before * now
        for name, variable in variables.items():
            if _ACCUMULATOR in name:
                arrays[name] = np.zeros(variable.shape, variable.dtype)

    def _recall_best(self) -> None:
        """Take the best validation from the saved weights if it is better.

        They may be newer than the checkpoint, and with a budget of minutes, the
        steps that are trained again may end worse.
        """
        with contextlib.suppress(UserError):  # Missing or damaged weights.
            with storage.open_npz(self._run.file(WEIGHTS_FILE)) as weights:
                kept = weights.meta.get("val_bits_per_pixel")
            if kept is not None:
                best = self._state.best
                self._state.best = kept if best is None else min(best, kept)

    def _hidden_variables(self) -> dict[str, Any]:
        """Return random states and the optimizer's variables by name.

        Random states are numbered, since their paths depend on the process.
        """
        model = self._run.model
        known = {id(v) for v in (*model.weights, *model.metrics_variables)}
        random = [v for v in model.variables if id(v) not in known]
        optimizer = model.optimizer.variables
        named = {f"random/{i:04d}": v for i, v in enumerate(random)}
        named |= {f"optimizer/{v.path}": v for v in optimizer}
        assert len(named) == len(random) + len(optimizer), "equal names"
        return named

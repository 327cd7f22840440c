"""The callbacks of `model.fit`: schedule, validation, progress report."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from pixace_tf import console, storage
from pixace_tf.errors import UserError
from pixace_tf.runs import model_weights, run_config
from pixace_tf.training import devices
from pixace_tf.training.checkpoint import Checkpoint
from pixace_tf.training.losses import Losses, not_finite
from pixace_tf.training.schedule import Training, learning_rate_share

MAX_VALIDATION_SHARE = 0.03


class StepCallbacks(keras.callbacks.CallbackList):
    """Callbacks that receive the loss of a step as a tensor.

    The list of Keras converts it, and so waits for the device at each step.
    """

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)


class EpochBoard(keras.callbacks.TensorBoard):
    """TensorBoard that reads the losses of epochs, but not of steps."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass


class BudgetSchedule(keras.callbacks.Callback):
    """Sets the learning rate, and ends the training with its budget."""

    def __init__(self, training: Training, learning_rate: float) -> None:
        super().__init__()
        self._training, self._state = training, training.state
        self._budget = training.budget
        self._learning_rate = learning_rate
        self._start = time.monotonic() - self._state.seconds

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._state.step % self._budget.parts:
            return  # All parts of a batch have the same learning rate.
        devices.sync(self.model)
        share = self._budget.share(self._state)
        factor = learning_rate_share(share, self._budget.updates(self._state))
        self.model.optimizer.learning_rate.assign(self._learning_rate * factor)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._state.seconds = time.monotonic() - self._start
        self._state.step += 1
        if self._budget.max_minutes and self._training.is_spent:
            self.model.stop_training = True


class EpochEnd(keras.callbacks.Callback):
    """Ends an epoch: validation, best weights, history, checkpoint.

    With a budget of minutes, validations that would take more than
    `MAX_VALIDATION_SHARE` of the time are skipped, except the last one.
    `validate` returns the bits per pixel, None without images; `listeners` are
    called with the new entry of the history.
    """

    def __init__(
        self,
        training: Training,
        checkpoint: Checkpoint,
        report: "ProgressReport",
        validate: Callable[[], float | None],
        listeners: Sequence[Callable[[dict[str, float]], None]],
    ) -> None:
        super().__init__()
        self._training, self._run = training, training.run
        self._checkpoint, self._report = checkpoint, report
        self._validate, self._listeners = validate, listeners
        self._validated_at, self._cost_s = 0.0, 0.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        state = self._training.state
        entry = {
            "epoch": self._training.position,
            "seconds": state.seconds,
            "bits_per_pixel": state.loss_sum / max(state.step, 1) / math.log(2),
            "images_per_second": self._report.images_per_second,
        }
        if self._is_due():
            self._judge(entry)
        state.history.append(entry)
        if state.step >= self._training.budget.steps_per_epoch:
            state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        self._checkpoint.save_if_due()
        path = self._run.file(run_config.HISTORY_FILE)
        storage.write_json(path, state.history)
        for listener in self._listeners:
            listener(entry)
        if logs is not None:
            logs.update(entry)

    def _is_due(self) -> bool:
        if not self._training.budget.max_minutes or self._training.is_spent:
            return True
        rested = time.monotonic() - self._validated_at
        return rested * MAX_VALIDATION_SHARE >= self._cost_s

    def _judge(self, entry: dict[str, float]) -> None:
        """Validate, and save the weights if they are the best so far."""
        start = time.monotonic()
        bits = self._validate()
        self._validated_at = time.monotonic()
        self._cost_s = self._validated_at - start
        if bits is not None:
            entry["val_bits_per_pixel"] = bits
        judged = entry["bits_per_pixel"] if bits is None else bits
        if not math.isfinite(judged):
            raise UserError(not_finite("validation", self._run.path))
        state = self._training.state
        if state.best is None or judged < state.best:
            path = self._run.file(run_config.WEIGHTS_FILE)
            weights = model_weights.get_weights(self._run.model)
            storage.write_npz(path, weights, entry)
            state.best = judged


class ProgressReport(keras.callbacks.Callback):
    """Shows the progress bar and one line per epoch.

    Attributes:
        images_per_second: Speed after the first step, which compiles, or 0.
    """

    def __init__(
        self,
        training: Training,
        losses: Losses,
        bar: console.ProgressBar,
        say: console.Say,
    ) -> None:
        super().__init__()
        self._state, self._budget = training.state, training.budget
        self._losses, self._bar, self._say = losses, bar, say
        batch_size = training.run.arguments["batch_size"]
        self._images_per_step = batch_size / self._budget.parts
        self.images_per_second = 0.0
        # Steps since the last wait for the device, and the time of the first.
        self._running, self._begun = 0, 0.0
        self._steps, self._seconds = 0, 0.0
        self._share, self._wall = -1.0, 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self._running:
            self._begun = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._running += 1
        if self._share < 0:
            self._losses.read()  # The first step compiles, so do not count it.
            self._share = self._budget.share(self._state)
            self._wall = self._state.seconds
            self._running = 0
        if not self._losses.is_fresh:
            return
        if self._running:
            self._steps += self._running
            self._seconds += time.monotonic() - self._begun
            self._running = 0
            images = self._steps * self._images_per_step
            self.images_per_second = images / self._seconds
        share = self._budget.share(self._state)
        self._bar.update(share, ", ".join(self._notes()))

    def _notes(self) -> list[str]:
        """Return the loss, the speed and the time left."""
        state = self._state
        mean = state.loss_sum / max(state.step, 1)
        bits = f"{mean / math.log(2):.3f} bits/pixel"
        if state.history and "val_bits_per_pixel" in state.history[-1]:
            latest = state.history[-1]["val_bits_per_pixel"]
            bits += f" (validation {latest:.3f})"
        notes = [bits]
        if self.images_per_second:
            notes.append(f"{self.images_per_second:.0f} pictures/s")
        share = self._budget.share(state)
        if share > self._share:
            pace = (state.seconds - self._wall) / (share - self._share)
            notes.append(f"{_duration((1 - share) * pace)} left")
        return notes

    def say_epoch(self, entry: dict[str, float]) -> None:
        """Print the result of an epoch."""
        line = (
            f"epoch {entry['epoch']:.4g}, {_duration(entry['seconds'])}: "
            f"{entry['bits_per_pixel']:.3f} bits/pixel"
        )
        if "val_bits_per_pixel" in entry:
            line += f", validation {entry['val_bits_per_pixel']:.3f}"
        with self._bar.above():
            self._say(line)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"

"""What training tells: the progress bar and one line per epoch."""

import math
import time
from collections.abc import Callable
from typing import Any

import keras

from pixace_tf import console
from pixace_tf.training.callbacks import Budget, Progress


class Report(keras.callbacks.Callback):
    """Shows the progress bar and one line per epoch."""

    def __init__(
        self,
        bar: console.ProgressBar,
        progress: Progress,
        budget: Budget,
        batch_size: int,
        say: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._say = say
        self._bar = bar
        self._progress = progress
        self._budget = budget
        self._batch_size = batch_size
        self._step_start = 0.0
        # Of the steps after the first, which compiles.
        self._steps, self._seconds = -1, 0.0
        self._share, self._wall = 0.0, 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._step_start = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        progress = self._progress
        share = self._budget.share(progress)
        self._steps += 1
        if self._steps:
            self._seconds += time.monotonic() - self._step_start
        else:
            self._share, self._wall = share, progress.seconds
        bits = f"{logs['loss'] / math.log(2):.3f} bits/pixel"
        if progress.history and "val_bits_per_pixel" in progress.history[-1]:
            latest = progress.history[-1]["val_bits_per_pixel"]
            bits += f" (validation {latest:.3f})"
        notes = [bits]
        if self._steps:
            speed = self._steps * self._batch_size / self._seconds
            notes.append(f"{speed:.0f} pictures/s")
        if share > self._share:
            pace = (progress.seconds - self._wall) / (share - self._share)
            notes.append(f"{_duration((1 - share) * pace)} left")
        self._bar.update(share, ", ".join(notes))

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

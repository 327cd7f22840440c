"""The budget of a training, its state, and its learning rate."""

import dataclasses
import math

WARM_UP_SHARE = 0.05
MIN_WARM_UP_UPDATES = 10
MAX_WARM_UP_UPDATES = 100
FINAL_LEARNING_RATE_SHARE = 0.02
# Pixels to compute at a time on a CPU: enough rows for efficient matrix
# products, measured with 8 images of 32x32.
CPU_MICRO_BATCH_PIXELS = 8192
# On a GPU, for each gigabyte of its memory: 64 images of 32x32 in 10 GB. Of the
# flat `base` decoder, which needs most, 77 fit in mixed precision
# (`pipelines/results/gpu-check.md`), and in float32 half as many.
GPU_MICRO_BATCH_PIXELS_PER_GB = 6554


@dataclasses.dataclass
class TrainingState:
    """The progress of a training; the checkpoint holds all of it.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the running epoch, each of a micro batch.
        seconds: Wall time of training so far.
        loss_sum: Sum of the losses of these steps, nats per pixel.
        best: Lowest validation bits per pixel so far.
        history: One entry per finished epoch.
        parts: Micro batches in a batch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    best: float | None = None
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    parts: int = 1

    def position(self, steps_per_epoch: int) -> float:
        """Return the number of epochs done, the running one as a fraction."""
        return self.epoch + self.step / steps_per_epoch

    def is_closed(self, steps_per_epoch: int) -> bool:
        """Tell whether the history has an entry for the last step."""
        position = self.position(steps_per_epoch)
        return bool(self.history) and self.history[-1]["epoch"] == position


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to train.

    Attributes:
        epochs: Passes over the images, or None.
        max_minutes: Wall time instead, or None.
        steps_per_epoch: Steps of an epoch, each of a micro batch.
        parts: Micro batches in a batch; their gradients make one update.
    """

    epochs: int | None
    max_minutes: float | None
    steps_per_epoch: int
    parts: int = 1

    def share(self, state: TrainingState) -> float:
        """Return how much of the budget is spent, from 0 to 1."""
        if self.max_minutes is not None:
            return min(state.seconds / (60 * self.max_minutes), 1.0)
        assert self.epochs is not None
        total = self.epochs * self.steps_per_epoch
        return min(self._steps(state) / total, 1)

    def updates(self, state: TrainingState) -> int:
        """Return how often the weights have been updated."""
        return self._steps(state) // self.parts

    def is_spent(self, state: TrainingState) -> bool:
        """Tell whether training is over."""
        return self.share(state) >= 1

    def _steps(self, state: TrainingState) -> int:
        return state.epoch * self.steps_per_epoch + state.step


def micro_batch_size(batch_size: int, length: int, pixels: int) -> int:
    """Return how many images to compute at a time.

    The gradients of a batch's micro batches add up to that of the batch, so a
    larger batch needs no more memory.

    Args:
        batch_size: Images per update of the weights.
        length: Pixels of an image.
        pixels: Pixels of a micro batch, at most, unless one image has more.

    Returns:
        The largest divisor of the batch size that keeps to this limit. If that
        is at most half of what the limit allows, the size of the fewest micro
        batches instead; the last one of a batch is then filled up.
    """
    most = max(1, min(batch_size, pixels // length))
    divisor = next(n for n in range(most, 0, -1) if batch_size % n == 0)
    if 2 * divisor > most:
        return divisor
    return math.ceil(batch_size / math.ceil(batch_size / most))


def learning_rate_share(share: float, updates: int) -> float:
    """Return the learning rate relative to its peak: warm-up, then a line.

    The warm-up takes the first 5% of the budget, but 10 to 100 updates.

    Args:
        share: Spent share of the budget, in `[0, 1]`.
        updates: How often the weights have been updated.

    Returns:
        A number in `(0, 1]`.
    """
    warm_up = max(share / WARM_UP_SHARE, (updates + 1) / MAX_WARM_UP_UPDATES)
    warm_up = min(warm_up, (updates + 1) / MIN_WARM_UP_UPDATES, 1.0)
    low = FINAL_LEARNING_RATE_SHARE
    return warm_up * (low + (1 - low) * (1 - share))

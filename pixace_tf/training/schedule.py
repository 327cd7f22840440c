"""The budget of a training, its state, and its learning rate."""

import dataclasses
import math

from pixace_tf.runs.run_folder import Run
from pixace_tf.training.interruption import StopRequest

WARM_UP_SHARE = 0.05
MIN_WARM_UP_UPDATES = 10
MAX_WARM_UP_UPDATES = 100
FINAL_LEARNING_RATE_SHARE = 0.02
# 8 images of 32x32, measured to be enough for efficient matrix products.
CPU_MICRO_BATCH_PIXELS = 8192
# 64 images of 32x32 in 10 GB. The flat `base` decoder, which needs most, fits
# 77 in mixed precision (`pipelines/results/gpu-check.md`), half in float32.
GPU_MICRO_BATCH_PIXELS_PER_GB = 6554


@dataclasses.dataclass
class TrainingState:
    """The progress of a training, saved in the checkpoint.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of this epoch, one per micro batch.
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


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to train: `epochs`, or a wall time of `max_minutes`.

    An epoch has one step per micro batch; `parts` of them are a batch.
    """

    epochs: int | None
    max_minutes: float | None
    steps_per_epoch: int
    parts: int = 1

    def share(self, state: TrainingState) -> float:
        """Return the share of the budget that is spent, from 0 to 1."""
        if self.max_minutes is not None:
            return min(state.seconds / (60 * self.max_minutes), 1.0)
        assert self.epochs is not None
        total = self.epochs * self.steps_per_epoch
        return min(self._steps(state) / total, 1)

    def updates(self, state: TrainingState) -> int:
        """Return the number of updates of the weights so far."""
        return self._steps(state) // self.parts

    def _steps(self, state: TrainingState) -> int:
        return state.epoch * self.steps_per_epoch + state.step


@dataclasses.dataclass
class Training:
    """A training in progress, as its callbacks see it."""

    run: Run
    budget: Budget
    state: TrainingState
    stop: StopRequest

    @property
    def is_spent(self) -> bool:
        """Whether the budget is spent."""
        return self.budget.share(self.state) >= 1

    @property
    def has_entry(self) -> bool:
        """Whether the history has an entry for the last step."""
        history = self.state.history
        return bool(history) and history[-1]["epoch"] == self.position

    @property
    def position(self) -> float:
        """Number of epochs done, with a fraction for this one."""
        return self.state.epoch + self.state.step / self.budget.steps_per_epoch


def micro_batch_size(batch_size: int, length: int, pixels: int) -> int:
    """Return the number of images in a micro batch.

    Args:
        batch_size: Images per update of the weights, which adds the gradients
            of its micro batches.
        length: Pixels of an image.
        pixels: Most pixels of a micro batch, unless a single image has more.

    Returns:
        The largest divisor of the batch size within the limit. If it is at most
        half of the limit, the size that gives the fewest micro batches; the
        last one of a batch is then padded.
    """
    most = max(1, min(batch_size, pixels // length))
    divisor = next(n for n in range(most, 0, -1) if batch_size % n == 0)
    if 2 * divisor > most:
        return divisor
    return math.ceil(batch_size / math.ceil(batch_size / most))


def learning_rate_share(share: float, updates: int) -> float:
    """Return the learning rate relative to its peak, in `(0, 1]`.

    It rises during the first 5% of the budget, but at least 10 and at most 100
    updates, and then falls in a line. `share` is the spent share of the budget,
    in `[0, 1]`, and `updates` counts those of the weights so far.
    """
    warm_up = max(share / WARM_UP_SHARE, (updates + 1) / MAX_WARM_UP_UPDATES)
    warm_up = min(warm_up, (updates + 1) / MIN_WARM_UP_UPDATES, 1.0)
    low = FINAL_LEARNING_RATE_SHARE
    return warm_up * (low + (1 - low) * (1 - share))

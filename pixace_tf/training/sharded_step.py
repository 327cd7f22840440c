"""A training step that computes shards of its batch at the same time.

On a CPU, XLA uses all cores for matrix products but one core for most other
operations, so parts of the batch run the same compiled program in parallel.
"""

from typing import Any

import keras
import tensorflow as tf

from pixace_tf.machine import num_cores
from pixace_tf.model.recompute import using
from pixace_tf.typing import Tensor


def use(model: keras.Model) -> None:
    """Let a compiled model train by shards; see `ShardedStep`.

    Shards would share state, so a model with any but the seeds of dropout is
    left alone. On a GPU there is no gain.
    """
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    has_state = bool(model.non_trainable_weights)
    scaling = keras.optimizers.LossScaleOptimizer
    if has_gpu or has_state or isinstance(model.optimizer, scaling):
        return
    model.train_step = ShardedStep(model)
    model.jit_compile = False  # The step compiles its own two programs.


class ShardedStep:
    """The `train_step` of a model, with up to one shard per core.

    It applies the mean gradient of the shards, which is that of the batch up to
    rounding. The loss of the model must be a mean over images. Each shard has
    seeds of its own.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._seeds = model.non_trainable_variables
        self._gradients = tf.function(self._differentiate, jit_compile=True)
        self._apply = tf.function(self._update, jit_compile=True)

    def __call__(self, data: Any) -> dict[str, Tensor]:
        """Take one step; return the mean loss since the metrics were reset.

        Args:
            data: Inputs, one tensor or several, targets, and optionally weights
                of the images, all `(B, ...)`.
        """
        inputs, targets, weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = (inputs, targets) if weight is None else (*data,)
        count = _count_shards(targets.shape[0] or 1)
        parts = [tf.split(x, count) for x in tf.nest.flatten(batch)]
        shards = [
            self._gradients(seeds, *tf.nest.pack_sequence_as(batch, shard))
            for seeds, *shard in zip(self._draw(count), *parts, strict=True)
        ]
        size = tf.shape(targets)[0]
        loss_tracker = self._model.metrics[0]
        loss_tracker.update_state(self._apply(shards), sample_weight=size)
        return self._model.get_metrics_result()

    def _draw(self, count: int) -> list[list[Tensor]]:
        """Return the seeds of each shard, and move on to those of the next."""
        # A layer with a seed uses it once, and Keras then moves it by one.
        step = tf.constant([0, 1], tf.int64)
        drawn = [
            [seed.value + place * step for seed in self._seeds]
            for place in range(count)
        ]
        for seed in self._seeds:
            seed.assign(seed.value + count * step)
        return drawn

    def _differentiate(
        self,
        seeds: list[Tensor],
        inputs: Any,
        targets: Tensor,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss of a shard and the gradients of the weights."""
        weights = [v.value for v in self._model.trainable_variables]
        with tf.GradientTape() as tape:
            with using(self._seeds, seeds):
                outputs = self._model(inputs, training=True)
            loss = self._model.compute_loss(inputs, targets, outputs, weight)
        # Embeddings have sparse gradients.
        gradients = map(tf.convert_to_tensor, tape.gradient(loss, weights))
        return loss, list(gradients)

    def _update(self, shards: list[tuple[Tensor, list[Tensor]]]) -> Tensor:
        """Apply the mean gradients; return the mean loss."""
        losses, gradients = zip(*shards, strict=True)
        means = [
            sum(parts) / len(parts) for parts in zip(*gradients, strict=True)
        ]
        self._model.optimizer.apply(means, self._model.trainable_variables)
        return sum(losses) / len(losses)


def _count_shards(batch_size: int) -> int:
    """Return the largest divisor that is at most the number of cores."""
    most = min(num_cores(), batch_size)
    return next(n for n in range(most, 0, -1) if batch_size % n == 0)

"""Loss scaling for batches that are cut into parts."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from pixace_tf.typing import Tensor


class CountingLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """A loss scale optimizer whose skipped steps still count.

    Keras hides a step with an infinite gradient from the inner optimizer, which
    counts the parts of a batch and would from then on mix parts of two batches.
    Here such a step adds zeros to its batch.
    """

    def apply(
        self, grads: Sequence[Tensor], trainable_variables: Any = None
    ) -> None:
        """See `keras.optimizers.Optimizer.apply`."""
        is_finite = self.check_finite(grads)
        scale = ops.convert_to_tensor(self.dynamic_scale)
        super().apply(_zeros_unless(is_finite, grads), trainable_variables)
        for variable, skipped in self._when_skipped(scale):
            variable.assign(ops.where(is_finite, variable, skipped))

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Tensor],
        grads: Sequence[Tensor],
        trainable_variables: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See `keras.optimizers.Optimizer.stateless_apply`."""
        is_finite = self.check_finite(grads)
        place = {id(v): i for i, v in enumerate(self.variables)}
        scale = optimizer_variables[place[id(self.dynamic_scale)]]
        trained, state = super().stateless_apply(
            optimizer_variables,
            _zeros_unless(is_finite, grads),
            trainable_variables,
        )
        for variable, skipped in self._when_skipped(scale):
            i = place[id(variable)]
            state[i] = ops.where(is_finite, state[i], skipped)
        return trained, state

    def _when_skipped(self, scale: Tensor) -> list[tuple[Any, Tensor]]:
        """Return this class's variables and their values after a skip."""
        zero = ops.zeros((), self.step_counter.dtype)
        return [(self.dynamic_scale, scale / 2), (self.step_counter, zero)]


def _zeros_unless(is_finite: Tensor, grads: Sequence[Tensor]) -> list[Tensor]:
    return [
        None if g is None else ops.where(is_finite, g, ops.zeros_like(g))
        for g in grads
    ]

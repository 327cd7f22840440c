"""Draws that are limited to some colors, as graph ops.

Shapes: R rows of a block, K colors, n choices of one draw.
"""

from collections.abc import Sequence

import tensorflow as tf

from pixace_tf.typing import Tensor

# It stays finite at every temperature and guidance.
_LOWEST = -1e30


class Limit:
    """Limits the draws of one pixel, one after the other, to some colors.

    A choice stays possible if one of the colors agrees with it and with all
    earlier draws.

    Args:
        choices: For each draw, the choice that leads to each color, int32
            `(K,)`, or -1 where the earlier ones force it; from
            `ChainHead.choices`.
    """

    def __init__(self, choices: Sequence[Tensor]) -> None:
        self._choices = choices
        # Float32 `(R, K)`: 1 for the colors that agree with the draws so far.
        self._matches: Tensor | None = None

    def apply(self, logits: Tensor, draw: int) -> Tensor:
        """Return logits `(R, n)`, minus infinity for impossible choices.

        Rows without any possible choice keep theirs: rows whose draw is forced,
        or known and outside the colors.
        """
        choices, count = self._choices[draw], logits.shape[-1]
        if self._matches is None:
            # A packed head has too many choices for the product below.
            ones = tf.ones_like(choices, tf.float32)
            total = tf.scatter_nd(choices[:, None], ones, (count,))[None]
        else:
            hot = tf.one_hot(choices, count, dtype=tf.float32)
            total = tf.matmul(self._matches, hot)
        is_none = tf.reduce_max(total, axis=-1, keepdims=True) == 0
        # A probability of 0 by rounding is no reason for another color.
        logits = tf.where(logits > _LOWEST, logits, _LOWEST)
        return tf.where((total > 0) | is_none, logits, -float("inf"))

    def tell(self, chosen: Tensor, draw: int) -> None:
        """Take note of the choices of a draw, int32 `(R,)`."""
        choices = self._choices[draw]
        is_match = (choices == chosen[:, None]) | (choices < 0)
        matches = tf.cast(is_match, tf.float32)
        if self._matches is not None:
            matches *= self._matches
        self._matches = matches

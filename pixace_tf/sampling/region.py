"""Which pixels of a masked image to decode.

The functions take NumPy arrays, or tensors with `xp=tf.experimental.numpy`.

Shapes: B batch, T pixels.
"""

from typing import Any

import numpy as np

from pixace_tf.sampling.block import ALL_CHANNELS
from pixace_tf.sampling.engine import ModelFacts
from pixace_tf.typing import Tensor

# Particles are weighed by this many rows of known pixels behind the last hidden
# one; the costs of later rows differ little between them.
ROWS_BEHIND = 3


def spans(
    facts: ModelFacts, mask: Tensor, num_particles: Any, xp: Any = np
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which pixels of each image to decode, and if particles are needed.

    Args:
        facts: Facts of the model.
        mask: Integers `(B, T)` in the order of decoding, as in `Block`.
        num_particles: Integers, one or `(B,)`.
        xp: The module of the arrays.

    Returns:
        Integers `(B,)`, the first pixel and the end, each a multiple of the
        decoder's `prefill_stride` or T; and bool `(B,)`.
    """
    length, stride = facts.sequence_length, facts.prefill_stride
    position = xp.arange(length)
    first = xp.min(xp.where(mask > 0, position, length), axis=-1)
    end = xp.max(xp.where(mask > 0, position + 1, 0), axis=-1)
    is_behind = (mask != ALL_CHANNELS) & (position >= first[:, None])
    is_weighed = xp.any(is_behind, axis=-1) & (num_particles > 1)
    end += xp.where(is_weighed, ROWS_BEHIND * facts.image_size[1], 0)
    start = xp.where(first < length, first // stride * stride, length)
    end = xp.minimum(-(-end // stride) * stride, length)
    return start, xp.maximum(start, end), is_weighed

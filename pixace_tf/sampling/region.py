"""What is known of a masked image, and which of its pixels to decode.

The functions take NumPy arrays, or tensors with `xp=tf.experimental.numpy`.

Shapes: B batch, T pixels.
"""

from typing import Any

import numpy as np

from pixace_tf.data.palette import Palette
from pixace_tf.sampling.block import ALL_CHANNELS
from pixace_tf.sampling.engine import ModelFacts
from pixace_tf.typing import Tensor

# Particles are weighed by this many rows of known pixels behind the last hidden
# one; the costs of later rows differ little between them.
ROWS_BEHIND = 3


def known_part(
    palette: Palette,
    token_ids: Tensor,
    is_hidden: Tensor,
    given: Any,
    xp: Any = np,
) -> tuple[Tensor, Tensor]:
    """Return what is known of images, and which channels to sample.

    Args:
        palette: The colors.
        token_ids: int32 `(B, T)`.
        is_hidden: bool `(B, T)`.
        given: Integers, one or `(B, 1)`: the channels that hidden pixels keep;
            see `Palette.channels_named`.
        xp: The module of the arrays.

    Returns:
        `token_ids` and `mask`, int32 `(B, T)`, as in `Block`.
    """
    none = np.int32(0)
    is_whole = xp.equal(given, palette.all_channels)
    free = xp.where(is_whole, none, ALL_CHANNELS - given)
    known = palette.only(token_ids, given)
    return (
        xp.where(is_hidden, known, token_ids),
        xp.where(is_hidden, free, none),
    )


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

"""Scales a mask together with its image, in graph ops."""

import tensorflow as tf

from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.painting import masks
from pixace_tf.typing import Tensor


def small_mask(
    mask: Tensor, image: Tensor, tokenizer: PixelTokenizer
) -> Tensor:
    """Return which pixels of the scaled image to paint.

    The mask is scaled like its image, unless it already has the small size.

    Args:
        mask: uint8 `(any_height, any_width)`; 255 is painted.
        image: uint8 `(any_height, any_width, 3)`, which decides what to trim.
        tokenizer: Scales images.

    Returns:
        bool `(height, width)`.
    """

    def scaled() -> Tensor:
        # `resize="pad"` adds a white border, which is kept; so white is kept.
        kept = tf.repeat(255 - mask[..., None], 3, axis=2)
        return 255 - tokenizer.resize_like(kept, image)[..., 0]

    is_small = tf.reduce_all(tf.shape(mask) == tokenizer.image_size)
    small = tf.cond(is_small, lambda: mask, scaled)
    return masks.is_painted(
        tf.cast(tf.ensure_shape(small, tokenizer.image_size), tf.float32)
    )

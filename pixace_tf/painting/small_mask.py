"""Scales a mask together with its image."""

import numpy as np

from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.painting import masks


def small_mask(
    mask: np.ndarray, image: np.ndarray, tokenizer: PixelTokenizer
) -> np.ndarray:
    """Return which pixels of the scaled image to paint.

    The mask is scaled like its image, unless it already has the small size.

    Args:
        mask: uint8 `(any_height, any_width)`; 255 is painted.
        image: uint8 `(any_height, any_width, C)`, which decides what to trim.
        tokenizer: Scales images.

    Returns:
        bool `(height, width)`.
    """
    if mask.shape != tokenizer.image_size:
        # `resize="pad"` adds a white border, which is kept; so white is kept.
        kept = np.repeat(255 - mask[..., None], 3, axis=2)
        mask = 255 - tokenizer.resize_like(kept, image)[..., 0]
    return masks.is_painted(mask)

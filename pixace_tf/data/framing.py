"""Which part of an image is kept, and at which size.

All arithmetic uses plain operators and a module `xp`, so it works on numbers
and NumPy arrays (`xp=np`) and on tensors (`xp=tf`). A box is its top, left,
bottom and right; the box ends before its bottom and right.
"""

from typing import Any

import numpy as np

from pixace_tf.typing import Tensor

Size = tuple[int, int]
Box = tuple[Tensor, Tensor, Tensor, Tensor]

# JPEG's noise: a margin differs from the first pixel by at most this.
MARGIN_LEVELS = 12


def margin(num_channels: int) -> np.ndarray:
    """Return how far a margin differs from the first pixel, by channel.

    Of four channels, the colors are those of `tokenizer.premultiply`.

    Returns:
        int32 `(num_channels,)`.
    """
    levels = [MARGIN_LEVELS] * num_channels
    if num_channels == 4:
        levels[:3] = [255 * MARGIN_LEVELS] * 3
    return np.array(levels, np.int32)


def center_box(
    height: Tensor, width: Tensor, image_size: Size, xp: Any = np
) -> Box:
    """Return the largest box of the aspect of `image_size`, in the center."""
    box_height = xp.minimum(
        height, _ceil_divide(width * image_size[0], image_size[1])
    )
    box_width = xp.minimum(
        width, _ceil_divide(height * image_size[1], image_size[0])
    )
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return top, left, top + box_height, left + box_width


def grow(
    box: Box, height: Tensor, width: Tensor, image_size: Size, xp: Any = np
) -> Box:
    """Grow a box to the aspect of `image_size`, as far as an image reaches.

    Args:
        box: A box within the image.
        height: Height of the image.
        width: Width of the image.
        image_size: Height and width that have the aspect.
        xp: The module of the numbers.
    """
    top, left, bottom, right = box
    tall = _ceil_divide((right - left) * image_size[0], image_size[1])
    wide = _ceil_divide((bottom - top) * image_size[1], image_size[0])
    top, bottom = _grow_span(top, bottom, tall, height, xp)
    left, right = _grow_span(left, right, wide, width, xp)
    return top, left, bottom, right


def fitted_size(
    height: Tensor, width: Tensor, image_size: Size, xp: Any = np
) -> tuple[Tensor, Tensor]:
    """Return the largest size within `image_size` of an image's aspect.

    Args:
        height: Height of the image, a float32.
        width: Width of the image, a float32.
        image_size: The height and width to fit into.
        xp: The module of the numbers.

    Returns:
        Height and width, whole float32, at least 1.
    """
    scale = xp.minimum(image_size[0] / height, image_size[1] / width)
    fitted = [
        xp.minimum(xp.maximum(xp.round(length * scale), 1), most)
        for length, most in zip((height, width), image_size, strict=True)
    ]
    return fitted[0], fitted[1]


def is_large(
    height: Tensor, width: Tensor, image_size: Size, resize: str
) -> list[Tensor]:
    """Tell how often a JPEG's size can be halved as it is decoded.

    The antialiased resize needs twice the size of its result.

    Args:
        height: Height of the JPEG.
        width: Width of the JPEG.
        image_size: Height and width of the small image.
        resize: How `PixelTokenizer` resizes.

    Returns:
        bool three times: for one halving, two and three.
    """
    found = []
    for ratio in (2, 4, 8):
        is_tall = height >= 2 * ratio * image_size[0]
        is_wide = width >= 2 * ratio * image_size[1]
        is_any = resize == "pad"
        found.append(is_tall | is_wide if is_any else is_tall & is_wide)
    return found


def _grow_span(
    low: Tensor, high: Tensor, length: Tensor, most: Tensor, xp: Any
) -> tuple[Tensor, Tensor]:
    """Make a span longer on both sides, within `[0, most]`."""
    length = xp.minimum(xp.maximum(length, high - low), most)
    low = low - (length - (high - low)) // 2
    low = xp.minimum(xp.maximum(low, 0), most - length)
    return low, low + length


def _ceil_divide(numerator: Tensor, denominator: int) -> Tensor:
    return -(-numerator // denominator)

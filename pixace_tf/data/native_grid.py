"""Pixel art on its own grid: set into a canvas, never resampled.

Shapes: C channels, 4 with alpha or else 3. Sizes are `(height, width)`.
"""

import math
from collections.abc import Sequence

import numpy as np

from pixace_tf.errors import UserError
from pixace_tf.typing import Tensor

# Where an image stands in a canvas that is taller.
ANCHORS = ("bottom", "center", "top")
Size = tuple[int, int]
# Rows or columns that are compared at a time.
_STRIP = 64


def grid_factor(image: np.ndarray) -> int:
    """Return by which factor the pixels of an image are enlarged.

    It is the largest that divides height, width, and all places where
    neighboring rows or columns differ: 1 for an image on its own grid.

    Args:
        image: uint8 `(any_height, any_width, C)`; the colors of transparent
            pixels do not count.
    """
    factor = math.gcd(*image.shape[:2])
    for lines in (image, image.swapaxes(0, 1)):
        # Of most images that are not enlarged, a few lines tell.
        for start in range(0, len(lines) - 1, _STRIP):
            if factor == 1:
                return 1
            strip = visible(lines[start : start + _STRIP + 1])
            differ = (strip[1:] != strip[:-1]).any(axis=(1, 2))
            places = np.flatnonzero(differ) + start + 1
            factor = math.gcd(factor, *places.tolist())
    return factor


def place(
    image: np.ndarray, image_size: Size, anchor: str = "bottom"
) -> np.ndarray:
    """Set an image into a canvas, transparent around it or else white.

    An image that does not fit is first reduced by its `grid_factor`.

    Args:
        image: uint8 `(any_height, any_width, C)`.
        image_size: Size of the canvas.
        anchor: One of `ANCHORS`; the sides get equal margins, but for one
            pixel.

    Returns:
        uint8 `(height, width, C)`.

    Raises:
        UserError: If the image does not fit.
    """
    factor = fitting_factor(image, image_size)
    return set_into(image[::factor, ::factor], image_size, anchor)


def fitting_factor(image: np.ndarray, image_size: Size) -> int:
    """Return by how much to reduce an image: 1 if it fits as it is.

    Raises:
        UserError: If it does not fit on its own grid either.
    """
    height, width = image.shape[:2]
    if fits((height, width), image_size):
        return 1
    factor = grid_factor(image)
    if not fits((height // factor, width // factor), image_size):
        grid = "and are not enlarged by a whole factor"
        if factor > 1:
            grid = f"nor do they as {width // factor} x {height // factor}"
        raise UserError(
            f"{width} x {height} pixels do not fit into {image_size[1]} x "
            f"{image_size[0]} {grid}"
        )
    return factor


def set_into(image: np.ndarray, image_size: Size, anchor: str) -> np.ndarray:
    """Do as `place` with an image that fits."""
    height, width, channels = image.shape
    canvas = np.full((*image_size, channels), fill(channels), np.uint8)
    top, left = margins(height, width, image_size, anchor)
    canvas[top : top + height, left : left + width] = image
    return canvas


def fits(size: Sequence[Tensor], image_size: Size) -> Tensor:
    """Tell whether an image of a size fits into a canvas."""
    return (size[0] <= image_size[0]) & (size[1] <= image_size[1])


def fill(num_channels: int) -> int:
    """Return the level around an image: transparent, or white."""
    return 0 if num_channels == 4 else 255


def margins(
    height: Tensor, width: Tensor, image_size: Size, anchor: str
) -> tuple[Tensor, Tensor]:
    """Return the margins at the top and at the left of an image that fits.

    Height and width are integers or int32 scalars of TensorFlow.
    """
    above = image_size[0] - height
    top = {"bottom": above, "center": above // 2, "top": above * 0}[anchor]
    return top, (image_size[1] - width) // 2


def visible(image: np.ndarray) -> np.ndarray:
    """Return an image whose transparent pixels are all alike."""
    if image.shape[-1] < 4:
        return image
    return np.where(image[..., 3:] > 0, image, np.uint8(0))

"""Covers and masks choose the pixels of an image to paint.

Shapes: H height and W width of the small image.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pixace_tf.data import image_files
from pixace_tf.errors import UserError
from pixace_tf.sampling import noise

# Sides, and the share of the image that each hides by default.
COVERS = {"top": 0.5, "bottom": 0.5, "left": 0.5, "right": 0.5, "center": 0.25}
# Names the image's own transparency as its mask.
ALPHA = "alpha"
# A small pixel is painted if at least this share of it is masked.
MIN_SHARE = 0.25
# Sides of the patches to vary, as shares of the image.
_PATCH_SIDES = 0.1, 0.4
# How far the border of a seamless image reaches, as a share of each side.
_BORDER = 0.125


def parse_cover(text: str) -> tuple[str, float]:
    """Return the side and share of a cover such as `left:0.3`, or UserError."""
    side, _, share = text.partition(":")
    try:
        value = float(share) if share else COVERS[side]
    except (KeyError, ValueError):
        value = -1
    if side not in COVERS or not 0 < value <= 1:
        raise UserError(
            f"cover must be one of {', '.join(COVERS)}, perhaps with a share "
            f"above 0 and up to 1, such as left:0.3. Received: {text!r}"
        )
    return side, value


def cover(text: str, height: int, width: int) -> np.ndarray:
    """Return which pixels a cover such as `left:0.3` hides, bool `(H, W)`.

    At least one row or column is hidden.

    Raises:
        UserError: If the text has another form.
    """
    side, share = parse_cover(text)
    # Both sides of the center scale by the root, so its area has the share.
    share = share**0.5 if side == "center" else share
    rows, columns = (max(1, round(n * share)) for n in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    is_hidden = np.zeros((height, width), bool)
    areas: dict[str, Any] = {
        "top": np.s_[:rows],
        "bottom": np.s_[height - rows :],
        "left": np.s_[:, :columns],
        "right": np.s_[:, width - columns :],
        "center": np.s_[top : top + rows, left : left + columns],
    }
    is_hidden[areas[side]] = True
    return is_hidden


def patches(seed: int, share: float, height: int, width: int) -> np.ndarray:
    """Hide rectangles of random size and place.

    Args:
        seed: An int64.
        share: The least share of the image to hide, in `(0, 1]`; the last
            rectangle may exceed it.
        height: Height of the image.
        width: Width of the image.

    Returns:
        bool `(H, W)`.
    """
    size = np.array([height, width])
    # So many rectangles cover nearly all of the image.
    numbers = noise.uniform(seed, noise.PATCHES, 4 * height * width)
    sides, places = numbers.reshape(2, -1, 2).astype(np.float64)
    least, most = _PATCH_SIDES
    sides = np.maximum(1, size * (least + (most - least) * sides))
    first = np.floor(places * (size + sides) - sides)
    inside = [
        (np.arange(n) >= low[:, None]) & (np.arange(n) < (low + side)[:, None])
        for n, low, side in zip(size, first.T, sides.T, strict=True)
    ]
    covers = inside[0][:, :, None] & inside[1][:, None, :]
    # The number of the first rectangle that covers a pixel.
    number = np.where(covers.any(axis=0), covers.argmax(axis=0), len(covers))
    needed = np.sort(number, axis=None)[int(np.ceil(share * number.size)) - 1]
    return number <= needed


def border(height: int, width: int) -> np.ndarray:
    """Hide the border of an image, at least a pixel wide, bool `(H, W)`."""
    is_hidden = np.ones((height, width), bool)
    rows, columns = (max(1, round(_BORDER * n)) for n in (height, width))
    is_hidden[rows : height - rows, columns : width - columns] = False
    return is_hidden


def read_mask(mask: Any) -> np.ndarray:
    """Read a mask at its own size.

    Args:
        mask: An image, whose white opaque pixels are painted: a path, an
            http(s) address, or a uint8 array with 3 or 4 channels. Or a bool or
            uint8 array `(any_height, any_width)`, painted where it is True or
            bright.

    Returns:
        uint8 `(any_height, any_width)`; 255 is painted.

    Raises:
        UserError: If it cannot be used as a mask.
    """
    if isinstance(mask, str | os.PathLike):
        return _brightness(image_files.read_upright(mask))
    array = np.asarray(mask)
    if array.dtype == bool and array.ndim == 2:
        return np.where(array, np.uint8(255), np.uint8(0))
    if array.dtype == np.uint8 and array.ndim == 2:
        return array
    is_color = array.ndim == 3 and array.shape[2] in (3, 4)
    if array.dtype == np.uint8 and is_color:
        return _brightness(Image.fromarray(array))
    raise UserError(
        "A mask must be a path, a bool or uint8 array (height, width), or a "
        "uint8 array (height, width, 3 or 4). "
        f"Received: {array.dtype} {array.shape}"
    )


def mask_of(image: Any, mask: Any, small: np.ndarray) -> np.ndarray:
    """Read the mask of an image, at its own size.

    Args:
        image: A path, an http(s) address, or `(any_height, any_width, 3 or 4)`.
        mask: `ALPHA`, or a mask as in `read_mask`.
        small: uint8 `(H, W, C)`, the small image; a mask of its size fits it.
            If it is RGBA, `ALPHA` is its own, so margins are painted, too.

    Returns:
        uint8 `(any_height, any_width)`; 255 is painted.

    Raises:
        UserError: If it cannot be used as a mask, or the aspects of mask and
            image differ by more than the rounding of a pixel.
    """
    if isinstance(mask, str) and mask == ALPHA:
        return _alpha_mask(image, small)
    pixels = read_mask(mask)
    if pixels.shape == small.shape[:2]:
        return pixels
    if isinstance(image, str | os.PathLike):
        upright = image_files.read_upright(image)
        size = upright.height, upright.width
    else:
        size = image.shape[:2]
    if not has_aspect(pixels.shape, size):
        raise UserError(
            "A mask needs the aspect of its picture. Received: a mask of "
            f"{pixels.shape[1]}x{pixels.shape[0]} for a picture of "
            f"{size[1]}x{size[0]}"
        )
    return pixels


def check_paints(is_hidden: np.ndarray) -> None:
    """Raise UserError if a mask of bool `(N, ...)` paints nothing."""
    paints = is_hidden.reshape(len(is_hidden), -1).any(axis=1)
    if not paints.all():
        raise UserError(
            f"The mask of picture {np.argmin(paints) + 1} paints nothing. A "
            "pixel of the small picture is painted if a quarter of it is white "
            "and opaque in the mask."
        )


def is_painted(values: np.ndarray) -> np.ndarray:
    """Return which pixels a small mask paints.

    Args:
        values: `(H, W)`, the masked part of each pixel, from 0 to 255.
    """
    return values >= 255 * MIN_SHARE


def _alpha_mask(image: Any, small: np.ndarray) -> np.ndarray:
    """Return a mask that paints the transparent parts of an image."""
    name = "the image"
    if isinstance(image, str | os.PathLike):
        name = image_files.printable(image)
    rgba = small
    if small.shape[-1] == 3:  # It lies on white.
        rgba = np.asarray(
            image
            if isinstance(image, np.ndarray)
            else image_files.read_upright(image)
        )
    if rgba.shape[-1] == 3 or rgba[..., 3].min() == 255:
        raise UserError(
            f"Nothing in {name} is transparent, so its alpha cannot be the "
            "mask; give another --mask."
        )
    return 255 - rgba[..., 3]


def _brightness(image: Image.Image) -> np.ndarray:
    """Return uint8 `(height, width)`: the brightness over black."""
    pixels = np.asarray(image.convert("RGBA")).astype(np.uint16)
    rgb = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
    return np.asarray(Image.fromarray(rgb.astype(np.uint8)).convert("L"))


def has_aspect(size: Sequence[Any], other: Sequence[Any]) -> Any:
    """Tell whether two sizes have the same aspect, up to a pixel's rounding.

    Args:
        size: Height and width, integers or int32 scalars.
        other: Height and width of the other image.
    """
    (height, width), (other_height, other_width) = size, other
    difference = abs(width * other_height - height * other_width)
    return (
        (difference <= height)
        | (difference <= width)
        | (difference <= other_height)
        | (difference <= other_width)
    )

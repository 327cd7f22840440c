"""Which pixels of an image to paint: named covers, and masks.

Shapes: H height and W width of the small image.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pixace_tf.data import image_files
from pixace_tf.errors import UserError

# Default share of the image that is hidden.
COVERS = {"top": 0.5, "bottom": 0.5, "left": 0.5, "right": 0.5, "center": 0.25}
# Name of the mask that is the image's own transparency.
ALPHA = "alpha"
# A small pixel is painted if at least this share of it is masked.
MIN_SHARE = 0.25


def parse_cover(text: str) -> tuple[str, float]:
    """Return the side and the share named by a text such as `left:0.3`.

    Raises:
        UserError: If the text has another form.
    """
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
    """Return which pixels a cover hides.

    Args:
        text: A side of `COVERS`, perhaps with a share, as in `left:0.3`.
        height: H.
        width: W.

    Returns:
        bool `(H, W)`; at least one row or column is hidden.

    Raises:
        UserError: If the text has another form.
    """
    side, share = parse_cover(text)
    row, column = np.indices((height, width))
    if side == "center":
        # Both sides scale by the root, so that the area has the share.
        rows, columns = (max(1, round(n * share**0.5)) for n in (height, width))
        top, left = (height - rows) // 2, (width - columns) // 2
        is_inside = (row >= top) & (row < top + rows)
        return is_inside & (column >= left) & (column < left + columns)
    place, length = (
        (row, height) if side in ("top", "bottom") else (column, width)
    )
    hidden = max(1, round(share * length))
    if side in ("top", "left"):
        return place < hidden
    return place >= length - hidden


def read_mask(mask: Any) -> np.ndarray:
    """Read a mask at its own size.

    Args:
        mask: A path or an http(s) address of an image, whose white is painted,
            but nothing that is transparent; or a bool or uint8 array
            `(any_height, any_width)`, painted where it is True or bright; or a
            uint8 RGB or RGBA array of that size.

    Returns:
        uint8 `(any_height, any_width)`; 255 is painted.

    Raises:
        UserError: If it is no mask.
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


def mask_of(image: Any, mask: Any, image_size: tuple[int, int]) -> np.ndarray:
    """Read the mask of an image, at its own size.

    Args:
        image: A path, an http(s) address, or `(any_height, any_width, 3)`.
        mask: `ALPHA`, or a mask as `read_mask` accepts it.
        image_size: `(H, W)`; a mask of this size is for the small image.

    Returns:
        uint8 `(any_height, any_width)`; 255 is painted.

    Raises:
        UserError: If it is no mask, or its aspect is not that of the image.
    """
    if isinstance(mask, str) and mask == ALPHA:
        return read_alpha(image)
    pixels = read_mask(mask)
    if pixels.shape != image_size:
        check_aspect(pixels, size_of(image))
    return pixels


def check_paints(is_hidden: np.ndarray) -> None:
    """Refuse masks that paint nothing.

    Args:
        is_hidden: bool `(N, ...)`, the painted pixels of each image.

    Raises:
        UserError: If an image has none.
    """
    paints = is_hidden.reshape(len(is_hidden), -1).any(axis=1)
    if not paints.all():
        raise UserError(
            f"The mask of picture {np.argmin(paints) + 1} paints nothing. A "
            "pixel of the small picture is painted if a quarter of it is white "
            "and opaque in the mask."
        )


def is_painted(values: np.ndarray) -> np.ndarray:
    """Return which pixels of a small mask are painted.

    Args:
        values: `(H, W)`, the masked part of each pixel, from 0 to 255.

    Returns:
        bool `(H, W)`.
    """
    return values >= 255 * MIN_SHARE


def read_alpha(image: Any) -> np.ndarray:
    """Return a mask that paints the transparent parts of an image.

    Args:
        image: A path or an http(s) address.

    Returns:
        uint8 `(any_height, any_width)`; 255 is painted.

    Raises:
        UserError: If nothing in the image is transparent.
    """
    if not isinstance(image, str | os.PathLike):
        raise UserError(f"mask {ALPHA!r} needs image files, not arrays.")
    upright = image_files.read_upright(image)
    alpha = np.asarray(upright.convert("RGBA"))[..., 3]
    if alpha.min() == 255:
        raise UserError(
            f"Nothing in {image_files.printable(image)} is transparent, so its "
            "alpha is no mask; give another --mask."
        )
    return 255 - alpha


def size_of(image: Any) -> tuple[int, int]:
    """Return height and width of an image before it is scaled down.

    Args:
        image: A path, an http(s) address, or `(height, width, 3)`.
    """
    if isinstance(image, str | os.PathLike):
        upright = image_files.read_upright(image)
        return upright.height, upright.width
    return image.shape[0], image.shape[1]


def check_aspect(mask: np.ndarray, size: tuple[int, int]) -> None:
    """Refuse a mask whose aspect is not that of its image.

    Args:
        mask: `(any_height, any_width)`.
        size: `(height, width)` of the image.

    Raises:
        UserError: If the aspects differ by more than a pixel's rounding.
    """
    height, width = mask.shape
    if not has_aspect((height, width), size):
        raise UserError(
            "A mask needs the aspect of its picture. Received: a mask of "
            f"{width}x{height} for a picture of {size[1]}x{size[0]}"
        )


def _brightness(image: Image.Image) -> np.ndarray:
    """Return uint8 `(height, width)`: the brightness over black."""
    pixels = np.asarray(image.convert("RGBA")).astype(np.uint16)
    rgb = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
    return np.asarray(Image.fromarray(rgb.astype(np.uint8)).convert("L"))


def has_aspect(size: Sequence[Any], other: Sequence[Any]) -> Any:
    """Tell whether two sizes have one aspect, up to a pixel's rounding.

    Args:
        size: Height and width, integers or int32 scalars.
        other: The same of another image.
    """
    (height, width), (other_height, other_width) = size, other
    difference = abs(width * other_height - height * other_width)
    return (
        (difference <= height)
        | (difference <= width)
        | (difference <= other_height)
        | (difference <= other_width)
    )

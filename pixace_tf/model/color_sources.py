"""Where the color of a pixel can be copied from: neighbors and past colors.

Shapes: B images, T pixels, N neighbors, K remembered colors, C pixels of a
chunk, S sources of a color: N neighbors first, then remembered colors.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from pixace_tf.model.pixel_inputs import gather_neighbors, pad_grid
from pixace_tf.typing import Tensor

# The color of pixels that have none: transparent ones, and those outside.
NO_COLOR = -1
# Training looks up remembered colors for so many pixels at a time.
CHUNK_LENGTH = 32
# Numbers that tell how many colors an image has; see `Sources.numbers`.
NUM_NUMBERS = 4
# Pixels in which new colors are counted apart.
LAST_PIXELS = 32


class Sources(NamedTuple):
    """Where the colors of whole images can be copied from.

    Chunks of C pixels share their remembered colors: the last K before the
    chunk, and those that appear within it.

    Attributes:
        colors: int32 `(B, T, S)`, `NO_COLOR` for none, S = N + K + C.
        recent: int32 `(B, chunks, K + C)`, the remembered colors.
        age: float32 `(B, chunks, C, K + C)`, how many colors have appeared
            since each.
        numbers: int32 `(B, T, 4)`: how many colors there are before each pixel,
            how many visible pixels, how many that equal a neighbor, and how
            many new colors in the last 32 pixels.
    """

    colors: Tensor
    recent: Tensor
    age: Tensor
    numbers: Tensor


def sources_of(
    colors: Tensor, image_size: tuple[int, int], num_colors: int
) -> Sources:
    """Return where the colors of whole images can be copied from.

    Args:
        colors: int32 `(B, T)`, `NO_COLOR` for transparent pixels.
        image_size: `(height, width)`.
        num_colors: K.
    """
    length, chunk = colors.shape[1], CHUNK_LENGTH
    is_first = first_pixels(colors)
    before = _before(is_first)
    first = _places(is_first)
    starts = np.arange(0, length, chunk, dtype="int32")
    now = starts[:, None] + np.arange(chunk, dtype="int32")
    number = before[:, ::chunk, None] + np.arange(
        -num_colors, chunk, dtype="int32"
    )  # (B, chunks, K + C)
    flat = ops.reshape(number, (-1, number.shape[1] * number.shape[2]))
    place = ops.take_along_axis(first, ops.clip(flat, 0, length - 1), axis=1)
    recent = ops.reshape(
        _colors_at(colors, ops.where(place < length, place, -1)),
        (-1, *number.shape[1:]),
    )
    place = ops.reshape(place, (-1, 1, *number.shape[1:]))
    place = ops.transpose(place, (0, 2, 1, 3))
    number = number[:, :, None]
    is_before = place < now[:, :, None]  # (B, chunks, C, K + C)
    missing = len(starts) * chunk - length
    count = ops.pad(before, ((0, 0), (0, missing)))
    age = ops.reshape(count, (-1, *now.shape, 1)) - 1 - number
    is_known = is_before & (number >= 0) & (age < num_colors)
    reused = ops.where(is_known, recent[:, :, None], NO_COLOR)
    reused = ops.reshape(reused, (-1, len(starts) * chunk, num_colors + chunk))
    around = neighbors_of(colors, image_size)
    is_copy = equals_any(colors[..., None], around)
    last = ops.pad(before, ((0, 0), (LAST_PIXELS, 0)))[:, :length]
    is_visible = ops.cast(colors >= 0, "int32")
    numbers = [before, _before(is_visible), _before(is_copy), before - last]
    return Sources(
        ops.concatenate([around, reused[:, :length]], axis=-1),
        recent,
        ops.cast(age, "float32"),
        ops.stack(numbers, axis=-1),
    )


def numbers_at(
    position: Tensor, colors: Tensor, is_first: Tensor, num_copies: Tensor
) -> Tensor:
    """Return the numbers of `Sources` at one position, int32 `(B, 4)`.

    Args:
        position: int32 scalar.
        colors: int32 `(B, T)`, `NO_COLOR` from the position on.
        is_first: As from `first_pixels`.
        num_copies: int32 `(B,)`, the third number.
    """
    place = np.arange(colors.shape[1], dtype="int32")
    is_last = ops.cast(place >= position - LAST_PIXELS, "int32")
    visible = ops.sum(ops.cast(colors >= 0, "int32"), axis=1)
    count = ops.sum(is_first, axis=1)
    newly = ops.sum(is_first * is_last, axis=1)
    return ops.stack([count, visible, num_copies, newly], axis=-1)


def neighbors_of(colors: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the colors around each pixel, int32 `(B, T, N)`."""
    return gather_neighbors(pad_grid(colors, image_size, NO_COLOR)[..., None])


def equals_any(color: Tensor, others: Tensor) -> Tensor:
    """Return 1 where a color, `(..., 1)`, is among others, `(..., n)`, or 0."""
    is_equal = ops.any(others == color, axis=-1) & (color[..., 0] >= 0)
    return ops.cast(is_equal, "int32")


def first_pixels(colors: Tensor) -> Tensor:
    """Return 1 where a color appears for the first time, or 0.

    Args:
        colors: int32 `(B, T)`, `NO_COLOR` for pixels that do not count.

    Returns:
        int32 `(B, T)`.
    """
    # Of equal colors, the one with the lowest place comes first.
    ordered, place = ops.top_k(colors, colors.shape[1])
    differs = ordered[:, 1:] != ordered[:, :-1]
    is_first = ops.pad(differs, ((0, 0), (1, 0)), constant_values=True)
    is_first = ops.cast(is_first & (ordered >= 0), "int32")
    # Back into the order of places.
    return ops.sort(2 * ops.cast(place, "int32") + is_first, axis=1) % 2


def recent_colors(colors: Tensor, is_first: Tensor, num_colors: int) -> Tensor:
    """Return the colors that appeared last in images.

    Args:
        colors: int32 `(B, T)`.
        is_first: As from `first_pixels`.
        num_colors: K.

    Returns:
        int32 `(B, K)`, the newest color first, `NO_COLOR` behind the last one.
    """
    length = colors.shape[1]
    place = np.arange(length, dtype="int32")
    place = ops.where(is_first > 0, place, -1)
    last, _ = ops.top_k(place, min(num_colors, length))
    missing = num_colors - last.shape[1]
    last = ops.pad(last, ((0, 0), (0, missing)), constant_values=-1)
    return _colors_at(colors, last)


def push(queue: Tensor, item: Tensor, is_pushed: Tensor) -> Tensor:
    """Put an item, `(B, 1, ...)`, in front and drop the last one, or do not."""
    pushed = ops.concatenate([item, queue[:, :-1]], axis=1)
    return ops.where(is_pushed, pushed, queue)


def _before(flags: Tensor) -> Tensor:
    """Return how many flags, int32 `(B, T)`, there are before each pixel."""
    return ops.cumsum(flags, axis=1) - flags


def _places(flags: Tensor) -> Tensor:
    """Return the places of flags, int32 `(B, T)`, T behind the last one."""
    length = flags.shape[1]
    place = np.arange(length, dtype="int32")
    return ops.sort(ops.where(flags > 0, place, length), axis=1)


def _colors_at(colors: Tensor, place: Tensor) -> Tensor:
    """Return the colors at places `(B, n)`, and -1 where a place is -1."""
    found = ops.take_along_axis(colors, ops.maximum(place, 0), axis=1)
    return ops.where(place < 0, NO_COLOR, found)

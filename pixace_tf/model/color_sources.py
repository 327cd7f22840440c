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


class Sources(NamedTuple):
    """Where the colors of whole images can be copied from.

    Chunks of C pixels share their remembered colors: the last K before the
    chunk, and those that appear within it.

    Attributes:
        colors: int32 `(B, T, S)`, `NO_COLOR` for none, S = N + K + C.
        recent: int32 `(B, chunks, K + C)`, the remembered colors.
        age: float32 `(B, chunks, C, K + C)`, how many colors have appeared
            since each.
        count: int32 `(B, T)`, the number of colors before each pixel.
    """

    colors: Tensor
    recent: Tensor
    age: Tensor
    count: Tensor


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
    first = _first_places(colors)
    starts = np.arange(0, length, chunk, dtype="int32")
    now = starts[:, None] + np.arange(chunk, dtype="int32")
    count = ops.sum(
        ops.cast(first[:, None] < starts[:, None], "int32"), axis=-1
    )
    number = count[..., None] + np.arange(
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
    count = count[..., None, None] + ops.sum(
        ops.cast(is_before[..., num_colors:], "int32"),
        axis=-1,
        keepdims=True,
    )
    age = count - 1 - number
    is_known = is_before & (number >= 0) & (age < num_colors)
    reused = ops.where(is_known, recent[:, :, None], NO_COLOR)
    reused = ops.reshape(reused, (-1, len(starts) * chunk, num_colors + chunk))
    grid = pad_grid(colors, image_size, NO_COLOR)
    around = gather_neighbors(grid[..., None])
    return Sources(
        ops.concatenate([around, reused[:, :length]], axis=-1),
        recent,
        ops.cast(age, "float32"),
        ops.reshape(count, (-1, len(starts) * chunk))[:, :length],
    )


def recent_colors(colors: Tensor, num_colors: int) -> tuple[Tensor, Tensor]:
    """Return the colors that appeared last in images.

    Args:
        colors: int32 `(B, T)`, `NO_COLOR` for pixels that do not count.
        num_colors: K.

    Returns:
        int32 `(B, K)`, the newest color first, `NO_COLOR` behind the last one;
        and the number of all colors, int32 `(B,)`.
    """
    length = colors.shape[1]
    place = _first_places(colors)
    place = ops.where(place < length, place, -1)
    count = ops.sum(ops.cast(place >= 0, "int32"), axis=1)
    last, _ = ops.top_k(place, min(num_colors, length))
    missing = num_colors - last.shape[1]
    last = ops.pad(last, ((0, 0), (0, missing)), constant_values=-1)
    return _colors_at(colors, last), count


def push(queue: Tensor, item: Tensor, is_pushed: Tensor) -> Tensor:
    """Put an item, `(B, 1, ...)`, in front and drop the last one, or do not."""
    pushed = ops.concatenate([item, queue[:, :-1]], axis=1)
    return ops.where(is_pushed, pushed, queue)


def _first_places(colors: Tensor) -> Tensor:
    """Return where each color of an image appears for the first time.

    Args:
        colors: int32 `(B, T)`, -1 for none.

    Returns:
        int32 `(B, T)`, in ascending order; T behind the last one.
    """
    length = colors.shape[1]
    # Of equal colors, the one with the lowest place comes first.
    ordered, place = ops.top_k(colors, length)
    place = ops.cast(place, "int32")
    differs = ordered[:, 1:] != ordered[:, :-1]
    is_first = ops.pad(differs, ((0, 0), (1, 0)), constant_values=True)
    is_first = is_first & (ordered >= 0)
    return ops.sort(ops.where(is_first, place, length), axis=1)


def _colors_at(colors: Tensor, place: Tensor) -> Tensor:
    """Return the colors at places `(B, n)`, and -1 where a place is -1."""
    found = ops.take_along_axis(colors, ops.maximum(place, 0), axis=1)
    return ops.where(place < 0, NO_COLOR, found)

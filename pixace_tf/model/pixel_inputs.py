"""What a decoder sees of a picture: embedded pixels and their neighbors."""

from typing import Any

import keras
from keras import ops

from pixace_tf.data.bit_widths import BitWidths
from pixace_tf.model.initializers import level_initializer

# (rows down, columns right) of the causal neighbors, all earlier in raster
# order: two to the left, five above, five two rows above.
NEIGHBORS = (
    *((0, -2), (0, -1)),
    *((-1, column) for column in range(-2, 3)),
    *((-2, column) for column in range(-2, 3)),
)
MARGIN = 2


class PixelEmbedding(keras.layers.Layer):
    """Embed pixels as the sum of one small table per color channel.

    The tables are one weight that multiplies a multi-hot row per pixel: on the
    CPU as fast as a lookup, and its gradient is dense.

    Args:
        bit_widths: Bits per channel; the tables have `2**b` rows each, and one
            more row stands for the start token.
        embedding_dim: Width of an embedded pixel.

    Call arguments:
        token_ids: int32 `(...)` in `[0, 2**sum(bit_widths)]`, the last one
            being the start token.

    Returns:
        float `(..., embedding_dim)`.
    """

    def __init__(
        self, bit_widths: BitWidths, embedding_dim: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.bit_widths = bit_widths
        self.embedding_dim = embedding_dim
        levels = tuple(1 << b for b in self.bit_widths)
        self.table = self.add_weight(
            name="table",
            shape=(sum(levels) + 1, embedding_dim),
            initializer=level_initializer(levels, stddev=0.5),
        )
        self.built = True

    def call(self, token_ids: Any) -> Any:
        outside = token_ids >= 1 << sum(self.bit_widths)
        hots = []
        for channel, bits in zip(
            split_channels(token_ids, self.bit_widths),
            self.bit_widths,
            strict=True,
        ):
            index = ops.where(outside, -1, channel)
            hots.append(ops.one_hot(index, 1 << bits, dtype=self.compute_dtype))
        hots.append(ops.cast(outside[..., None], self.compute_dtype))
        return ops.matmul(ops.concatenate(hots, axis=-1), self.table)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "bit_widths": self.bit_widths,
            "embedding_dim": self.embedding_dim,
        }


def split_channels(token_ids: Any, bit_widths: BitWidths) -> list[Any]:
    """Split tokens into their three color channels, backend-neutral.

    Args:
        token_ids: int32 `(...)`.
        bit_widths: Bits per channel.

    Returns:
        Three int32 tensors `(...)`, channel `c` in `[0, 2**bit_widths[c])`.
    """
    channels, shift = [], 0
    for bits in bit_widths:
        channels.append((token_ids // (1 << shift)) % (1 << bits))
        shift += bits
    return channels


def pad_grid(
    token_ids: Any, image_size: tuple[int, int], start_token_id: int
) -> Any:
    """Lay a sequence out as a picture with a margin of start tokens.

    Args:
        token_ids: int32 `(B, height*width)`.
        image_size: `(height, width)`.
        start_token_id: What stands outside the picture.

    Returns:
        int32 `(B, height + MARGIN, width + 2 * MARGIN)`: margins above, left
        and right.
    """
    height, width = image_size
    grid = ops.reshape(token_ids, (-1, height, width))
    return ops.pad(
        grid,
        ((0, 0), (MARGIN, 0), (MARGIN, MARGIN)),
        constant_values=start_token_id,
    )


def gather_neighbors(grid: Any) -> Any:
    """Set the causal neighbors of every pixel side by side.

    Args:
        grid: `(B, height + MARGIN, width + 2 * MARGIN, E)`, the embedded
            pixels with their margin.

    Returns:
        `(B, height*width, len(NEIGHBORS) * E)`.
    """
    height = grid.shape[1] - MARGIN
    width = grid.shape[2] - 2 * MARGIN
    shifted = [
        grid[
            :,
            MARGIN + row : MARGIN + row + height,
            MARGIN + column : MARGIN + column + width,
        ]
        for row, column in NEIGHBORS
    ]
    side_by_side = ops.concatenate(shifted, axis=-1)
    features = side_by_side.shape[-1]
    return ops.reshape(side_by_side, (-1, height * width, features))


def neighbor_tokens(
    token_ids: Any,
    position: Any,
    image_size: tuple[int, int],
    start_token_id: int,
) -> Any:
    """Look up the neighbors of one position, for a decoding step.

    Args:
        token_ids: int32 `(B, height*width)`; read at earlier positions only.
        position: int32 scalar in `[0, height*width)`.
        image_size: `(height, width)`.
        start_token_id: What stands outside the picture.

    Returns:
        int32 `(B, len(NEIGHBORS))`.
    """
    _, width = image_size
    down = ops.convert_to_tensor([row for row, _ in NEIGHBORS], "int32")
    right = ops.convert_to_tensor([column for _, column in NEIGHBORS], "int32")
    row = position // width + down
    column = position % width + right
    inside = (row >= 0) & (column >= 0) & (column < width)
    index = ops.where(inside, row * width + column, 0)
    return ops.where(
        inside[None], ops.take(token_ids, index, axis=1), start_token_id
    )

"""The inputs of a decoder: embedded pixels, neighbors and positions.

Shapes: B batch, T pixels, E embedding_dim, N neighbors, W hidden_dim.
"""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from pixace_tf.data.palette import Palette
from pixace_tf.model.initializers import level_initializer
from pixace_tf.model.lookup import look_up
from pixace_tf.typing import Tensor

# (rows down, columns right) of the causal neighbors, all earlier in raster
# order: two to the left, five above, five two rows above.
NEIGHBORS = (
    *((0, -2), (0, -1)),
    *((-1, column) for column in range(-2, 3)),
    *((-2, column) for column in range(-2, 3)),
)
MARGIN = 2
# The same of the pixels around the same place in the first picture of a pair,
# which is read before the second.
PARTNERS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
# Width of an embedded pixel.
EMBEDDING_DIM = 64
# The table of colors learns this many times faster than other weights. Adam
# moves each weight by about the learning rate, whatever its gradient, and
# everything else is computed from the few rows of this table.
TABLE_RATE = 10.0


@keras.saving.register_keras_serializable("pixace_tf")
class PixelEmbedding(keras.layers.Layer):
    """Embed pixels as the sum of one small table per color channel.

    All tables are one weight, multiplied by a multi-hot row per pixel: as fast
    as a lookup on a CPU, with a dense gradient. The weight is stored divided by
    `TABLE_RATE`, so a step of Adam moves the output that many times as far.
    Each channel has a row per level; the start token has one more row.

    Call arguments:
        token_ids: int32 `(...)`, codes or the start token.

    Returns:
        float `(..., embedding_dim)`.
    """

    def __init__(
        self, palette: Palette | str, embedding_dim: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.palette = Palette.get(palette)
        self.embedding_dim = embedding_dim
        levels = self.palette.channel_sizes
        self.table = self.add_weight(
            name="table",
            shape=(sum(levels) + 1, embedding_dim),
            initializer=level_initializer(levels, stddev=0.5 / TABLE_RATE),
        )
        self.built = True

    def call(self, token_ids: Tensor) -> Tensor:
        is_outside = token_ids == self.palette.start_token_id
        hots = []
        for channel, size in zip(
            self.palette.unpack(token_ids),
            self.palette.channel_sizes,
            strict=True,
        ):
            index = ops.where(is_outside, -1, channel)
            hots.append(ops.one_hot(index, size, dtype=self.compute_dtype))
        hots.append(ops.cast(is_outside[..., None], self.compute_dtype))
        table = TABLE_RATE * self.table
        return ops.matmul(ops.concatenate(hots, axis=-1), table)

    def look_up(self, token_ids: Tensor) -> Tensor:
        """Return the same as a call for `(B, N)`, by fewer operators."""
        sizes = self.palette.channel_sizes
        rows = np.cumsum((0, *sizes), dtype="int32")
        # The row of the start token once, and rows of zeros.
        outside = np.full(len(sizes), rows[-1] + 1, "int32")
        outside[0] = rows[-1]
        token_ids = ops.expand_dims(token_ids, -1)
        levels = token_ids // np.array(self.palette.place_values, "int32")
        levels = levels % np.array(sizes, "int32")
        index = ops.where(
            token_ids == self.palette.start_token_id,
            outside,
            levels + rows[:-1],
        )  # (B, N, channels)
        table = TABLE_RATE * ops.cast(self.table, self.compute_dtype)
        table = ops.pad(table, ((0, 1), (0, 0)))
        return ops.sum(look_up(table, index), axis=-2)


@keras.saving.register_keras_serializable("pixace_tf")
class RowColumnEmbedding(keras.layers.Layer):
    """Add one learned vector per row and column to float `(B, T, W)`."""

    def __init__(
        self, image_size: tuple[int, int], hidden_dim: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = tuple(image_size)
        initializer = keras.initializers.RandomNormal(stddev=0.1)
        self.rows, self.columns = (
            self.add_weight((count, hidden_dim), initializer, name=name)
            for name, count in zip(("rows", "columns"), image_size, strict=True)
        )
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        table = self.rows[:, None] + self.columns[None, :]
        table = ops.reshape(table, (-1, table.shape[-1]))
        return x + ops.cast(table, x.dtype)

    def at(self, position: Tensor) -> Tensor:
        """Return float `(..., W)` for int32 positions `(...)`."""
        width = self.image_size[1]
        row = look_up(self.rows, position // width)
        return row + look_up(self.columns, position % width)


def pad_grid(
    token_ids: Tensor, image_size: tuple[int, int], start_token_id: int
) -> Tensor:
    """Reshape int32 `(B, height*width)` to images with margins of start tokens.

    Returns:
        int32 `(B, height + MARGIN, width + 2 * MARGIN)`, with margins above,
        left and right.
    """
    height, width = image_size
    grid = ops.reshape(token_ids, (-1, height, width))
    return ops.pad(
        grid,
        ((0, 0), (MARGIN, 0), (MARGIN, MARGIN)),
        constant_values=start_token_id,
    )


def gather_neighbors(grid: Tensor) -> Tensor:
    """Concatenate the causal neighbors of every pixel: `(B, T, N * E)`.

    `grid` is `(B, height + MARGIN, width + 2 * MARGIN, E)`, as from `pad_grid`.
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
    token_ids: Tensor,
    position: Tensor,
    image_size: tuple[int, int],
    start_token_id: int,
) -> Tensor:
    """Return the neighbors of one position, int32 `(B, N)`.

    `token_ids` are int32 `(B, T)`, read at earlier positions only; `position`
    is an int32 scalar.
    """
    height, width = image_size
    outside = -height * width  # Makes the index negative everywhere.
    offsets = [
        [
            row * width + column if 0 <= x + column < width else outside
            for row, column in NEIGHBORS
        ]
        for x in range(width)
    ]
    table = ops.convert_to_tensor(offsets, "int32")
    index = position + look_up(table, position % width)
    found = look_up(token_ids, ops.maximum(index, 0), axis=1)
    return ops.where(index < 0, start_token_id, found)


def gather_partners(grid: Tensor) -> Tensor:
    """Concatenate the partners of every pixel: `(B, T, N * E)`.

    `grid` is that of `gather_neighbors`, of pairs. Start tokens are the
    partners of the first picture, and of places outside of it.
    """
    height = (grid.shape[1] - MARGIN) // 2
    width = grid.shape[2] - 2 * MARGIN
    outside = grid[:, :MARGIN]  # Above the pair; here also below a picture.
    first = ops.concatenate([grid[:, : MARGIN + height], outside], axis=1)
    nothing = ops.concatenate([outside[:, :1, MARGIN:-MARGIN]] * height, axis=1)
    shifted = [
        ops.concatenate(
            [
                nothing,
                first[
                    :,
                    MARGIN + row : MARGIN + row + height,
                    MARGIN + column : MARGIN + column + width,
                ],
            ],
            axis=1,
        )
        for row, column in PARTNERS
    ]
    side_by_side = ops.concatenate(shifted, axis=-1)
    features = side_by_side.shape[-1]
    return ops.reshape(side_by_side, (-1, 2 * height * width, features))


def partner_tokens(
    token_ids: Tensor,
    position: Tensor,
    image_size: tuple[int, int],
    start_token_id: int,
) -> Tensor:
    """Return the partners of one position, int32 `(B, N)`.

    The arguments are those of `neighbor_tokens`, of pairs.
    """
    whole, width = image_size
    height = whole // 2
    # Absolute, for each position; -1 is outside.
    places = np.full((whole, width, len(PARTNERS)), -1, "int32")
    for y, x, (n, (row, column)) in itertools.product(
        range(height), range(width), enumerate(PARTNERS)
    ):
        if 0 <= y + row < height and 0 <= x + column < width:
            places[height + y, x, n] = (y + row) * width + x + column
    table = ops.convert_to_tensor(places.reshape(whole * width, -1))
    index = look_up(table, position)
    found = look_up(token_ids, ops.maximum(index, 0), axis=1)
    return ops.where(index < 0, start_token_id, found)

"""Parts of a model that `ablate.py` tries and the package does not have."""

from typing import Any

import keras
import numpy as np
from keras import ops

from pixace_tf.model import multiscale_decoder, transformer_stack
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.decoder import Inputs, with_condition
from pixace_tf.model.multiscale_decoder import MultiscaleDecoder
from pixace_tf.model.pixel_inputs import (
    MARGIN,
    NEIGHBORS,
    gather_neighbors,
    pad_grid,
)
from pixace_tf.model.transformer_stack import (
    CausalDecoderLayer,
    TransformerStack,
)

# The neighbors that touch the pixel, and the next to the left and above.
SIX_NEIGHBORS = ((0, -2), (0, -1), (-1, -1), (-1, 0), (-1, 1), (-2, 0))
# All in a window of 7x7.
MANY_NEIGHBORS = (
    *((0, column) for column in range(-3, 0)),
    *((row, column) for row in (-1, -2, -3) for column in range(-3, 4)),
)


def glorot_outputs(model: PixaceCausalLM) -> None:
    """Draw what writes into the residual stream as keras_nlp does."""
    initializer = keras.initializers.GlorotUniform(seed=0)
    for stack in (model.decoder.global_stack, model.decoder.local_stack):
        for block in stack.blocks:
            for dense in (
                block._self_attention_layer._output_dense,
                block._feedforward_output_dense,
            ):
                dense.kernel.assign(initializer(dense.kernel.shape))


class GeluLayer(CausalDecoderLayer):
    """A layer with GELU."""

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, activation="gelu", **kwargs)


class QueryKeyNormLayer(CausalDecoderLayer):
    """A layer with queries and keys of fixed length (arXiv 2010.04245)."""

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        self.scale = self.add_weight(
            name="scale",
            shape=(self.num_heads, 1, 1),
            initializer=keras.initializers.Constant(8.0),
        )

    def _project(self, x: Any) -> list[Any]:
        query, key, value = super()._project(x)
        return [_unit(query) * self.scale, _unit(key), value]


def _unit(x: Any) -> Any:
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(squares + 1e-6)


class FeedForwardLayer(CausalDecoderLayer):
    """A layer without attention."""

    def call(
        self, x: Any, training: bool | None = None, return_cache: bool = False
    ) -> Any:
        """Run over a whole sequence `(B, T, W)`."""
        return self._finish(x, ops.zeros_like(x), training)


def use_local_layer(layer: type[CausalDecoderLayer]) -> None:
    """Let the local stack of new decoders be made of a class of layers."""
    stack = multiscale_decoder.TransformerStack

    def make(*arguments: Any, **kwargs: Any) -> TransformerStack:
        chosen = transformer_stack.CausalDecoderLayer
        if kwargs["name"] == "local":
            vars(transformer_stack)["CausalDecoderLayer"] = layer
        made = stack(*arguments, **kwargs)
        vars(transformer_stack)["CausalDecoderLayer"] = chosen
        return made

    vars(multiscale_decoder)["TransformerStack"] = make


class CopyPriorLM(PixaceCausalLM):
    """A model whose logits also come straight from four neighbors' levels.

    The tables begin with a preference for the colors to the left and above.
    """

    offsets = ((0, -1), (-1, 0), (-1, -1), (-1, 1))

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        levels, order = self.palette.channel_sizes, self.palette.chain_order
        table = np.zeros((len(self.offsets), sum(levels), sum(levels)), "f4")
        begins = np.cumsum([0, *levels])
        column = 0
        for c in order:
            size = levels[c]
            far = np.abs(np.arange(size)[:, None] - np.arange(size))
            if self.palette.channel_names[order.index(c)].lower() == "hue":
                far = np.minimum(far, size - far)
            rows = slice(begins[c], begins[c] + size)
            table[:2, rows, column : column + size] = -8.0 * far / size
            column += size
        self.tables = self.add_weight(
            name="tables",
            shape=(len(self.offsets) * sum(levels), sum(levels)),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(
                table.reshape(shape), dtype
            ),
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return logits; see `PixaceCausalLM`."""
        logits = super().call(inputs, training=training)
        is_pair = isinstance(inputs, list | tuple)
        token_ids = ops.cast(inputs[0] if is_pair else inputs, "int32")
        start = self.palette.start_token_id
        grid = pad_grid(token_ids, self.image_size, start)
        height, width = self.image_size
        hots = []
        for row, column in self.offsets:
            tokens = grid[
                :,
                MARGIN + row : MARGIN + row + height,
                MARGIN + column : MARGIN + column + width,
            ]
            is_outside = tokens >= start
            for channel, size in zip(
                self.palette.unpack(tokens),
                self.palette.channel_sizes,
                strict=True,
            ):
                hots.append(
                    ops.one_hot(ops.where(is_outside, -1, channel), size)
                )
        hot = ops.concatenate(hots, axis=-1)
        hot = ops.reshape(hot, (-1, height * width, hot.shape[-1]))
        return logits + ops.matmul(hot, self.tables)


class SkipStack(TransformerStack):
    """A stack whose layers weigh the residual and see the first input again."""

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        self.weights_of_layers = self.add_weight(
            name="weights_of_layers",
            shape=(len(self.blocks), 2),
            initializer=lambda shape, dtype=None: ops.tile(
                ops.convert_to_tensor([[1.0, 0.0]], dtype), (shape[0], 1)
            ),
        )

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Run over a whole sequence `(B, T, W)`."""
        first = x
        for i, block in enumerate(self.blocks):
            weights = self.weights_of_layers[i]
            x = weights[0] * x + weights[1] * first
            x = block(x, training=training)
        return x


class NeighborStates(keras.layers.Layer):
    """Adds to each pixel what its causal neighbors have computed.

    Each vector is projected to `rank` features; those of the twelve neighbors
    are set side by side and projected back: a causal convolution of low rank.
    """

    def __init__(self, image_size: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.show = keras.layers.Dense(self.rank, use_bias=False)
        self.look = keras.layers.Dense(
            width, use_bias=False, kernel_initializer="zeros"
        )
        self.show.build((None, None, width))
        self.look.build((None, None, len(NEIGHBORS) * self.rank))
        self.built = True

    rank = 16

    def call(self, x: Any) -> Any:
        """Map a whole image `(B, T, W)` to the same."""
        grid = ops.reshape(self.show(x), (-1, *self.image_size, self.rank))
        margins = ((0, 0), (MARGIN, 0), (MARGIN, MARGIN), (0, 0))
        return x + self.look(gather_neighbors(ops.pad(grid, margins)))


class WideNeighborStates(NeighborStates):
    """The same with twice the features."""

    rank = 32


class RowAbove(NeighborStates):
    """Adds what the three pixels above have computed, at full rank."""

    rank = 0
    offsets = (-1, 0, 1)

    def __init__(self, image_size: tuple[int, ...], width: int) -> None:
        keras.layers.Layer.__init__(self)
        self.image_size = image_size
        self.look = keras.layers.Dense(
            width, use_bias=False, kernel_initializer="zeros"
        )
        self.look.build((None, None, len(self.offsets) * width))
        self.built = True

    def call(self, x: Any) -> Any:
        """Map a whole image `(B, T, W)` to the same."""
        columns, width = self.image_size[1], x.shape[-1]
        grid = ops.reshape(x, (-1, *self.image_size, width))
        above = ops.pad(grid[:, :-1], ((0, 0), (1, 0), (1, 1), (0, 0)))
        seen = ops.concatenate(
            [above[:, :, 1 + i : 1 + i + columns] for i in self.offsets],
            axis=-1,
        )
        return x + self.look(ops.reshape(seen, (*ops.shape(x)[:2], -1)))


def looking(layer: type[NeighborStates]) -> Any:
    """Return a decoder whose local layers look at other pixels' states."""

    class LookingDecoder(MultiscaleDecoder):
        def __init__(self, *arguments: Any, **kwargs: Any) -> None:
            super().__init__(*arguments, **kwargs)
            self.looks = [
                layer(self.positions.image_size, self.hidden_dim)
                for _ in self.local_stack.blocks
            ]

        def call(self, inputs: Inputs, training: bool | None = None) -> Any:
            _, of_local = self._parts(inputs.condition)
            patches = self.global_stack(self._read(inputs), training=training)
            x = self.positions(self.project_neighbors(inputs.neighbors))
            x = with_condition(x, of_local)
            x = x + ops.reshape(self._context(patches), ops.shape(x))
            shape = ops.shape(x)
            for look, block in zip(
                self.looks, self.local_stack.blocks, strict=True
            ):
                x = ops.reshape(
                    look(x), (-1, self.patch_length, self.hidden_dim)
                )
                x = ops.reshape(block(x, training=training), shape)
            return x

    return LookingDecoder

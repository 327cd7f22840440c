"""Parts of a model that `ablate.py` tries and the package does not have."""

from typing import Any

import keras
from keras import ops

from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.multiscale_decoder import MultiscaleDecoder
from pixace_tf.model.pixel_inputs import MARGIN, NEIGHBORS, gather_neighbors
from pixace_tf.model.transformer_stack import (
    CausalDecoderLayer,
    TransformerStack,
)


def _output_kernels(model: PixaceCausalLM) -> list[Any]:
    """Return the kernels that write into the residual stream."""
    stacks = (model.decoder.global_stack, model.decoder.local_stack)
    return [
        dense.kernel
        for stack in stacks
        for block in stack.blocks
        for dense in (
            block._self_attention_layer._output_dense,
            block._feedforward_output_dense,
        )
    ]


def zero_outputs(model: PixaceCausalLM) -> None:
    """Let each layer begin as if it were not there."""
    for kernel in _output_kernels(model):
        kernel.assign(ops.zeros_like(kernel))


def glorot_outputs(model: PixaceCausalLM) -> None:
    """Draw the kernels as keras_nlp does."""
    initializer = keras.initializers.GlorotUniform(seed=0)
    for kernel in _output_kernels(model):
        kernel.assign(initializer(kernel.shape))


class ReluSquaredLayer(CausalDecoderLayer):
    """A layer with the square of a ReLU (arXiv 2109.08668)."""

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(
            *arguments,
            activation=lambda x: ops.square(ops.relu(x)),
            **kwargs,
        )


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


class SkipStack(TransformerStack):
    """A stack whose layers weigh the residual and see the first input again."""

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        self.weights_of_layers = self.add_weight(
            name="weights_of_layers",
            shape=(self.num_layers, 2),
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
                layer(self.image_size, self.hidden_dim)
                for _ in self.local_stack.blocks
            ]

        def call(
            self, pixels: Any, neighbors: Any, training: bool | None = None
        ) -> Any:
            patches = self.global_stack(self._read(pixels), training=training)
            x = self.positions(self.project_neighbors(neighbors))
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

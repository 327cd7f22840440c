"""The transformer stack: keras_hub layers with blockwise attention and a cache.

Shapes: B batch, T positions, W hidden_dim, H heads, D head_dim, S cached
positions, L positions of the tail.
"""

from typing import Any

import keras
import keras_hub
from keras import ops

from pixace_tf.model.activations import feed_forward, relu_squared
from pixace_tf.model.attention import (
    causal_attention,
    merge_heads,
    split_heads,
    split_step,
    step_attention,
)
from pixace_tf.model.kv_cache import Cache, empty_cache, layer_cache
from pixace_tf.typing import Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class CausalDecoderLayer(keras_hub.layers.TransformerDecoder):
    """A pre-norm `TransformerDecoder` with blockwise attention and a cache.

    It has the weights and computes the function of the `keras_hub` layer, but
    gets queries, keys and values from one product, attends block by block, and
    touches only its own row in a step. `dropout` acts on the two residual
    branches, not on attention weights.
    """

    def __init__(
        self,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("normalize_first", True)
        kwargs.setdefault("activation", relu_squared)
        super().__init__(intermediate_dim, num_heads, dropout, **kwargs)

    def build(self, *shapes: Any, **shapes_by_name: Any) -> None:
        super().build(*shapes, **shapes_by_name)
        # A layer that begins as the identity learns sooner.
        for dense in (
            self._self_attention_layer._output_dense,
            self._feedforward_output_dense,
        ):
            dense.kernel.assign(ops.zeros(dense.kernel.shape))

    def call(
        self,
        x: Tensor,
        training: bool | None = None,
        return_cache: bool = False,
    ) -> Tensor:
        """Map a whole sequence, float `(B, T, W)`, to the same shape.

        With `return_cache`, also return keys and values, each `(B, H, T, D)`.
        """
        parts = split_heads(self._project(x), 3 * self.num_heads)
        query, key, value = ops.split(parts, 3, axis=1)
        attended = merge_heads(causal_attention(query, key, value))
        attended = self._write(attended)
        x = self._finish(x, attended, training)
        return (x, (key, value)) if return_cache else x

    def step(
        self,
        x: Tensor,
        frozen: tuple[Tensor, Tensor] | None,
        tail: tuple[Tensor, Tensor],
        index: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one position, `(B, W)`; see `attention.step_attention`."""
        query, key, value = split_step(self._project(x), 3, self.num_heads)
        attended, tail = step_attention(query, key, value, frozen, tail, index)
        attended = ops.reshape(attended, (-1, x.shape[-1]))
        return self._finish(x, self._write(attended), False), tail

    def _project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, `(..., 3*W)`, for `(..., W)`."""
        attention = self._self_attention_layer
        denses = (
            attention._query_dense,
            attention._key_dense,
            attention._value_dense,
        )
        x = self._self_attention_layer_norm(x)
        width, _, head_dim = denses[0].kernel.shape
        # Reshape before concatenating: XLA is slow the other way around.
        kernels = [ops.reshape(d.kernel, (width, -1)) for d in denses]
        biases = [ops.reshape(d.bias, (-1,)) for d in denses]
        scale = head_dim**-0.5  # For the query.
        kernel = ops.concatenate([kernels[0] * scale, *kernels[1:]], axis=1)
        bias = ops.concatenate([biases[0] * scale, *biases[1:]], axis=0)
        return ops.matmul(x, ops.cast(kernel, x.dtype)) + ops.cast(
            bias, x.dtype
        )

    def _write(self, attended: Tensor) -> Tensor:
        """Project the output of the heads, `(..., H*D)`, to `(..., W)`."""
        dense = self._self_attention_layer._output_dense
        num_heads, head_dim, width = dense.kernel.shape
        kernel = ops.reshape(dense.kernel, (num_heads * head_dim, width))
        attended = ops.matmul(attended, ops.cast(kernel, attended.dtype))
        return attended + ops.cast(dense.bias, attended.dtype)

    def _finish(
        self, x: Tensor, attended: Tensor, training: bool | None
    ) -> Tensor:
        x = x + self._self_attention_dropout(attended, training=training)
        hidden = feed_forward(
            self._feedforward_layer_norm(x),
            self._feedforward_intermediate_dense,
            self._feedforward_output_dense,
        )
        return x + self._feedforward_dropout(hidden, training=training)


@keras.saving.register_keras_serializable("pixace_tf")
class TransformerStack(keras.layers.Layer):
    """Decoder layers over a whole sequence, or one position at a time.

    A call maps float `(B, T, W)` to the same shape; `dropout` acts on the
    residual branches.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.blocks = [
            CausalDecoderLayer(
                intermediate_dim,
                num_heads,
                dropout,
                decoder_sequence_shape=(None, None, hidden_dim),
                dtype=self.dtype_policy.name,
                # Unique in the model: run folders name weights by it.
                name=f"{self.name}_layer_{i}",
            )
            for i in range(num_layers)
        ]
        self.built = True

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, training=training)
        return x

    def layer_states(self, x: Tensor) -> list[Tensor]:
        """Return the output of each layer for `(B, T, W)`."""
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return states

    def prefill(self, x: Tensor) -> Cache:
        """Return every layer's cache for a whole sequence `(B, T, W)`."""
        cache = []
        for block in self.blocks:
            x, keys_values = block(x, return_cache=True)
            cache.append(layer_cache(*keys_values))
        return cache

    def empty_cache(self, batch_size: Tensor, length: int) -> Cache:
        """Return a cache of `length` positions, all zero."""
        rows = batch_size * self.num_heads
        head_dim = self.hidden_dim // self.num_heads
        return empty_cache(len(self.blocks), rows, head_dim, length)

    def step(
        self, x: Tensor, frozen: Cache | None, tail: Cache, index: Tensor
    ) -> tuple[Tensor, Cache]:
        """Run one position, float `(B, W)`, through every layer.

        See `attention.step_attention` for the cache.
        """
        filled = []
        for i, block in enumerate(self.blocks):
            past = None if frozen is None else frozen[i]
            x, keys_values = block.step(x, past, tail[i], index)
            filled.append(keys_values)
        return x, filled

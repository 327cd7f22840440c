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
    step_attention,
)
from pixace_tf.model.kv_cache import Cache, empty_cache, layer_cache
from pixace_tf.typing import Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class CausalDecoderLayer(keras_hub.layers.TransformerDecoder):
    """A pre-norm `TransformerDecoder` with blockwise attention and a cache.

    The weights and the mathematics are those of `keras_hub`; only the way to
    compute them differs: queries, keys and values come from one product,
    attention goes block by block, and a step touches only its own row.
    Attention weights are not dropped out, `dropout` acts on the two residual
    branches.

    Args:
        intermediate_dim: Width of the feed-forward layer.
        num_heads: Attention heads.
        dropout: Rate in `[0, 1)` on the residual branches.
        **kwargs: For `keras_hub.layers.TransformerDecoder`.
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
        # The layer begins as if it were not there, and learns sooner so.
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
        """Run over a whole sequence.

        Args:
            x: float `(B, T, W)`.
            training: Whether dropout acts.
            return_cache: Whether keys and values are returned too.

        Returns:
            float `(B, T, W)`, or that and `(keys, values)`, each
            `(B, H, T, D)`.
        """
        query, key, value = self._project(x)
        attended = self._write(causal_attention(query, key, value))
        x = self._finish(x, attended, training)
        return (x, (key, value)) if return_cache else x

    def step(
        self,
        x: Tensor,
        frozen: tuple[Tensor, Tensor] | None,
        tail: tuple[Tensor, Tensor],
        index: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one position, given the keys and values of those before.

        Args:
            x: float `(B, 1, W)`.
            frozen: Keys and values of S positions, all of them visible, or
                None.
            tail: Keys and values of L positions, visible below `index`.
            index: int32 scalar, where in the tail this position stands.

        Returns:
            float `(B, 1, W)`, and the tail with this position filled in.
        """
        query, key, value = self._project(x)
        attended, tail = step_attention(query, key, value, frozen, tail, index)
        return self._finish(x, self._write(attended), False), tail

    def _project(self, x: Tensor) -> list[Tensor]:
        attention = self._self_attention_layer
        denses = (
            attention._query_dense,
            attention._key_dense,
            attention._value_dense,
        )
        x = self._self_attention_layer_norm(x)
        width, num_heads, head_dim = denses[0].kernel.shape
        scales = (head_dim**-0.5, 1.0, 1.0)
        # Flat before they are joined: XLA multiplies by a reshaped join slowly.
        kernel = ops.concatenate(
            [
                ops.reshape(d.kernel, (width, -1)) * s
                for d, s in zip(denses, scales, strict=True)
            ],
            axis=1,
        )
        bias = ops.concatenate(
            [
                ops.reshape(d.bias, (-1,)) * s
                for d, s in zip(denses, scales, strict=True)
            ],
            axis=0,
        )
        x = ops.matmul(x, ops.cast(kernel, x.dtype)) + ops.cast(bias, x.dtype)
        return ops.split(split_heads(x, 3 * num_heads), 3, axis=1)

    def _write(self, attended: Tensor) -> Tensor:
        """Project what the heads read, `(B, H, T, D)`, to `(B, T, W)`."""
        dense = self._self_attention_layer._output_dense
        num_heads, head_dim, width = dense.kernel.shape
        kernel = ops.reshape(dense.kernel, (num_heads * head_dim, width))
        attended = merge_heads(attended)
        attended = ops.matmul(attended, ops.cast(kernel, attended.dtype))
        return attended + ops.cast(dense.bias, attended.dtype)

    def _finish(
        self, x: Tensor, attended: Tensor, training: bool | None
    ) -> Tensor:
        x = x + self._self_attention_dropout(attended, training=training)
        hidden = self._feedforward_layer_norm(x)
        hidden = feed_forward(
            hidden,
            self._feedforward_intermediate_dense,
            self._feedforward_output_dense,
        )
        return x + self._feedforward_dropout(hidden, training=training)


@keras.saving.register_keras_serializable("pixace_tf")
class TransformerStack(keras.layers.Layer):
    """Decoder layers over a whole sequence, or one position at a time.

    Args:
        num_layers: Number of `CausalDecoderLayer`s.
        hidden_dim: Width W.
        num_heads: Attention heads.
        intermediate_dim: Width of the feed-forward layers.
        dropout: Rate in `[0, 1)` on the residual branches.
        **kwargs: For `keras.layers.Layer`.

    Call arguments:
        x: float `(B, T, W)`.
        training: Whether dropout acts.

    Returns:
        float `(B, T, W)`.
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
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.blocks = [
            CausalDecoderLayer(
                intermediate_dim,
                num_heads,
                dropout,
                decoder_sequence_shape=(None, None, hidden_dim),
                dtype=self.dtype_policy,
                # Unique in the model: it names the weights in the run folder.
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
        """Return what each layer makes of `(B, T, W)`, in the same shape."""
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return states

    def prefill(self, x: Tensor) -> Cache:
        """Return every layer's cache of a whole sequence `(B, T, W)`."""
        cache = []
        for block in self.blocks:
            x, keys_values = block(x, return_cache=True)
            cache.append(layer_cache(*keys_values))
        return cache

    def empty_cache(self, batch_size: Tensor, length: int) -> Cache:
        """Return a cache of zeros, of `length` positions."""
        rows = batch_size * self.num_heads
        head_dim = self.hidden_dim // self.num_heads
        return empty_cache(len(self.blocks), rows, head_dim, length)

    def step(
        self, x: Tensor, frozen: Cache | None, tail: Cache, index: Tensor
    ) -> tuple[Tensor, Cache]:
        """Run one position through every layer.

        Args:
            x: float `(B, 1, W)`.
            frozen: A cache of positions that are all visible, or None.
            tail: A cache whose positions below `index` are visible.
            index: int32 scalar, where in the tail this position stands.

        Returns:
            float `(B, 1, W)`, and the tail with this position filled in.
        """
        filled = []
        for i, block in enumerate(self.blocks):
            past = None if frozen is None else frozen[i]
            x, keys_values = block.step(x, past, tail[i], index)
            filled.append(keys_values)
        return x, filled

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
        }

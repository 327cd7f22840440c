"""The transformer stack: keras_nlp layers with blockwise attention and a cache.

Shapes: B batch, T positions, W hidden_dim, H heads, D head_dim, S cached
positions, L positions of the tail.
"""

from typing import Any

import keras
import keras_nlp
from keras import ops

from pixace_tf.attention import (
    causal_attention,
    masked_attention,
    merge_heads,
    split_heads,
)

Cache = list[tuple[Any, Any]]


class CausalDecoderLayer(keras_nlp.layers.TransformerDecoder):
    """A pre-norm `TransformerDecoder` with blockwise attention and a cache.

    The weights and the mathematics are those of `keras_nlp`; only the way to
    compute them differs: queries, keys and values come from one product,
    attention goes block by block, and a step touches only its own row.
    Attention weights are not dropped out, `dropout` acts on the two residual
    branches.

    Args:
        intermediate_dim: Width of the feed-forward layer.
        num_heads: Attention heads.
        dropout: Rate in `[0, 1)` on the residual branches.
        **kwargs: For `keras_nlp.layers.TransformerDecoder`.
    """

    def __init__(
        self,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("normalize_first", True)
        kwargs.setdefault("activation", "gelu")
        super().__init__(intermediate_dim, num_heads, dropout, **kwargs)

    def call(
        self, x: Any, training: bool | None = None, return_cache: bool = False
    ) -> Any:
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
        x = self._finish(x, causal_attention(query, key, value), training)
        return (x, (key, value)) if return_cache else x

    def step(
        self,
        x: Any,
        frozen: tuple[Any, Any] | None,
        tail: tuple[Any, Any],
        index: Any,
    ) -> tuple[Any, tuple[Any, Any]]:
        """Run one position, given the keys and values of those before.

        Args:
            x: float `(B, 1, W)`.
            frozen: Keys and values `(B, H, S, D)`, all of them visible.
            tail: Keys and values `(B, H, L, D)`, visible below `index`.
            index: int32 scalar, where in the tail this position stands.

        Returns:
            float `(B, 1, W)`, and the tail with this position filled in.
        """
        query, key, value = self._project(x)
        slots = ops.arange(tail[0].shape[2])
        here = ops.reshape(slots == index, (1, 1, -1, 1))
        keys = ops.where(here, ops.cast(key, tail[0].dtype), tail[0])
        values = ops.where(here, ops.cast(value, tail[1].dtype), tail[1])
        visible = slots <= index
        tail = keys, values
        if frozen is not None:
            past = ops.ones((ops.shape(frozen[0])[2],), "bool")
            visible = ops.concatenate([past, visible])
            keys = ops.concatenate([frozen[0], keys], axis=2)
            values = ops.concatenate([frozen[1], values], axis=2)
        query = ops.cast(query, keys.dtype)
        attended = masked_attention(query, keys, values, visible)
        attended = ops.cast(attended, x.dtype)
        return self._finish(x, attended, False), tail

    def _project(self, x: Any) -> list[Any]:
        attention = self._self_attention_layer
        denses = (
            attention._query_dense,
            attention._key_dense,
            attention._value_dense,
        )
        x = self._self_attention_layer_norm(x)
        width, num_heads, head_dim = denses[0].kernel.shape
        scales = (head_dim**-0.5, 1.0, 1.0)
        kernel = ops.concatenate(
            [d.kernel * s for d, s in zip(denses, scales, strict=True)], axis=1
        )
        bias = ops.concatenate(
            [d.bias * s for d, s in zip(denses, scales, strict=True)], axis=0
        )
        kernel = ops.cast(ops.reshape(kernel, (width, -1)), x.dtype)
        x = ops.matmul(x, kernel) + ops.cast(ops.reshape(bias, (-1,)), x.dtype)
        return ops.split(split_heads(x, 3 * num_heads), 3, axis=1)

    def _finish(self, x: Any, attended: Any, training: bool | None) -> Any:
        dense = self._self_attention_layer._output_dense
        num_heads, head_dim, width = dense.kernel.shape
        kernel = ops.reshape(dense.kernel, (num_heads * head_dim, width))
        attended = merge_heads(attended)
        attended = ops.matmul(attended, ops.cast(kernel, attended.dtype))
        attended = attended + ops.cast(dense.bias, attended.dtype)
        x = x + self._self_attention_dropout(attended, training=training)
        hidden = self._feedforward_layer_norm(x)
        hidden = self._feedforward_intermediate_dense(hidden)
        hidden = self._feedforward_output_dense(hidden)
        return x + self._feedforward_dropout(hidden, training=training)


class TransformerStack(keras.layers.Layer):
    """Decoder layers over a whole sequence, or one position at a time."""

    def __init__(
        self,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        dropout: float,
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
                dtype=self.dtype_policy,
                # Unique in the model: it names the weights in the run folder.
                name=f"{self.name}_layer_{i}",
            )
            for i in range(num_layers)
        ]
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        for block in self.blocks:
            x = block(x, training=training)
        return x

    def prefill(self, x: Any) -> tuple[Any, Cache]:
        """Run a whole sequence; return its output and every layer's cache."""
        cache = []
        for block in self.blocks:
            x, (keys, values) = block(x, return_cache=True)
            # Sampling is float32 under every dtype policy.
            cache.append(
                (ops.cast(keys, "float32"), ops.cast(values, "float32"))
            )
        return x, cache

    def empty_cache(self, batch_size: Any, length: int) -> Cache:
        """Return zero keys and values `(B, H, length, D)` for each layer."""
        shape = (
            batch_size,
            self.num_heads,
            length,
            self.hidden_dim // self.num_heads,
        )
        return [(ops.zeros(shape), ops.zeros(shape)) for _ in self.blocks]

    def step(
        self, x: Any, frozen: Cache | None, tail: Cache, index: Any
    ) -> tuple[Any, Cache]:
        """Run one position through every layer; see `CausalDecoderLayer`."""
        filled = []
        for i, block in enumerate(self.blocks):
            past = None if frozen is None else frozen[i]
            x, keys_values = block.step(x, past, tail[i], index)
            filled.append(keys_values)
        return x, filled


def extend_cache(cache: Cache, more: Cache) -> Cache:
    """Set further positions behind those of a cache.

    Args:
        cache: Keys and values `(B, H, S, D)` of each layer.
        more: Keys and values `(B, H, L, D)` of each layer.

    Returns:
        Keys and values `(B, H, S + L, D)` of each layer.
    """
    return [
        (
            ops.concatenate([keys, more_keys], axis=2),
            ops.concatenate([values, more_values], axis=2),
        )
        for (keys, values), (more_keys, more_values) in zip(
            cache, more, strict=True
        )
    ]

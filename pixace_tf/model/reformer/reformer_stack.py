"""The reformer stack; it has the methods of `TransformerStack`.

Shapes: B batch, T positions, W hidden_dim.
"""

from typing import Any

import keras
from keras import ops

from pixace_tf.model.kv_cache import Cache, empty_cache, layer_cache
from pixace_tf.model.reformer.branches import (
    CausalSelfAttention,
    FeedForward,
    LSHSelfAttention,
)
from pixace_tf.model.reformer.reversible import ReversibleStack
from pixace_tf.typing import Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class ReformerStack(keras.layers.Layer):
    """A reversible stack over a whole sequence, or one position at a time.

    Both streams begin as the input; their sum is the output.

    Args:
        num_layers: Pairs of attention and feed-forward.
        hidden_dim: Width W.
        num_heads: Attention heads.
        intermediate_dim: Width of the feed-forward layers.
        dropout: Rate in `[0, 1)` on the branches.
        num_hashes: Rounds of hashing of LSH attention; 0 is exact attention.
        num_buckets: Of LSH attention; by default it follows the length.
        chunk_length: Of LSH attention.
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
        num_hashes: int = 0,
        num_buckets: int | None = None,
        chunk_length: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.num_hashes = num_hashes
        self.num_buckets = num_buckets
        self.chunk_length = chunk_length
        shared: dict[str, Any] = {
            "dropout": dropout,
            "dtype": self.dtype_policy,
        }
        lsh: dict[str, Any] = {
            "num_hashes": num_hashes,
            "num_buckets": num_buckets,
            "chunk_length": chunk_length,
        }
        branches = []
        for i in range(num_layers):
            # Unique in the model: they name the weights in the run folder.
            name = f"{self.name}_attention_{i}"
            branches.append(
                LSHSelfAttention(num_heads, **lsh, name=name, **shared)
                if num_hashes
                else CausalSelfAttention(num_heads, name=name, **shared)
            )
            name = f"{self.name}_feed_forward_{i}"
            branches.append(FeedForward(intermediate_dim, name=name, **shared))
        self.reversible = ReversibleStack(
            branches, name=f"{self.name}_reversible"
        )

    def build(self, input_shape: Any) -> None:
        self.reversible.build(input_shape, input_shape)
        self.built = True

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        first, second = self.reversible(x, x, training=training)
        return ops.cast(first + second, self.compute_dtype)

    def layer_states(self, x: Tensor) -> list[Tensor]:
        """Return what each layer makes of `(B, T, W)`, in the same shape."""
        states = []
        first = second = ops.cast(x, "float32")
        for attention, feed_forward in self._pairs():
            first = first + ops.cast(attention(second), "float32")
            second = second + ops.cast(feed_forward(first), "float32")
            states.append(ops.cast(first + second, self.compute_dtype))
        return states

    def prefill(self, x: Tensor) -> Cache:
        """Return every layer's cache of a whole sequence `(B, T, W)`."""
        cache = []
        first = second = ops.cast(x, "float32")
        for attention, feed_forward in self._pairs():
            attended, keys_values = attention.prefill(second)
            first = first + ops.cast(attended, "float32")
            second = second + ops.cast(feed_forward(first), "float32")
            cache.append(layer_cache(*keys_values))
        return cache

    def empty_cache(self, batch_size: Tensor, length: int) -> Cache:
        """Return a cache of zeros, of `length` positions."""
        rows = batch_size * self.num_heads
        head_dim = self.hidden_dim // self.num_heads
        return empty_cache(len(self._pairs()), rows, head_dim, length)

    def step(
        self, x: Tensor, frozen: Cache | None, tail: Cache, index: Tensor
    ) -> tuple[Tensor, Cache]:
        """Run one position through every layer; attention is always exact.

        Args:
            x: float `(B, 1, W)`.
            frozen: A cache of positions that are all visible, or None.
            tail: A cache whose positions below `index` are visible.
            index: int32 scalar, where in the tail this position stands.

        Returns:
            float `(B, 1, W)`, and the tail with this position filled in.
        """
        filled = []
        first = second = ops.cast(x, "float32")
        for i, (attention, feed_forward) in enumerate(self._pairs()):
            past = None if frozen is None else frozen[i]
            attended, keys_values = attention.step(second, past, tail[i], index)
            first = first + ops.cast(attended, "float32")
            second = second + ops.cast(feed_forward(first), "float32")
            filled.append(keys_values)
        return ops.cast(first + second, self.compute_dtype), filled

    def get_config(self) -> dict[str, Any]:
        names = (
            *("num_layers", "hidden_dim", "num_heads", "intermediate_dim"),
            *("dropout", "num_hashes", "num_buckets", "chunk_length"),
        )
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own}

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        branches = self.reversible.branches
        return list(zip(branches[::2], branches[1::2], strict=True))

"""The reformer stack; it has the methods of `TransformerStack`.

Shapes: B batch, T positions, W hidden_dim.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from pixace_tf.model.kv_cache import Cache, empty_cache, layer_cache
from pixace_tf.model.reformer.branches import (
    CausalSelfAttention,
    FeedForward,
    LSHSelfAttention,
)
from pixace_tf.model.reformer.reversible import Branch, ReversibleStack
from pixace_tf.typing import Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class ReformerStack(keras.layers.Layer):
    """A reversible stack over a whole sequence, or one position at a time.

    Both streams start as the input, float `(B, T, W)`; their sum is the output.

    Args:
        num_layers: Pairs of attention and feed-forward.
        hidden_dim: Width W.
        num_heads: Attention heads.
        intermediate_dim: Width of the feed-forward layers.
        dropout: Rate in `[0, 1)` on the branches.
        num_hashes: Rounds of LSH attention; 0 is exact attention.
        num_buckets: See `LSHSelfAttention`.
        chunk_length: See `LSHSelfAttention`.
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
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        policy = self.dtype_policy.name
        shared: dict[str, Any] = {"dropout": dropout, "dtype": policy}
        attention = functools.partial(CausalSelfAttention, num_heads)
        if num_hashes:
            attention = functools.partial(
                LSHSelfAttention,
                num_heads,
                num_hashes,
                num_buckets,
                chunk_length,
            )
        branches: list[Branch] = []
        for i in range(num_layers):
            # Unique in the model: run folders name weights by it.
            name = f"{self.name}_attention_{i}"
            branches.append(attention(name=name, **shared))
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
        """Return the output of each layer for `(B, T, W)`."""
        return self._run(x, lambda i, attention, x: attention(x))

    def prefill(self, x: Tensor) -> Cache:
        """Return every layer's cache for a whole sequence `(B, T, W)`."""
        cache = []

        def attend(i: int, attention: Any, x: Tensor) -> Tensor:
            attended, keys_values = attention.prefill(x)
            cache.append(layer_cache(*keys_values))
            return attended

        self._run(x, attend)
        return cache

    def empty_cache(self, batch_size: Tensor, length: int) -> Cache:
        """Return a cache of `length` positions, all zero."""
        rows = batch_size * self.num_heads
        head_dim = self.hidden_dim // self.num_heads
        num_layers = len(self.reversible.branches) // 2
        return empty_cache(num_layers, rows, head_dim, length)

    def step(
        self, x: Tensor, frozen: Cache | None, tail: Cache, index: Tensor
    ) -> tuple[Tensor, Cache]:
        """Run one position through every layer; attention is always exact.

        See `TransformerStack.step`.
        """
        filled = []

        def attend(i: int, attention: Any, x: Tensor) -> Tensor:
            past = None if frozen is None else frozen[i]
            attended, keys_values = attention.step(x, past, tail[i], index)
            filled.append(keys_values)
            return attended

        return self._run(x, attend)[-1], filled

    def _run(
        self, x: Tensor, attend: Callable[[int, Any, Tensor], Tensor]
    ) -> list[Tensor]:
        """Return the output of each layer, with attention by `attend`."""
        states = []
        first = second = ops.cast(x, "float32")
        branches = self.reversible.branches
        pairs = zip(branches[::2], branches[1::2], strict=True)
        for i, (attention, feed_forward) in enumerate(pairs):
            attended = attend(i, attention, second)
            first = first + ops.cast(attended, "float32")
            second = second + ops.cast(feed_forward(first), "float32")
            states.append(ops.cast(first + second, self.compute_dtype))
        return states

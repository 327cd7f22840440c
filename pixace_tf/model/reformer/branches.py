"""The branches of a reformer: attention, exact or by hashing, and feed-forward.

Shapes: B batch, T positions, W width, H heads, D head_dim, R num_hashes,
S cached positions, L positions of the cache's tail.
"""

from typing import Any

import keras
from keras import ops

from pixace_tf.model.activations import feed_forward, relu_squared
from pixace_tf.model.attention import (
    causal_attention,
    merge_heads,
    split_heads,
    split_step,
    step_attention,
)
from pixace_tf.model.reformer.lsh_attention import (
    Layout,
    bucket_layout,
    default_num_buckets,
    hash_vectors,
    lsh_attention,
)
from pixace_tf.model.reformer.reversible import Branch
from pixace_tf.typing import Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class CausalSelfAttention(Branch):
    """Exact causal self-attention, pre-norm and blockwise.

    Raises:
        ValueError: When it is built, if the heads do not divide the width or
            the length is not known.
    """

    # Number of projections; LSH attention shares one for query and key.
    num_parts = 3
    # Whether a position attends to itself if it is not alone.
    sees_itself = True

    def __init__(
        self, num_heads: int, dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(dropout, **kwargs)
        self.num_heads = num_heads
        self.norm = keras.layers.LayerNormalization(
            dtype="float32", name="norm"
        )

    def build(self, input_shape: Any) -> None:
        length, width = input_shape[1:]
        if length is None or width % self.num_heads:
            raise ValueError(
                "num_heads must divide the width, and the length must be "
                f"known. Received: num_heads={self.num_heads}, "
                f"input_shape={tuple(input_shape)}"
            )
        policy = self.dtype_policy
        self.read = keras.layers.Dense(
            self.num_parts * width, dtype=policy, name="read"
        )
        self.write = _output_layer(width, policy)
        self.norm.build(input_shape)
        self.read.build(input_shape)
        self.write.build(input_shape)
        self.built = True

    def prefill(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return float `(B, T, W)`, exact, and its keys and values.

        They are `(B, H, T, D)`; the input is float32 `(B, T, W)`.
        """
        query, key, value = self._project(x)
        attended = causal_attention(
            query, key, value, sees_itself=self.sees_itself
        )
        return self.write(merge_heads(attended)), (key, value)

    def step(
        self,
        x: Tensor,
        frozen: tuple[Tensor, Tensor] | None,
        tail: tuple[Tensor, Tensor],
        index: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one position, float32 `(B, W)`; see `step_attention`."""
        parts = split_step(
            self.read(self.norm(x)), self.num_parts, self.num_heads
        )
        attended, tail = step_attention(
            *self._query_key_value(*parts),
            frozen,
            tail,
            index,
            self.sees_itself,
        )
        attended = ops.reshape(attended, (-1, x.shape[-1]))
        return self.write(attended), tail

    def call(
        self, x: Tensor, plan: Tensor = None, seed: Tensor = None
    ) -> Tensor:
        if plan is None:
            plan = self.plan(x)
        attended = self._attend(*self._project(x), plan)
        return self.drop(self.write(merge_heads(attended)), seed)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value `(B, H, T, D)`."""
        heads = split_heads(
            self.read(self.norm(x)), self.num_parts * self.num_heads
        )
        return self._query_key_value(*ops.split(heads, self.num_parts, axis=1))

    def _query_key_value(self, *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value `(..., D)`, given the projections."""
        query, key, value = parts
        return query * query.shape[-1] ** -0.5, key, value

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, plan: Tensor
    ) -> Tensor:
        return causal_attention(query, key, value)


@keras.saving.register_keras_serializable("pixace_tf")
class LSHSelfAttention(CausalSelfAttention):
    """Attention among positions that hash alike, for long sequences.

    Query and key are one vector, the key scaled to length 1, and a position
    attends to itself only if it sees no other. Sampling attends exactly, to the
    whole cache, at the same cost.

    Args:
        num_heads: Attention heads; they divide the width.
        num_hashes: Rounds of hashing; more find more of the best keys.
        num_buckets: Buckets per round, 1 or even; by default, two chunks per
            bucket on average.
        chunk_length: Length of a chunk. A position sees the earlier positions
            of its bucket in its own chunk and in the one before.
        dropout: Rate in `[0, 1)` on the output.

    Raises:
        ValueError: If a number is out of range.
    """

    num_parts = 2
    sees_itself = False

    def __init__(
        self,
        num_heads: int,
        num_hashes: int = 2,
        num_buckets: int | None = None,
        chunk_length: int = 64,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_heads, dropout, **kwargs)
        if num_hashes < 1 or chunk_length < 1:
            raise ValueError(
                "num_hashes and chunk_length must be positive. Received: "
                f"num_hashes={num_hashes}, chunk_length={chunk_length}"
            )
        if num_buckets is not None and (
            num_buckets < 1 or (num_buckets > 1 and num_buckets % 2)
        ):
            raise ValueError(
                "num_buckets must be 1 or a positive even number. Received: "
                f"num_buckets={num_buckets}"
            )
        self._num_hashes = num_hashes
        self._given_num_buckets = num_buckets
        self._chunk_length = chunk_length

    def build(self, input_shape: Any) -> None:
        length, width = input_shape[1:]
        self._num_buckets = self._given_num_buckets or default_num_buckets(
            length, self._chunk_length
        )
        shape = (self.num_heads, self._num_hashes, width // self.num_heads)
        self.rotations = self.add_weight(
            name="rotations",
            shape=(*shape, max(1, self._num_buckets // 2)),
            initializer="random_normal",
            trainable=False,
            autocast=False,
        )
        super().build(input_shape)

    def plan(self, x: Tensor) -> Layout:
        query, _, _ = self._project(x)
        buckets = hash_vectors(query, self.rotations, self._num_buckets)
        return bucket_layout(buckets, self._num_buckets, self._chunk_length)

    def _query_key_value(self, *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, value = parts
        # In float32, since a square may overflow float16.
        wide = ops.cast(query, "float32")
        norms = ops.sum(ops.square(wide), axis=-1, keepdims=True)
        key = wide * ops.rsqrt(norms + 1e-6)
        return query, ops.cast(key, query.dtype), value

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, plan: Tensor
    ) -> Tensor:
        if self._num_buckets == 1 and self._chunk_length >= query.shape[2]:
            return causal_attention(query, key, value, sees_itself=False)
        return lsh_attention(query, key, value, plan)


@keras.saving.register_keras_serializable("pixace_tf")
class FeedForward(Branch):
    """Two pre-norm dense layers with a squared ReLU between them."""

    def __init__(
        self, intermediate_dim: int, dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(dropout, **kwargs)
        self.intermediate_dim = intermediate_dim
        self.norm = keras.layers.LayerNormalization(
            dtype="float32", name="norm"
        )
        self.read = keras.layers.Dense(
            intermediate_dim,
            activation=relu_squared,
            dtype=self.dtype_policy,
            name="read",
        )

    def build(self, input_shape: Any) -> None:
        self.write = _output_layer(input_shape[-1], self.dtype_policy)
        self.norm.build(input_shape)
        self.read.build(input_shape)
        self.write.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(
        self, x: Tensor, plan: Tensor = None, seed: Tensor = None
    ) -> Tensor:
        written = feed_forward(self.norm(x), self.read, self.write)
        return self.drop(written, seed)


def _output_layer(width: int, policy: Any) -> keras.layers.Dense:
    """Return a layer that writes to a stream, at first zeros."""
    return keras.layers.Dense(
        width, kernel_initializer="zeros", dtype=policy, name="write"
    )

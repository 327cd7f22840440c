"""Causal self-attention over whole sequences, and for one step with a cache.

The softmax is float32 under every dtype policy.

Shapes: B batch, H heads, T positions, S cached positions, L positions of the
cache's tail, D head_dim.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from pixace_tf.model.recompute import after
from pixace_tf.typing import Tensor

BLOCK_LENGTH = 64
# Each block adds code to the program, so longer sequences get longer blocks.
MAX_BLOCKS = 8
# Score of a position with itself if it must not see itself unless it is alone.
SELF_SCORE = -1e5

# Start and end of each block of queries.
Blocks = Sequence[tuple[int, int]]


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_length: int | None = None,
    sees_itself: bool = True,
) -> Tensor:
    """Exact causal attention, one block of queries at a time.

    A block of queries only meets the keys up to its own end, so about half of
    the full score matrix is never computed. If there are several blocks, the
    gradient recomputes their scores from the logarithm of their sum
    (FlashAttention, arXiv 2205.14135). On a GPU, JAX does the same in one
    kernel.

    Query (already scaled), key and value are float `(B, H, T, D)`. Blocks have
    64 queries or more by default. Unless it `sees_itself`, a position attends
    to itself only if it is alone.

    Returns:
        float `(B, H, T, D)`: for each position, the mean of the values up to
        it, weighted by the softmax of the scores.
    """
    length = query.shape[2]
    if length == 1:
        return value  # One key takes all the weight of the one query.
    if block_length is None:
        block_length = max(BLOCK_LENGTH, -(-length // MAX_BLOCKS))
    blocks = [
        (start, min(start + block_length, length))
        for start in range(0, length, block_length)
    ]
    if len(blocks) == 1:
        weights = ops.softmax(_scores(query, key, 0, length, sees_itself))
        return ops.matmul(ops.cast(weights, value.dtype), value)
    if sees_itself and _has_fused_kernel(query.dtype):
        return _fused_attention(query, key, value)

    @ops.custom_gradient
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Any:
        output, totals = _forward(query, key, value, blocks, sees_itself)

        def gradient(upstream: Tensor) -> Any:
            inputs = (query, key, value)
            saved = (output, totals)
            return _backward(inputs, saved, upstream, blocks, sees_itself)

        return output, gradient

    return attend(query, key, value)


def _has_fused_kernel(dtype: str) -> bool:
    """Return whether JAX has a kernel for it: cuDNN's, for 16-bit numbers."""
    if keras.backend.backend() != "jax" or dtype == "float32":
        return False
    import jax

    return jax.default_backend() == "gpu"


def _fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute `causal_attention` with the kernel of the backend."""
    query, key, value = (
        ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value)
    )
    attended = ops.dot_product_attention(
        query, key, value, scale=1.0, is_causal=True
    )
    return ops.transpose(attended, (0, 2, 1, 3))


def _scores(
    query: Tensor, key: Tensor, start: int, stop: int, sees_itself: bool
) -> Tensor:
    """Return the scores of some queries, `(B, H, stop - start, stop)`."""
    own, seen = ops.arange(start, stop)[:, None], ops.arange(stop)[None]
    scores = ops.matmul(query, _transpose(key[:, :, :stop]))
    scores = ops.cast(scores, "float32")
    if not sees_itself:
        scores = ops.where(own == seen, SELF_SCORE, scores)
    return ops.where(own >= seen, scores, -float("inf"))


# Both passes compute one block after the other; otherwise all scores would be
# in memory at once.
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: Blocks,
    sees_itself: bool,
) -> tuple[Tensor, Tensor]:
    """Return the output and the logarithms of the softmax's denominators."""
    outputs: list[Tensor] = []
    totals: list[Tensor] = []
    for start, stop in blocks:
        rows = query[:, :, start:stop]
        if outputs:
            rows = after(rows, outputs[-1])
        scores = _scores(rows, key, start, stop, sees_itself)
        totals.append(ops.logsumexp(scores, axis=-1, keepdims=True))
        weights = ops.cast(ops.exp(scores - totals[-1]), value.dtype)
        outputs.append(ops.matmul(weights, value[:, :, :stop]))
    return ops.concatenate(outputs, axis=2), ops.concatenate(totals, axis=2)


def _backward(
    inputs: tuple[Tensor, Tensor, Tensor],
    saved: tuple[Tensor, Tensor],
    upstream: Tensor,
    blocks: Blocks,
    sees_itself: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the inputs: query, key and value."""
    (query, key, value), (output, totals) = inputs, saved
    products = ops.cast(upstream, "float32") * ops.cast(output, "float32")
    means = ops.sum(products, axis=-1, keepdims=True)
    key, value = after(key, upstream), after(value, upstream)
    of_query: list[Tensor] = []
    of_key = of_value = 0.0
    for start, stop in blocks:
        rows, given, mean, total = (
            x[:, :, start:stop] for x in (query, upstream, means, totals)
        )
        if of_query:
            rows = after(rows, of_query[-1])
            given = after(given, of_query[-1])
        scores = _scores(rows, key, start, stop, sees_itself)
        weights = ops.exp(scores - total)
        of_weights = ops.matmul(given, _transpose(value[:, :, :stop]))
        of_scores = weights * (ops.cast(of_weights, "float32") - mean)
        of_scores = ops.cast(of_scores, query.dtype)
        weights = ops.cast(weights, value.dtype)
        of_query.append(ops.matmul(of_scores, key[:, :, :stop]))
        behind = ((0, 0), (0, 0), (0, query.shape[2] - stop), (0, 0))
        of_key += ops.pad(ops.matmul(_transpose(of_scores), rows), behind)
        of_value += ops.pad(ops.matmul(_transpose(weights), given), behind)
    return ops.concatenate(of_query, axis=2), of_key, of_value


def _transpose(x: Tensor) -> Tensor:
    return ops.transpose(x, (0, 1, 3, 2))


def step_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    frozen: tuple[Tensor, Tensor] | None,
    tail: tuple[Tensor, Tensor],
    index: Tensor,
    sees_itself: bool = True,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Attend from one position to those before it and to itself.

    Query (already scaled), key and value are float `(B*H, 1, D)`. The keys and
    values of S `frozen` positions, if any, are all visible; those of the L
    positions in the `tail` below `index`, an int32 scalar. See `kv_cache`.

    Returns:
        float `(B*H, 1, D)`, and the tail with this position filled in.
    """
    dtype, length = value.dtype, tail[0].shape[1]
    query, key, value = (ops.cast(x, "float32") for x in (query, key, value))
    here = ops.reshape(ops.arange(length), (length, 1)) == index
    tail = ops.where(here, key, tail[0]), ops.where(here, value, tail[1])
    slots = ops.arange(length)
    bias = ops.where(slots <= index, 0.0, -float("inf"))
    if not sees_itself:
        bias = ops.where(slots == index, SELF_SCORE, bias)
    parts = [tail] if frozen is None else [frozen, tail]
    return ops.cast(cached_attention(query, parts, bias), dtype), tail


def cached_attention(
    query: Tensor, parts: Sequence[tuple[Tensor, Tensor]], bias: Tensor
) -> Tensor:
    """Attend from one position to a cache in parts, float32 `(B*H, 1, D)`.

    The parts are not concatenated: only their scores meet, in the softmax.

    Args:
        query: float32 `(B*H, 1, D)`, already scaled.
        parts: float32 keys and values `(B*H, S, D)` of any S; at least 1 in
            the last part.
        bias: float32 `(S,)`, added to the scores of the last part: minus
            infinity hides a position. The other parts are fully visible.
    """
    scores = [
        ops.matmul(query, ops.transpose(keys, (0, 2, 1))) for keys, _ in parts
    ]
    scores[-1] = scores[-1] + bias
    top = ops.max(scores[-1], axis=-1, keepdims=True)
    for s in scores[:-1]:
        lowest = -float("inf")
        top = ops.maximum(top, ops.max(s, -1, keepdims=True, initial=lowest))
    weights = [ops.exp(s - top) for s in scores]
    total = sum(ops.sum(w, axis=-1, keepdims=True) for w in weights)
    attended = sum(
        ops.matmul(w, values)
        for w, (_, values) in zip(weights, parts, strict=True)
    )
    return attended / total


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Reshape `(B, T, H*D)` to `(B, H, T, D)`."""
    batch, length, width = ops.shape(x)[0], x.shape[1], x.shape[2]
    x = ops.reshape(x, (batch, length, num_heads, width // num_heads))
    return ops.transpose(x, (0, 2, 1, 3))


def split_step(x: Tensor, num_parts: int, num_heads: int) -> list[Tensor]:
    """Split `(B, P*H*D)`, one position, into P tensors `(B*H, 1, D)`."""
    head_dim = x.shape[-1] // (num_parts * num_heads)
    parts = ops.split(x, num_parts, axis=-1)
    return [ops.reshape(part, (-1, 1, head_dim)) for part in parts]


def merge_heads(x: Tensor) -> Tensor:
    """Reshape `(B, H, T, D)` to `(B, T, H*D)`."""
    num_heads, length, head_dim = x.shape[1:]
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.reshape(x, (ops.shape(x)[0], length, num_heads * head_dim))

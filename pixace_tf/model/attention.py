"""Causal self-attention over whole sequences, and for one step with a cache.

Shapes: B batch, H heads, T positions, S cached positions, L positions of the
cache's tail, D head_dim.
The softmax is float32 under every dtype policy.
"""

import functools
from collections.abc import Sequence
from typing import Any

from keras import ops

from pixace_tf.model.recompute import after

BLOCK_LENGTH = 64
# Every block is code of its own; long sequences have longer blocks.
MAX_BLOCKS = 8
# Of a position with itself, where it should only be seen if it is alone.
SELF_SCORE = -1e5


def causal_attention(
    query: Any,
    key: Any,
    value: Any,
    block_length: int | None = None,
    sees_itself: bool = True,
) -> Any:
    """Exact causal attention, one block of queries at a time.

    A block of queries meets only the keys up to its own end, so about half of
    the full score matrix is never computed. The scores of several blocks are
    not kept for the gradient but computed again from their logarithmic sum
    (FlashAttention, arXiv 2205.14135).

    Args:
        query: float `(B, H, T, D)`, already scaled.
        key: float `(B, H, T, D)`.
        value: float `(B, H, T, D)`.
        block_length: Queries per block; by default 64 or more.
        sees_itself: Whether a position attends to itself if it is not alone.

    Returns:
        float `(B, H, T, D)`: for each position the mean of the values up to
        it, weighted by softmax scores.
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

    def scores_of(query: Any, key: Any, start: int, stop: int) -> Any:
        """Return float32 `(B, H, stop - start, stop)`."""
        own, seen = ops.arange(start, stop)[:, None], ops.arange(stop)[None]
        scores = ops.matmul(query, _transpose(key[:, :, :stop]))
        scores = ops.cast(scores, "float32")
        if not sees_itself:
            scores = ops.where(own == seen, SELF_SCORE, scores)
        return ops.where(own >= seen, scores, -float("inf"))

    if len(blocks) == 1:
        weights = ops.softmax(scores_of(query, key, 0, length))
        return ops.matmul(ops.cast(weights, value.dtype), value)

    # One block after the other, or all scores would exist at once.
    def forward(query: Any, key: Any, value: Any) -> Any:
        outputs: list[Any] = []
        totals: list[Any] = []
        for start, stop in blocks:
            rows = query[:, :, start:stop]
            if outputs:
                rows = after(rows, outputs[-1])
            scores = scores_of(rows, key, start, stop)
            totals.append(ops.logsumexp(scores, axis=-1, keepdims=True))
            weights = ops.cast(ops.exp(scores - totals[-1]), value.dtype)
            outputs.append(ops.matmul(weights, value[:, :, :stop]))
        return ops.concatenate(outputs, axis=2), ops.concatenate(totals, axis=2)

    def backward(
        query: Any, key: Any, value: Any, means: Any, totals: Any, upstream: Any
    ) -> Any:
        key, value = after(key, upstream), after(value, upstream)
        of_query: list[Any] = []
        of_key = of_value = 0.0
        for start, stop in blocks:
            rows, given, mean, total = (
                x[:, :, start:stop] for x in (query, upstream, means, totals)
            )
            if of_query:
                rows = after(rows, of_query[-1])
                given = after(given, of_query[-1])
            weights = ops.exp(scores_of(rows, key, start, stop) - total)
            of_weights = ops.matmul(given, _transpose(value[:, :, :stop]))
            of_scores = weights * (ops.cast(of_weights, "float32") - mean)
            of_scores = ops.cast(of_scores, query.dtype)
            weights = ops.cast(weights, value.dtype)
            of_query.append(ops.matmul(of_scores, key[:, :, :stop]))
            behind = ((0, 0), (0, 0), (0, length - stop), (0, 0))
            more_keys = ops.matmul(_transpose(of_scores), rows)
            of_key += ops.pad(more_keys, behind)
            more_values = ops.matmul(_transpose(weights), given)
            of_value += ops.pad(more_values, behind)
        return ops.concatenate(of_query, axis=2), of_key, of_value

    @ops.custom_gradient
    def attend(query: Any, key: Any, value: Any) -> Any:
        output, totals = forward(query, key, value)

        def gradient(upstream: Any) -> Any:
            products = ops.cast(upstream, "float32") * ops.cast(
                output, "float32"
            )
            means = ops.sum(products, axis=-1, keepdims=True)
            return backward(query, key, value, means, totals, upstream)

        return output, gradient

    return attend(query, key, value)


def _transpose(x: Any) -> Any:
    return ops.transpose(x, (0, 1, 3, 2))


def step_attention(
    query: Any,
    key: Any,
    value: Any,
    frozen: tuple[Any, Any] | None,
    tail: tuple[Any, Any],
    index: Any,
    sees_itself: bool = True,
) -> tuple[Any, tuple[Any, Any]]:
    """Attend from one position to those before it and to itself.

    Args:
        query: float `(B, H, 1, D)`, already scaled.
        key: float `(B, H, 1, D)`.
        value: float `(B, H, 1, D)`.
        frozen: Cached keys and values of S positions, all of them visible, or
            None; see `kv_cache`.
        tail: Cached keys and values of L positions, visible below `index`.
        index: int32 scalar, where in the tail this position stands.
        sees_itself: Whether it attends to itself if it is not alone.

    Returns:
        float `(B, H, 1, D)`, and the tail with this position filled in.
    """
    num_heads, head_dim = query.shape[1], query.shape[3]
    slots = ops.arange(tail[1].shape[1])
    here = slots == index
    key = ops.cast(ops.reshape(key, (-1, head_dim, 1)), "float32")
    row = ops.cast(ops.reshape(value, (-1, 1, head_dim)), "float32")
    tail = (
        ops.where(here, key, tail[0]),
        ops.where(here[:, None], row, tail[1]),
    )
    bias = ops.where(slots <= index, 0.0, -float("inf"))
    if not sees_itself:
        bias = ops.where(here, SELF_SCORE, bias)
    parts = [tail] if frozen is None else [frozen, tail]
    query = ops.cast(ops.reshape(query, (-1, 1, head_dim)), "float32")
    attended = cached_attention(query, parts, bias)
    attended = ops.reshape(attended, (-1, num_heads, 1, head_dim))
    return ops.cast(attended, value.dtype), tail


def cached_attention(
    query: Any, parts: Sequence[tuple[Any, Any]], bias: Any
) -> Any:
    """Attend from one position to a cache that lies in several parts.

    The parts are never joined: only their scores meet, in the softmax.

    Args:
        query: float32 `(B*H, 1, D)`, already scaled.
        parts: float32 keys `(B*H, D, S)` and values `(B*H, S, D)` of each
            part, any S.
        bias: float32 `(S,)`, added to the scores of the last part; minus
            infinity hides. The other parts are visible as a whole.

    Returns:
        float32 `(B*H, 1, D)`.
    """
    scores = [ops.matmul(query, keys) for keys, _ in parts]
    scores[-1] = scores[-1] + bias
    tops = [
        ops.max(s, axis=-1, keepdims=True, initial=-float("inf"))
        for s in scores
    ]
    top = functools.reduce(ops.maximum, tops)
    weights = [ops.exp(s - top) for s in scores]
    total = sum(ops.sum(w, axis=-1, keepdims=True) for w in weights)
    attended = sum(
        ops.matmul(w, values)
        for w, (_, values) in zip(weights, parts, strict=True)
    )
    return attended / total


def split_heads(x: Any, num_heads: int) -> Any:
    """Reshape `(B, T, H*D)` to `(B, H, T, D)`."""
    batch, length, width = ops.shape(x)[0], x.shape[1], x.shape[2]
    x = ops.reshape(x, (batch, length, num_heads, width // num_heads))
    return ops.transpose(x, (0, 2, 1, 3))


def merge_heads(x: Any) -> Any:
    """Reshape `(B, H, T, D)` to `(B, T, H*D)`."""
    num_heads, length, head_dim = x.shape[1:]
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.reshape(x, (ops.shape(x)[0], length, num_heads * head_dim))

"""Causal self-attention over whole sequences, and for one step with a cache.

Shapes: B batch, H heads, T positions, S cached positions, D head_dim.
Scores and softmax are float32 under every dtype policy.
"""

import functools
from collections.abc import Sequence
from typing import Any

from keras import ops

BLOCK_LENGTH = 64


def causal_attention(
    query: Any, key: Any, value: Any, block_length: int = BLOCK_LENGTH
) -> Any:
    """Exact causal attention, one block of queries at a time.

    A block of queries meets only the keys up to its own end, so about half of
    the full score matrix is never computed, and it is never held as a whole.

    Args:
        query: float `(B, H, T, D)`, already scaled.
        key: float `(B, H, T, D)`.
        value: float `(B, H, T, D)`.
        block_length: Queries per block.

    Returns:
        float `(B, H, T, D)`: for each position the mean of the values up to
        and including it, weighted by softmax scores.
    """
    length = query.shape[2]
    blocks = []
    for start in range(0, length, block_length):
        stop = min(start + block_length, length)
        mask = ops.arange(start, stop)[:, None] >= ops.arange(stop)[None, :]
        blocks.append(
            masked_attention(
                query[:, :, start:stop],
                key[:, :, :stop],
                value[:, :, :stop],
                mask,
            )
        )
    return blocks[0] if len(blocks) == 1 else ops.concatenate(blocks, axis=2)


def masked_attention(query: Any, key: Any, value: Any, mask: Any) -> Any:
    """Attend where `mask` allows it.

    Args:
        query: float `(B, H, T, D)`, already scaled.
        key: float `(B, H, S, D)`.
        value: float `(B, H, S, D)`.
        mask: bool, broadcastable to `(B, H, T, S)`; True = may attend.

    Returns:
        float `(B, H, T, D)`.
    """
    if key.shape[2] == 1:
        return value  # One key takes all the weight of the one query.
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
    scores = ops.cast(scores, "float32")
    scores = ops.where(mask, scores, -float("inf"))
    weights = ops.cast(ops.softmax(scores), value.dtype)
    return ops.matmul(weights, value)


def cached_attention(
    query: Any, parts: Sequence[tuple[Any, Any]], visible: Any
) -> Any:
    """Attend from one position to a cache that lies in several parts.

    The parts are never joined: only their scores meet, in the softmax.

    Args:
        query: float32 `(B*H, 1, D)`, already scaled.
        parts: float32 keys `(B*H, D, S)` and values `(B*H, S, D)` of each
            part, any S.
        visible: bool `(S,)`, what may be seen of the last part; the others
            are visible as a whole.

    Returns:
        float32 `(B*H, 1, D)`.
    """
    scores = [ops.matmul(query, keys) for keys, _ in parts]
    scores[-1] = ops.where(visible, scores[-1], -float("inf"))
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

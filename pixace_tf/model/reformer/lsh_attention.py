"""Attention among positions whose vectors hash alike (arXiv 2001.04451).

Each round sorts positions into buckets by random rotations and cuts every
bucket into chunks; a position attends to earlier positions of its chunk and of
the previous chunk of the same bucket. Since each bucket has chunks of its own,
later positions change neither the positions seen nor their places in the two
chunks: the attention is causal to the last bit. (In the paper, chunks cover all
sorted positions, and shift when a later position changes its bucket.)

Shapes: B batch, H heads, T positions, D head_dim, R num_hashes, C chunks,
L chunk_length, S = C * L slots.
"""

from typing import NamedTuple

from keras import ops

from pixace_tf.model.attention import SELF_SCORE
from pixace_tf.typing import Tensor


class Layout(NamedTuple):
    """The slots of all positions.

    Attributes:
        position: int32 `(B, H, R, S)`, the position in each slot, T if empty.
        slot: int32 `(B, H, R, T)`, the slot of each position.
        continues: int32 `(B, H, R, C)`, 1 if a chunk is of the same bucket as
            the one before.
    """

    position: Tensor
    slot: Tensor
    continues: Tensor


def default_num_buckets(length: int, chunk_length: int) -> int:
    """Return the even number of buckets with about two chunks each."""
    return max(2, 2 * round(length / chunk_length / 4))


def hash_vectors(x: Tensor, rotations: Tensor, num_buckets: int) -> Tensor:
    """Hash vectors to the nearest of random directions and their opposites.

    Vectors are float `(B, H, T, D)`, rotations float32 `(H, R, D, n)`, n half
    of the buckets; hashes are int32 `(B, H, R, T)` in `[0, num_buckets)`.
    """
    x = ops.cast(x, "float32")
    rotated = ops.einsum("bhtd,hrdn->bhrtn", x, rotations)
    if num_buckets == 1:
        return ops.zeros_like(rotated[..., 0], dtype="int32")
    both = ops.concatenate([rotated, -rotated], axis=-1)
    return ops.cast(ops.argmax(both, axis=-1), "int32")


def bucket_layout(
    buckets: Tensor, num_buckets: int, chunk_length: int
) -> Layout:
    """Cut every bucket into chunks, in order of position.

    `buckets` are int32 `(B, H, R, T)` in `[0, num_buckets)`.
    """
    length = buckets.shape[-1]
    num_chunks = -(-length // chunk_length) + num_buckets
    numbers = ops.arange(num_buckets, dtype="int32")
    sizes = _count(buckets[..., None] == numbers, axis=-2)
    chunks = (sizes + chunk_length - 1) // chunk_length
    ends = ops.cumsum(chunks, axis=-1)
    firsts = ops.cumsum(sizes, axis=-1) - sizes
    starts = (ends - chunks) * chunk_length
    positions = ops.arange(length, dtype="int32")
    order = ops.sort(buckets * length + positions, axis=-1) % length

    chunk = ops.arange(num_chunks, dtype="int32")
    bucket = _count(chunk[:, None] >= ends[..., None, :], axis=-1)
    is_used = bucket < num_buckets
    bucket = ops.minimum(bucket, num_buckets - 1)
    # (B, H, R, C, L): the rank of each slot in its bucket.
    rank = chunk * chunk_length - _look_up(starts, bucket)
    continues = is_used & (rank > 0)
    rank = rank[..., None] + ops.arange(chunk_length, dtype="int32")
    is_full = is_used[..., None] & (rank < _look_up(sizes, bucket)[..., None])
    index = ops.where(is_full, _look_up(firsts, bucket)[..., None] + rank, 0)
    flat = (*ops.shape(buckets)[:-1], num_chunks * chunk_length)
    position = _look_up(order, ops.reshape(index, flat))
    position = ops.where(ops.reshape(is_full, flat), position, length)

    rank = ops.cast(ops.argsort(order, axis=-1), "int32")
    rank = rank - _look_up(firsts, buckets)
    slot = _look_up(starts, buckets) + rank
    return Layout(position, slot, ops.cast(continues, "int32"))


def lsh_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout
) -> Tensor:
    """Attend to earlier positions of the same bucket.

    A key found in several rounds counts once in each. With one bucket and a
    chunk as long as the sequence, this is full attention.

    Query (already scaled), key and value are float `(B, H, T, D)`, as is the
    result. A position attends to itself only if it sees no other in any round.
    """
    length = query.shape[2]
    chunk_length = layout.position.shape[-1] // layout.continues.shape[-1]
    # (B, H, R, C, L, D) each
    query, key, value = (
        _chunk(_to_slots(x, layout), chunk_length) for x in (query, key, value)
    )
    # (B, H, R, C, L, 1) and (B, H, R, C, 1, 2 * L)
    own = _chunk(layout.position[..., None], chunk_length)
    before = _chunk_before(own, length)
    before = ops.where(layout.continues[..., None, None] > 0, before, length)
    seen = ops.swapaxes(ops.concatenate([before, own], axis=-2), -1, -2)
    key = ops.concatenate([_chunk_before(key, 0), key], axis=-2)
    value = ops.concatenate([_chunk_before(value, 0), value], axis=-2)

    scores = ops.cast(ops.matmul(query, ops.swapaxes(key, -1, -2)), "float32")
    hidden = ops.where(seen == own, SELF_SCORE, -float("inf"))
    scores = ops.where(seen < own, scores, hidden)
    totals = ops.logsumexp(scores, axis=-1, keepdims=True)
    weights = ops.cast(ops.exp(scores - totals), value.dtype)
    attended = _from_slots(_unchunk(ops.matmul(weights, value)), layout)
    if attended.shape[2] == 1:
        return attended[:, :, 0]
    totals = _from_slots(_unchunk(totals), layout)  # (B, H, R, T, 1)
    shares = ops.cast(ops.softmax(totals, axis=2), value.dtype)
    return ops.sum(attended * shares, axis=2)


def _to_slots(x: Tensor, layout: Layout) -> Tensor:
    """Copy `(B, H, T, D)` to `(B, H, R, S, D)`, zeros in empty slots.

    The gradient is a gather, too, since the layout knows both directions.
    """
    position, slot = layout.position, layout.slot
    num_hashes, num_slots = position.shape[2:]

    @ops.custom_gradient
    def copy(x: Tensor) -> Tensor:
        index = ops.reshape(position, (*ops.shape(x)[:2], -1))
        copied = _take_rows(_with_zero_row(x), index)
        shape = (*ops.shape(x)[:2], num_hashes, num_slots, x.shape[-1])

        def gradient(upstream: Tensor) -> Tensor:
            return ops.sum(_gather_slots(upstream, slot), axis=2)

        return ops.reshape(copied, shape), gradient

    return copy(x)


def _from_slots(x: Tensor, layout: Layout) -> Tensor:
    """Copy `(B, H, R, S, D)` to `(B, H, R, T, D)`; see `_to_slots`."""
    position, slot = layout.position, layout.slot

    @ops.custom_gradient
    def copy(x: Tensor) -> Tensor:
        def gradient(upstream: Tensor) -> Tensor:
            return _gather_slots(_with_zero_row(upstream), position)

        return _gather_slots(x, slot), gradient

    return copy(x)


def _gather_slots(x: Tensor, index: Tensor) -> Tensor:
    """Gather from `(B, H, R, N, D)` by `(B, H, R, M)`: `(B, H, R, M, D)`."""
    num_rounds, num_rows, width = x.shape[2:]
    offsets = ops.arange(num_rounds, dtype="int32")[:, None] * num_rows
    outer = tuple(ops.shape(x)[:2])
    rows = ops.reshape(x, (*outer, num_rounds * num_rows, width))
    flat = ops.reshape(index + offsets, (*outer, -1))
    gathered = _take_rows(rows, flat)
    return ops.reshape(gathered, (*outer, num_rounds, index.shape[-1], width))


def _take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather from `(B, H, N, D)` by `(B, H, M)`: `(B, H, M, D)`."""
    batch_size, num_heads = ops.shape(x)[:2]
    num_rows, width = x.shape[2:]
    offsets = ops.arange(batch_size * num_heads, dtype="int32") * num_rows
    offsets = ops.reshape(offsets, (batch_size, num_heads, 1))
    rows = ops.reshape(x, (-1, width))
    return ops.take(rows, index + offsets, axis=0)


def _with_zero_row(x: Tensor) -> Tensor:
    return ops.concatenate([x, ops.zeros_like(x[..., :1, :])], axis=-2)


def _chunk(x: Tensor, chunk_length: int) -> Tensor:
    """Reshape `(B, H, R, S, D)` to `(B, H, R, C, L, D)`."""
    num_hashes, num_slots, width = x.shape[2:]
    shape = (num_hashes, num_slots // chunk_length, chunk_length, width)
    return ops.reshape(x, (*ops.shape(x)[:2], *shape))


def _unchunk(x: Tensor) -> Tensor:
    """Reshape `(B, H, R, C, L, D)` to `(B, H, R, S, D)`."""
    num_hashes, num_chunks, chunk_length, width = x.shape[2:]
    shape = (num_hashes, num_chunks * chunk_length, width)
    return ops.reshape(x, (*ops.shape(x)[:2], *shape))


def _chunk_before(x: Tensor, filling: int) -> Tensor:
    """Shift `(B, H, R, C, L, D)` by one chunk."""
    first = ops.full_like(x[..., :1, :, :], filling)
    return ops.concatenate([first, x[..., :-1, :, :]], axis=-3)


def _count(condition: Tensor, axis: int) -> Tensor:
    return ops.sum(ops.cast(condition, "int32"), axis=axis)


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    return ops.take_along_axis(table, index, axis=-1)

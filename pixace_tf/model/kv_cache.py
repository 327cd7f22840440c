"""The cache of keys and values that sampling keeps, layer by layer.

Keys are stored transposed, `(B*H, D, S)`, values as `(B*H, S, D)`, so that a
step reads and fills them in place; float32 under every policy.

Shapes: B batch, H heads, D head_dim, S cached positions.
"""

from keras import ops

from pixace_tf.typing import Tensor

# Keys and values of each layer.
Cache = list[tuple[Tensor, Tensor]]


def empty_cache(
    num_layers: int, rows: Tensor, head_dim: int, length: int
) -> Cache:
    """Return a cache of `length` positions, all zero; `rows` is B*H."""
    return [
        (
            ops.zeros((rows, head_dim, length)),
            ops.zeros((rows, length, head_dim)),
        )
        for _ in range(num_layers)
    ]


def layer_cache(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cache of a layer's keys and values, each `(B, H, S, D)`."""
    length, head_dim = keys.shape[2:]
    keys = ops.reshape(keys, (-1, length, head_dim))
    values = ops.reshape(values, (-1, length, head_dim))
    return (
        ops.cast(ops.transpose(keys, (0, 2, 1)), "float32"),
        ops.cast(values, "float32"),
    )


def extend_cache(cache: Cache, more: Cache) -> Cache:
    """Return a cache of the positions of `cache`, then those of `more`."""
    return [
        (
            ops.concatenate([keys, more_keys], axis=2),
            ops.concatenate([values, more_values], axis=1),
        )
        for (keys, values), (more_keys, more_values) in zip(
            cache, more, strict=True
        )
    ]


def split_cache(cache: Cache, position: int) -> tuple[Cache, Cache]:
    """Split a cache before `position`."""
    before = [(keys[..., :position], v[:, :position]) for keys, v in cache]
    after = [(keys[..., position:], v[:, position:]) for keys, v in cache]
    return before, after


def cut_cache(cache: Cache, position: Tensor, length: int) -> Cache:
    """Return the cache of `length` positions starting at `position`."""
    return [
        (
            ops.slice(keys, (0, 0, position), (*keys.shape[:2], length)),
            ops.slice(
                values,
                (0, position, 0),
                (values.shape[0], length, values.shape[2]),
            ),
        )
        for keys, values in cache
    ]


def pad_cache(cache: Cache, length: int) -> Cache:
    """Pad a cache with zeros to `length` positions."""
    missing = length - cache[0][1].shape[1]
    return [
        (
            ops.pad(keys, ((0, 0), (0, 0), (0, missing))),
            ops.pad(values, ((0, 0), (0, missing), (0, 0))),
        )
        for keys, values in cache
    ]

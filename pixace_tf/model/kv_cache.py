"""The cache of keys and values that sampling keeps, layer by layer.

Keys and values are `(B*H, S, D)`, so that a step reads and fills them in place;
float32 under every policy.

Shapes: B batch, H heads, D head_dim, S cached positions.
"""

import keras
from keras import ops

from pixace_tf.typing import Tensor

# Keys and values of each layer.
Cache = list[tuple[Tensor, Tensor]]


def empty_cache(
    num_layers: int, rows: Tensor, head_dim: int, length: int
) -> Cache:
    """Return a cache of `length` positions, all zero; `rows` is B*H."""
    shape = rows, length, head_dim
    return [(ops.zeros(shape), ops.zeros(shape)) for _ in range(num_layers)]


def layer_cache(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cache of a layer's keys and values, each `(B, H, S, D)`."""
    shape = -1, *keys.shape[2:]
    return (
        ops.cast(ops.reshape(keys, shape), "float32"),
        ops.cast(ops.reshape(values, shape), "float32"),
    )


def extend_cache(cache: Cache, more: Cache) -> Cache:
    """Return a cache of the positions of `cache`, then those of `more`."""
    return keras.tree.map_structure(
        lambda x, y: ops.concatenate([x, y], axis=1), cache, more
    )


def split_cache(cache: Cache, position: int) -> tuple[Cache, Cache]:
    """Split a cache before `position`."""
    before = keras.tree.map_structure(lambda x: x[:, :position], cache)
    after = keras.tree.map_structure(lambda x: x[:, position:], cache)
    return before, after


def cut_cache(cache: Cache, position: Tensor, length: int) -> Cache:
    """Return the cache of `length` positions starting at `position`."""

    def cut(x: Tensor) -> Tensor:
        shape = x.shape[0], length, x.shape[2]
        return ops.slice(x, (0, position, 0), shape)

    return keras.tree.map_structure(cut, cache)


def pad_cache(cache: Cache, length: int) -> Cache:
    """Pad a cache with zeros to `length` positions."""
    missing = length - cache[0][0].shape[1]
    return keras.tree.map_structure(
        lambda x: ops.pad(x, ((0, 0), (0, missing), (0, 0))), cache
    )

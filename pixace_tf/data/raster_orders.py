"""Raster orders: ways to read an image pixel by pixel.

An order is a number. Bit 0 mirrors the image left to right, bit 1 turns it
upside down, and bit 2 then reads it by columns instead of rows. Order 0 is the
plain one.

Shapes: H height, W width, T pixels.
"""

import functools
from typing import Any

import numpy as np

from pixace_tf.typing import Tensor

MIRRORED, UPSIDE_DOWN, BY_COLUMNS = 1, 2, 4
# Share of the training images read in the first order, mirrored or not.
FIRST_SHARE = 0.5


@functools.lru_cache(maxsize=64)
def permutation(order: int, image_size: tuple[int, int]) -> np.ndarray:
    """Return the pixels in an order, int32 `(T,)`, read-only.

    `token_ids[permutation]` is the sequence; orders by columns need H = W.
    """
    height, width = image_size
    grid = np.arange(height * width, dtype=np.int32).reshape(height, width)
    if order & MIRRORED:
        grid = grid[:, ::-1]
    if order & UPSIDE_DOWN:
        grid = grid[::-1]
    if order & BY_COLUMNS:
        assert height == width, "columns are as long as rows"
        grid = grid.T
    sequence = grid.reshape(-1).copy()
    sequence.flags.writeable = False
    return sequence


def permutations(num_orders: int, image_size: tuple[int, int]) -> np.ndarray:
    """Return the permutations of the first orders, int32 `(num_orders, T)`."""
    size = image_size[0], image_size[1]  # The cache needs a tuple.
    return np.stack([permutation(order, size) for order in range(num_orders)])


def vector_rows(
    image_size: tuple[int, int], flip: bool, use_orders: bool
) -> tuple[int, ...]:
    """Return the index of the learned vector of each order, from 0 on.

    Args:
        image_size: `(H, W)`.
        flip: Whether images are mirrored as augmentation; an order and its
            mirror image then share a vector.
        use_orders: Whether the model learns more than the plain order.
    """
    if not use_orders:
        return (0, 0) if flip else (0,)
    height, width = image_size
    orders = range(8 if height == width else 4)
    return tuple(order // 2 if flip else order for order in orders)


def shares(rows: tuple[int, ...]) -> np.ndarray:
    """Return the share of each order in training, float64."""
    is_first = np.array(rows) == 0
    if is_first.all():
        return np.full(len(rows), 1 / len(rows))
    first = FIRST_SHARE / is_first.sum()
    return np.where(is_first, first, (1 - FIRST_SHARE) / (~is_first).sum())


def best_orders(mask: Tensor, sequences: np.ndarray, xp: Any = np) -> Tensor:
    """Return the order with the fewest known pixels after the first hidden one.

    Args:
        mask: bool `(N, T)` in plain order, True where pixels are hidden.
        sequences: int32 `(orders, T)`, from `permutations`.
        xp: The module of `mask`: NumPy, or `tf.experimental.numpy`.

    Returns:
        Integers `(N,)`; the first of equally good orders.
    """
    behind = []
    for sequence in sequences:
        in_order = xp.take(mask, sequence, axis=1)
        has_begun = xp.cumsum(xp.where(in_order, 1, 0), axis=1) > 0
        behind.append(xp.sum(xp.where(~in_order & has_begun, 1, 0), axis=1))
    return xp.argmin(xp.stack(behind), axis=0)


def to_plain(values: np.ndarray, when: np.ndarray) -> np.ndarray:
    """Undo permutations, integers `(N, T)`, of values `(N, T, ...)`."""
    plain = np.empty_like(values)
    when = when.reshape(when.shape + (1,) * (values.ndim - 2))
    np.put_along_axis(plain, when, values, axis=1)
    return plain

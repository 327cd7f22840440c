"""Initial values of tables of color levels: close levels begin alike."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from pixace_tf.typing import Tensor

# With fewer levels, each is seen often enough to be learned on its own.
MIN_SMOOTH_LEVELS = 64


def level_initializer(
    levels: int | tuple[int, ...], stddev: float
) -> Callable[..., Tensor]:
    """Return an initializer for rows that stand for the levels of channels.

    It is `smooth_levels` if a channel has many levels, else `RandomNormal`.
    """
    levels = (levels,) if isinstance(levels, int) else levels
    if max(levels) < MIN_SMOOTH_LEVELS:
        return keras.initializers.RandomNormal(stddev=stddev)
    return functools.partial(smooth_levels, levels, stddev)


def smooth_levels(
    levels: tuple[int, ...], stddev: float, shape: Any, dtype: Any = None
) -> Tensor:
    """Draw each column as a smooth random function of the level.

    Each is a sum of cosines with random weights that fall with frequency, like
    a random walk. Learning one level then also teaches its neighbors: RGB 888
    on photos of 32x32 cost 15.44 bits/pixel instead of 15.70 after 600 steps of
    nano.

    Of `shape`, `(rows, columns)`, the first rows stand for the levels of each
    channel; further rows, and channels with few levels, are independent.
    """
    weights = keras.random.normal(shape, 0.0, stddev, dtype=dtype)
    parts, row = [], 0
    for count in levels:
        part = weights[row : row + count]
        if count >= MIN_SMOOTH_LEVELS:
            part = ops.matmul(ops.cast(_cosines(count), part.dtype), part)
        parts.append(part)
        row += count
    return ops.concatenate([*parts, weights[row:]], axis=0)


def _cosines(levels: int) -> np.ndarray:
    """Return `(levels, frequencies)`; rows have mean square 1."""
    at = (np.arange(levels) + 0.5) / levels
    frequency = np.arange(levels)
    cosines = np.cos(np.pi * frequency * at[:, None]) / (1 + frequency)
    return cosines / np.sqrt(np.mean(np.sum(cosines**2, axis=1)))

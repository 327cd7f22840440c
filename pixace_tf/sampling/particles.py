"""Particles let known pixels behind a hidden region shape its filling.

A model of raster order samples each pixel given the pixels before it and
ignores all later ones. So several particles fill the region at the same time,
each from its own noise. They meet the same known pixels, whose cost gives each
particle its weight. After each row, heavy particles may be copied in place of
light ones; in the end, one is chosen by weight (sequential Monte Carlo, Doucet
and others 2001). As the number of particles grows, the hidden pixels follow the
model's distribution given all known pixels.

The functions take NumPy arrays, or tensors with `xp=tf.experimental.numpy`.

Shapes: R particles.
"""

from typing import Any

import numpy as np

from pixace_tf.typing import Tensor

# A cost that leaves a particle only if all others cost as much.
_IMPOSSIBLE = 1e30


def copies(
    nats: Tensor, uniform: Tensor, count: Any = None, xp: Any = np
) -> tuple[Tensor, Tensor]:
    """Tell which particles replace which, if few of them carry the weight.

    In systematic resampling, the number of copies of a particle is proportional
    to its weight, up to rounding. It is needed if the effective number of
    particles is below half of their number.

    Args:
        nats: float32 `(R,)`, what the known pixels cost each particle.
        uniform: float32 scalar in `[0, 1)`.
        count: Integer from 1 to R, by default R; later rows are not particles.
        xp: The module of the arrays.

    Returns:
        bool, whether to resample; and integers `(R,)`, the particle whose copy
        takes each place.
    """
    rows = nats.shape[0]
    count = rows if count is None else count
    places = xp.arange(rows, dtype="float32")
    number = xp.sum(xp.where(_are_particles(rows, count, xp), np.float32(1), 0))
    weights = _weights(nats, count, xp)
    weights = weights / xp.sum(weights)
    points = (uniform + places) / number
    is_below = xp.cumsum(weights)[None] <= points[:, None]
    index = xp.sum(xp.where(is_below, 1, 0), axis=-1)
    effective = 1 / xp.sum(weights * weights)
    # By rounding, the sum may stay below the last point.
    last = xp.subtract(count, 1)
    return effective < number / 2, xp.minimum(index, last)


def choose(
    nats: Tensor, uniform: Tensor, count: Any = None, xp: Any = np
) -> Tensor:
    """Draw one of the particles by weight, an integer; see `copies`."""
    rows = nats.shape[0]
    weights = _weights(nats, rows if count is None else count, xp)
    cumulative = xp.cumsum(weights)
    # Rounding must not choose a particle without weight.
    cumulative = xp.where(weights > 0, cumulative, -1)
    is_above = cumulative > uniform * xp.max(cumulative)
    return xp.min(xp.where(is_above, xp.arange(rows), rows - 1))


def _weights(nats: Tensor, count: Any, xp: Any) -> Tensor:
    """Return weights, float32 `(R,)`; the largest one is 1."""
    is_particle = _are_particles(nats.shape[0], count, xp)
    nats = xp.where(xp.isfinite(nats), nats, np.float32(_IMPOSSIBLE))
    nats = nats - xp.min(xp.where(is_particle, nats, np.float32(np.inf)))
    return xp.where(is_particle, xp.exp(-nats), np.float32(0))


def _are_particles(rows: int, count: Any, xp: Any) -> Tensor:
    # Unlike the operator, the function takes different types of integers.
    return xp.less(xp.arange(rows), count)

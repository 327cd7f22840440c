"""Particles let known pixels behind a hidden region shape its filling.

A model of raster order samples each pixel given the pixels before it and
ignores all later ones. So several particles fill the region at the same time,
each from its own noise. They meet the same known pixels, whose cost gives each
particle its weight. After each row, heavy particles may be copied in place of
light ones; in the end, one is chosen by weight (sequential Monte Carlo, Doucet
and others 2001). As the number of particles grows, the hidden pixels follow the
model's distribution given all known pixels.

Shapes: R particles, T pixels, n choices of one draw.
"""

import numpy as np
import tensorflow as tf

from pixace_tf.sampling.block import Carry
from pixace_tf.sampling.draws import inverse_transform
from pixace_tf.typing import Tensor

# Second halves of the seeds of `stateless_uniform`; the pixels' noise has 0.
_SEEDS, _CHOICES = 1, 2


def seeds(seed: Tensor, count: int) -> Tensor:
    """Derive the seeds of particles, int64 `(count,)`, from their image's.

    The first one is `seed`, an int64 scalar, itself.
    """
    others = tf.random.stateless_uniform(
        (count - 1,),
        tf.stack([seed, _SEEDS]),
        minval=None,
        maxval=None,
        dtype=tf.int64,
        alg="philox",
    )
    return tf.concat([seed[None], others], axis=0)


def choice_noise(seed: Tensor, length: int) -> Tensor:
    """Draw the noise of resampling and of the final choice.

    Returns:
        float32 `(length + 1,)` in `[0, 1)`; resampling before pixel t uses
        entry t.
    """
    key = tf.stack([seed, _CHOICES])
    return tf.random.stateless_uniform((length + 1,), key, alg="philox")


def cost(logits: Tensor, choice: Tensor) -> Tensor:
    """Return the cost of known choices in nats, float32 `(R,)`.

    Args:
        logits: float32 `(R, n)`; minus infinity for impossible choices.
        choice: int32 `(R,)`, or -1 where the code forces the choice.
    """
    logarithms = tf.nn.log_softmax(logits)
    chosen = tf.gather(logarithms, tf.maximum(choice, 0), batch_dims=1)
    return tf.where(choice < 0, 0.0, -chosen)


def resample(carry: Carry, uniform: Tensor, count: Tensor) -> Carry:
    """Copy heavy particles in place of light ones, if few carry the weight.

    In systematic resampling, the number of copies of a particle is proportional
    to its weight, up to rounding. It happens if the effective number of
    particles is below half of their number.

    Args:
        carry: The particles.
        uniform: float32 scalar in `[0, 1)`.
        count: int32 scalar from 1 to R; later rows are not particles.
    """
    rows = carry.nats.shape[0]
    number = tf.cast(count, tf.float32)
    weights = tf.nn.softmax(_log_weights(carry, count))
    effective = 1 / tf.reduce_sum(tf.square(weights))
    points = (uniform + tf.range(rows, dtype=tf.float32)) / number
    is_below = tf.cumsum(weights)[None] <= points[:, None]
    drawn = tf.reduce_sum(tf.cast(is_below, tf.int32), axis=-1)
    # By rounding, the sum may stay below the last point.
    drawn = tf.minimum(drawn, count - 1)
    return tf.cond(
        effective < number / 2,
        lambda: Carry(
            take_rows(carry.state, drawn, rows),
            tf.gather(carry.token_ids, drawn),
            tf.zeros_like(carry.nats),
        ),
        lambda: carry,
    )


def choose(carry: Carry, uniform: Tensor, count: Tensor) -> Tensor:
    """Draw one of the particles by weight, int32 `(1, T)`; see `resample`."""
    logits = _log_weights(carry, count)[None]
    chosen = inverse_transform(logits, uniform[None])
    return tf.gather(carry.token_ids, chosen)


def _log_weights(carry: Carry, count: Tensor) -> Tensor:
    is_particle = tf.range(carry.nats.shape[0]) < count
    return tf.where(is_particle, -carry.nats, -np.inf)


def take_rows(state: Tensor, index: Tensor, count: int) -> Tensor:
    """Return the state of the rows in `index`.

    Args:
        state: A structure of tensors, each with a multiple of `count` rows:
            attention, for example, has one for each head.
        index: int32 `(R,)` in `[0, count)`.
        count: Number of images in the state.
    """

    def take(tensor: Tensor) -> Tensor:
        each = tensor.shape[0] // count
        rows = index[:, None] * each + tf.range(each)
        return tf.gather(tensor, tf.reshape(rows, (-1,)))

    return tf.nest.map_structure(take, state)

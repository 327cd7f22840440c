"""The mathematics of one draw as graph ops: noise, filters, choice, cost.

Shapes: B batch, n choices of one draw.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.sampling.noise import CHOICES, PARTICLES, PIXELS
from pixace_tf.typing import Tensor

# Guidance keeps choices with at least this share of the likeliest one's
# probability.
MIN_GUIDED = 0.01


def uniform_noise(seeds: Tensor, length: int, num_draws: int) -> Tensor:
    """Draw the noise of each image from its own seed, int64 `(B,)`.

    The numbers are those of `noise.uniform_noise`.

    Returns:
        float32 `(B, length, num_draws)` in `[0, 1)`.
    """
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform(
            (length, num_draws), seed=tf.stack([seed, PIXELS]), alg="philox"
        ),
        seeds,
        fn_output_signature=tf.TensorSpec((length, num_draws), tf.float32),
    )


def particle_seeds(seed: Tensor, count: int) -> Tensor:
    """Do as `noise.particle_seeds`; `seed` is an int64 scalar."""
    others = tf.random.stateless_uniform(
        (count - 1,),
        tf.stack([seed, PARTICLES]),
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
    key = tf.stack([seed, CHOICES])
    return tf.random.stateless_uniform((length + 1,), key, alg="philox")


def cost(
    logits: Tensor,
    choice: Tensor,
    is_free: Tensor,
    may_draw: Tensor | None = None,
) -> Tensor:
    """Return the cost of what is known of a choice in nats, float32 `(B,)`.

    Args:
        logits: float32 `(B, n)`; minus infinity for impossible choices.
        choice: int32 `(B,)`, the known choice.
        is_free: bool `(B,)`, whether there is none.
        may_draw: Which choices may then be drawn, bool `(B, n)`; None for all.
    """
    logarithms = tf.nn.log_softmax(logits)
    spent = -tf.gather(logarithms, choice, batch_dims=1)
    if may_draw is None:
        return tf.where(is_free, 0.0, spent)
    possible = tf.where(may_draw, logarithms, -np.inf)
    return tf.where(is_free, -tf.reduce_logsumexp(possible, axis=-1), spent)


def guide(
    logits: Tensor,
    null_logits: Tensor,
    guidance: Tensor,
    keeps_rare: bool = False,
) -> Tensor:
    """Move logits with a label further away from those without it.

    Choices that are nearly impossible given the label are removed, since their
    ratio of probabilities may be huge (arXiv 2502.17437). If `keeps_rare`, they
    stay as likely as the label makes them, compared to the likeliest choice.

    Args:
        logits: float32 `(B, n)`, given a label.
        null_logits: float32 `(B, n)`, given the null label.
        guidance: float32 `(B,)`; 1 keeps the logits given the label, higher
            values move further.
        keeps_rare: Whether no choice is removed.

    Returns:
        float32 `(B, n)`, minus infinity for removed choices.
    """
    given, null = tf.nn.log_softmax(logits), tf.nn.log_softmax(null_logits)
    top = tf.reduce_max(given, axis=-1, keepdims=True)
    guided = given + tf.expand_dims(guidance - 1, 1) * (given - null)
    is_rare = given < top + math.log(MIN_GUIDED)
    rare: Any = -np.inf
    if keeps_rare:
        best = tf.reduce_max(tf.where(is_rare, rare, guided), -1, keepdims=True)
        rare = given - top + best
    return tf.where(is_rare, rare, guided)


def guide_pairs(
    logits: Tensor, guidance: Tensor, keeps_rare: bool = False
) -> Tensor:
    """Guide pairs of rows, with a label and then with the null label.

    Args:
        logits: float32 `(R, n)`.
        guidance: float32 `(R,)`; rows with 1 keep their logits and need no
            partner.
        keeps_rare: See `guide`.

    Returns:
        float32 `(R, n)`, the same for both rows of a pair.
    """
    # LiteRT knows the shape of this beforehand, unlike that of `tf.range`.
    row = tf.cumsum(tf.cast(guidance > 0, tf.int32)) - 1
    first = row - row % 2
    second = tf.minimum(first + 1, tf.reduce_max(row))
    guided = guide(
        tf.gather(logits, first),
        tf.gather(logits, second),
        guidance,
        keeps_rare,
    )
    return tf.where(tf.expand_dims(guidance > 1, 1), guided, logits)


def inverse_transform(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw from `softmax(logits)` by inverting its cumulative distribution.

    Args:
        logits: float32 `(B, n)`; a choice whose probability is 0 in float32 is
            never drawn.
        uniform: float32 `(B,)` in `[0, 1)`; even in float32, its product with
            a sum stays below the sum, so a draw always exists.

    Returns:
        int32 `(B,)` in `[0, n)`.
    """
    top = tf.reduce_max(logits, axis=-1, keepdims=True)
    weights = tf.exp(logits - top)
    # XLA adds in several parts. By rounding, its sums may decrease and then
    # cross the threshold at a choice without weight.
    cumulative = tf.where(weights > 0, tf.cumsum(weights, axis=-1), -1.0)
    total = tf.reduce_max(cumulative, axis=-1, keepdims=True)
    is_above = cumulative > tf.expand_dims(uniform, 1) * total
    count = logits.shape[-1]
    return tf.reduce_min(tf.where(is_above, tf.range(count), count - 1), -1)


def filter_logits(logits: Tensor, config: dict[str, Tensor]) -> Tensor:
    """Remove unlikely choices: top-k, then top-p of the rest, and min-p.

    Args:
        logits: float32 `(B, n)`, temperature applied.
        config: `top_k`, `top_p`, `min_p`, each `(B,)`, as in `SamplingConfig`.

    Returns:
        float32 `(B, n)`, minus infinity for removed choices; the likeliest
        choice stays.
    """
    count = logits.shape[-1]
    ranked = tf.sort(logits, direction="DESCENDING")
    k = tf.where(config["top_k"] > 0, config["top_k"], count)
    in_top_k = tf.range(count) < tf.expand_dims(k, 1)
    probabilities = tf.nn.softmax(tf.where(in_top_k, ranked, -np.inf))
    before = tf.cumsum(probabilities, axis=-1, exclusive=True)
    top_p = tf.expand_dims(config["top_p"], 1)
    # Rounding may let the sum reach 1 before the end.
    in_top_p = (before < top_p) | (top_p >= 1)
    floor = tf.expand_dims(config["min_p"], 1) * probabilities[:, :1]
    kept = in_top_k & in_top_p & (probabilities >= floor)
    # The kept choices lead the ranking; the last of them sets the bar.
    last = tf.reduce_sum(tf.cast(kept, tf.int32), axis=-1) - 1
    bar = tf.gather(ranked, tf.maximum(last, 0), batch_dims=1)
    return tf.where(logits >= tf.expand_dims(bar, 1), logits, -np.inf)

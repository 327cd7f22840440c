"""Distributions of the level of one color channel.

Shapes: `...` any, L levels, K components, P parameters, F features.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from pixace_tf.model.initializers import MIN_SMOOTH_LEVELS, level_initializer
from pixace_tf.typing import Tensor

NUM_COMPONENTS = 5
NUM_COSINES = 16
# Levels lie from -1 to 1. A component is at least as wide as a ninth of a level
# of 8 bits, so that its logarithms stay finite.
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 5.0
# Means move by this share of the change of other outputs; otherwise a step of
# Adam would move them by dozens of levels.
MEAN_RATE = 0.125
# The least probability of a level that is sampled.
_LEAST = 1e-30


class Categorical:
    """One logit for each level.

    `LogisticMixture` has the same methods. The initializers are those of the
    weights and biases that compute the outputs, and of the weights that read
    the features.

    Attributes:
        num_outputs: Number of outputs that the head computes for a channel.
        num_parameters: P.
        num_features: F.
    """

    def __init__(self, levels: int, hidden_dim: int) -> None:
        self.num_outputs = self.num_parameters = self.num_features = levels
        self._hidden_dim = hidden_dim

    def kernel_initializer(self) -> Any:
        levels = self.num_outputs
        if levels < MIN_SMOOTH_LEVELS:
            return "glorot_uniform"
        # The standard deviation of `glorot_uniform`.
        stddev = (2 / (self._hidden_dim + levels)) ** 0.5
        rows = level_initializer(levels, stddev)
        return lambda shape, dtype=None: ops.transpose(
            rows(tuple(shape)[::-1], dtype=dtype)
        )

    def bias_initializer(self) -> Any:
        return "zeros"

    def features_initializer(self) -> Any:
        return level_initializer(self.num_features, stddev=0.1)

    def parameters(self, outputs: Tensor, known: Sequence[Tensor]) -> Tensor:
        """Return the parameters, float32 `(..., P)`.

        The outputs are float32 `(..., num_outputs)`; each of the earlier
        channels `known` is float32 `(...)` from -1 to 1.
        """
        return outputs

    def logits(self, parameters: Tensor) -> Tensor:
        """Return float32 `(..., L)`, given the parameters `(..., P)`."""
        return parameters

    def nats(self, level: Tensor, parameters: Tensor) -> Tensor:
        """Return minus the log probability `(...)` of int32 levels `(...)`."""
        hot = ops.one_hot(level, self.num_parameters, dtype=parameters.dtype)
        total = ops.logsumexp(parameters, axis=-1)
        return total - ops.sum(hot * parameters, axis=-1)

    def features(self, level: Tensor) -> Tensor:
        """Return what later channels learn of a level, float32 `(..., F)`."""
        return ops.one_hot(level, self.num_features, dtype="float32")


class LogisticMixture:
    """A mixture of logistic distributions (PixelCNN++, arXiv 1701.05517).

    Each is cut into levels; the lowest and the highest level also take the
    tails. Earlier channels shift its means in proportion to their levels.
    Learning one level also teaches its neighbors. L is at least 2, and
    `num_known` is the number of earlier channels.
    """

    num_parameters = 3 * NUM_COMPONENTS
    num_features = NUM_COSINES

    def __init__(self, levels: int, num_known: int) -> None:
        self.levels = levels
        self.num_outputs = self.num_parameters + num_known

    def kernel_initializer(self) -> Any:
        return keras.initializers.RandomNormal(stddev=0.02)

    def bias_initializer(self) -> Any:
        # Wide components, spread over the levels.
        means = np.linspace(-0.8, 0.8, NUM_COMPONENTS) / MEAN_RATE
        bias = np.zeros(self.num_outputs)
        bias[NUM_COMPONENTS : 2 * NUM_COMPONENTS] = means
        bias[2 * NUM_COMPONENTS : 3 * NUM_COMPONENTS] = -2.0
        return lambda shape, dtype=None: ops.convert_to_tensor(bias, dtype)

    def features_initializer(self) -> Any:
        return "glorot_uniform"

    def parameters(self, outputs: Tensor, known: Sequence[Tensor]) -> Tensor:
        logits, means, log_scales, slopes = ops.split(
            outputs, [NUM_COMPONENTS * i for i in (1, 2, 3)], axis=-1
        )
        for i, level in enumerate(known):
            means = means + (slopes[..., i] * level)[..., None]
        return ops.concatenate([logits, MEAN_RATE * means, log_scales], axis=-1)

    def logits(self, parameters: Tensor) -> Tensor:
        # Sampling pays for all levels, and sigmoids cost the least. Unlike the
        # logarithms of `nats`, they end at `_LEAST`.
        weights, means, log_scales = ops.split(parameters, 3, axis=-1)
        log_scales = ops.clip(log_scales, MIN_LOG_SCALE, MAX_LOG_SCALE)
        narrow = ops.exp(-log_scales)[..., None]
        places = np.linspace(-1, 1, self.levels, dtype="float32")
        at = narrow * (places - means[..., None])  # (..., K, L)
        half = narrow / (self.levels - 1)
        away = ops.abs(at)
        masses = ops.sigmoid(half - away) - ops.sigmoid(-half - away)
        low, high = (
            ops.sigmoid(side - half) for side in (at[..., :1], -at[..., -1:])
        )
        tails = ops.concatenate(
            [low, ops.zeros_like(at[..., 2:]), high], axis=-1
        )
        weights = ops.softmax(weights, axis=-1)[..., None, :]
        shares = ops.matmul(weights, masses + tails)[..., 0, :]
        return ops.log(ops.maximum(shares, _LEAST))

    def nats(self, level: Tensor, parameters: Tensor) -> Tensor:
        return -self._log_probability(level, parameters)

    def features(self, level: Tensor) -> Tensor:
        frequency = np.pi / 2 * np.arange(NUM_COSINES, dtype="float32")
        return ops.cos(
            (centered(level, self.levels)[..., None] + 1) * frequency
        )

    def _log_probability(self, level: Tensor, parameters: Tensor) -> Tensor:
        logits, means, log_scales = ops.split(parameters, 3, axis=-1)
        log_scales = ops.clip(log_scales, MIN_LOG_SCALE, MAX_LOG_SCALE)
        narrow = ops.exp(-log_scales)
        level = level[..., None]
        at = narrow * (centered(level, self.levels) - means)
        half = narrow / (self.levels - 1)
        is_lowest, is_highest = level == 0, level == self.levels - 1
        # s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), where s is the sigmoid.
        log_masses = (
            ops.where(is_highest, 0.0, -ops.softplus(-at - half))
            + ops.where(is_lowest, 0.0, -ops.softplus(at - half))
            + ops.where(
                is_lowest | is_highest, 0.0, ops.log(-ops.expm1(-2 * half))
            )
        )
        return ops.logsumexp(
            ops.log_softmax(logits, axis=-1) + log_masses, axis=-1
        )


def centered(level: Tensor, levels: int) -> Tensor:
    """Map int32 levels from 0 to `levels - 1` to float32 from -1 to 1."""
    # A channel of 0 bits has one level.
    return ops.cast(level, "float32") * (2 / max(levels - 1, 1)) - 1

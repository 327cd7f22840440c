"""Heads that predict the color of one pixel from the decoder's output.

Shapes: B batch, T pixels, W hidden_dim, L logits.
"""

import abc
import itertools
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from pixace_tf.data.palette import ALPHA, Palette
from pixace_tf.errors import UserError
from pixace_tf.model.channel_distribution import (
    Categorical,
    LogisticMixture,
    centered,
)
from pixace_tf.model.presets import mixture_channels
from pixace_tf.typing import Tensor


class Choose(Protocol):
    """Chooses from logits at one draw.

    Attributes:
        weighs: Whether it returns costs.
    """

    @property
    def weighs(self) -> bool: ...

    def __call__(
        self,
        logits: Tensor,
        draw: int,
        choice: Tensor,
        is_free: Tensor,
        may_draw: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the choice, int32 `(B,)`, and None or the cost of evidence.

        The cost, float32 `(B,)`, is minus the log probability of `choice`, or,
        where the choice is free, of all choices that may be drawn.

        Args:
            logits: float32 `(B, n)`.
            draw: The number of the draw.
            choice: int32 `(B,)`, returned where the choice is not free.
            is_free: bool `(B,)`.
            may_draw: Which choices may be drawn, bool `(B, n)`; None for all.
        """


class ColorHead(keras.layers.Layer, abc.ABC):
    """Predicts the color of a pixel; abstract.

    Sampling an image begins with `begin`; each pixel is sampled by `sample` and
    then told to `remember`, whose result is for the next pixel.

    Attributes:
        num_draws: Random numbers for each pixel.
        alpha_draw: Which of them decides alpha alone, or None.
        copies_colors: Whether it tells new colors from copied ones.
    """

    num_draws: int
    alpha_draw: int | None = None
    copies_colors = False

    @abc.abstractmethod
    def nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        """Return minus log probability of each pixel, float32 `(B, T)`, nats.

        `token_ids` are canonical int32 `(B, T)`, `logits` the call's result.
        """

    @abc.abstractmethod
    def channel_nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        """Return the nats of each channel given the channels before it.

        They are float32 `(B, T, channels)`, in chain order, and add up to
        `nats`.
        """

    def begin(
        self, token_ids: Tensor, position: Tensor, max_colors: Tensor = None
    ) -> Any:
        """Return what the head knows of the pixels before a position.

        Args:
            token_ids: int32 `(B, T)`.
            position: int32 scalar.
            max_colors: int32 `(B,)`: with so many colors, an image gets no new
                one, if the head copies colors; None or 0 for any number.
        """
        return ()

    @abc.abstractmethod
    def sample(
        self,
        hidden: Tensor,
        known: Tensor,
        free: Tensor,
        choose: Choose,
        seen: Any,
        position: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Sample one pixel.

        Args:
            hidden: float `(B, W)`.
            known: int32 `(B,)`, tokens with the levels of known channels.
            free: int32 `(B,)`, the channels to sample: bit c is set for channel
                c of the palette.
            choose: Chooses from logits.
            seen: From `begin` or `remember`.
            position: int32 scalar.

        Returns:
            Canonical tokens, int32 `(B,)`; and float32 `(B,)` tensors that add
            up to the cost of the known channels, if `choose` returns costs. It
            may vary with the sampled channels; the mean of its exponential is
            the probability of the known ones.
        """

    def remember(self, seen: Any, token_ids: Tensor, position: Tensor) -> Any:
        """Return `seen` for the next position.

        `token_ids` are int32 `(B,)`, the pixel at `position`.
        """
        return seen


@keras.saving.register_keras_serializable("pixace_tf")
class ChainHead(ColorHead):
    """Predict the channels of a pixel one after the other, exactly.

    In HSV: alpha if the palette has it, then value, saturation given value, hue
    given both. The product of these distributions covers the same colors as one
    over all packed codes. Channels that the canonical code forces to 0 (see
    `Palette`) cost nothing and are never sampled.

    Alpha is read from the decoder's output without a hidden layer, so that
    transparency costs little time.

    Args:
        palette: The colors, or their text, such as `"hsv 5,4,4"`.
        hidden_dim: Width of the head's one hidden layer per channel.
        use_mixtures: Whether a channel of many levels is a mixture of logistic
            distributions instead of a softmax; a hue, being a circle, is not.
        first_draw: The number of its first draw.
    """

    def __init__(
        self,
        palette: Palette | str,
        hidden_dim: int,
        use_mixtures: bool = False,
        first_draw: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.palette = Palette.get(palette)
        self.hidden_dim = hidden_dim
        self.first_draw = first_draw
        self.order = self.palette.chain_order
        self.num_draws = len(self.order)
        self.alpha_draw = 0 if self.palette.has_alpha else None
        policy = self.dtype_policy
        self.norm = keras.layers.LayerNormalization(dtype=policy, name="norm")
        self.num_hidden = sum(c != ALPHA for c in self.order)
        self.read = keras.layers.Dense(
            self.num_hidden * hidden_dim, dtype=policy, name="read"
        )
        mixed = mixture_channels(self.palette) if use_mixtures else ()
        sizes = self.palette.channel_sizes
        self.distributions: list[Categorical | LogisticMixture] = [
            LogisticMixture(sizes[c], num_known=i)
            if c in mixed
            else Categorical(sizes[c], hidden_dim)
            for i, c in enumerate(self.order)
        ]
        # What the level of each channel tells the channels behind it, if any.
        self.given = [
            None
            if self._tells_nothing(i)
            else self.add_weight(
                name=f"given_{i}",
                shape=(
                    distribution.num_features,
                    (self.num_draws - 1 - i) * hidden_dim,
                ),
                initializer=distribution.features_initializer(),
            )
            for i, distribution in enumerate(self.distributions)
        ]
        self.write = [
            keras.layers.Dense(
                distribution.num_outputs,
                kernel_initializer=distribution.kernel_initializer(),
                bias_initializer=distribution.bias_initializer(),
                dtype="float32",
                name=f"write_{i}",
            )
            for i, distribution in enumerate(self.distributions)
        ]

    def build(self, input_shape: Any) -> None:
        self.norm.build(input_shape)
        self.read.build(input_shape)
        for i, dense in enumerate(self.write):
            width = input_shape[-1] if self._is_alpha(i) else self.hidden_dim
            dense.build((*input_shape[:-1], width))
        self.built = True

    def _is_alpha(self, i: int) -> bool:
        return self.order[i] == ALPHA

    def _tells_nothing(self, i: int) -> bool:
        """Return whether later channels learn nothing from the level of one.

        Nor do they from alpha of one bit: without it, they are forced.
        """
        is_last = i == self.num_draws - 1
        return is_last or (self._is_alpha(i) and self.palette.alpha_bits == 1)

    def call(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Score float `(B, T, W)`, given the true colors, int32 `(B, T)`.

        Returns:
            float32 `(B, T, L)`: for each channel in chain order, a logit per
            level or the parameters of a mixture.
        """
        features = self._features(hidden)
        channels = self.palette.unpack(token_ids)
        parameters = []
        for i, c in enumerate(self.order):
            parameters.append(self._parameters(features, i, channels))
            features = self._reveal(features, i, channels[c])
        return ops.concatenate(parameters, axis=-1)

    def nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        return sum(self._nats(token_ids, logits))

    def channel_nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        return ops.stack(self._nats(token_ids, logits), axis=-1)

    def _nats(self, token_ids: Tensor, logits: Tensor) -> list[Tensor]:
        counts = [d.num_parameters for d in self.distributions[:-1]]
        ends = list(itertools.accumulate(counts))
        parts = ops.split(logits, ends, axis=-1)
        channels = self.palette.unpack(token_ids)
        costs = []
        for part, c, distribution in zip(
            parts, self.order, self.distributions, strict=True
        ):
            nats = distribution.nats(channels[c], part)
            costs.append(self._unless_forced(nats, c, channels))
        return costs

    def sample(
        self,
        hidden: Tensor,
        known: Tensor,
        free: Tensor,
        choose: Choose,
        seen: Any = (),
        position: Tensor = 0,
    ) -> tuple[Tensor, list[Tensor]]:
        features = self._features(hidden)
        channels: list[Tensor] = [None] * self.num_draws
        choices = self.palette.unpack(known)
        costs = []
        for i, c in enumerate(self.order):
            parameters = self._parameters(features, i, channels)
            logits = self.distributions[i].logits(parameters)
            level, cost = choose(
                logits,
                self.first_draw + i,
                choices[c],
                is_free(free, c),
                self._possible(c, choices, free),
            )
            channels[c] = self._unless_forced(level, c, channels)
            if cost is not None:
                costs.append(self._unless_forced(cost, c, channels))
            features = self._reveal(features, i, channels[c])
        return self.palette.pack(channels), costs

    def _possible(
        self, channel: int, choices: list[Tensor], free: Tensor
    ) -> Tensor | None:
        """Return which levels agree with the known levels of later channels.

        Level 0 does not if it forces a channel to 0 that is known not to be.
        Returns None if a channel forces no other, else bool `(B, levels)`.
        """
        forced, newly = set(), {channel}
        while newly:
            newly = {
                c
                for c, by in enumerate(self.palette.forced_by)
                if by in newly and c not in forced
            }
            forced |= newly
        if not forced:
            return None
        is_possible = ops.ones_like(free, dtype="bool")
        for c in sorted(forced):
            is_possible &= is_free(free, c) | (choices[c] == 0)
        levels = np.arange(self.palette.channel_sizes[channel])
        return is_possible[:, None] | (levels > 0)

    def _features(self, hidden: Tensor) -> list[Tensor]:
        """Return what each channel is computed from, `(..., hidden_dim)`.

        For alpha, it is `(..., W)`.
        """
        normed = self.norm(hidden)
        features = ops.split(self.read(normed), self.num_hidden, axis=-1)
        if self._is_alpha(0):
            features = [normed, *features]
        return features

    def _parameters(
        self, features: list[Tensor], i: int, channels: list[Tensor]
    ) -> Tensor:
        """Return the parameters of channel `i` given the channels before it."""
        sizes = self.palette.channel_sizes
        known = [centered(channels[c], sizes[c]) for c in self.order[:i]]
        own = features[i] if self._is_alpha(i) else ops.gelu(features[i])
        outputs = self.write[i](own)
        return self.distributions[i].parameters(outputs, known)

    def _reveal(
        self, features: list[Tensor], i: int, channel: Tensor
    ) -> list[Tensor]:
        """Add the level of channel `i` to the features of later channels."""
        given = self.given[i]
        if given is None:
            return features
        level = self.distributions[i].features(channel)
        level = ops.cast(level, features[0].dtype)
        told = ops.matmul(level, ops.cast(given, level.dtype))
        told = ops.split(told, self.num_draws - 1 - i, axis=-1)
        later = [f + t for f, t in zip(features[i + 1 :], told, strict=True)]
        return features[: i + 1] + later

    def _unless_forced(
        self, x: Tensor, channel: int, channels: list[Tensor]
    ) -> Tensor:
        """Return `x`, or 0 where the canonical code forces a channel to 0."""
        by = self.palette.forced_by[channel]
        if by is None:
            return x
        return ops.where(channels[by] == 0, 0, x)


@keras.saving.register_keras_serializable("pixace_tf")
class PackedHead(ColorHead):
    """Predict the packed color code with one softmax over all canonical codes.

    Args:
        palette: The colors, or their text, such as `"hsv 5,4,4"`; at most 16
            bits in sum, with alpha.

    Raises:
        UserError: If there are more than 2**16 colors.
    """

    num_draws = 1

    def __init__(self, palette: Palette | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.palette = Palette.get(palette)
        if self.palette.num_bits > 16:
            raise UserError(
                "The packed head needs at most 16 bits for each pixel; use the "
                f"chain head for more colors. Received: {self.palette}"
            )
        self.norm = keras.layers.LayerNormalization(
            dtype=self.dtype_policy, name="norm"
        )
        self.write = keras.layers.Dense(
            self.palette.vocabulary_size, dtype="float32", name="write"
        )

    def build(self, input_shape: Any) -> None:
        self.norm.build(input_shape)
        self.write.build(input_shape)
        self.built = True

    def call(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Return float32 `(B, T, vocabulary_size)` for float `(B, T, W)`.

        Codes that are not canonical get minus infinity.
        """
        logits = self.write(self.norm(hidden))
        codes = ops.arange(self.palette.vocabulary_size, dtype="int32")
        is_canonical = self.palette.is_canonical(codes)
        return ops.where(is_canonical, logits, -float("inf"))

    def nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        return -ops.take_along_axis(
            ops.log_softmax(logits), token_ids[..., None], axis=-1
        )[..., 0]

    def channel_nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        # A channel's probability is the sum over all codes that agree with it
        # and with the channels before it.
        # The first channel has the lowest bits, so it is the last axis.
        sizes = self.palette.channel_sizes[::-1]
        codes = ops.log_softmax(logits)
        codes = ops.reshape(codes, (*ops.shape(token_ids), *sizes))
        channels = self.palette.unpack(token_ids)
        axes = tuple(range(-len(sizes), 0))
        left = ops.logsumexp(codes, axis=axes)
        costs = []
        for c in self.palette.chain_order:
            hot = ops.one_hot(channels[c], self.palette.channel_sizes[c])
            shape = [1] * len(sizes)
            shape[-1 - c] = -1
            hot = ops.reshape(hot, (*ops.shape(token_ids), *shape))
            codes = ops.where(hot > 0, codes, -float("inf"))
            chosen = ops.logsumexp(codes, axis=axes)
            costs.append(left - chosen)
            left = chosen
        return ops.stack(costs, axis=-1)

    def sample(
        self,
        hidden: Tensor,
        known: Tensor,
        free: Tensor,
        choose: Choose,
        seen: Any = (),
        position: Tensor = 0,
    ) -> tuple[Tensor, list[Tensor]]:
        # Of all codes, those that have the known levels may be drawn.
        codes = np.arange(self.palette.vocabulary_size, dtype="int32")
        agrees = ops.ones_like(free[:, None], dtype="bool")
        for c, (levels, level) in enumerate(
            zip(
                self.palette.unpack(codes),
                self.palette.unpack(known),
                strict=True,
            )
        ):
            agrees &= is_free(free, c)[:, None] | (levels == level[:, None])
        token_ids, cost = choose(self(hidden, None), 0, known, free > 0, agrees)
        return token_ids, [] if cost is None else [cost]


def is_free(free: Tensor, channel: int) -> Tensor:
    """Return whether a channel is to be sampled, bool `(B,)`; see `sample`."""
    return (free // (1 << channel)) % 2 > 0

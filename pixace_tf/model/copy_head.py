"""The head of pixel art: most pixels copy a color that the image has already.

Shapes: B batch, T pixels, W hidden_dim, N neighbors, K remembered colors, D
width of a key, S sources of a color: neighbors first, then remembered colors.
"""

import functools
import operator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from pixace_tf.data.palette import ALPHA, Palette
from pixace_tf.model.channel_distribution import centered
from pixace_tf.model.color_head import ChainHead, Choose, ColorHead, is_free
from pixace_tf.model.color_sources import (
    CHUNK_LENGTH,
    NO_COLOR,
    NUM_NUMBERS,
    Sources,
    equals_any,
    first_pixels,
    neighbors_of,
    numbers_at,
    push,
    recent_colors,
    sources_of,
)
from pixace_tf.model.pixel_inputs import NEIGHBORS, neighbor_tokens
from pixace_tf.typing import Tensor

# Colors of an image that can be reused; older ones are forgotten.
NUM_COLORS = 64
KEY_DIM = 32
# A color is compared by cosines of its channels, so that similar colors have
# similar keys.
NUM_COSINES = 8
# Width of the hidden layer of routes. Besides the decoder's output, it reads
# which neighbors are equal and how many colors the image has so far, which are
# the same in any colors.
ROUTE_DIM = 64
_PAIRS = np.triu_indices(len(NEIGHBORS), k=1)
_NUM_FACTS = len(_PAIRS[0]) + len(NEIGHBORS) + NUM_NUMBERS
# The first route is a new color; the others copy source 0, 1, ...
_NEW = 0


class Seen(NamedTuple):
    """What sampling knows of the pixels before a position.

    Attributes:
        colors: int32 `(B, T)`, -1 for pixels that are transparent or not before
            the position.
        is_first: int32 `(B, T)`, 1 where a color appears for the first time.
        num_copies: int32 `(B,)`, how many pixels equal a neighbor.
        recent: int32 `(B, K)`, the colors that appeared last, the newest one
            first; -1 behind the last one.
        keys: float32 `(B, K, D)`, the keys of `recent`.
        limit: int32 `(B,)`: with so many colors, no new one is drawn.
    """

    colors: Tensor
    is_first: Tensor
    num_copies: Tensor
    recent: Tensor
    keys: Tensor
    limit: Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class CopyHead(ColorHead):
    """Predict a color as a copy of an earlier one, or as a new one, exactly.

    Alpha comes first; a transparent pixel ends there. The color then takes one
    of several routes: it equals that of neighbor n; it equals the k-th last
    color that appeared in the image; or it is new, and a chain of channels
    predicts it. A color's probability is the sum over all routes that lead to
    it, so nothing tells the model which route to take.

    Args:
        palette: The colors, or their text, such as `"rgb 8,8,8 alpha 1"`.
        hidden_dim: Width of the hidden layers for new colors.
        image_size: `(height, width)`.
    """

    copies_colors = True

    def __init__(
        self,
        palette: Palette | str,
        hidden_dim: int,
        image_size: tuple[int, int],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.palette = Palette.get(palette)
        self.image_size = image_size[0], image_size[1]
        self.num_colors = NUM_COLORS
        opaque = self.palette.opaque
        policy = self.dtype_policy
        self.num_alpha = self.palette.num_image_channels - 3
        # Alpha and the route are drawn before a new color.
        self.new = ChainHead(
            opaque,
            hidden_dim,
            use_mixtures=True,
            first_draw=self.num_alpha + 1,
            dtype=policy,
            name="new",
        )
        self.num_draws = self.new.first_draw + self.new.num_draws
        self.alpha_draw = 0 if self.num_alpha else None
        self.norm = keras.layers.LayerNormalization(dtype=policy, name="norm")
        self.routes = keras.layers.Dense(
            1 + len(NEIGHBORS), dtype="float32", name="routes"
        )
        self.read = keras.layers.Dense(ROUTE_DIM, dtype=policy, name="read")
        self.facts = keras.layers.Dense(
            ROUTE_DIM, use_bias=False, dtype=policy, name="facts"
        )
        # The query for keys, and how much less an older color is wanted.
        self.query = keras.layers.Dense(
            KEY_DIM + 1, dtype="float32", name="query"
        )
        self.key_hidden = keras.layers.Dense(
            2 * KEY_DIM, activation="gelu", dtype="float32", name="key_hidden"
        )
        self.key = keras.layers.Dense(KEY_DIM, dtype="float32", name="key")
        if self.num_alpha:
            self.alpha = keras.layers.Dense(
                self.palette.channel_sizes[-1], dtype="float32", name="alpha"
            )

    def build(self, input_shape: Any) -> None:
        for layer in (self.new, self.norm, self.read):
            layer.build(input_shape)
        if self.num_alpha:
            self.alpha.build(input_shape)
        for dense, width in (
            (self.facts, _NUM_FACTS),
            (self.routes, ROUTE_DIM),
            (self.query, ROUTE_DIM),
            (self.key_hidden, 3 * NUM_COSINES),
            (self.key, 2 * KEY_DIM),
        ):
            dense.build((*input_shape[:-1], width))
        self.built = True

    def call(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Score float `(B, T, W)`, given the true colors, int32 `(B, T)`.

        Returns:
            float32 `(B, T, L)`: a logit for each level of alpha, one for each
            route, minus infinity for impossible ones, and the logits of a new
            color.
        """
        colors, _ = self._split(token_ids)
        normed = self.norm(hidden)
        sources, recent, age, numbers = self._sources_of(colors)
        length, chunk = token_ids.shape[1], CHUNK_LENGTH
        missing = -length % chunk
        features = self._features(normed, sources, numbers)
        query = ops.pad(self.query(features), ((0, 0), (0, missing), (0, 0)))
        query = ops.reshape(query, (-1, age.shape[1], chunk, KEY_DIM + 1))
        keys = self._keys(recent)
        reuse = ops.matmul(
            query[..., :KEY_DIM], ops.transpose(keys, (0, 1, 3, 2))
        ) - query[..., KEY_DIM:] * ops.log1p(ops.maximum(age, 0.0))
        reuse = ops.reshape(reuse, (-1, length + missing, age.shape[-1]))
        routes = ops.concatenate(
            [self.routes(features), reuse[:, :length]], axis=-1
        )
        routes = _mask(routes, sources)
        new = self.new(hidden, ops.maximum(colors, 0))
        alpha = [self.alpha(normed)] if self.num_alpha else []
        return ops.concatenate([*alpha, routes, new], axis=-1)

    def nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        colors, alpha = self._split(token_ids)
        alpha_nats, routes, new = self._parts(colors, alpha, logits)
        sources, *_ = self._sources_of(colors)
        nats = self.new.nats(ops.maximum(colors, 0), new)
        is_match = sources == colors[..., None]
        left = ops.logsumexp(routes, axis=-1)
        nats = left - _found(routes, is_match, nats)
        return alpha_nats + ops.where(colors < 0, 0.0, nats)

    def channel_nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        # A channel's probability is the sum over all routes to colors that
        # agree with it and with the channels before it.
        colors, alpha = self._split(token_ids)
        alpha_nats, routes, new = self._parts(colors, alpha, logits)
        sources, *_ = self._sources_of(colors)
        true = ops.maximum(colors, 0)
        opaque = self.palette.opaque
        each = self.new.channel_nats(true, new)
        is_match = sources >= 0
        offered, asked = map(opaque.unpack, (ops.maximum(sources, 0), true))
        left = ops.logsumexp(routes, axis=-1)
        costs = [alpha_nats] if self.num_alpha else []
        nats = ops.zeros_like(left)
        for i, c in enumerate(opaque.chain_order):
            is_match = is_match & (offered[c] == asked[c][..., None])
            nats = nats + each[..., i]
            found = _found(routes, is_match, nats)
            costs.append(ops.where(colors < 0, 0.0, left - found))
            left = found
        return ops.stack(costs, axis=-1)

    def begin(
        self, token_ids: Tensor, position: Tensor, max_colors: Tensor = None
    ) -> Seen:
        colors, _ = self._split(token_ids)
        length = token_ids.shape[1]
        is_before = ops.arange(length, dtype="int32") < position
        colors = ops.where(is_before, colors, NO_COLOR)
        is_first = first_pixels(colors)
        around = neighbors_of(colors, self.image_size)
        num_copies = ops.sum(equals_any(colors[..., None], around), axis=1)
        recent = recent_colors(colors, is_first, self.num_colors)
        limit = ops.full_like(num_copies, length + 1)
        if max_colors is not None:
            limit = ops.where(max_colors > 0, max_colors, limit)
        keys = self._keys(recent)
        return Seen(colors, is_first, num_copies, recent, keys, limit)

    def sample(
        self,
        hidden: Tensor,
        known: Tensor,
        free: Tensor,
        choose: Choose,
        seen: Seen,
        position: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        normed = self.norm(hidden)
        known_color, known_alpha = self.palette.split_alpha(known)
        asked = self.palette.opaque.unpack(known_color)
        is_open = [is_free(free, c) for c in range(len(asked))]
        costs = []
        alpha, is_visible = None, ops.ones_like(known, dtype="bool")
        if self.num_alpha:
            is_clear = is_visible
            for channel, is_unknown in zip(asked, is_open, strict=True):
                is_clear &= is_unknown | (channel == 0)
            levels = np.arange(self.palette.channel_sizes[ALPHA])
            alpha, cost = choose(
                self.alpha(normed),
                0,
                known_alpha,
                is_free(free, ALPHA),
                # A channel that is not 0 is visible.
                is_clear[:, None] | (levels > 0),
            )
            is_visible = alpha > 0
            costs += [] if cost is None else [cost]
        sources, routes, count = self._routes(normed, seen, position)
        new = ops.zeros_like(known)
        is_asked = is_visible & ~functools.reduce(operator.and_, is_open)
        if choose.weighs:
            # The known channels of a new color may cost more or less with those
            # that are drawn, so they are drawn before the route.
            new, cost = self._sample_new(
                hidden, known_color, free, choose, is_asked
            )
            agrees = sources >= 0
            offered = self.palette.opaque.unpack(sources)
            for level, levels, is_unknown in zip(
                asked, offered, is_open, strict=True
            ):
                agrees &= is_unknown[:, None] | (levels == level[:, None])
            left = ops.logsumexp(routes, axis=-1)
            routes = ops.concatenate(
                [
                    routes[:, :1] - cost[:, None],
                    ops.where(agrees, routes[:, 1:], -float("inf")),
                ],
                axis=-1,
            )
            cost = left - ops.logsumexp(routes, axis=-1)
            costs.append(ops.where(is_visible, cost, 0.0))
        may_be_new = is_asked | (count < seen.limit)
        route, _ = choose(
            routes,
            self.num_alpha,
            ops.zeros_like(known),
            ops.ones_like(is_visible),
            ops.concatenate([may_be_new[:, None], sources >= 0], axis=-1),
        )
        is_new = (route == _NEW) & is_visible
        drawn, _ = self._sample_new(
            hidden, known_color, free, choose, is_new & ~is_asked
        )
        copied = ops.take_along_axis(
            sources, ops.maximum(route - 1, 0)[:, None], axis=1
        )[:, 0]
        color = ops.where(is_new, ops.where(is_asked, new, drawn), copied)
        color = ops.where(is_visible, color, 0)
        return self.palette.join_alpha(color, alpha), costs

    def remember(self, seen: Seen, token_ids: Tensor, position: Tensor) -> Seen:
        color, _ = self._split(token_ids)
        color = color[:, None]
        is_old = ops.any(seen.colors == color, axis=1, keepdims=True)
        is_first = ~is_old & (color >= 0)
        is_copy = equals_any(color, self._around(seen.colors, position))
        here = ops.one_hot(position, seen.colors.shape[1], dtype="int32")

        def add() -> tuple[Tensor, Tensor]:
            return (
                push(seen.recent, color, is_first),
                push(seen.keys, self._keys(color), is_first[..., None]),
            )

        # Few pixels have a color that is new to their image.
        recent, keys = ops.cond(
            ops.any(is_first), add, lambda: (seen.recent, seen.keys)
        )
        return Seen(
            seen.colors + here * (color - NO_COLOR),
            seen.is_first + here * ops.cast(is_first, "int32"),
            seen.num_copies + is_copy,
            recent,
            keys,
            seen.limit,
        )

    def _features(
        self, normed: Tensor, sources: Tensor, numbers: Tensor
    ) -> Tensor:
        """Return what routes are chosen by, `(..., ROUTE_DIM)`."""
        around = sources[..., : len(NEIGHBORS)]
        first, second = (ops.take(around, index, axis=-1) for index in _PAIRS)
        pattern = ops.concatenate([first == second, around >= 0], axis=-1)
        pattern, numbers = (ops.cast(x, "float32") for x in (pattern, numbers))
        facts = ops.concatenate([pattern, ops.log1p(numbers)], axis=-1)
        return ops.gelu(self.read(normed) + self.facts(facts))

    def _split(self, token_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return colors, -1 where transparent, and alpha if there is any."""
        colors, alpha = self.palette.split_alpha(token_ids)
        if alpha is not None:
            colors = ops.where(alpha > 0, colors, NO_COLOR)
        return colors, alpha

    def _parts(
        self, colors: Tensor, alpha: Tensor | None, logits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nats of alpha, and the logits of routes and new colors."""
        nats = ops.zeros_like(logits[..., 0])
        num_levels = 0
        if alpha is not None:
            num_levels = self.palette.channel_sizes[-1]
            levels = ops.log_softmax(logits[..., :num_levels], axis=-1)
            hot = ops.one_hot(alpha, num_levels, dtype=levels.dtype)
            nats = -ops.sum(hot * levels, axis=-1)
        num_routes = 1 + len(NEIGHBORS) + self.num_colors + CHUNK_LENGTH
        end = num_levels + num_routes
        return nats, logits[..., num_levels:end], logits[..., end:]

    def _sources_of(self, colors: Tensor) -> Sources:
        return sources_of(colors, self.image_size, self.num_colors)

    def _around(self, colors: Tensor, position: Tensor) -> Tensor:
        return neighbor_tokens(colors, position, self.image_size, NO_COLOR)

    def _keys(self, colors: Tensor) -> Tensor:
        """Return float32 `(..., D)` for colors `(...)`."""
        frequency = np.pi / 2 * np.arange(NUM_COSINES, dtype="float32")
        opaque = self.palette.opaque
        channels = zip(
            opaque.unpack(ops.maximum(colors, 0)),
            opaque.channel_sizes,
            strict=True,
        )
        waves = [
            ops.cos((centered(level, size)[..., None] + 1) * frequency)
            for level, size in channels
        ]
        return self.key(self.key_hidden(ops.concatenate(waves, axis=-1)))

    def _routes(
        self, normed: Tensor, seen: Seen, position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return sources, int32 `(B, S)`, logits, float32 `(B, 1 + S)`.

        Also returns the number of colors so far, int32 `(B,)`.
        """
        around = self._around(seen.colors, position)
        sources = ops.concatenate([around, seen.recent], axis=-1)
        numbers = numbers_at(
            position, seen.colors, seen.is_first, seen.num_copies
        )
        features = self._features(normed, sources, numbers)
        query = self.query(features)
        age = np.log1p(np.arange(self.num_colors, dtype="float32"))
        reuse = ops.sum(query[:, None, :KEY_DIM] * seen.keys, axis=-1)
        reuse = reuse - query[:, KEY_DIM:] * age
        routes = ops.concatenate([self.routes(features), reuse], axis=-1)
        return sources, _mask(routes, sources), numbers[:, 0]

    def _sample_new(
        self,
        hidden: Tensor,
        known: Tensor,
        free: Tensor,
        choose: Choose,
        is_new: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return new colors, int32 `(B,)`, and what known channels cost.

        Both are 0 where no color is needed. Most pixels copy, so the work is
        skipped where none of them needs it.
        """
        no_cost = ops.zeros_like(hidden[:, 0], dtype="float32")
        none = ops.zeros_like(known)

        def sample() -> tuple[Tensor, Tensor]:
            colors, costs = self.new.sample(hidden, known, free, choose)
            cost = sum(costs, no_cost)
            return colors, ops.where(is_new, cost, no_cost)

        return ops.cond(ops.any(is_new), sample, lambda: (none, no_cost))


def _mask(routes: Tensor, sources: Tensor) -> Tensor:
    """Exclude the routes to sources without a color."""
    is_there = ops.concatenate(
        [ops.ones_like(sources[..., :1], dtype="bool"), sources >= 0], axis=-1
    )
    return ops.where(is_there, routes, -float("inf"))


def _found(routes: Tensor, is_match: Tensor, new_nats: Tensor) -> Tensor:
    """Return the log of the sum over the routes that lead to a color.

    It is float32 `(...)`, for routes `(..., 1 + S)`, sources that match, bool
    `(..., S)`, and the cost of the color on the route of new ones, `(...)`.
    """
    found = ops.where(is_match, routes[..., 1:], -float("inf"))
    new = routes[..., :1] - new_nats[..., None]
    return ops.logsumexp(ops.concatenate([new, found], axis=-1), axis=-1)

"""Palettes: the colors a pixel can have, and their packing into tokens.

All arithmetic uses plain operators, so it works on NumPy arrays and on integer
tensors of every Keras backend.
"""

import dataclasses
import itertools
import operator
from collections.abc import Sequence
from typing import Any

from pixace_tf.errors import UserError
from pixace_tf.typing import Tensor

BitWidths = tuple[int, int, int]

CHANNEL_NAMES = {
    "hsv": ("hue", "saturation", "value"),
    "rgb": ("red", "green", "blue"),
}
COLOR_SPACES = tuple(CHANNEL_NAMES)
# The channel that follows those of the color.
ALPHA = 3
MAX_ALPHA_BITS = 8
# Value, saturation, hue; green, the brightest color, before red and blue.
_CHAIN_ORDERS = {"hsv": (2, 1, 0), "rgb": (1, 0, 2)}
# Tokens are int32, and the start token stands above all colors.
_MAX_PLAIN_BITS = 30


@dataclasses.dataclass(frozen=True)
class Palette:
    """A color space and the number of bits of each channel.

    A token packs the channels of a pixel; the first channel takes the lowest
    bits: `c0 | c1 << b0 | c2 << (b0 + b1) | alpha << (b0 + b1 + b2)`. Several
    codes can stand for one color: gray has any hue, black any hue and
    saturation, a transparent pixel any color. Only the canonical code is used,
    in which such channels are 0.

    Attributes:
        color_space: `"hsv"` or `"rgb"`.
        bit_widths: Bits per color channel, each in `[0, 8]`, their sum in
            `[1, 24]`.
        alpha_bits: Bits of transparency in `[0, 8]`; with 0, all is opaque.

    Raises:
        UserError: If a value is out of bounds.

    Example:
    >>> palette = Palette("hsv", (5, 4, 4))
    >>> palette.name, str(palette), palette.vocabulary_size
    ('HSV 544', 'hsv 5,4,4', 8192)
    >>> palette.unpack(palette.pack([3, 2, 1]))
    [3, 2, 1]
    >>> palette = Palette("hsv", (5, 4, 4), alpha_bits=1)
    >>> palette.name, str(palette), palette.channel_names
    ('HSV 544 A1', 'hsv 5,4,4 alpha 1', ('alpha', 'value', 'saturation', 'hue'))
    """

    color_space: str = "hsv"
    bit_widths: BitWidths = (5, 4, 4)
    alpha_bits: int = 0

    def __post_init__(self) -> None:
        if self.color_space not in COLOR_SPACES:
            raise UserError(
                f"color_space must be one of {', '.join(COLOR_SPACES)}. "
                f"Received: color_space={self.color_space!r}"
            )
        widths = tuple(self.bit_widths)
        if (
            len(widths) != 3
            or any(not isinstance(b, int) or not 0 <= b <= 8 for b in widths)
            or not 1 <= sum(widths) <= 24
        ):
            raise UserError(
                "bit_widths must be three integers from 0 to 8 with a sum from "
                f"1 to 24. Received: bit_widths={self.bit_widths!r}"
            )
        object.__setattr__(self, "bit_widths", widths)
        bits = self.alpha_bits
        if not isinstance(bits, int) or not 0 <= bits <= MAX_ALPHA_BITS:
            raise UserError(
                "alpha_bits must be an integer from 0 to 8. "
                f"Received: alpha_bits={bits!r}"
            )

    @classmethod
    def get(cls, identifier: "Palette | str") -> "Palette":
        """Return the palette itself, or the one named by a text."""
        if isinstance(identifier, Palette):
            return identifier
        return cls.parse(identifier)

    @classmethod
    def parse(cls, text: str) -> "Palette":
        """Return the palette named by a text such as `hsv 5,4,4 alpha 1`.

        Raises:
            UserError: If the text has another form.
        """
        try:
            color_space, widths, *alpha = text.split()
            first, second, third = (int(b) for b in widths.split(","))
            word, alpha_bits = alpha or ("alpha", "0")
            if word != "alpha":
                raise ValueError
            bits = int(alpha_bits)
        except (AttributeError, ValueError):
            raise UserError(
                "A palette is given like 'hsv 5,4,4' or 'hsv 5,4,4 alpha 1'. "
                f"Received: {text!r}"
            ) from None
        return cls(color_space, (first, second, third), bits)

    def __str__(self) -> str:
        text = f"{self.color_space} {','.join(map(str, self.bit_widths))}"
        return f"{text} alpha {self.alpha_bits}" if self.alpha_bits else text

    @property
    def name(self) -> str:
        """The short name for people, such as `HSV 544` or `HSV 544 A1`."""
        digits = "".join(map(str, self.bit_widths))
        name = f"{self.color_space.upper()} {digits}"
        return f"{name} A{self.alpha_bits}" if self.alpha_bits else name

    @property
    def has_alpha(self) -> bool:
        """Whether pixels can be transparent."""
        return self.alpha_bits > 0

    @property
    def opaque(self) -> "Palette":
        """The same colors without alpha."""
        return dataclasses.replace(self, alpha_bits=0)

    @property
    def num_image_channels(self) -> int:
        """Channels of an image in these colors: 3 for RGB, 4 for RGBA."""
        return 4 if self.has_alpha else 3

    @property
    def num_bits(self) -> int:
        """Bits of a code, from 1 to 32."""
        return sum(self.bit_widths) + self.alpha_bits

    @property
    def vocabulary_size(self) -> int:
        """Number of codes; tokens lie in `[0, vocabulary_size)`.

        With more than 30 bits, int32 tokens of codes from 2**31 on are
        negative: the code minus 2**32.
        """
        return 1 << self.num_bits

    @property
    def start_token_id(self) -> int:
        """The token of all positions outside the image.

        It stands above all codes. Where int32 has no room there, it is 1: a
        transparent pixel with a color, which is not canonical.
        """
        return 1 if self.num_bits > _MAX_PLAIN_BITS else self.vocabulary_size

    @property
    def channel_sizes(self) -> tuple[int, ...]:
        """Number of levels of each channel; alpha, if any, is the last."""
        alpha = (self.alpha_bits,) if self.has_alpha else ()
        return tuple(1 << bits for bits in (*self.bit_widths, *alpha))

    @property
    def place_values(self) -> tuple[int, ...]:
        """What one level of each channel adds to a token."""
        sizes = (1, *self.channel_sizes[:-1])
        return tuple(itertools.accumulate(sizes, operator.mul))

    @property
    def chain_order(self) -> tuple[int, ...]:
        """The channels in the order in which the color head predicts them."""
        order = _CHAIN_ORDERS[self.color_space]
        return (ALPHA, *order) if self.has_alpha else order

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in the order of the chain."""
        names = (*CHANNEL_NAMES[self.color_space], "alpha")
        return tuple(names[c] for c in self.chain_order)

    @property
    def circular_channel(self) -> int | None:
        """The channel whose last level is next to its first: the hue."""
        return 0 if self.color_space == "hsv" else None

    @property
    def forced_by(self) -> tuple[int | None, ...]:
        """For each channel, the channel whose level 0 forces it to 0, or None.

        A value of 0 bits stands for white.
        """
        by_alpha = ALPHA if self.has_alpha else None
        forced: list[int | None] = [by_alpha] * 3
        if self.color_space == "hsv":
            forced[0] = 1
            forced[1] = 2 if self.bit_widths[2] else by_alpha
        return (*forced, None) if self.has_alpha else tuple(forced)

    @property
    def num_colors(self) -> int:
        """Number of canonical codes: the colors that a pixel can have."""
        count = 1 << sum(self.bit_widths)
        if self.color_space == "hsv":
            hues, saturations, values = self.channel_sizes[:3]
            count = 1 + (saturations - 1) * hues
            if values > 1:
                count = 1 + (values - 1) * count
        if not self.has_alpha:
            return count
        return 1 + (self.channel_sizes[ALPHA] - 1) * count

    def pack(self, channels: Sequence[Tensor]) -> Tensor:
        """Pack channels into tokens `(...)`; see `vocabulary_size`.

        Channel `c` is an integer array `(...)` in `[0, channel_sizes[c])`.
        """
        if self.has_alpha:
            *color, alpha = channels
            channels = *color, self._signed(alpha)
        tokens = channels[0]
        for channel, value in zip(
            channels[1:], self.place_values[1:], strict=True
        ):
            tokens = tokens + value * channel
        return tokens

    def unpack(self, token_ids: Tensor) -> list[Tensor]:
        """Undo `pack`: return an integer array `(...)` for each channel."""
        places = zip(self.place_values, self.channel_sizes, strict=True)
        # Both operators round down, so a negative token has the same levels as
        # the code that it stands for.
        return [(token_ids // value) % size for value, size in places]

    def split_alpha(self, token_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the codes in the opaque palette, and alpha if there is any.

        Both are integers `(...)`, for tokens of codes.
        """
        if not self.has_alpha:
            return token_ids, None
        place, levels = self.place_values[ALPHA], self.channel_sizes[ALPHA]
        return token_ids % place, (token_ids // place) % levels

    def join_alpha(self, colors: Tensor, alpha: Tensor | None) -> Tensor:
        """Undo `split_alpha`."""
        if alpha is None:
            return colors
        return colors + self.place_values[ALPHA] * self._signed(alpha)

    def _signed(self, alpha: Tensor) -> Tensor:
        """Return alpha so that int32 tokens do not overflow."""
        if self.num_bits < 32:
            return alpha
        # The highest bit is the sign of an int32.
        return (alpha + 128) % 256 - 128

    @property
    def all_channels(self) -> int:
        """All channels; see `channels_named`."""
        return (1 << len(self.channel_sizes)) - 1

    def channels_named(self, names: Sequence[str]) -> int:
        """Return the channels of some names: bit c is set for channel c.

        The names are some of `channel_names`.

        Raises:
            UserError: If there is no channel of a name.
        """
        known = dict(zip(self.channel_names, self.chain_order, strict=True))
        for name in names:
            if name not in known:
                raise UserError(
                    f"The channels of {self.name} are {', '.join(known)}. "
                    f"Received: {name!r}"
                )
        return sum(1 << known[name] for name in set(names))

    def only(self, token_ids: Tensor, channels: Any) -> Tensor:
        """Return tokens in which all other channels are 0, integers `(...)`.

        `channels` are integers for each token or for all, as `channels_named`
        returns them.
        """
        kept = self._are_among(channels)
        levels = self.unpack(token_ids)
        return self.pack(
            [x * is_kept for x, is_kept in zip(levels, kept, strict=True)]
        )

    def shown(self, token_ids: Tensor, channels: Any) -> Tensor:
        """Return codes that show some channels to people; see `only`.

        The others have their middle level, except for hue and saturation, which
        are gray if both are not there, and alpha, which is opaque.
        """
        kept = self._are_among(channels)
        others = [size // 2 for size in self.channel_sizes]
        if self.has_alpha:
            others[ALPHA] = self.channel_sizes[ALPHA] - 1
        if self.color_space == "hsv":
            is_colored = kept[0] + kept[1] - kept[0] * kept[1]
            others[:2] = [is_colored * level for level in others[:2]]
        levels = self.unpack(token_ids)
        return self.pack(
            [
                x * is_kept + other * (1 - is_kept)
                for x, is_kept, other in zip(levels, kept, others, strict=True)
            ]
        )

    def _are_among(self, channels: Any) -> list[Any]:
        """Return for each channel whether it is there, 0 or 1."""
        return [
            channels // (1 << c) % 2 for c in range(len(self.channel_sizes))
        ]

    @property
    def token_range(self) -> range:
        """The integers that are tokens of a code."""
        low = -(1 << 31) if self.num_bits == 32 else 0
        return range(low, low + self.vocabulary_size)

    def is_canonical(self, token_ids: Tensor) -> Tensor:
        """Return which codes are canonical, bool, for tokens of codes."""
        channels = self.unpack(token_ids)
        is_canonical = channels[0] >= 0  # All of them, so far.
        for channel, by in zip(channels, self.forced_by, strict=True):
            if by is not None:
                is_canonical &= (channels[by] > 0) | (channel == 0)
        return is_canonical

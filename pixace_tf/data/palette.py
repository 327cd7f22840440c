"""Palettes: the colors a pixel can have, and their packing into tokens.

All arithmetic uses plain operators, so it works on NumPy arrays and on integer
tensors of every Keras backend.
"""

import dataclasses
from collections.abc import Sequence

from pixace_tf.errors import UserError
from pixace_tf.typing import Tensor

BitWidths = tuple[int, int, int]

CHANNEL_NAMES = {
    "hsv": ("hue", "saturation", "value"),
    "rgb": ("red", "green", "blue"),
}
COLOR_SPACES = tuple(CHANNEL_NAMES)
# Value, saturation, hue; green, the brightest color, before red and blue.
_CHAIN_ORDERS = {"hsv": (2, 1, 0), "rgb": (1, 0, 2)}


@dataclasses.dataclass(frozen=True)
class Palette:
    """A color space and the number of bits of each channel.

    A token packs the three channels of a color; the first channel takes the
    lowest bits: `c0 | c1 << b0 | c2 << (b0 + b1)`. Several HSV codes can stand
    for one color: gray has any hue, black any hue and saturation. Only the
    canonical code is used, in which such channels are 0.

    Attributes:
        color_space: `"hsv"` or `"rgb"`.
        bit_widths: Bits per channel, each in `[0, 8]`, their sum in `[1, 24]`.

    Raises:
        UserError: If a value is out of bounds.

    Example:
    >>> palette = Palette("hsv", (5, 4, 4))
    >>> palette.name, str(palette), palette.vocabulary_size
    ('HSV 544', 'hsv 5,4,4', 8192)
    >>> palette.unpack(palette.pack([3, 2, 1]))
    [3, 2, 1]
    """

    color_space: str = "hsv"
    bit_widths: BitWidths = (5, 4, 4)

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

    @classmethod
    def get(cls, identifier: "Palette | str") -> "Palette":
        """Return the palette itself, or the one named by a text."""
        if isinstance(identifier, Palette):
            return identifier
        return cls.parse(identifier)

    @classmethod
    def parse(cls, text: str) -> "Palette":
        """Return the palette named by a text such as `hsv 5,4,4`.

        Raises:
            UserError: If the text has another form.
        """
        try:
            color_space, widths = text.split()
            first, second, third = (int(b) for b in widths.split(","))
        except (AttributeError, ValueError):
            raise UserError(
                f"A palette is given like 'hsv 5,4,4'. Received: {text!r}"
            ) from None
        return cls(color_space, (first, second, third))

    def __str__(self) -> str:
        return f"{self.color_space} {','.join(map(str, self.bit_widths))}"

    @property
    def name(self) -> str:
        """The short name for people, such as `HSV 544`."""
        digits = "".join(map(str, self.bit_widths))
        return f"{self.color_space.upper()} {digits}"

    @property
    def vocabulary_size(self) -> int:
        """Number of codes; tokens lie in `[0, vocabulary_size)`."""
        return 1 << sum(self.bit_widths)

    @property
    def start_token_id(self) -> int:
        """The token of all positions outside the image."""
        return self.vocabulary_size

    @property
    def channel_sizes(self) -> tuple[int, int, int]:
        """Number of levels of each channel."""
        first, second, third = self.bit_widths
        return 1 << first, 1 << second, 1 << third

    @property
    def place_values(self) -> tuple[int, int, int]:
        """What one level of each channel adds to a token."""
        first, second, _ = self.bit_widths
        return 1, 1 << first, 1 << (first + second)

    @property
    def chain_order(self) -> tuple[int, int, int]:
        """The channels in the order in which the color head predicts them."""
        return _CHAIN_ORDERS[self.color_space]

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in the order of the chain."""
        names = CHANNEL_NAMES[self.color_space]
        return tuple(names[c] for c in self.chain_order)

    @property
    def circular_channel(self) -> int | None:
        """The channel whose last level is next to its first: the hue."""
        return 0 if self.color_space == "hsv" else None

    @property
    def forced_by(self) -> tuple[int | None, int | None, int | None]:
        """For each channel, the channel whose level 0 forces it to 0, or None.

        A value of 0 bits stands for white.
        """
        if self.color_space != "hsv":
            return None, None, None
        return 1, 2 if self.bit_widths[2] else None, None

    @property
    def num_colors(self) -> int:
        """Number of canonical codes: the colors that a pixel can have."""
        if self.color_space != "hsv":
            return self.vocabulary_size
        hues, saturations, values = self.channel_sizes
        per_value = 1 + (saturations - 1) * hues
        return 1 + (values - 1) * per_value if values > 1 else per_value

    def pack(self, channels: Sequence[Tensor]) -> Tensor:
        """Pack three channels into tokens `(...)` in `[0, vocabulary_size)`.

        Channel `c` is an integer array `(...)` in `[0, channel_sizes[c])`.
        """
        first, second, third = channels
        _, of_second, of_third = self.place_values
        return first + second * of_second + third * of_third

    def unpack(self, token_ids: Tensor) -> list[Tensor]:
        """Undo `pack`: return three integer arrays `(...)`."""
        places = zip(self.place_values, self.channel_sizes, strict=True)
        return [(token_ids // value) % size for value, size in places]

    def is_canonical(self, token_ids: Tensor) -> Tensor:
        """Return which codes in `[0, vocabulary_size)` are canonical, bool."""
        channels = self.unpack(token_ids)
        is_canonical = token_ids >= 0
        for channel, by in zip(channels, self.forced_by, strict=True):
            if by is not None:
                is_canonical &= (channels[by] > 0) | (channel == 0)
        return is_canonical

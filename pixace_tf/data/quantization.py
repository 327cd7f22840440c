"""From 8-bit colors to the levels of a palette's channels, and back.

All arithmetic is on integers, by plain operators and a module `xp`: NumPy, or
TensorFlow for graphs. So an image has the same tokens on every machine, in
Python, in a `tf.data` graph and in a SavedModel. The caller casts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pixace_tf.data.palette import ALPHA, Palette
from pixace_tf.typing import Tensor


def quantize(image: Tensor, palette: Palette, xp: Any = np) -> list[Tensor]:
    """Quantize 8-bit colors to the channels of a palette.

    A linear channel `x` in `[0, 1]` becomes `round(x * (2**b - 1))`; hue, which
    is circular, becomes `round(h * 2**b) mod 2**b`; halves round up. The codes
    are canonical.

    Args:
        image: int32 `(..., palette.num_image_channels)` in `[0, 255]`, RGB or
            RGBA.
        palette: The palette.
        xp: The module of `image`, NumPy or TensorFlow.

    Returns:
        For each channel an int32 array `(...)`; channel `c` in
        `[0, palette.channel_sizes[c])`.
    """
    red, green, blue = (image[..., c] for c in range(3))
    if palette.color_space == "rgb":
        sizes = palette.channel_sizes[:3]
        pairs = zip((red, green, blue), sizes, strict=True)
        channels = [_to_level(level, size) for level, size in pairs]
    else:
        channels = _quantize_hsv(red, green, blue, palette, xp)
    if palette.has_alpha:
        size = palette.channel_sizes[ALPHA]
        channels.append(_to_level(image[..., ALPHA], size))
    for c in palette.chain_order:
        by = palette.forced_by[c]
        if by is not None:
            channels[c] = xp.where(channels[by] == 0, 0, channels[c])
    return channels


def _quantize_hsv(
    red: Tensor, green: Tensor, blue: Tensor, palette: Palette, xp: Any
) -> list[Tensor]:
    """Return hue, saturation and value, not yet canonical."""
    hues, saturations, values = palette.channel_sizes[:3]
    largest = xp.maximum(xp.maximum(red, green), blue)
    spread = largest - xp.minimum(xp.minimum(red, green), blue)
    value = _to_level(largest, values)
    saturation = _round_divide(
        spread * (saturations - 1), xp.maximum(largest, 1)
    )
    # Sixths of the color circle, in units of 1 / spread: [0, 6 * spread).
    sixths = xp.where(
        largest == red,
        xp.where(green >= blue, green - blue, 6 * spread + green - blue),
        xp.where(
            largest == green,
            2 * spread + blue - red,
            4 * spread + red - green,
        ),
    )
    hue = _round_divide(sixths * hues, 6 * xp.maximum(spread, 1)) % hues
    return [hue, saturation, value]


def dequantize(
    channels: Sequence[Tensor], palette: Palette, xp: Any = np
) -> Tensor:
    """Turn quantized channels back into 8-bit colors, exactly, halves up.

    A channel of 0 bits becomes 0, except for the value of HSV, which becomes 1:
    otherwise every image would be black. Transparent pixels become black.

    Args:
        channels: As `quantize` returns them.
        palette: The palette.
        xp: The module of `channels`, NumPy or TensorFlow.

    Returns:
        int32 `(..., palette.num_image_channels)` in `[0, 255]`, RGB or RGBA.
    """
    color = channels[:3]
    if palette.color_space == "rgb":
        sizes = palette.channel_sizes[:3]
        pairs = zip(color, sizes, strict=True)
        image = [_from_level(channel, size) for channel, size in pairs]
    else:
        image = _dequantize_hsv(color, palette, xp)
    if palette.has_alpha:
        level = channels[ALPHA]
        if palette.color_space == "hsv" and not palette.bit_widths[2]:
            image = [xp.where(level == 0, 0, channel) for channel in image]
        image.append(_from_level(level, palette.channel_sizes[ALPHA]))
    return xp.stack(image, axis=-1)


def _dequantize_hsv(
    channels: Sequence[Tensor], palette: Palette, xp: Any
) -> list[Tensor]:
    """Return red, green and blue."""
    top = [max(size - 1, 1) for size in palette.channel_sizes]
    turn = palette.channel_sizes[0]
    hue, saturation, value = channels
    if not palette.bit_widths[2]:
        value = value + 1
    whole = top[1] * turn
    # Of 255 * value / top[2], the integer and the remainder; a product of both
    # with `share` would exceed int32.
    integer, remainder = 255 * value // top[2], 255 * value % top[2]
    rgb = []
    for shift in (5, 3, 1):
        # Distance of the hue from this channel's full range: 0 to 1, in turns.
        sixths = (shift * turn + 6 * hue) % (6 * turn)
        distance = xp.minimum(xp.minimum(sixths, 4 * turn - sixths), turn)
        distance = xp.maximum(distance, 0)
        share = whole - saturation * distance
        product = integer * share
        rest = product % whole * top[2] + remainder * share
        rgb.append(product // whole + _round_divide(rest, whole * top[2]))
    return rgb


def blend(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Lay uint16 colors `(..., 3)` over white by their alpha `(..., 1)`."""
    return (rgb * alpha + 255 * (255 - alpha) + 127) // 255


def _to_level(channel: Tensor, size: int) -> Tensor:
    """Quantize a linear channel in `[0, 255]` to `size` levels."""
    return _round_divide(channel * (size - 1), 255)


def _from_level(level: Tensor, size: int) -> Tensor:
    """Undo `_to_level`."""
    return _round_divide(level * 255, max(size - 1, 1))


def _round_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide non-negative integers, rounding to nearest, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)

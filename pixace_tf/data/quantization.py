"""From 8-bit colors to the levels of a palette's channels, and back.

All arithmetic is on integers, so an image has the same tokens on every machine,
eagerly, in a `tf.data` graph and in a SavedModel.
"""

from collections.abc import Sequence

import tensorflow as tf

from pixace_tf.data.palette import Palette
from pixace_tf.typing import Tensor


def quantize(rgb: Tensor, palette: Palette) -> list[Tensor]:
    """Quantize 8-bit colors to the channels of a palette.

    A linear channel `x` in `[0, 1]` becomes `round(x * (2**b - 1))`; hue, which
    is circular, becomes `round(h * 2**b) mod 2**b`; halves round up. The codes
    are canonical.

    Args:
        rgb: uint8 `(..., 3)`.
        palette: The palette.

    Returns:
        Three int32 tensors `(...)`; channel `c` in
        `[0, palette.channel_sizes[c])`.
    """
    red, green, blue = tf.unstack(tf.cast(rgb, tf.int32), axis=-1)
    if palette.color_space == "rgb":
        pairs = zip((red, green, blue), palette.channel_sizes, strict=True)
        return [_round_divide(level * (size - 1), 255) for level, size in pairs]
    channels = _quantize_hsv(red, green, blue, palette)
    for c in palette.chain_order:
        by = palette.forced_by[c]
        if by is not None:
            channels[c] = tf.where(channels[by] == 0, 0, channels[c])
    return channels


def _quantize_hsv(
    red: Tensor, green: Tensor, blue: Tensor, palette: Palette
) -> list[Tensor]:
    """Return hue, saturation and value, not yet canonical."""
    hues, saturations, values = palette.channel_sizes
    largest = tf.maximum(tf.maximum(red, green), blue)
    spread = largest - tf.minimum(tf.minimum(red, green), blue)
    value = _round_divide(largest * (values - 1), 255)
    saturation = _round_divide(
        spread * (saturations - 1), tf.maximum(largest, 1)
    )
    # Sixths of the color circle, in units of 1 / spread: [0, 6 * spread).
    sixths = tf.where(
        largest == red,
        tf.where(green >= blue, 0, 6) * spread + green - blue,
        tf.where(
            largest == green,
            2 * spread + blue - red,
            4 * spread + red - green,
        ),
    )
    hue = _round_divide(sixths * hues, 6 * tf.maximum(spread, 1)) % hues
    return [hue, saturation, value]


def dequantize(channels: Sequence[Tensor], palette: Palette) -> Tensor:
    """Turn quantized channels back into 8-bit colors, exactly, halves up.

    A channel of 0 bits becomes 0, except for the value of HSV, which becomes 1:
    otherwise every image would be black.

    Args:
        channels: As `quantize` returns them.
        palette: The palette.

    Returns:
        uint8 `(..., 3)` RGB.
    """
    top = [max(size - 1, 1) for size in palette.channel_sizes]
    if palette.color_space == "rgb":
        pairs = zip(channels, top, strict=True)
        rgb = [_round_divide(channel * 255, n) for channel, n in pairs]
        return tf.cast(tf.stack(rgb, axis=-1), tf.uint8)
    turn = palette.channel_sizes[0]
    hue, saturation, value = (tf.cast(c, tf.int64) for c in channels)
    if not palette.bit_widths[2]:
        value += 1
    whole = top[2] * top[1] * turn
    rgb = []
    for shift in (5, 3, 1):
        # Distance of the hue from this channel's full range: 0 to 1, in turns.
        sixths = (shift * turn + 6 * hue) % (6 * turn)
        distance = tf.minimum(tf.minimum(sixths, 4 * turn - sixths), turn)
        distance = tf.maximum(distance, 0)
        share = value * (top[1] * turn - saturation * distance)
        rgb.append(_round_divide(255 * share, whole))
    return tf.cast(tf.stack(rgb, axis=-1), tf.uint8)


def _round_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide non-negative integers, rounding to nearest, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)

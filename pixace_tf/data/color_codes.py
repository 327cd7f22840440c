"""Colors as small integers: quantize the channels, pack them into one token.

All arithmetic is on integers, so a picture has the same tokens on every
machine, eagerly, in a `tf.data` graph and inside a SavedModel.
"""

import tensorflow as tf

from pixace_tf.data.bit_widths import (
    BitWidths,
    check_bit_widths,
    check_color_space,
)


def pack(channels: tf.Tensor, bit_widths: BitWidths) -> tf.Tensor:
    """Pack quantized color channels into one token per pixel.

    The first channel takes the lowest bits: `c0 | c1 << b0 | c2 << (b0 + b1)`.

    Args:
        channels: int32 `(..., 3)`; channel `c` in `[0, 2**bit_widths[c])`.
        bit_widths: Bits per channel, each in `[0, 8]`, their sum in `[1, 24]`.

    Returns:
        int32 `(...)` in `[0, 2**sum(bit_widths))`.

    Raises:
        ValueError: If `bit_widths` breaks these bounds.
    """
    b0, b1, _ = check_bit_widths(bit_widths)
    scale = tf.constant([1, 1 << b0, 1 << (b0 + b1)], tf.int32)
    return tf.reduce_sum(channels * scale, axis=-1)


def unpack(token_ids: tf.Tensor, bit_widths: BitWidths) -> tf.Tensor:
    """Undo `pack`.

    Args:
        token_ids: int32 `(...)` in `[0, 2**sum(bit_widths))`.
        bit_widths: Bits per channel.

    Returns:
        int32 `(..., 3)`.

    Raises:
        ValueError: If `bit_widths` is out of bounds.
        tf.errors.InvalidArgumentError: If a token stands for no color.
    """
    b0, b1, b2 = check_bit_widths(bit_widths)
    message = f"token_ids must lie in [0, 2**{b0 + b1 + b2})."
    with tf.control_dependencies(
        [
            tf.debugging.assert_non_negative(token_ids, message),
            tf.debugging.assert_less(token_ids, 1 << (b0 + b1 + b2), message),
        ]
    ):
        shifted = token_ids[..., None] // [1, 1 << b0, 1 << (b0 + b1)]
    return shifted % [1 << b0, 1 << b1, 1 << b2]


def quantize(
    rgb: tf.Tensor, bit_widths: BitWidths, color_space: str
) -> tf.Tensor:
    """Quantize 8-bit colors to the channels of `color_space`.

    A linear channel `x` in `[0, 1]` becomes `round(x * (2**b - 1))`, hue, which
    is circular, `round(h * 2**b) mod 2**b`; halves round up. HSV codes are
    canonical: value 0 has hue 0 and saturation 0, saturation 0 has hue 0.

    Args:
        rgb: uint8 `(..., 3)`.
        bit_widths: Bits per channel.
        color_space: `"hsv"` or `"rgb"`.

    Returns:
        int32 `(..., 3)`; channel `c` in `[0, 2**bit_widths[c])`.
    """
    bit_widths = check_bit_widths(bit_widths)
    rgb = tf.cast(rgb, tf.int32)
    if check_color_space(color_space) == "rgb":
        top = tf.constant([(1 << b) - 1 for b in bit_widths], tf.int32)
        return _round_divide(rgb * top, 255)
    hue_bits, saturation_bits, value_bits = bit_widths
    red, green, blue = tf.unstack(rgb, axis=-1)
    largest = tf.reduce_max(rgb, axis=-1)
    spread = largest - tf.reduce_min(rgb, axis=-1)
    value = _round_divide(largest * ((1 << value_bits) - 1), 255)
    saturation = _round_divide(
        spread * ((1 << saturation_bits) - 1), tf.maximum(largest, 1)
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
    hue = _round_divide(sixths * (1 << hue_bits), 6 * tf.maximum(spread, 1))
    hue %= 1 << hue_bits
    if value_bits:
        saturation = tf.where(value == 0, 0, saturation)
    hue = tf.where(saturation == 0, 0, hue)
    return tf.stack([hue, saturation, value], axis=-1)


def dequantize(
    channels: tf.Tensor, bit_widths: BitWidths, color_space: str
) -> tf.Tensor:
    """Turn quantized channels back into 8-bit colors, exactly, halves up.

    A channel of 0 bits decodes to 0, but the value of HSV to 1, since
    otherwise every picture would be black.

    Args:
        channels: int32 `(..., 3)`; channel `c` in `[0, 2**bit_widths[c])`.
        bit_widths: Bits per channel.
        color_space: `"hsv"` or `"rgb"`.

    Returns:
        uint8 `(..., 3)` RGB.
    """
    bit_widths = check_bit_widths(bit_widths)
    top = [max((1 << b) - 1, 1) for b in bit_widths]
    if check_color_space(color_space) == "rgb":
        scaled = _round_divide(channels * 255, tf.constant(top))
        return tf.cast(scaled, tf.uint8)
    turn = 1 << bit_widths[0]
    hue, saturation, value = tf.unstack(tf.cast(channels, tf.int64), axis=-1)
    if not bit_widths[2]:
        value += 1
    whole = top[2] * top[1] * turn
    rgb = []
    for shift in (5, 3, 1):
        # How far hue is from where this channel is full, in turns: 0 to 1.
        sixths = (shift * turn + 6 * hue) % (6 * turn)
        distance = tf.minimum(tf.minimum(sixths, 4 * turn - sixths), turn)
        distance = tf.maximum(distance, 0)
        share = value * (top[1] * turn - saturation * distance)
        rgb.append(_round_divide(255 * share, whole))
    return tf.cast(tf.stack(rgb, axis=-1), tf.uint8)


def is_canonical(
    token_ids: tf.Tensor, bit_widths: BitWidths, color_space: str
) -> tf.Tensor:
    """Tell which tokens are the one code that `quantize` gives their color.

    Args:
        token_ids: int32 `(...)` in `[0, 2**sum(bit_widths))`.
        bit_widths: Bits per channel.
        color_space: `"hsv"` or `"rgb"`.

    Returns:
        bool `(...)`.
    """
    channels = unpack(token_ids, bit_widths)
    if check_color_space(color_space) == "rgb":
        return tf.ones_like(token_ids, tf.bool)
    hue, saturation, value = tf.unstack(channels, axis=-1)
    colored = (saturation > 0) | (hue == 0)
    if not bit_widths[2]:
        return colored
    return colored & ((value > 0) | (saturation == 0))


def _round_divide(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """Divide non-negative integers, rounding to nearest, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)

import colorsys
import itertools
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from pixace_tf.data import color_codes
from pixace_tf.data.bit_widths import check_bit_widths

WIDTHS = [(5, 4, 4), (4, 3, 3), (3, 2, 2), (4, 4, 5), (8, 8, 8), (0, 0, 4)]


def half_up(x):
    return int(x + Fraction(1, 2))


def oracle_quantize(rgb, bit_widths, color_space):
    """Exact rational arithmetic after `colorsys`."""
    channels = [Fraction(int(c), 255) for c in rgb]
    if color_space == "rgb":
        return [
            half_up(c * (2**b - 1))
            for c, b in zip(channels, bit_widths, strict=True)
        ]
    hue, saturation, value = colorsys.rgb_to_hsv(*channels)
    hue, saturation, value = map(Fraction, (hue, saturation, value))
    codes = [
        half_up(hue * 2 ** bit_widths[0]) % 2 ** bit_widths[0],
        half_up(saturation * (2 ** bit_widths[1] - 1)),
        half_up(value * (2 ** bit_widths[2] - 1)),
    ]
    if codes[2] == 0:
        codes[1] = 0
    if codes[1] == 0:
        codes[0] = 0
    return codes


def oracle_dequantize(codes, bit_widths, color_space):
    """Exact rational arithmetic, by the sixth of the color circle."""
    top = [max(2**b - 1, 1) for b in bit_widths]
    shares = [Fraction(int(c), n) for c, n in zip(codes, top, strict=True)]
    if color_space == "rgb":
        return shares
    _, s, v = shares
    if not bit_widths[2]:
        v = Fraction(1)
    sixth, rest = divmod(Fraction(6 * int(codes[0]), 2 ** bit_widths[0]), 1)
    low, falling, rising = (
        v * (1 - s),
        v * (1 - s * rest),
        v * (1 - s + s * rest),
    )
    return [
        (v, rising, low),
        (falling, v, low),
        (low, v, rising),
        (low, falling, v),
        (rising, low, v),
        (v, low, falling),
    ][sixth]


@pytest.mark.parametrize("color_space", ["hsv", "rgb"])
@pytest.mark.parametrize("bit_widths", WIDTHS)
def test_dequantize_equals_exact_arithmetic(bit_widths, color_space):
    rng = np.random.default_rng(4)
    codes = np.stack([rng.integers(0, 2**b, 3000) for b in bit_widths], -1)
    rgb = color_codes.dequantize(codes, bit_widths, color_space).numpy()
    expected = [
        [
            half_up(255 * c)
            for c in oracle_dequantize(code, bit_widths, color_space)
        ]
        for code in codes
    ]
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize("color_space", ["hsv", "rgb"])
@pytest.mark.parametrize("bit_widths", WIDTHS)
def test_quantize_equals_exact_arithmetic(bit_widths, color_space):
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (3000, 3), dtype=np.uint8)
    edges = list(itertools.product((0, 1, 127, 128, 254, 255), repeat=3))
    rgb = np.concatenate([rgb, np.array(edges, np.uint8), rgb[:200] // 16])
    codes = color_codes.quantize(rgb, bit_widths, color_space).numpy()
    expected = [oracle_quantize(c, bit_widths, color_space) for c in rgb]
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("color_space", ["hsv", "rgb"])
def test_all_codes_survive_the_round_trip(color_space):
    token_ids = tf.range(1 << 13)
    canonical = color_codes.is_canonical(token_ids, (5, 4, 4), color_space)
    token_ids = tf.boolean_mask(token_ids, canonical)
    channels = color_codes.unpack(token_ids, (5, 4, 4))
    np.testing.assert_array_equal(
        color_codes.pack(channels, (5, 4, 4)), token_ids
    )
    # In exact numbers, since 8 bits cannot hold every dark hue.
    for code in channels.numpy():
        red, green, blue = oracle_dequantize(code, (5, 4, 4), color_space)
        if color_space == "rgb":
            again = [
                round(c * n) for c, n in ((red, 31), (green, 15), (blue, 15))
            ]
        else:
            hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
            again = [
                round(hue * 32) % 32,
                round(saturation * 15),
                round(value * 15),
            ]
        np.testing.assert_array_equal(again, code)


def test_canonical_hsv_544_has_7201_codes():
    count = int(
        tf.reduce_sum(
            tf.cast(
                color_codes.is_canonical(tf.range(1 << 13), (5, 4, 4), "hsv"),
                tf.int32,
            )
        )
    )
    # Black, 15 greys, and 15 values x 15 saturations x 32 hues.
    assert count == 1 + 15 + 15 * 15 * 32


def test_quantized_colors_are_canonical():
    rgb = np.random.default_rng(2).integers(0, 64, (5000, 3), dtype=np.uint8)
    codes = color_codes.quantize(rgb, (5, 4, 4), "hsv")
    token_ids = color_codes.pack(codes, (5, 4, 4))
    assert np.all(color_codes.is_canonical(token_ids, (5, 4, 4), "hsv"))


def test_rgb_888_is_exact():
    rgb = np.random.default_rng(3).integers(0, 256, (1000, 3), dtype=np.uint8)
    codes = color_codes.quantize(rgb, (8, 8, 8), "rgb")
    back = color_codes.dequantize(codes, (8, 8, 8), "rgb").numpy()
    np.testing.assert_array_equal(back, rgb)


@pytest.mark.parametrize("token", [-1, 1 << 13])
def test_a_token_without_a_color_is_an_error(token):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must lie in"):
        color_codes.unpack(tf.constant([token]), (5, 4, 4))


@pytest.mark.parametrize(
    "bit_widths", [(5, 4), (9, 4, 4), (0, 0, 0), (-1, 4, 4), (5.0, 4, 4)]
)
def test_bad_bit_widths_are_an_error(bit_widths):
    with pytest.raises(ValueError, match=r"bit_widths must be .* Received"):
        check_bit_widths(bit_widths)

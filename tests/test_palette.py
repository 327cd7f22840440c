import colorsys
import itertools
from fractions import Fraction

import numpy as np
import pytest

from pixace_tf.data.palette import Palette
from pixace_tf.data.quantization import dequantize, quantize

WIDTHS = [(5, 4, 4), (4, 3, 3), (3, 2, 2), (4, 4, 5), (8, 8, 8), (0, 0, 4)]
PALETTES = [Palette(space, w) for space in ("hsv", "rgb") for w in WIDTHS]


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


@pytest.mark.parametrize("palette", PALETTES, ids=str)
def test_dequantize_equals_exact_arithmetic(palette):
    rng = np.random.default_rng(4)
    codes = [rng.integers(0, n, 3000) for n in palette.channel_sizes]
    expected = [
        [
            half_up(255 * c)
            for c in oracle_dequantize(
                code, palette.bit_widths, palette.color_space
            )
        ]
        for code in zip(*codes, strict=True)
    ]
    np.testing.assert_array_equal(dequantize(codes, palette), expected)


@pytest.mark.parametrize("palette", PALETTES, ids=str)
def test_quantize_equals_exact_arithmetic(palette):
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (3000, 3), dtype=np.int32)
    edges = list(itertools.product((0, 1, 127, 128, 254, 255), repeat=3))
    rgb = np.concatenate([rgb, np.array(edges, np.int32), rgb[:200] // 16])
    codes = np.stack(quantize(rgb, palette), axis=-1)
    expected = [
        oracle_quantize(c, palette.bit_widths, palette.color_space) for c in rgb
    ]
    np.testing.assert_array_equal(codes, expected)
    assert np.all(palette.is_canonical(palette.pack(quantize(rgb, palette))))


@pytest.mark.parametrize("color_space", ["hsv", "rgb"])
def test_all_codes_survive_the_round_trip(color_space):
    palette = Palette(color_space, (5, 4, 4))
    token_ids = np.arange(1 << 13)
    token_ids = token_ids[palette.is_canonical(token_ids)]
    channels = palette.unpack(token_ids)
    np.testing.assert_array_equal(palette.pack(channels), token_ids)
    # In exact numbers, since 8 bits cannot hold every dark hue.
    for code in zip(*channels, strict=True):
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


def test_hsv_544_has_7216_colors():
    """Black, 15 grays, and 15 values x 15 saturations x 32 hues."""
    assert Palette("hsv", (5, 4, 4)).num_colors == 1 + 15 + 15 * 15 * 32


@pytest.mark.parametrize("color_space", ["hsv", "rgb"])
@pytest.mark.parametrize(
    "widths", [*WIDTHS[:4], (0, 0, 4), (3, 0, 2), (0, 2, 1), (2, 3, 0)]
)
def test_the_number_of_colors_is_that_of_the_canonical_codes(
    color_space, widths
):
    palette = Palette(color_space, widths)
    codes = np.arange(palette.vocabulary_size)
    assert np.count_nonzero(palette.is_canonical(codes)) == palette.num_colors


def test_rgb_888_is_exact():
    palette = Palette("rgb", (8, 8, 8))
    rgb = np.random.default_rng(3).integers(0, 256, (1000, 3), dtype=np.int32)
    again = dequantize(quantize(rgb, palette), palette)
    np.testing.assert_array_equal(again, rgb)


@pytest.mark.parametrize("palette", PALETTES, ids=str)
def test_a_palette_is_what_its_text_says(palette):
    assert Palette.parse(str(palette)) == palette
    assert Palette.get(str(palette)) == Palette.get(palette)
    digits = "".join(map(str, palette.bit_widths))
    assert palette.name == f"{palette.color_space.upper()} {digits}"


@pytest.mark.parametrize(
    "bit_widths", [(5, 4), (9, 4, 4), (0, 0, 0), (-1, 4, 4), (5.0, 4, 4)]
)
def test_bad_bit_widths_are_an_error(bit_widths):
    with pytest.raises(ValueError, match=r"bit_widths must be .* Received"):
        Palette("hsv", bit_widths)


@pytest.mark.parametrize("text", ["hsv", "hsv 5,4", "lab 5,4,4", "hsv a,b,c"])
def test_a_text_that_names_no_palette_is_an_error(text):
    with pytest.raises(ValueError, match="Received"):
        Palette.parse(text)

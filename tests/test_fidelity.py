import math

import numpy as np
import pytest

from pixace_tf.data import cartoons, fidelity
from pixace_tf.data.tokenizer import PixelTokenizer


def test_psnr_of_a_known_difference():
    black = np.zeros((2, 2, 3), np.uint8)
    assert fidelity.psnr(black, black) == math.inf
    assert fidelity.psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-3)


def test_more_bits_come_nearer_to_the_picture():
    images = np.stack(
        [np.asarray(cartoons.draw("fox", str(i))) for i in range(3)]
    )
    palettes = [
        PixelTokenizer((96, 96), f"hsv {widths}")
        for widths in ("3,2,2", "5,4,4", "8,8,8")
    ]
    quality = [
        fidelity.psnr(images, fidelity.through_palette(images, palette))
        for palette in palettes
    ]
    assert quality == sorted(quality)
    assert quality[-1] > 45
    differences = [
        fidelity.color_difference(
            images, fidelity.through_palette(images, palette)
        )
        for palette in palettes
    ]
    assert differences == sorted(differences, reverse=True)
    assert differences[-1] < 1


def test_color_difference_of_a_published_pair():
    """Blue and red of sRGB are 52.88 apart in CIEDE2000."""
    blue = np.array([[[0, 0, 255]]], np.uint8)
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert fidelity.color_difference(blue, red) == pytest.approx(52.88, abs=0.1)


def test_colors_are_counted_once():
    pixels = np.array(
        [[[0, 0, 1], [0, 1, 0]], [[0, 0, 1], [1, 0, 0]]], np.uint8
    )
    assert fidelity.count_colors(pixels) == 3

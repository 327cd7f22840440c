"""Copies are found though they are mirrored, shifted, or turned in hue."""

import numpy as np
import pytest
from test_variants import sprite

from pixace_tf.evaluation.copies import MAX_DIFFERING, find_copies, turned

KNOWN = np.array(
    [np.pad(sprite(i), ((8, 8), (8, 8), (0, 0)))[4:28, 4:28] for i in range(40)]
)


def moved(image, flips, shift):
    """Mirror and shift an image, whose border is transparent."""
    down, right = flips
    return np.roll(image[::down, ::right], shift, axis=(0, 1))


@pytest.mark.parametrize("flips", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("shift", [(0, 0), (3, -3), (-2, 1)])
def test_moved_and_turned_sprites_are_copies(flips, shift):
    angles = np.random.default_rng(0).uniform(0.4, 5.8, len(KNOWN))
    new = np.array(
        [
            turned(moved(image, flips, shift), angle)
            for image, angle in zip(KNOWN, angles, strict=True)
        ]
    )
    matches = find_copies(new, KNOWN, is_pixel_art=True)
    assert matches.num_copies == len(KNOWN)
    assert matches.differences.max() == 0
    np.testing.assert_array_equal(matches.indices, np.arange(len(KNOWN)))
    # Aligned, they look like the new ones.
    levels = np.abs(matches.aligned.astype(int) - new)
    assert levels.max() <= 12
    assert levels.mean() < 0.5


def test_other_sprites_are_no_copies():
    new = np.array([np.pad(sprite(i), 4)[:24, :24, 4:8] for i in range(50, 90)])
    matches = find_copies(new, KNOWN, is_pixel_art=True)
    assert matches.num_copies == 0
    assert matches.differences.min() > 0.3


def test_the_difference_is_the_share_of_changed_visible_pixels():
    image = np.zeros((16, 16, 4), np.uint8)
    image[4:12, 3:13] = sprite(0, 40)[4:12, 3:13]
    image[4:12, 3:13, 3] = 255
    for count in (2, 4, 20):
        other = image.copy()
        rows, columns = np.unravel_index(np.arange(count), (8, 10))
        other[4 + rows, 3 + columns] ^= np.array([128, 128, 128, 0], np.uint8)
        matches = find_copies(other[None], image[None], is_pixel_art=True)
        assert matches.differences[0] == pytest.approx(count / 80)
        assert matches.num_copies == (count / 80 <= MAX_DIFFERING)


def test_other_alpha_makes_no_copy():
    clear = KNOWN[:1].copy()
    clear[..., 3] //= 2
    assert find_copies(clear, KNOWN[:1], is_pixel_art=True).num_copies == 0


def test_a_corner_of_a_sprite_is_no_copy():
    """What a shift leaves of the border of a picture is too little."""
    corner = np.zeros((1, 24, 24, 4), np.uint8)
    corner[0, :, :4] = 255
    other = np.zeros_like(corner)
    other[0, :, :1] = 255
    assert find_copies(corner, other, is_pixel_art=True).num_copies == 0
    assert find_copies(other, corner, is_pixel_art=True).num_copies == 0


def test_photos_may_differ_a_little():
    rng = np.random.default_rng(0)
    seen = rng.integers(20, 236, (30, 16, 20, 3), np.uint8)
    close, far = (
        np.clip(
            np.roll(seen[:, :, ::-1], 1, axis=1)
            + rng.normal(0, sigma, seen.shape),
            0,
            255,
        ).astype(np.uint8)
        for sigma in (5, 30)
    )
    assert find_copies(close, seen, is_pixel_art=False).num_copies == 30
    assert find_copies(far, seen, is_pixel_art=False).num_copies == 0


def test_a_turn_keeps_gray_and_alpha():
    gray = np.full((2, 2, 4), 90, np.uint8)
    np.testing.assert_array_equal(turned(gray, 1.0), gray)


@pytest.mark.parametrize("side", [1, 4, 9, 33])
def test_images_of_any_size_are_compared(side):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, side, side + 1, 3), np.uint8)
    for is_pixel_art in (False, True):
        matches = find_copies(images[:1], images, is_pixel_art)
        assert matches.indices[0] == 0
        assert matches.differences[0] == 0

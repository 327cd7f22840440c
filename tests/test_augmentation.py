"""Changed training images: what changes, what stays, and what is told."""

import colorsys

import keras
import numpy as np
import pytest
import tensorflow as tf

from pixace_tf.data import augmentation
from pixace_tf.data.augmentation import NUM_TURNS, NUM_VECTORS, Augmentation
from pixace_tf.data.palette import Palette
from pixace_tf.data.raster_orders import vector_rows
from pixace_tf.data.token_dataset import MemoryRows, training_batches
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config

SIZE = (8, 8)
EXACT = Palette("rgb", (8, 8, 8), 8)
TURNS = np.arange(NUM_TURNS, dtype=np.int32)


def draw_sprites(count, palette=EXACT):
    """Draw blocks of random colors, not on the edge of a transparent image."""
    rng = np.random.default_rng(3)
    tokens = np.zeros((count, *SIZE), np.int32)
    for image in tokens:
        top, left = rng.integers(1, 4, 2)
        levels = [rng.integers(0, n, (4, 3)) for n in palette.channel_sizes[:3]]
        alpha = np.full((4, 3), palette.channel_sizes[3] - 1)
        codes = palette.pack([*levels, alpha])
        codes = np.where(palette.is_canonical(codes), codes, 0)
        image[top : top + 4, left : left + 3] = codes
    return tokens.reshape(count, -1)


def changed(token_ids, palette=EXACT, **shares):
    """Return changed images, their shifts (0 or 1) and their turns."""
    draws = np.random.default_rng(1).random((len(token_ids), 5))
    changes = Augmentation(palette, SIZE, **shares)
    tokens, number = changes.change(
        tf.constant(token_ids), tf.constant(draws, tf.float32)
    )
    return tokens.numpy(), number.numpy() % 2, number.numpy() // 2


def test_a_shift_keeps_all_visible_pixels_side_by_side():
    sprites = draw_sprites(200)
    shifted, is_shifted, turns = changed(sprites, shifts=0.8)
    assert not turns.any()
    differs = np.any(sprites != shifted, axis=1)
    np.testing.assert_array_equal(differs, is_shifted)
    assert 0.6 < differs.mean() < 0.85
    places = set()
    for before, after in zip(sprites, shifted, strict=True):
        boxes = []
        for grid in (before.reshape(SIZE), after.reshape(SIZE)):
            rows, columns = np.nonzero(grid)
            box = (
                slice(rows.min(), rows.max() + 1),
                slice(columns.min(), columns.max() + 1),
            )
            boxes.append(grid[box])
        np.testing.assert_array_equal(*boxes)
        places.add((rows.min(), columns.min()))
    assert len(places) > 10


def test_a_margin_of_one_color_gives_room_and_a_full_image_none():
    palette = Palette("rgb", (4, 4, 4))
    full = np.random.default_rng(0).permutation(4096)[:64].reshape(SIZE)
    framed = np.full(SIZE, 5)
    framed[2:6, 2:8] = full[2:6, 2:8]
    still = np.stack([full, np.full(SIZE, 9)] * 20).reshape(40, -1)
    found, is_shifted, _ = changed(still, palette, shifts=1.0)
    np.testing.assert_array_equal(found, still)
    assert not is_shifted.any()
    framed = np.stack([framed] * 40).reshape(40, -1)
    found, is_shifted, _ = changed(framed, palette, shifts=1.0)
    assert is_shifted.any()
    for after in found.reshape(-1, *SIZE):
        rows, columns = np.nonzero(after != 5)
        assert len(rows) == 24  # Nothing is cut off.
        assert columns.min() <= 2


@pytest.mark.parametrize(
    "palette",
    ["rgb 8,8,8 alpha 8", "rgb 4,4,4", "hsv 5,4,4", "hsv 5,4,4 alpha 1"],
)
def test_a_turn_of_the_hue_is_a_permutation_of_colors(palette):
    palette = Palette.parse(palette)
    codes = np.arange(min(palette.vocabulary_size, 1 << 16), dtype=np.int64)
    if palette.num_bits == 32:
        codes = (codes * 65537).astype(np.uint32).view(np.int32)
    codes = codes[palette.is_canonical(codes)].astype(np.int32)
    every = np.tile(codes, (NUM_TURNS, 1))
    turned = augmentation.turn_hues(tf.constant(every), TURNS, palette).numpy()
    np.testing.assert_array_equal(turned[0], codes)
    assert palette.is_canonical(turned).all()
    channels, after = palette.unpack(codes), palette.unpack(turned)
    if palette.color_space == "hsv":
        stay, is_gray = channels[1:], channels[1] == 0
        same = after[1:]
    else:
        (low, high), (same_low, same_high) = (
            (np.min(c[:3], axis=0), np.max(c[:3], axis=0))
            for c in (channels, after)
        )
        stay, is_gray = [low, high, *channels[3:]], low == high
        same = [same_low, same_high, *after[3:]]
    for level, other in zip(stay, same, strict=True):
        np.testing.assert_array_equal(
            np.broadcast_to(level, other.shape), other
        )
    for row in turned[1:]:
        assert len(np.unique(row)) == len(codes)
        np.testing.assert_array_equal(row[is_gray], codes[is_gray])
        assert np.any(row != codes)


def test_the_hue_turns_as_far_as_it_is_told():
    palette = Palette("rgb", (8, 8, 8))
    colors = np.random.default_rng(5).integers(0, 256, (3, 300))
    codes = np.tile(palette.pack(list(colors)).astype(np.int32), (NUM_TURNS, 1))
    turned = augmentation.turn_hues(tf.constant(codes), TURNS, palette).numpy()

    def hues(row):
        colors = np.stack(palette.unpack(row), axis=1) / 255
        return np.array([colorsys.rgb_to_hsv(*color)[0] for color in colors])

    is_colored = colors.max(axis=0) - colors.min(axis=0) > 50
    for turn in TURNS:
        error = hues(turned[turn]) - hues(codes[0]) - turn / NUM_TURNS
        error = np.abs((error + 0.5) % 1 - 0.5)
        assert error[is_colored].max() < 1 / 300


def test_channels_of_different_widths_turn_up_to_rounding():
    palette = Palette("rgb", (5, 6, 5), 2)
    codes = np.arange(1 << 18, dtype=np.int32)
    codes = np.tile(codes[palette.is_canonical(codes)], (NUM_TURNS, 1))
    turned = augmentation.turn_hues(tf.constant(codes), TURNS, palette).numpy()
    assert palette.is_canonical(turned).all()
    for row in turned:
        np.testing.assert_array_equal(
            palette.unpack(row)[3], palette.unpack(codes[0])[3]
        )


def test_noise_takes_colors_of_both_images():
    token_ids = np.arange(64, dtype=np.int32)[None] + np.zeros(
        (50, 1), np.int32
    )
    draws = np.random.default_rng(0).random((50, 64, 2)).astype(np.float32)
    noisy = Augmentation(EXACT, SIZE, input_noise=0.1).add_noise(
        tf.constant(token_ids), tf.constant(token_ids + 1000), draws
    )
    is_other = noisy.numpy() >= 1000
    is_noisy = noisy.numpy() != token_ids
    assert 0.07 < is_noisy.mean() < 0.13
    assert 0.4 < is_other.sum() / is_noisy.sum() < 0.6
    assert set((noisy.numpy() % 1000).ravel()) <= set(range(64))


ORDERS = vector_rows(SIZE, True, True)
CHANGES = Augmentation(EXACT, SIZE, hue_turns=0.5, shifts=0.5, input_noise=0.1)


def served(num, changes=CHANGES, **options):
    rows = MemoryRows(draw_sprites(13))
    batches = training_batches(
        rows, SIZE, 6, 4, ORDERS, changes=changes, **options
    )
    return [
        [np.asarray(x) for x in tf.nest.flatten(batch)]
        for batch in batches.take(num)
    ]


def test_noise_leaves_the_targets_and_changes_are_told():
    for tokens, condition, read, targets in served(6):
        np.testing.assert_array_equal(tokens, targets)
        assert condition.shape == (6, 3)
        assert 0 < np.mean(read != tokens) < 0.2
    numbers = np.concatenate([batch[1][:, 2] for batch in served(60)])
    assert set(numbers) == set(range(2 * NUM_TURNS))


def test_what_is_served_follows_from_seed_epoch_and_place():
    straight = served(6)
    for found, wanted in zip(
        served(3, epoch=1, step=1), straight[3:], strict=True
    ):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    cut = served(6, parts=3)
    for column in range(4):
        for batch in range(2):
            whole = [cut[3 * batch + part][column] for part in range(3)]
            np.testing.assert_array_equal(
                np.concatenate(whole), straight[batch][column]
            )
    shares = [served(2, share=(i, 2)) for i in range(2)]
    for batch in range(2):
        for column in range(4):
            whole = np.concatenate([s[batch][column] for s in shares])
            np.testing.assert_array_equal(whole, straight[batch][column])


def test_without_changes_batches_are_what_they_were():
    nothing = Augmentation(EXACT, SIZE)
    for found, wanted in zip(served(4, nothing), served(4, None), strict=True):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
        assert found[1].shape == (6, 2)


@pytest.fixture(scope="module", params=[(0,), ORDERS], ids=["alone", "orders"])
def model(request):
    keras.utils.set_random_seed(1)
    return PixaceCausalLM(
        SIZE,
        EXACT,
        "multiscale",
        decoder_config("pico", "multiscale"),
        orders=request.param,
        num_augmentations=NUM_VECTORS,
    )


def test_a_condition_of_two_numbers_tells_of_no_change(model):
    sprites = draw_sprites(3)
    plain = model(sprites).numpy()
    for width in (2, 3):
        condition = np.zeros((3, width), np.int32)
        np.testing.assert_array_equal(model((sprites, condition)), plain)
    seen = {plain.tobytes()}
    for number in range(1, 2 * NUM_TURNS):
        condition = np.tile([0, 0, number], (3, 1)).astype(np.int32)
        seen.add(model((sprites, condition)).numpy().tobytes())
    assert len(seen) == 2 * NUM_TURNS


def test_the_decoder_reads_other_tokens_than_the_head(model):
    sprites, condition = draw_sprites(2), np.zeros((2, 2), np.int32)
    read = sprites.copy()
    read[:, 20] = EXACT.pack([10, 20, 30, 255])
    logits = model((sprites, condition, read)).numpy()
    plain = model((sprites, condition)).numpy()
    # Not even the head's channels of the pixel itself have changed.
    np.testing.assert_array_equal(logits[:, :21], plain[:, :21])
    assert np.any(logits[:, 21] != plain[:, 21])
    same = model((sprites, condition, sprites)).numpy()
    np.testing.assert_array_equal(same, plain)

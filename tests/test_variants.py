"""Variants of a sprite lie on one side of the split."""

import numpy as np
import pytest
from PIL import Image

from pixace_tf.data import sources, token_dataset, tokenizing, variants
from pixace_tf.data.cutting import Cutting
from pixace_tf.data.tokenizer import PixelTokenizer

EXACT = PixelTokenizer((16, 16), "rgb 8,8,8 alpha 8", resize="native")


def sprite(seed, num_colors=6):
    """A symmetric sprite of few colors with a transparent border."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (num_colors, 4), np.uint8)
    colors[:, 3] = 255
    half = colors[rng.integers(0, num_colors, (12, 6))]
    half[rng.random((12, 6)) < 0.3] = 0
    return np.pad(np.hstack([half, half[:, ::-1]]), ((2, 2), (2, 2), (0, 0)))


def recolored(image, seed):
    """The same sprite with each visible color replaced by another."""
    rng = np.random.default_rng(seed)
    colors, places = np.unique(
        image.reshape(-1, 4), axis=0, return_inverse=True
    )
    new = rng.integers(0, 256, colors.shape, np.uint8)
    new[:, 3] = colors[:, 3]
    new[colors[:, 3] == 0] = 0
    return new[places].reshape(image.shape)


def changed(image, count, seed):
    """The sprite with `count` other pixels."""
    rng = np.random.default_rng(seed)
    image = image.copy()
    places = rng.choice(image.shape[0] * image.shape[1], count, replace=False)
    image.reshape(-1, 4)[places] = *rng.integers(0, 256, 3, np.uint8), 255
    return image


def save(folder, images):
    for name, image in images.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def small(images, names=None):
    """Images as a source reads them; by default, no name tells anything."""
    series = [variants.series_of(n) for n in names or []]
    count = len(images)
    none = [""] * count
    series = series or [None] * count
    return sources.SmallImages(np.array(images), none, none, [], [], series)


def num_groups(small_images):
    return len(set(small_images.split_keys()))


def test_recolored_twins_lie_on_one_side():
    images = [sprite(i) for i in range(100)]
    twins = [recolored(image, 7) for image in images]
    keys = small(images + twins).split_keys()
    assert keys[:100] == keys[100:]
    assert len(set(keys)) == 100


def test_other_alpha_or_another_division_of_colors_makes_no_twin():
    image = sprite(0)
    other = recolored(image, 1)
    visible = np.argwhere(other[..., 3] > 0)
    half_clear = other.copy()
    half_clear[tuple(visible[0])] = *other[tuple(visible[0])][:3], 128
    one_more = other.copy()
    one_more[tuple(visible[0])] = 1, 2, 3, 255
    digests = map(variants.shape_digest, (image, half_clear, one_more))
    assert len(set(digests)) == 3


def test_noise_has_no_twins():
    noise = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 4), np.uint8)
    noise[..., 3] = 255
    assert len({variants.shape_digest(image) for image in noise}) == 50


def test_mirrored_and_hue_turned_twins_lie_on_one_side():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 16, 16, 4), np.uint8)
    images[..., 3] = 255
    # Turned by a third of the circle, and by two thirds.
    twins = [images[:, ::-1], images[..., [1, 2, 0, 3]]]
    twins.append(images[:, :, ::-1, [2, 0, 1, 3]])
    keys = small(np.concatenate([images, *twins])).split_keys()
    assert keys[:40] == keys[40:80] == keys[80:120] == keys[120:]
    assert len(set(keys)) == 40


def test_opaque_images_have_twins_too():
    image = np.random.default_rng(0).integers(0, 4, (16, 16, 1), np.uint8)
    red, blue = image * [[[50, 0, 0]]], image * [[[0, 0, 60]]]
    digests = [variants.shape_digest(i.astype(np.uint8)) for i in (red, blue)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["orc_{}", "orc{}", "orc-{:03}", "orc {}"])
def test_short_series_of_names_lie_on_one_side(name):
    images = [sprite(i) for i in range(166)]
    names = [f"{n}th" for n in range(160)] + [name.format(i) for i in range(5)]
    keys = small(images, [*names, "orc"]).split_keys()
    assert len(set(keys)) == 161
    assert len(set(keys[160:])) == 1


def test_series_lie_in_one_folder_and_are_not_called_by_numbers_alone():
    names = ["a/orc_1", "b/orc_1", "c/1", "c/2", "c/imp1", "c/imp"]
    found = [variants.series_of(f"{name}.png") for name in names]
    assert found[2] is found[3] is None
    assert len({one.name for one in found if one}) == 3


def test_a_folder_numbered_throughout_is_no_group():
    images = [sprite(i) for i in range(300)]
    names = [f"sprite_{i:03}.png" for i in range(300)]
    assert num_groups(small(images, names)) == 300


def test_of_a_long_series_what_looks_alike_is_a_group():
    images, names = [], []
    for i in range(100):
        walk = [changed(sprite(i), 40, seed) for seed in range(3)]
        images += [sprite(i), *walk]
    names = [f"sprite_{i}.png" for i in range(400)]
    keys = small(images, names).split_keys()
    assert len(set(keys)) == 100
    assert keys[::4] == keys[3::4]


def test_nearly_equal_images_are_a_group_whatever_their_names():
    images = [sprite(i) for i in range(50)]
    images += [changed(image, 5, 1) for image in images]
    keys = small(images).split_keys()
    assert keys[:50] == keys[50:]
    assert len(set(keys)) == 50


def test_a_twentieth_validates_and_adding_images_moves_few():
    images, names = [], []
    for i in range(700):
        count = 1 + i % 5
        images += [recolored(sprite(i), j) for j in range(count)]
        names += [f"monster{'x' * (i + 1)}_{j}.png" for j in range(count)]
    before = small(images, names).in_train()
    assert 0.03 < np.mean(~before) < 0.07
    more = [sprite(1000 + i) for i in range(700)]
    more_names = [f"monster{'x' * (i + 1)}_9.png" for i in range(700)]
    after = small(more + images, more_names + names).in_train()[700:]
    # Every group has got another variant, the worst case.
    assert np.mean(before != after) < 0.08


def test_large_groups_train_unless_all_are_large():
    singles = [sprite(i) for i in range(60)]
    twins = [recolored(sprite(99), i) for i in range(40)]
    for i in range(20):
        others = singles[i : i + 40]
        assert small(others + twins).in_train()[40:].all()
    assert 1 <= small(twins + [sprite(1)] * 40).in_train().sum() < 80


def test_frames_of_an_animation_lie_on_one_side(tmp_path):
    for i in range(60):
        frames = [Image.fromarray(sprite(100 * i + j)) for j in range(3)]
        path = tmp_path / f"{i}.png"
        frames[0].save(path, save_all=True, append_images=frames[1:])
    cutting = Cutting(frames=True)
    found = sources.load_images(tmp_path, EXACT, cutting=cutting)
    assert len(found.images) == 180
    keys = found.split_keys()
    assert keys[::3] == keys[1::3] == keys[2::3]
    assert len(set(keys)) == 60


def test_runs_of_other_pictures_keep_their_split(tmp_path):
    images = [recolored(sprite(i // 4), i) for i in range(80)]
    save(tmp_path, {f"a_{i}": image for i, image in enumerate(images)})
    plain = PixelTokenizer((16, 16), "rgb 8,8,8 alpha 8", resize="pad")
    found = sources.load_images(tmp_path, plain)
    assert found.series is None
    digests = [variants.digest_of(image) for image in found.images]
    assert found.split_keys() == digests


@pytest.mark.parametrize("chunk_size", [30, 1000])
def test_shards_split_as_memory_does(tmp_path, chunk_size):
    images = {
        f"{i:02}/orc_{j}": recolored(sprite(i), j)
        for i in range(50)
        for j in range(3)
    }
    save(tmp_path / "images", images)
    held = token_dataset.load(tmp_path / "images", EXACT)
    shards = tokenizing.tokenize(
        tmp_path / "images",
        tmp_path / "shards",
        EXACT,
        chunk_size=chunk_size,
        say=lambda line: None,
    )
    counts = shards.manifest["counts"]
    assert counts["train"] == len(held.train)
    assert counts["validation"] == len(held.validation)
    assert len(held.validation) % 3 == 0
    assert len(held.validation)

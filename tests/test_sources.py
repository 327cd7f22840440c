import hashlib
import os
import shutil
import unicodedata

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tiny_zoo import TinyZoo

from pixace_tf.data import cartoons, labels, sources, token_dataset
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.painting.request import Request

TOKENIZER = PixelTokenizer((8, 8))


def read(folder, **options):
    return sources.load_images(folder, TOKENIZER, **options)


def rows(images):
    return {image.tobytes() for image in images}


def sides(small):
    """The images that train and those that validate, as bytes."""
    in_train = small.in_train()
    return rows(small.images[in_train]), rows(small.images[~in_train])


def small_images(images, parts=None):
    count = len(images)
    return sources.SmallImages(images, parts or [""] * count, [""] * count, [])


def noise(count, seed=0):
    shape = (count, 8, 8, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_noise(folder, count, seed=0):
    folder.mkdir(parents=True)
    for i, pixels in enumerate(noise(count, seed)):
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_images_of_a_low_digest_validate():
    images = noise(2000)
    digests = [hashlib.blake2b(i.tobytes(), digest_size=16) for i in images]
    in_train = small_images(images).in_train()
    # The bound is 12.8 in the first byte: the other bytes decide at 12.
    first_bytes = np.array([digest.digest()[0] for digest in digests])
    assert in_train[first_bytes > 12].all()
    assert not in_train[first_bytes < 12].any()


def test_more_images_leave_each_one_on_its_side():
    fewer, more = noise(300, 1), noise(400, 2)
    before = small_images(fewer).in_train()
    after = small_images(np.concatenate([more, fewer])).in_train()
    np.testing.assert_array_equal(before, after[len(more) :])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_images_have_both_sides(count):
    for seed in range(100):
        in_train = small_images(noise(count, seed)).in_train()
        assert 1 <= in_train.sum() < count


def test_one_image_trains_without_validation():
    for seed in range(100):
        assert small_images(noise(1, seed)).in_train().all()
    assert small_images(np.repeat(noise(1), 9, axis=0)).in_train().all()


def test_equal_pixels_lie_on_one_side_whatever_the_file(tmp_path):
    for i in range(60):
        image = cartoons.draw("cat", str(i)).resize((8, 8))
        for ending in ("png", "bmp", "tiff"):
            image.save(tmp_path / f"{i}.{ending}")
    small = read(tmp_path)
    assert len(small.images) == 180
    train, validation = sides(small)
    assert len(train) + len(validation) == 60
    assert validation
    assert not train & validation


def test_a_copy_of_each_file_changes_no_side(tmp_path):
    cartoons.draw_folder(tmp_path / "a", 60)
    before = read(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "a" / "copies")
    after = read(tmp_path / "a")
    assert len(after.images) == 120
    assert sides(after) == sides(before)


def test_given_parts_are_kept(tmp_path):
    cartoons.draw_folder(tmp_path / "train", 16, seed=0)
    cartoons.draw_folder(tmp_path / "val", 8, seed=1)
    cartoons.draw_folder(tmp_path / "test", 8, seed=2)
    small = read(tmp_path)
    assert small.in_train().tolist() == [True] * 16 + [False] * 8
    assert set(small.labels) == set(cartoons.SPECIES)
    assert [s.path for s in small.skipped] == ["test"]


def test_a_lone_test_folder_validates(tmp_path):
    cartoons.draw_folder(tmp_path / "train", 16, seed=0)
    cartoons.draw_folder(tmp_path / "test", 8, seed=1)
    small = read(tmp_path)
    assert (~small.in_train()).sum() == 8
    assert set(small.labels) == set(cartoons.SPECIES)


@pytest.mark.parametrize(
    ("train", "validation", "others"),
    [
        ("train", "valid", []),
        ("Training", "Test", []),
        ("Train", "Val", []),
        ("train", "dev", ["test"]),
        ("training", "VALIDATION", ["Testing"]),
    ],
)
def test_synonyms_and_letter_case_of_parts_count(
    tmp_path, train, validation, others
):
    for seed, part in enumerate((train, validation, *others)):
        save_noise(tmp_path / part / "cat", 3, seed)
    small = read(tmp_path)
    assert small.in_train().tolist() == [p == "train" for p in small.parts]
    assert small.parts.count("train") == small.parts.count("validation") == 3
    assert set(small.labels) == {"cat"}
    assert [s.path for s in small.skipped] == others


def test_a_folder_beside_the_parts_makes_them_no_classes(tmp_path):
    save_noise(tmp_path / "train" / "cat", 3, seed=0)
    save_noise(tmp_path / "test" / "cat", 2, seed=1)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "x.txt").write_text("0 0.5 0.5")
    small = read(tmp_path)
    assert small.parts.count("validation") == 2
    assert set(small.labels) == {"cat"}
    (skipped,) = small.skipped
    assert skipped.reason == "lies outside test/ and train/"


def test_a_class_that_is_called_like_a_part_stays_a_class(tmp_path):
    for vehicle in ("train", "bus"):
        save_noise(tmp_path / vehicle, 1)
    assert read(tmp_path).labels == ["bus", "train"]


@pytest.mark.parametrize("broken", [[], ["train"]])
def test_without_training_images_validation_images_do_not_train(
    tmp_path, broken
):
    save_noise(tmp_path / "valid", 8)
    for part in broken:
        (tmp_path / part).mkdir()
        (tmp_path / part / "1.png").write_text("text")
    assert not read(tmp_path).in_train().any()
    with pytest.raises(UserError, match=r"no pictures to train on: .*valid"):
        token_dataset.load(tmp_path, TOKENIZER)


def test_a_validation_image_that_also_trains_does_not_validate():
    images = noise(3)
    parts = ["train", "train", "validation", "validation"]
    small = small_images(images[[0, 1, 1, 2]], parts)
    assert small.in_train().tolist() == [True, True, True, False]


def test_equal_stems_in_different_folders_are_different(tmp_path):
    for species in ("cat", "dog"):
        (tmp_path / species).mkdir()
        cartoons.draw(species, "0").save(tmp_path / species / "1.png")
    assert read(tmp_path).labels == ["cat", "dog"]


def test_a_truncated_jpeg_never_trains_as_a_grey_half(tmp_path):
    cartoons.draw_folder(tmp_path, 8)
    whole = tmp_path / "whole.jpg"
    cartoons.draw("cat", "0").save(whole)
    (tmp_path / "half.jpg").write_bytes(whole.read_bytes()[:1500])
    small = read(tmp_path)
    assert len(small.images) == 9
    assert [s.path for s in small.skipped] == ["half.jpg"]


def test_kinds_that_need_pillow_train_too(tmp_path):
    image = cartoons.draw("pig", "0")
    image.save(tmp_path / "a.webp", lossless=True)
    image.save(tmp_path / "b.png")
    images = read(tmp_path).images
    np.testing.assert_array_equal(images[0], images[1])


def test_paths_that_are_not_utf8_are_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    cartoons.draw("cat", "0").save(tmp_path / name, "PNG")
    assert len(read(tmp_path).images) == 1


def test_reading_tells_how_far_it_is(tmp_path):
    cartoons.draw_folder(tmp_path, 8)
    (tmp_path / "bad.jpg").write_text("text")
    Image.new("L", (9, 9)).save(tmp_path / "a.bmp")
    told = []
    small = read(tmp_path, progress=lambda *counts: told.append(counts))
    assert told == [(done, 10) for done in range(1, 11)]
    assert small.names[0] == "a.bmp"
    for name, image in zip(small.names, small.images, strict=True):
        np.testing.assert_array_equal(image, TOKENIZER.read(tmp_path / name))


def test_no_usable_image_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="There are no pictures"):
        read(tmp_path)
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(UserError, match=r"1 skipped, the first a\.jpg"):
        read(tmp_path)


def test_tfds_mock_data_loads():
    with tfds.testing.mock_data(num_examples=20):
        small = read("tfds:cifar10")
    assert len(small.images) == 20
    assert len(set(small.labels)) > 1


def test_a_real_tfds_data_set_equals_its_images(tiny_zoo):
    told = []
    small = read("tfds:tiny_zoo", progress=lambda *c: told.append(c))
    expected = set()
    for count, seed, trains in ((9, "0", True), (3, "1", False)):
        for i in range(count):
            label = ("cat", "dog")[i % 2]
            face = np.asarray(cartoons.draw(label, f"{seed}-{i}"))
            pixels = TOKENIZER.resize_image(face).tobytes()
            expected.add((pixels, label, trains))
    pixels = [image.tobytes() for image in small.images]
    in_train = small.in_train().tolist()
    assert set(zip(pixels, small.labels, in_train, strict=True)) == expected
    assert told == [(done, 12) for done in range(1, 13)]
    assert small.names == [f"tfds:tiny_zoo#{i}" for i in range(1, 13)]


def test_a_tfds_data_set_of_unknown_size_tells_no_total(tiny_zoo, monkeypatch):
    as_dataset = TinyZoo.as_dataset
    monkeypatch.setattr(
        TinyZoo,
        "as_dataset",
        lambda self, split: as_dataset(self, split=split).filter(
            lambda _: True
        ),
    )
    told = []
    read("tfds:tiny_zoo:test", progress=lambda *c: told.append(c))
    assert told == [(1, 0), (2, 0), (3, 0)]


def test_one_split_of_tfds_is_split_by_content(tiny_zoo):
    small = read("tfds:tiny_zoo:train")
    assert small.parts == [""] * 9
    assert 1 <= small.in_train().sum() < 9


@pytest.mark.parametrize(
    ("splits", "parts"),
    [
        (["train"], {"train": ""}),
        (
            ["test", "train", "validation"],
            {"test": "test", "train": "train", "validation": "validation"},
        ),
        (["test", "train"], {"train": "train", "test": "validation"}),
        (["a", "b"], {"a": ""}),
        (["test"], {"test": "validation"}),
        (["dev", "unlabelled"], {"unlabelled": ""}),
        (["Train", "extra"], {"Train": ""}),
        (
            ["dev", "test", "training"],
            {"dev": "validation", "test": "test", "training": "train"},
        ),
        ([], {"train": ""}),
    ],
)
def test_splits_of_tfds_give_parts(splits, parts):
    assert sources._tfds_parts(splits) == parts


def test_tfds_mistakes_are_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for source, message in (
        ("tfds:", "given as tfds:NAME"),
        ("tfds:no_such_set", "There is no TensorFlow data set"),
        ("tfds:cifar10", "add --download"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read(source)
        assert "\n" not in str(error.value)


def test_labels_are_one_class_in_every_unicode_form(tmp_path):
    composed = "B\u00e4r"
    decomposed = unicodedata.normalize("NFD", composed)
    save_noise(tmp_path / composed, 1, 0)
    save_noise(tmp_path / decomposed, 1, 1)
    assert read(tmp_path).labels == [composed] * 2
    assert labels.number_of(decomposed, ["x", composed]) == 2
    assert labels.number_of(composed, ["x", decomposed]) == 2
    assert labels.number_of("x", [composed]) == labels.NULL_LABEL
    assert Request(label=decomposed).label_number([composed]) == 1


def test_a_class_is_counted_before_the_split(tmp_path):
    for name in ("kiwi", "plum"):
        save_noise(tmp_path / name, labels.MIN_IMAGES, seed=len(name[:1]))
    data = token_dataset.load(tmp_path, TOKENIZER)
    counts = data.label_counts()
    assert counts == {"kiwi": labels.MIN_IMAGES, "plum": labels.MIN_IMAGES}
    assert len(data.train) < 2 * labels.MIN_IMAGES
    assert labels.choose(counts, None) == ["kiwi", "plum"]


def test_a_class_that_only_validates_is_no_label():
    tokens = np.zeros((40, 4), np.uint16)
    classes = np.repeat(np.arange(2, dtype=np.int32), 20)
    data = token_dataset.TokenDataset(
        tokens, tokens, classes, classes + 1, ["a", "b", "c"], [], ""
    )
    assert data.label_counts() == {"a": 20, "b": 40, "c": 0}


def test_classes_that_are_no_labels_are_named():
    counts = {"": 9, "kiwi": 30, "plum": 20, "sloe": 19}
    line = labels.describe(counts, labels.choose(counts, None))
    assert line == "Labels: kiwi, plum. Fewer than 20 images: sloe."
    assert labels.describe({"": 9}, []) == ""


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tfds_images_of_any_depth_have_their_brightness(dtype):
    levels = np.array([[[0], [128], [255]]], np.uint8)
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}
    pixels = levels.astype(dtype) * dtype(scale[dtype])
    np.testing.assert_array_equal(sources._to_uint8(pixels, "tfds:x"), levels)


@pytest.mark.parametrize(
    "pixels", [np.full((1, 1, 1), 2.0), np.zeros((1, 1, 1), np.int32)]
)
def test_tfds_images_of_unknown_range_are_refused(pixels):
    with pytest.raises(UserError, match="must be uint8, uint16, or floats"):
        sources._to_uint8(pixels, "tfds:x")

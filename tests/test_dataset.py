import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from pixace_tf.data import cartoons, image_files, sources, token_dataset
from pixace_tf.data.tokenizer import PixelTokenizer

TOKENIZER = PixelTokenizer((8, 8))


def rows(token_ids):
    return {row.tobytes() for row in token_ids}


def test_every_picture_lies_on_one_side(cartoon_folder):
    data = token_dataset.load(str(cartoon_folder), TOKENIZER)
    assert len(data.train) + len(data.validation) == 48
    assert len(data.validation) >= 1
    assert not rows(data.train) & rows(data.validation)
    assert data.label_names == sorted(cartoons.SPECIES)


def test_the_split_is_stable_and_keeps_equal_files_together(tmp_path):
    cartoons.draw_folder(str(tmp_path / "a"), 60)
    before = token_dataset.load(str(tmp_path / "a"), TOKENIZER)
    shutil.copytree(tmp_path / "a", tmp_path / "a" / "copies")
    after = token_dataset.load(str(tmp_path / "a"), TOKENIZER)
    assert len(after.train) == 2 * len(before.train)
    assert rows(after.validation) == rows(before.validation)


def test_given_parts_are_kept(tmp_path):
    cartoons.draw_folder(str(tmp_path / "train"), 16, seed=0)
    cartoons.draw_folder(str(tmp_path / "val"), 8, seed=1)
    data = token_dataset.load(str(tmp_path), TOKENIZER)
    assert (len(data.train), len(data.validation)) == (16, 8)


def test_one_picture_trains_without_validation(tmp_path):
    cartoons.draw("cat", "0").save(tmp_path / "a.png")
    data = token_dataset.load(str(tmp_path), TOKENIZER)
    assert (len(data.train), len(data.validation)) == (1, 0)


def test_equal_stems_in_different_folders_are_different(tmp_path):
    for species in ("cat", "dog"):
        (tmp_path / species).mkdir()
        cartoons.draw(species, "0").save(tmp_path / species / "1.png")
    data = token_dataset.load(str(tmp_path), TOKENIZER)
    assert len(data.train) + len(data.validation) == 2


def test_a_truncated_jpeg_never_trains_as_a_grey_half(tmp_path):
    cartoons.draw_folder(str(tmp_path), 8)
    whole = tmp_path / "whole.jpg"
    cartoons.draw("cat", "0").save(whole)
    (tmp_path / "half.jpg").write_bytes(whole.read_bytes()[:1500])
    data = token_dataset.load(str(tmp_path), TOKENIZER)
    assert len(data.train) + len(data.validation) == 9
    assert [s.path for s in data.skipped] == ["half.jpg"]


def test_kinds_that_need_pillow_train_too(tmp_path):
    image = cartoons.draw("pig", "0")
    image.save(tmp_path / "a.webp", lossless=True)
    image.save(tmp_path / "b.png")
    data = sources.load_pictures(str(tmp_path), TOKENIZER)
    np.testing.assert_array_equal(data.images[0], data.images[1])


def test_the_cache_is_used_until_a_file_changes(tmp_path, monkeypatch):
    cartoons.draw_folder(str(tmp_path / "a"), 16)
    cache = str(tmp_path / "tokens.npz")
    first = token_dataset.load(str(tmp_path / "a"), TOKENIZER, cache)
    token_dataset.save_cache(first, cache)
    scans = []
    scan = image_files.scan
    monkeypatch.setattr(
        image_files, "scan", lambda *a, **k: scans.append(1) or scan(*a, **k)
    )
    again = token_dataset.load(str(tmp_path / "a"), TOKENIZER, cache)
    assert not scans
    np.testing.assert_array_equal(first.train, again.train)
    Image.new("RGB", (9, 9)).save(tmp_path / "a" / "cat" / "cat-00000.png")
    changed = token_dataset.load(str(tmp_path / "a"), TOKENIZER, cache)
    assert scans
    assert changed.fingerprint != first.fingerprint


def test_a_damaged_cache_is_made_again(tmp_path, cartoon_folder):
    cache = tmp_path / "tokens.npz"
    first = token_dataset.load(str(cartoon_folder), TOKENIZER)
    token_dataset.save_cache(first, str(cache))
    cache.write_bytes(cache.read_bytes()[:500])
    again = token_dataset.load(str(cartoon_folder), TOKENIZER, str(cache))
    np.testing.assert_array_equal(first.train, again.train)


def test_no_usable_picture_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="There are no pictures"):
        token_dataset.load(str(tmp_path), TOKENIZER)
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"1 skipped, the first a\.jpg"):
        token_dataset.load(str(tmp_path), TOKENIZER)


def batches_of(token_ids, num, **options):
    batches = token_dataset.training_batches(token_ids, (2, 2), 4, **options)
    return [x.numpy() for x, _ in batches.take(num)]


def test_batches_go_on_where_they_were():
    token_ids = np.arange(10 * 4).reshape(10, 4)
    straight = batches_of(token_ids, 6, seed=3)
    resumed = batches_of(token_ids, 3, seed=3, epoch=1, step=1)
    np.testing.assert_array_equal(straight[3:], resumed)
    assert not np.array_equal(straight[0], straight[2])


def test_flips_mirror_rows_and_can_be_off():
    token_ids = np.array([[1, 2, 3, 4]] * 4)
    seen = rows(np.concatenate(batches_of(token_ids, 8, seed=0)))
    expected = np.array([[1, 2, 3, 4], [2, 1, 4, 3]], np.int32)
    assert seen == rows(expected)
    still = batches_of(token_ids, 8, seed=0, flip=False)
    assert rows(np.concatenate(still)) == rows(expected[:1])


def test_an_epoch_serves_every_picture_once():
    token_ids = np.arange(12 * 4).reshape(12, 4)
    epoch = np.concatenate(batches_of(token_ids, 3, seed=5, flip=False))
    np.testing.assert_array_equal(np.sort(epoch[:, 0]), token_ids[:, 0])


def test_tfds_mock_data_loads():
    with tfds.testing.mock_data(num_examples=40):
        data = token_dataset.load("tfds:cifar10", TOKENIZER)
    assert len(data.train) + len(data.validation) == 40
    assert len(data.label_names) > 1


def test_a_real_tfds_data_set_equals_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds")
    )
    array = np.stack(
        [np.asarray(cartoons.draw("cat", str(i))) for i in range(9)]
    )

    class TinyCats(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {"image": tfds.features.Image(shape=(None, None, 3))}
                ),
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, image in enumerate(array):
                yield i, {"image": image}

    TinyCats(data_dir=str(tmp_path / "tfds")).download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    pictures = sources.load_pictures("tfds:tiny_cats:train", TOKENIZER)
    expected = np.stack([TOKENIZER.resize_image(a) for a in array])
    assert rows(pictures.images) == rows(expected)


def test_tfds_mistakes_are_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for source, message in (
        ("tfds:", "given as tfds:NAME"),
        ("tfds:no_such_set", "There is no TensorFlow data set"),
        ("tfds:cifar10", "add --download"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            token_dataset.load(source, TOKENIZER)
        assert "\n" not in str(error.value)


def test_paths_that_are_not_utf8_are_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    cartoons.draw("cat", "0").save(tmp_path / name, "PNG")
    assert len(sources.load_pictures(str(tmp_path), TOKENIZER).images) == 1


def test_tokens_are_those_of_the_graph_function(cartoon_folder):
    data = token_dataset.load(str(cartoon_folder), TOKENIZER)
    path = next(cartoon_folder.glob("cat/*.png"))
    tokens = TOKENIZER.tokenize_bytes(tf.io.read_file(str(path))).numpy()
    all_rows = rows(np.concatenate([data.train, data.validation]))
    assert tokens.astype(data.train.dtype).tobytes() in all_rows

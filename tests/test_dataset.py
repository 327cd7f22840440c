import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from pixace_tf import storage
from pixace_tf.data import cartoons, image_files, token_dataset
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


def test_the_cache_is_used_until_a_file_changes(tmp_path, monkeypatch):
    cartoons.draw_folder(str(tmp_path / "a"), 16)
    cache = str(tmp_path / "tokens.npz")
    first = token_dataset.load(str(tmp_path / "a"), TOKENIZER, cache)
    first.save(cache)
    scans = []
    read = image_files.read_header

    def read_header(*arguments, **options):
        scans.append(1)
        return read(*arguments, **options)

    monkeypatch.setattr(image_files, "read_header", read_header)
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
    first.save(cache)
    cache.write_bytes(cache.read_bytes()[:500])
    again = token_dataset.load(str(cartoon_folder), TOKENIZER, str(cache))
    np.testing.assert_array_equal(first.train, again.train)


def batches_of(token_ids, num, **options):
    rows = token_dataset.MemoryRows(token_ids)
    batches = token_dataset.training_batches(rows, (2, 2), 4, **options)
    return [x.numpy() for (x, _), _ in batches.take(num)]


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
    still = batches_of(token_ids, 8, seed=0, orders=(0,))
    assert rows(np.concatenate(still)) == rows(expected[:1])


def test_an_epoch_serves_every_picture_once():
    token_ids = np.arange(12 * 4).reshape(12, 4)
    epoch = np.concatenate(batches_of(token_ids, 3, seed=5, orders=(0,)))
    np.testing.assert_array_equal(np.sort(epoch[:, 0]), token_ids[:, 0])


def test_neighbors_and_epochs_have_nothing_in_common():
    token_ids = np.arange(4000 * 4).reshape(4000, 4)
    served = np.concatenate(batches_of(token_ids, 2000, seed=5))
    places = (served.min(axis=1) // 4).reshape(2, 4000)
    is_mirrored = (served[:, 0] > served[:, 1]).reshape(2, 4000)
    for rows in (places, is_mirrored):
        first, second = rows.astype(float)
        for a, b in (
            *((first[:-lag], first[lag:]) for lag in (1, 2, 3, 4, 8)),
            (first, second),
        ):
            # Independent orders correlate by at most 3 / sqrt(4000).
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.05
    np.testing.assert_array_equal(np.sort(places[0]), np.arange(4000))
    assert is_mirrored.mean() == pytest.approx(0.5, abs=0.03)


def test_tokens_are_those_of_the_graph_function(cartoon_folder):
    data = token_dataset.load(str(cartoon_folder), TOKENIZER)
    path = next(cartoon_folder.glob("cat/*.png"))
    tokens = TOKENIZER.tokenize(TOKENIZER.read(path))
    all_rows = rows(np.concatenate([data.train, data.validation]))
    assert tokens.astype(data.train.dtype).tobytes() in all_rows


def test_tokens_of_a_tfds_data_set_are_kept_too(tmp_path):
    """A run needs them later, though they are no cache: they are read again."""
    path = tmp_path / "tokens.npz"
    with tfds.testing.mock_data(num_examples=40):
        first = token_dataset.load("tfds:cifar10", TOKENIZER)
        first.save(path)
        again = token_dataset.load("tfds:cifar10", TOKENIZER, path)
    arrays, meta = storage.read_npz(path)
    np.testing.assert_array_equal(arrays["train"], first.train)
    assert meta["label_names"] == first.label_names
    assert not again.is_cached

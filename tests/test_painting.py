import numpy as np
import pytest

import pixace_tf
from pixace_tf.data import cartoons
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.painting import local, sheets

SIZE = (8, 12)


@pytest.fixture
def cat():
    return np.asarray(cartoons.draw("cat", "7"))


def test_the_top_is_kept_and_the_rest_is_drawn(trained_run, cat):
    done = pixace_tf.complete(
        trained_run, [cat, cat[:, ::-1]], temperatures=(0.9, 1.1), samples=3
    )
    assert done.images.shape == (2, 2, 3, *SIZE, 3)
    kept = trained_run.tokenizer.detokenize(
        trained_run.tokenizer.tokenize(done.originals)
    ).numpy()
    top = kept[:, None, None, :4]
    np.testing.assert_array_equal(
        done.images[..., :4, :, :], top.repeat(2, 1).repeat(3, 2)
    )
    np.testing.assert_array_equal(done.kept[:, :4], kept[:, :4])


def test_a_completion_does_not_depend_on_its_neighbors(trained_run, cat):
    both = pixace_tf.complete(trained_run, [cat[::-1], cat], samples=2)
    alone = pixace_tf.complete(trained_run, [cat], samples=1, seed=1)
    np.testing.assert_array_equal(both.images[1, 0, 1], alone.images[0, 0, 0])


def test_the_kth_picture_has_its_own_seed(trained_run):
    many = pixace_tf.generate(trained_run, 5, seed=10)
    one = pixace_tf.generate(trained_run, 1, seed=13)
    np.testing.assert_array_equal(many[0, 3], one[0, 0])


def test_prefix_length_counts_pixels(trained_run, cat):
    done = pixace_tf.complete(trained_run, [cat], prefix_length=96)
    expected = trained_run.tokenizer.detokenize(
        trained_run.tokenizer.tokenize(done.originals)
    ).numpy()
    np.testing.assert_array_equal(done.images[0, 0], expected)


def test_sheets_have_room_for_every_tile(trained_run, cat):
    done = pixace_tf.complete(trained_run, [cat], samples=2)
    sheet = done.sheet(scale=4)
    assert sheet.width >= 4 * 12 * 4
    assert sheet.height >= 8 * 4
    assert sheets.grid(np.zeros((5, 4, 4, 3), np.uint8), 2).mode == "RGB"


def test_what_comes_after_the_prefix_is_covered():
    pixels = np.zeros((4, 4, 3), np.uint8)
    hidden = sheets.hide_after(pixels, 6)
    covered = hidden.any(axis=-1).reshape(-1)
    np.testing.assert_array_equal(covered, np.arange(16) >= 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pictures": []}, "at least one"),
        ({"pictures": ["none.png"]}, "none.png: no such file"),
        ({"pictures": [np.zeros((4, 4))]}, "uint8 array"),
        ({"keep": 1.5}, "keep must lie"),
        ({"samples": 0}, "samples must be positive"),
        ({"prefix_length": 97}, "prefix_length"),
        ({"temperatures": (0.0,)}, "temperature"),
    ],
)
def test_bad_input_is_one_clear_error(trained_run, cat, arguments, message):
    with pytest.raises(ValueError, match=message):
        pixace_tf.complete(trained_run, **{"pictures": [cat], **arguments})


def test_palettes_lose_more_with_fewer_bits(tmp_path):
    path = tmp_path / "a.png"
    cartoons.draw("fox", "0").save(path)
    palettes = [PixelTokenizer((32, 32), w) for w in ((5, 4, 4), (3, 2, 2))]
    sheet = local.palette_sheet([str(path)], palettes)
    assert sheet.width > 3 * 128

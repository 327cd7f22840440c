import numpy as np
import pytest
from PIL import Image

import pixace_tf
from pixace_tf.data import cartoons
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.painting import local, masks
from pixace_tf.painting.request import Request

SIZE = (8, 12)


def small(mask, image, **options):
    tokenizer = PixelTokenizer(SIZE, **options)
    request = Request([image], mask=mask)
    originals = tokenizer.read(image)[None]
    return local.hidden_pixels(request, originals, tokenizer)[0]


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        ("top", slice(0, 4), slice(None)),
        ("bottom:0.25", slice(6, 8), slice(None)),
        ("left:0.5", slice(None), slice(0, 6)),
        ("right:0.01", slice(None), slice(11, 12)),
        ("center", slice(2, 6), slice(3, 9)),
        ("center:1", slice(None), slice(None)),
    ],
)
def test_a_cover_hides_its_side(text, rows, columns):
    expected = np.zeros(SIZE, bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(masks.cover(text, *SIZE), expected)


@pytest.mark.parametrize("text", ["middle", "top:0", "left:x", "top:1.5", ""])
def test_a_bad_cover_is_refused(text):
    with pytest.raises(UserError, match="cover must be one of"):
        Request([np.zeros((8, 12, 3), np.uint8)], cover=text)


def test_a_mask_lands_where_the_picture_lands():
    """A cross-shaped crop, scaling and padding move both alike."""
    image = np.full((160, 96, 3), 255, np.uint8)
    mask = np.zeros((80, 48), bool)
    mask[30:50, 10:20] = True  # Half as large as its image.
    image[60:100, 20:40] = 0
    for resize in ("crop", "squash", "pad"):
        tokenizer = PixelTokenizer(SIZE, resize=resize)
        dark = tokenizer.read(image)[..., 0] < 255 * (1 - masks.MIN_SHARE)
        assert dark.any()
        for given in (mask, mask.astype(np.uint8) * 255):
            found = small(given, image, resize=resize)
            np.testing.assert_array_equal(found, dark)


def test_a_mask_of_the_small_size_is_taken_as_it_is():
    mask = np.random.default_rng(0).random(SIZE) < 0.5
    image = np.zeros((50, 50, 3), np.uint8)
    np.testing.assert_array_equal(small(mask, image), mask)


def test_masks_come_from_files_too(tmp_path):
    pixels = np.zeros((80, 120), np.uint8)
    pixels[:40] = 255
    path = tmp_path / "mask.png"
    Image.fromarray(pixels).save(path)
    found = small(path, np.zeros((160, 240, 3), np.uint8))
    np.testing.assert_array_equal(found, masks.cover("top", *SIZE))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_transparent_part_of_a_mask_is_not_painted(tmp_path, mode):
    white = np.full((80, 120, 4), 255, np.uint8)
    white[:, 60:, 3] = 0  # White below, as a brush on a new layer leaves it.
    image = Image.fromarray(white)
    path = tmp_path / "brush.png"
    if mode == "P":
        index = Image.fromarray((white[..., 3] == 0).astype(np.uint8), "P")
        index.putpalette([255] * 6)
        index.save(path, transparency=1)
    else:
        image.convert(mode).save(path)
    for mask in [path] + [white] * (mode == "RGBA"):
        found = small(mask, np.zeros((160, 240, 3), np.uint8))
        np.testing.assert_array_equal(found, masks.cover("left", *SIZE))


def test_alpha_paints_what_is_transparent(tmp_path):
    rgba = np.full((80, 120, 4), 200, np.uint8)
    rgba[:, :60, 3], rgba[:, 60:, 3] = 0, 255
    path = tmp_path / "picture.png"
    Image.fromarray(rgba).save(path)
    found = small("alpha", path)
    np.testing.assert_array_equal(found, masks.cover("left", *SIZE))
    opaque = tmp_path / "opaque.png"
    Image.fromarray(rgba[..., :3]).save(opaque)
    with pytest.raises(UserError, match=r"opaque\.png is transparent"):
        small("alpha", opaque)


@pytest.mark.parametrize("resize", ["native", "pad"])
def test_with_alpha_the_margins_are_painted_too(resize):
    rgba = np.full((8, 6, 4), 200, np.uint8)
    rgba[:, :3, 3], rgba[:, 3:, 3] = 0, 255
    palette = "hsv 5,4,4 alpha 1"
    found = small("alpha", rgba, palette=palette, resize=resize)
    expected = np.ones(SIZE, bool)
    expected[:, 6:9] = False
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mask": np.zeros((90, 90), bool)},
            "a mask of 90x90",
        ),
        ({"mask": np.zeros((8, 12))}, "a bool or uint8 array"),
        ({"mask": np.zeros((8, 12), bool)}, "picture 1 paints nothing"),
        ({"mask": "none.png"}, "none.png: no such file"),
        ({"mask": [], "cover": None}, "0 masks, 1 images"),
        ({"mask": "alpha"}, "Nothing in the image is transparent"),
        (
            {"cover": "top", "prefix_length": 4},
            "Give only one of",
        ),
        ({"particles": 0}, "particles must be an integer from 1"),
    ],
)
def test_bad_masks_are_refused_with_a_sentence(trained_run, options, message):
    image = np.asarray(cartoons.draw("cat", "7"))[:64, :]
    with pytest.raises(UserError, match=message):
        pixace_tf.complete(trained_run, [image], **options)


def test_what_is_not_masked_is_kept(trained_run):
    cat = np.asarray(cartoons.draw("cat", "7"))
    dog = np.asarray(cartoons.draw("dog", "7"))
    shown = []
    done = pixace_tf.complete(
        trained_run,
        [cat, dog],
        mask=[masks.cover("center", *SIZE), masks.cover("left", *SIZE)],
        samples=2,
        particles=3,
        watch=shown.append,
    )
    assert done.images.shape == (2, 1, 2, *SIZE, 3)
    tokenizer = trained_run.tokenizer
    small = tokenizer.detokenize(tokenizer.tokenize(done.originals))
    for row, side in enumerate(("center", "left")):
        kept = ~masks.cover(side, *SIZE)
        for image in (*done.images[row, 0], done.kept[row]):
            np.testing.assert_array_equal(image[kept], small[row][kept])
        for image in shown:
            np.testing.assert_array_equal(
                image[row, 0, 1][kept], small[row][kept]
            )
    assert np.any(done.images[0, 0, 0] != done.images[0, 0, 1])
    np.testing.assert_array_equal(shown[-1], done.images)
    (alone,) = pixace_tf.complete(
        trained_run, [dog], cover="left", samples=2, particles=3
    ).images
    np.testing.assert_array_equal(alone, done.images[1])

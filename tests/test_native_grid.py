"""Pixel art keeps its pixels: the native grid, in NumPy and in graphs."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_png_kinds import KINDS

from pixace_tf.data import image_files, native_grid
from pixace_tf.data.decoding import Decoder
from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.native_grid import ANCHORS, grid_factor
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.painting.small_mask import small_mask

EXACT = "rgb 8,8,8 alpha 8"


def sprite(height, width, seed=0):
    """A random sprite: few colors, some of them soft, half transparent."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (6, 4), np.uint8)
    colors[:3, 3] = 0, 0, 255
    return colors[rng.integers(0, 6, (height, width))]


def enlarged(image, factor):
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def canonical(image):
    return np.where(image[..., 3:] > 0, image, 0)


def placed(image, size, top, left):
    canvas = np.zeros((*size, 4), np.uint8)
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canonical(canvas)


@pytest.mark.parametrize("factor", range(1, 9))
def test_the_factor_of_enlarged_pixels_is_found(factor):
    for size in ((7, 5), (16, 16), (1, 13), (12, 18)):
        assert grid_factor(enlarged(sprite(*size), factor)) == factor
        assert grid_factor(enlarged(sprite(*size)[..., :3], factor)) == factor


def test_long_images_are_compared_to_their_end():
    large = enlarged(np.zeros((50, 40, 4), np.uint8), 6)
    large[..., 3] = 255
    assert grid_factor(large) == 60
    large[:210] = 1, 2, 3, 255
    assert grid_factor(large) == 30
    large[:, 230:] = 4, 5, 6, 255
    assert grid_factor(large) == 10
    large[-1] = 7, 8, 9, 255
    assert grid_factor(large) == 1


def test_a_single_pixel_off_the_grid_makes_the_factor_1():
    large = enlarged(sprite(8, 8), 4)
    large[5, 6] = 1, 2, 3, 255
    assert grid_factor(large) == 1


def test_hidden_colors_do_not_count_for_the_grid():
    large = enlarged(sprite(8, 8), 4)
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, large.shape, np.uint8)
    noise[..., 3] = 0
    assert grid_factor(np.where(large[..., 3:] > 0, large, noise)) == 4


@pytest.mark.parametrize(
    ("size", "anchor", "corner"),
    [
        ((16, 16), "bottom", (16, 8)),
        ((16, 16), "center", (8, 8)),
        ((16, 16), "top", (0, 8)),
        ((31, 29), "center", (0, 1)),
        ((31, 29), "bottom", (1, 1)),
        ((1, 1), "bottom", (31, 15)),
        ((32, 32), "bottom", (0, 0)),
        ((32, 1), "top", (0, 15)),
    ],
)
def test_what_fits_is_set_into_the_canvas_as_it_is(size, anchor, corner):
    image = sprite(*size)
    tokenizer = PixelTokenizer((32, 32), EXACT, "native", anchor=anchor)
    expected = placed(image, (32, 32), *corner)
    np.testing.assert_array_equal(tokenizer.read(image), expected)


def test_an_enlarged_image_that_fits_stays_enlarged():
    double = enlarged(sprite(8, 8), 2)
    for size in (16, 20):
        tokenizer = PixelTokenizer((size, 16), EXACT, "native")
        expected = placed(double, (size, 16), size - 16, 0)
        np.testing.assert_array_equal(tokenizer.read(double), expected)


def test_enlarged_images_come_back_to_their_grid():
    image = sprite(14, 20)
    tokenizer = PixelTokenizer((16, 20), EXACT, "native")
    for factor in (2, 3, 5):
        np.testing.assert_array_equal(
            tokenizer.read(enlarged(image, factor)),
            placed(image, (16, 20), 2, 0),
        )


def test_without_alpha_the_canvas_is_white():
    image = sprite(2, 2)[..., :3]
    tokenizer = PixelTokenizer((4, 4), "rgb 8,8,8", "native")
    read = tokenizer.read(image)
    np.testing.assert_array_equal(read[2:, 1:3], image)
    assert (read[:2] == 255).all()
    assert (read[:, 3] == 255).all()


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((33, 40), "40 x 33 pixels do not fit into 32 x 32 and are not"),
        ((31, 33), "33 x 31 pixels do not fit into 32 x 32 and are not"),
        ((33, 31), "31 x 33 pixels do not fit"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(size, reason, tmp_path):
    tokenizer = PixelTokenizer((32, 32), EXACT, "native")
    with pytest.raises(UserError, match=f"^{reason}"):
        tokenizer.read(sprite(*size))
    both = "nor do they as"
    with pytest.raises(UserError, match=both):
        tokenizer.read(enlarged(sprite(*size), 2))
    path = tmp_path / "large.png"
    Image.fromarray(sprite(*size)).save(path)
    with pytest.raises(UserError, match=f"large.png: {reason}"):
        tokenizer.read(path)


TOKENIZERS = [
    PixelTokenizer((32, 32), EXACT, "native"),
    PixelTokenizer((24, 40), "hsv 5,4,4 alpha 1", "native", anchor="center"),
    PixelTokenizer((33, 31), "hsv 5,4,4", "native", anchor="top"),
    PixelTokenizer((16, 20), EXACT, "native", trim=True),
]
SIZES = [(1, 1), (16, 16), (31, 33), (33, 31), (32, 32), (14, 20), (7, 5)]


def name_of(tokenizer):
    return " ".join(map(str, tokenizer.get_config().values()))


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=name_of)
def test_graphs_place_images_as_numpy_does(tokenizer):
    graph = GraphTokenizer(tokenizer)
    shape = (None, None, tokenizer.palette.num_image_channels)
    spec = tf.TensorSpec(shape, tf.uint8)
    resize = tf.function(graph.resize_image, [spec], autograph=False)
    like = tf.function(graph.resize_like, [spec, spec], autograph=False)
    refused = 0
    for i, size in enumerate(SIZES):
        for factor in (1, 2, 3, 6):
            image = tokenizer.with_alpha(enlarged(sprite(*size, i), factor))
            mask = enlarged(sprite(*size, i + 9), 2)[..., : shape[2]]
            try:
                expected = tokenizer.resize_image(image)
            except UserError:
                refused += 1
                with pytest.raises(tf.errors.InvalidArgumentError, match="fit"):
                    resize(image)
                with pytest.raises(tf.errors.InvalidArgumentError, match="fit"):
                    like(mask, image)
                continue
            np.testing.assert_array_equal(resize(image), expected)
            np.testing.assert_array_equal(
                like(mask, image), tokenizer.resize_like(mask, image)
            )
    assert 0 < refused < len(SIZES) * 4


def test_every_kind_of_png_is_placed_alike(tmp_path):
    tokenizer = PixelTokenizer((8, 9), EXACT, "native")
    graph = GraphTokenizer(tokenizer)
    spec = tf.TensorSpec((), tf.string)
    decode = tf.function(graph.decode, [spec], autograph=False)
    contents = [content for content, _ in KINDS.values()]
    decoded = list(Decoder(tokenizer, 10**6, are_paths=False).decode(contents))
    for content, also in zip(contents, decoded, strict=True):
        path = tmp_path / "sprite.png"
        path.write_bytes(content)
        expected = tokenizer.read(path)
        np.testing.assert_array_equal(decode(content), expected)
        np.testing.assert_array_equal(also, expected)
        whole = tokenizer.read_whole(path)
        np.testing.assert_array_equal(expected[3:, 1:8], whole)


def test_a_decoder_gives_the_reason_for_what_does_not_fit():
    tokenizer = PixelTokenizer((8, 8), EXACT, "native")
    buffer = io.BytesIO()
    Image.fromarray(sprite(9, 8)).save(buffer, "PNG")
    files = [buffer.getvalue(), b"nothing"]
    results = list(Decoder(tokenizer, 10**6, are_paths=False).decode(files))
    assert results == [
        "8 x 9 pixels do not fit into 8 x 8 and are not enlarged by a whole "
        "factor",
        "not a picture in a known format",
    ]


def test_every_rgba_comes_back_from_its_tokens():
    tokenizer = PixelTokenizer((32, 32), EXACT, "native")
    for i, size in enumerate([(1, 1), (31, 29), (32, 32)]):
        image = sprite(*size, i)
        small = tokenizer.read(image)
        back = tokenizer.detokenize(tokenizer.tokenize(small))
        np.testing.assert_array_equal(back, small)


def test_an_image_of_nothing_is_transparent_tokens():
    tokenizer = PixelTokenizer((32, 32), EXACT, "native")
    for size in ((1, 1), (31, 29), (32, 32), (640, 480)):
        nothing = sprite(*size)
        nothing[..., 3] = 0
        small = tokenizer.read(nothing)
        assert not small.any()
        assert not tokenizer.tokenize(small).any()


def test_a_mask_follows_its_image():
    tokenizer = PixelTokenizer((8, 8), EXACT, "native")
    image = enlarged(sprite(6, 5), 3)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[:3, :6] = 255
    expected = np.zeros((8, 8), bool)
    expected[2, 1:3] = True
    small = small_mask(mask, tokenizer.with_alpha(image), tokenizer)
    np.testing.assert_array_equal(small, expected)
    # A mask of another size has the same effect.
    small = small_mask(mask[::3, ::3], image, tokenizer)
    np.testing.assert_array_equal(small, expected)


def test_only_native_tokenizers_have_an_anchor_in_their_configuration():
    assert "anchor" not in PixelTokenizer().get_config()
    native = PixelTokenizer(resize="native", anchor="top")
    assert native.get_config()["anchor"] == "top"
    assert PixelTokenizer(**native.get_config()) == native
    assert native != PixelTokenizer(resize="native")
    with pytest.raises(UserError, match="anchor must be one of bottom"):
        PixelTokenizer(anchor="left")


def test_a_jpeg_is_decoded_whole(tmp_path):
    path = tmp_path / "large.jpg"
    Image.fromarray(enlarged(sprite(8, 8)[..., :3], 32)).save(path)
    tokenizer = PixelTokenizer((8, 8), resize="native")
    assert tokenizer.jpeg_ratio(256, 256) == 1
    with pytest.raises(UserError, match="256 x 256 pixels do not fit"):
        tokenizer.read(path)
    graph = GraphTokenizer(tokenizer)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must fit"):
        graph.decode(image_files.read(path))


def test_the_anchors_are_named():
    assert ANCHORS == ("bottom", "center", "top")
    assert native_grid.margins(3, 2, (8, 8), "center") == (2, 3)

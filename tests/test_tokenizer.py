import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pixace_tf.data import image_files
from pixace_tf.data.cartoons import draw
from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.tokenizer import PixelTokenizer, over_white
from pixace_tf.errors import UserError


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(content, *arguments, **options):
    """Decode in a graph and, with the same pixels, in NumPy."""
    tokenizer = PixelTokenizer(*arguments, **options)
    small = GraphTokenizer(tokenizer).decode(content).numpy()
    pixels = np.asarray(image_files.load(io.BytesIO(content)))
    pixels = over_white(pixels) if pixels.shape[2] == 4 else pixels
    np.testing.assert_array_equal(tokenizer.read(pixels), small)
    return small


def photo_like(width, height):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def oracle_crop(image, size):
    """Centre crop and antialiased bilinear resize, by Pillow."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(
        image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    )


@pytest.mark.parametrize("size", [(96, 96), (130, 90), (64, 200)])
def test_png_is_cropped_and_resized_as_pillow_does(size):
    image = photo_like(*size)
    small = decode(encode(image), (32, 32))
    difference = np.abs(small.astype(int) - oracle_crop(image, 32))
    assert difference.max() <= 1


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_jpeg_at_reduced_scale_is_near_the_full_decode(resize, tmp_path):
    image = photo_like(700, 520)
    content = encode(image, "JPEG", quality=95)
    tokenizer = PixelTokenizer((32, 32), resize=resize)
    (tmp_path / "a.jpg").write_bytes(content)
    reduced = tokenizer.read(tmp_path / "a.jpg").astype(int)
    full = tokenizer.resize_image(np.asarray(Image.open(tmp_path / "a.jpg")))
    # The colors of this picture change faster than those of a photo.
    assert np.abs(reduced - full).mean() < 3


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_an_image_of_the_size_is_kept_as_it_is(resize):
    image = photo_like(24, 32)
    small = decode(encode(image), (32, 24), resize=resize)
    np.testing.assert_array_equal(small, image)


def test_pad_keeps_all_of_the_picture_on_white():
    image = Image.new("RGB", (100, 50), (200, 0, 0))
    small = decode(encode(image), (20, 20), resize="pad")
    assert (small[:5] == 255).all()
    assert (small[15:] == 255).all()
    assert (small[5:15] == (200, 0, 0)).all()


def test_a_hair_thin_picture_loads_under_every_resize():
    image = encode(Image.new("RGB", (1000, 1), (0, 200, 0)))
    for resize in ("crop", "squash", "pad"):
        small = decode(image, (8, 8), resize=resize)
        assert small.shape == (8, 8, 3)


def test_alpha_is_laid_over_white():
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 51))
    small = decode(encode(image), (32, 32))
    assert (small == 204).all()


def test_eager_equals_graph_equals_tf_data():
    content = encode(draw("cat", "0"))
    tokenizer = GraphTokenizer(PixelTokenizer((24, 40)))

    def tokenize(image_bytes):
        return tokenizer.tokenize(tokenizer.decode(image_bytes))

    eager = tokenize(content).numpy()
    graph = tf.function(tokenize)(content).numpy()
    (in_data,) = (
        tf.data.Dataset.from_tensors(content).map(tokenize).as_numpy_iterator()
    )
    np.testing.assert_array_equal(eager, graph)
    np.testing.assert_array_equal(eager, in_data)


@pytest.mark.parametrize("color_space", ["hsv", "rgb"])
def test_detokenized_pictures_keep_their_colors(color_space):
    images = np.stack([np.asarray(draw(s, "1")) for s in ("fox", "frog")])
    tokenizer = PixelTokenizer((96, 96), f"{color_space} 6,6,6")
    again = tokenizer.detokenize(tokenizer.tokenize(images))
    assert np.abs(again.astype(int) - images).mean() < 3


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 broken"],
)
def test_what_is_no_picture_is_an_error(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        GraphTokenizer(PixelTokenizer()).decode(tf.constant(content))


def test_a_picture_bomb_is_refused_by_its_header():
    content = bytearray(encode(Image.new("L", (64, 64))))
    content[16:24] = (100_000).to_bytes(4) * 2
    with pytest.raises(tf.errors.InvalidArgumentError, match="64000000"):
        GraphTokenizer(PixelTokenizer()).decode(tf.constant(bytes(content)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": (0, 32)},
        {"image_size": (32,)},
        {"resize": "zoom"},
        {"palette": "lab 5,4,4"},
    ],
)
def test_a_bad_argument_names_what_came(arguments):
    with pytest.raises(ValueError, match="Received"):
        PixelTokenizer(**arguments)


def test_the_wrong_picture_size_is_an_error():
    with pytest.raises(ValueError, match="shape"):
        PixelTokenizer((8, 8)).tokenize(np.zeros((1, 9, 8, 3), np.uint8))


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_other_types_than_bytes_are_refused(dtype):
    """Their range would be a guess: 0 to 1, to 255 or to 65535."""
    tokenizer = PixelTokenizer((8, 8))
    image = np.zeros((8, 8, 3), dtype)
    graph = GraphTokenizer(tokenizer)
    for function in (
        tokenizer.read,
        tokenizer.resize_image,
        tokenizer.tokenize,
        graph.resize_image,
        tf.function(graph.tokenize, autograph=False),
    ):
        with pytest.raises(UserError, match=f"uint8.*{dtype}"):
            function(image)


def test_tokens_that_are_no_integers_are_refused():
    with pytest.raises(UserError, match="integers"):
        PixelTokenizer((1, 1)).detokenize([[0.5]])


@pytest.mark.parametrize("token", [-1, 1 << 13])
def test_a_token_without_a_color_is_an_error(token):
    with pytest.raises(UserError, match="must lie in"):
        PixelTokenizer((1, 1)).detokenize([[token]])


def test_a_tokenizer_is_what_its_config_says():
    tokenizer = PixelTokenizer((24, 40), "rgb 5,4,4", "pad")
    again = PixelTokenizer(**tokenizer.get_config())
    assert again.get_config() == tokenizer.get_config()
    assert again.palette == tokenizer.palette


def framed(content, box, size=(40, 60), color=(255, 255, 255)):
    image = np.full((*size, 3), color, np.uint8)
    top, left, bottom, right = box
    image[top:bottom, left:right] = content
    return image


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((5, 10, 25, 30), (5, 10, 25, 30)),
        # Grown to a square, as far as the image reaches.
        ((5, 10, 15, 30), (0, 10, 20, 30)),
        ((20, 10, 30, 30), (15, 10, 35, 30)),
        ((1, 0, 3, 50), (0, 0, 40, 50)),
        ((10, 58, 30, 60), (10, 40, 30, 60)),
    ],
)
def test_margins_are_found(box, expected):
    tokenizer = PixelTokenizer((8, 8), trim=True)
    noise = np.random.default_rng(0).integers(0, 100, (40, 60, 3), np.uint8)
    top, left, bottom, right = box
    image = framed(noise[top:bottom, left:right], box)
    image[-1, -1] = (250, 255, 255)  # As JPEG leaves it.
    assert tokenizer.content_box(image).tolist() == [*expected]
    top, left, bottom, right = expected
    np.testing.assert_array_equal(
        tokenizer.resize_image(image),
        PixelTokenizer((8, 8)).resize_image(image[top:bottom, left:right]),
    )


def test_an_image_of_one_color_is_left_whole():
    image = framed(0, (0, 0, 0, 0))
    found = PixelTokenizer((8, 8), trim=True).content_box(image)
    assert found.tolist() == [0, 0, 40, 60]


def test_a_mask_is_trimmed_like_its_image():
    tokenizer = PixelTokenizer((10, 10), trim=True)
    image = framed((200, 30, 30), (10, 20, 30, 40))
    mask = framed((255, 255, 255), (10, 20, 20, 40), color=0)
    for scale in (1, 2, 3):
        large = mask.repeat(scale, axis=0).repeat(scale, axis=1)
        small = tokenizer.resize_like(large, image)
        assert np.all(small[:5] >= 128)
        assert np.all(small[5:] < 128)


def test_files_are_trimmed_in_graph_and_eagerly(tmp_path):
    tokenizer = PixelTokenizer((8, 8), trim=True)
    rgba = np.zeros((400, 400, 4), np.uint8)
    rgba[150:250, 100:200] = (10, 90, 200, 255)
    Image.fromarray(rgba).save(tmp_path / "sprite.png")
    white = np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]).astype(np.uint8)
    Image.fromarray(white).save(tmp_path / "sprite.jpg", quality=95)
    graph = tf.function(GraphTokenizer(tokenizer).decode)
    for name in ("sprite.png", "sprite.jpg"):
        small = tokenizer.read(tmp_path / name)
        decoded = graph(tf.io.read_file(str(tmp_path / name)))
        np.testing.assert_array_equal(small, decoded)
        assert np.abs(small.astype(int) - (10, 90, 200)).max() < 40


def test_tokenizers_of_the_same_settings_are_equal():
    first, second = PixelTokenizer((4, 4)), PixelTokenizer((4, 4))
    assert first == second
    assert len({first, second, PixelTokenizer((4, 4), trim=True)}) == 2

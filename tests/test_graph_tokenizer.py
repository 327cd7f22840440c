"""Pictures have the same pixels and tokens in NumPy and in graphs."""

import functools
import io
import itertools
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_png_kinds import KINDS

from pixace_tf.data import image_files, resampling
from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.palette import Palette
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError

TOKENIZERS = [
    PixelTokenizer((32, 32)),
    PixelTokenizer((24, 40), resize="squash"),
    PixelTokenizer((20, 9), resize="pad"),
    PixelTokenizer((16, 16), trim=True),
    PixelTokenizer((11, 16), resize="pad", trim=True),
]
# The first sizes are reduced as JPEG, by 8, 4 and 2.
SIZES = [(530, 700), (270, 290), (140, 150), (33, 31), (1, 1), (3, 900)]
SIZES += [(900, 3), (1, 257), (64, 64), (32, 45)]


def name_of(tokenizer):
    return " ".join(map(str, tokenizer.get_config().values()))


@functools.cache
def graph_of(tokenizer):
    spec = tf.TensorSpec((), tf.string)
    graph = GraphTokenizer(tokenizer)
    return tf.function(graph.decode, [spec], autograph=False)


def differences(tokenizer, content, folder):
    """Return by how many levels NumPy and graph differ, for each pixel."""
    path = folder / "picture"
    path.write_bytes(content)
    ours = tokenizer.read(path).astype(int)
    theirs = graph_of(tokenizer)(image_files.read(path)).numpy()
    return np.abs(ours - theirs).max(axis=-1)


def smooth(height, width, seed):
    """A random picture with a margin, smooth but for its grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height))
    pixels = np.asarray(image).astype(int)
    pixels += rng.integers(-9, 10, pixels.shape)
    pixels[: height // 5] = pixels[:, : width // 6] = 250
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=name_of)
def test_no_pixel_of_a_png_differs(tokenizer, tmp_path):
    for content, _ in KINDS.values():
        assert not differences(tokenizer, content, tmp_path).any()
    for i, size in enumerate(SIZES):
        image = smooth(*size, i)
        assert not differences(
            tokenizer, encode(image, "PNG"), tmp_path
        ).any(), size
        alpha = smooth(*size, i + 1).convert("L")
        image.putalpha(alpha)
        assert not differences(
            tokenizer, encode(image, "PNG"), tmp_path
        ).any(), size


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=name_of)
def test_hardly_a_pixel_of_a_jpeg_differs(tokenizer, tmp_path):
    found = []
    rng = np.random.default_rng(TOKENIZERS.index(tokenizer))
    cases = itertools.cycle(
        itertools.product((False, True), (0, 1, 2), ("RGB", "L"))
    )
    sizes = [*SIZES, *rng.integers(1, 640, (32, 2)).tolist()]
    for size, case in zip(sizes, cases, strict=False):
        progressive, subsampling, mode = case
        content = encode(
            smooth(*size, int(rng.integers(1 << 30))).convert(mode),
            "JPEG",
            quality=int(rng.integers(20, 100)),
            progressive=progressive,
            subsampling=subsampling,
        )
        found.append(differences(tokenizer, content, tmp_path).ravel())
    found = np.concatenate(found)
    assert found.max() <= 1
    assert np.mean(found > 0) < 1e-4


def hostile():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = smooth(500, 333, 3)
    yield encode(image, "JPEG", exif=exif)
    yield encode(image.convert("CMYK"), "JPEG")
    yield encode(image, "PNG", exif=exif)
    yield encode(image.convert("P"), "GIF")
    yield encode(image.convert("P"), "PNG", transparency=3)
    gray = np.linspace(0, 65535, 70 * 90).astype(np.uint16).reshape(70, 90)
    yield encode(Image.fromarray(gray), "PNG")
    yield encode(Image.fromarray(gray), "TIFF")
    image.putalpha(smooth(500, 333, 4).convert("L"))
    for kind in ("TIFF", "WEBP", "PNG", "AVIF"):
        yield encode(image, kind)


@pytest.mark.parametrize("tokenizer", TOKENIZERS[::2], ids=name_of)
def test_rare_files_are_the_same(tokenizer, tmp_path):
    for content in hostile():
        assert not differences(tokenizer, content, tmp_path).any()


def test_the_resize_is_that_of_tensorflow_to_the_bit():
    rng = np.random.default_rng(1)
    resize = tf.function(
        functools.partial(tf.image.resize, antialias=True),
        [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec(2, tf.int32)],
        autograph=False,
    )
    for _ in range(60):
        image = rng.integers(0, 256, (*rng.integers(1, 300, 2), 3), np.uint8)
        size = rng.integers(1, 90, 2)
        ours = resampling.resize(image, *size.tolist())
        np.testing.assert_array_equal(ours, resize(image, size))


@pytest.mark.parametrize("palette", ["hsv 5,4,4", "hsv 8,8,8", "hsv 3,2,0"])
def test_tokens_and_colors_are_the_same(palette):
    tokenizer = PixelTokenizer((64, 64), palette)
    graph = GraphTokenizer(tokenizer)
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (2, 3, 64, 64, 3), np.uint8)
    images[0, 0] //= 16  # Dark and gray colors are the hard ones.
    images[0, 1] = images[0, 1, :, :, :1]
    tokens = tokenizer.tokenize(images)
    assert (tokens.dtype, tokens.shape) == (np.int32, (2, 3, 4096))
    np.testing.assert_array_equal(tokens, graph.tokenize(images))
    colors = tokenizer.detokenize(tokens)
    assert colors.dtype == np.uint8
    np.testing.assert_array_equal(colors, graph.detokenize(tokens))
    size = Palette.get(palette).vocabulary_size
    every = rng.integers(0, size, (9, 4096))
    np.testing.assert_array_equal(
        tokenizer.detokenize(every), graph.detokenize(every)
    )


def test_masks_are_scaled_the_same():
    image, mask = (np.asarray(smooth(90, 130, seed)) for seed in (1, 2))
    for tokenizer in TOKENIZERS:
        for large in (mask, mask[::2, ::2], mask.repeat(2, 0).repeat(2, 1)):
            np.testing.assert_array_equal(
                tokenizer.resize_like(large, image),
                GraphTokenizer(tokenizer).resize_like(large, image),
            )


def test_a_graph_refuses_what_numpy_refuses():
    graph = GraphTokenizer(PixelTokenizer((1, 1)))
    with pytest.raises(UserError, match="integers"):
        graph.detokenize([[0.5]])
    for token in (-1, 1 << 13):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must lie in"):
            graph.detokenize([[token]])
    with pytest.raises(UserError, match="shape"):
        graph.tokenize(np.zeros((1, 2, 1, 3), np.uint8))


def test_a_large_jpeg_is_reduced_as_it_is_decoded(tmp_path):
    Image.new("RGB", (4000, 3000), "red").save(tmp_path / "a.jpg")
    tracemalloc.start()
    small = PixelTokenizer((32, 32)).read(tmp_path / "a.jpg")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.all(small == (254, 0, 0))
    assert peak < 4000 * 3000 / 4


def test_pictures_are_read_without_tensorflow():
    modules = (
        *("data.tokenizer", "data.fidelity", "data.batches", "data.labels"),
        *("data.raster_orders", "painting.masks", "painting.palette_sheet"),
        *("painting.painter", "painting.request", "painting.small_mask"),
        *("painting.sheets", "console"),
    )
    code = "import sys\n"
    code += "\n".join(f"import pixace_tf.{name}" for name in modules)
    code += "\nfor m in ('tensorflow', 'keras', 'jax'): assert m not in "
    code += "sys.modules, m"
    subprocess.run([sys.executable, "-c", code], check=True)

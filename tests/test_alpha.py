"""Transparency: as a channel of the palette, in files and in the model."""

import io

import numpy as np
import pytest
from PIL import Image

from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.palette import Palette
from pixace_tf.data.quantization import dequantize, quantize
from pixace_tf.data.sources import open_source
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.data.transparency import find_alpha
from pixace_tf.errors import UserError
from pixace_tf.model.color_head import ChainHead, PackedHead

PALETTES = [
    "hsv 5,4,4 alpha 1",
    "hsv 3,2,0 alpha 2",
    "hsv 4,0,3 alpha 1",
    "rgb 2,3,2 alpha 3",
    "rgb 4,4,4 alpha 4",
]
WIDE = "rgb 8,8,8 alpha 8"
RESIZES = ("crop", "squash", "pad")


def random_image(height, width, seed=0):
    """Return RGBA of small blobs, some of them transparent."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 4))
    blocks[..., 3] = rng.choice([0, 0, 90, 255], blocks.shape[:2])
    image = blocks.repeat(4, 0).repeat(4, 1)[:height, :width]
    return image.astype(np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("text", PALETTES)
def test_opaque_and_clear_colors_have_codes(text):
    palette = Palette.get(text)
    opaque = palette.opaque
    tokens = np.arange(opaque.vocabulary_size, dtype=np.int32)
    tokens = tokens[opaque.is_canonical(tokens)]
    rgb = dequantize(opaque.unpack(tokens), opaque)
    for level in range(1, 1 << palette.alpha_bits):
        codes = tokens + level * opaque.vocabulary_size
        assert palette.is_canonical(codes).all()
        colors = dequantize(palette.unpack(codes), palette)
        np.testing.assert_array_equal(colors[:, :3], rgb)
        alpha = round(255 * level / (2**palette.alpha_bits - 1))
        np.testing.assert_array_equal(colors[:, 3], alpha)
        again = palette.pack(quantize(colors, palette))
        expected = opaque.pack(quantize(rgb, opaque))
        expected += level * opaque.vocabulary_size
        np.testing.assert_array_equal(again, expected)
    assert not dequantize(palette.unpack(np.int32(0)), palette).any()
    every = np.arange(palette.vocabulary_size)
    assert palette.is_canonical(every).sum() == palette.num_colors
    assert palette.num_colors == 1 + level * len(tokens)


def test_alpha_zero_forces_every_channel():
    image = np.array([[200, 10, 60, 0], [0, 0, 0, 0], [255, 255, 255, 1]])
    for text in PALETTES:
        palette = Palette.get(text)
        tokens = palette.pack(quantize(image.astype(np.int32), palette))
        np.testing.assert_array_equal(tokens, 0)


def test_eight_bits_of_each_channel_fit_into_int32():
    palette = Palette.get(WIDE)
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (10_000, 4)).astype(np.int32)
    colors[:2] = [255] * 4, [0, 0, 0, 128]
    colors[colors[:, 3] == 0] = 0
    tokens = palette.pack(quantize(colors, palette))
    assert tokens.dtype == np.int32
    assert tokens.min() < 0 < tokens.max()
    assert not np.any(tokens == palette.start_token_id)
    assert palette.is_canonical(tokens).all()
    assert not palette.is_canonical(np.int32([palette.start_token_id])).any()
    back = dequantize(palette.unpack(tokens), palette)
    np.testing.assert_array_equal(back, colors)


@pytest.mark.parametrize(
    "text", ["hsv 5,4,4 alfa 1", "hsv 5,4,4 alpha", "hsv 5,4,4 alpha 9"]
)
def test_other_alphas_are_errors(text):
    with pytest.raises(UserError, match="alpha"):
        Palette.parse(text)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("text", ["hsv 5,4,4 alpha 2", WIDE])
def test_graphs_read_the_same_pixels(resize, trim, text):
    tokenizer = PixelTokenizer((8, 6), text, resize, trim)
    graph = GraphTokenizer(tokenizer)
    for seed, size in enumerate([(8, 6), (16, 12), (21, 40), (5, 3), (1, 1)]):
        image = random_image(*size, seed)
        image[:, : size[1] // 3, 3] = 0  # A margin.
        small = tokenizer.read(image)
        assert small.shape == (8, 6, 4)
        decoded = graph.decode(png(image)).numpy()
        np.testing.assert_array_equal(decoded, small)
        tokens = tokenizer.tokenize(small)
        np.testing.assert_array_equal(graph.tokenize(small[None])[0], tokens)
        colors = tokenizer.detokenize(tokens)
        np.testing.assert_array_equal(graph.detokenize(tokens), colors)
        if text == WIDE:
            np.testing.assert_array_equal(colors, small)


def test_hidden_colors_do_not_leak():
    image = np.zeros((40, 40, 4), np.uint8)
    image[...] = 255, 255, 255, 0
    image[7:33, 9:31] = 180, 30, 40, 255
    small = PixelTokenizer((12, 12), WIDE).read(image)
    is_visible = small[..., 3] > 0
    assert len(np.unique(small[..., 3])) > 2  # Soft edges.
    np.testing.assert_array_equal(small[~is_visible], 0)
    # Nothing but the one visible color, up to rounding.
    far = small[is_visible][:, :3].astype(int) - [180, 30, 40]
    assert np.abs(far).max() <= 1


def test_opaque_files_get_full_alpha(tmp_path):
    tokenizer = PixelTokenizer((8, 8), WIDE)
    plain = PixelTokenizer((8, 8), "rgb 8,8,8")
    rgb = random_image(8, 8)[..., :3]
    for ending in ("png", "jpg"):
        path = tmp_path / f"image.{ending}"
        Image.fromarray(rgb).save(path)
        read = tokenizer.read(path)
        np.testing.assert_array_equal(read[..., :3], plain.read(path))
        assert np.all(read[..., 3] == 255)
        graph = GraphTokenizer(tokenizer).decode(path.read_bytes())
        np.testing.assert_array_equal(graph, read)


def test_without_alpha_images_lie_on_white():
    image = random_image(8, 8)
    read = PixelTokenizer((8, 8), "rgb 8,8,8").read(image)
    share = image[..., 3:].astype(float) / 255
    white = image[..., :3] * share + 255 * (1 - share)
    assert np.abs(read - white).max() <= 0.5


def test_transparent_margins_are_trimmed():
    image = random_image(40, 40)
    image[..., 3] = 0
    image[10:18, 20:28] = 50, 60, 70, 255
    small = PixelTokenizer((8, 8), WIDE, trim=True).read(image)
    assert np.all(small == [50, 60, 70, 255])


@pytest.mark.parametrize("palette", ["hsv 2,1,2 alpha 1", "rgb 1,2,1 alpha 2"])
@pytest.mark.parametrize("kind", ["chain", "packed"])
def test_heads_are_normalized(palette, kind):
    head = ChainHead(palette, 8) if kind == "chain" else PackedHead(palette)
    head.build((None, 1, 16))
    palette = Palette.get(palette)
    codes = np.arange(palette.vocabulary_size, dtype=np.int32)
    codes = codes[palette.is_canonical(codes)][:, None]
    hidden = np.random.default_rng(0).normal(size=(1, 1, 16))
    hidden = np.repeat(hidden, len(codes), axis=0).astype(np.float32)
    logits = head(hidden, codes)
    nats = np.asarray(head.nats(codes, logits))
    np.testing.assert_allclose(np.exp(-nats).sum(), 1, rtol=1e-5)
    channels = np.asarray(head.channel_nats(codes, logits))
    assert channels.shape[-1] == 4
    np.testing.assert_allclose(channels.sum(-1), nats, atol=1e-5)
    # A transparent pixel costs its alpha alone.
    np.testing.assert_allclose(channels[codes == 0][:, 1:], 0, atol=1e-6)


def opened(folder, resize="crop"):
    tokenizer = PixelTokenizer((8, 8), WIDE, resize)
    return open_source(str(folder), tokenizer, 10**6, False)


@pytest.mark.parametrize(
    ("levels", "expected", "exact"),
    [
        ([255], 0, 1),
        ([0, 255], 1, 1),
        ([0, 255, 85], 2, 2),
        ([0, 255, 90], 2, 5),  # 255 * 11 / 31
    ],
)
def test_alpha_has_the_bits_that_pictures_need(
    tmp_path, levels, expected, exact
):
    rng = np.random.default_rng(0)
    for i in range(3):
        image = random_image(8, 8, i)
        image[..., 3] = rng.choice(levels, (8, 8))
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        Image.fromarray(image[..., :3]).save(tmp_path / f"{i}.jpg")
    assert find_alpha(opened(tmp_path), is_exact=False) == expected
    assert find_alpha(opened(tmp_path, "native"), is_exact=True) == exact


def test_a_few_soft_pixels_are_no_soft_edges(tmp_path):
    image = random_image(8, 8)
    image[..., 3] = np.where(np.arange(64).reshape(8, 8) < 40, 0, 255)
    for i in range(4):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    image[0, 0, 3] = 100
    Image.fromarray(image).save(tmp_path / "soft.png")
    assert find_alpha(opened(tmp_path), is_exact=False) == 1

"""Every kind of PNG gives the right pixels wherever it is read."""

import io
import itertools
import struct
import tarfile
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pixace_tf.data import image_files
from pixace_tf.data.decoding import Decoder
from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.tar_files import TarSource
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.painting import masks

SIZE = (5, 7)
TOKENIZER = PixelTokenizer(SIZE)
GRAPH = GraphTokenizer(TOKENIZER)
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
DEPTHS = {
    GRAY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GRAY_ALPHA: (8, 16),
    RGB_ALPHA: (8, 16),
}
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
# First column and row of each pass of Adam7, and the steps from there.
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def packed(row, depth):
    """The bytes of a row of samples, below 8 bits several in each."""
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = row.reshape(-1, 1) >> np.arange(depth)[::-1] & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def png(samples, color_type, depth, is_interlaced, *chunks):
    height, width = samples.shape[:2]
    header = struct.pack(
        ">IIBBBBB", width, height, depth, color_type, 0, 0, is_interlaced
    )
    passes = ADAM7 if is_interlaced else [(0, 0, 1, 1)]
    rows = [
        b"\0" + packed(row, depth)
        for x, y, dx, dy in passes
        for row in samples[y::dy, x::dx]
        if row.size
    ]
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *chunks,
            chunk(b"IDAT", zlib.compress(b"".join(rows))),
            chunk(b"IEND", b""),
        ]
    )


def kinds():
    """Yield a name, the bytes and the right RGBA of each kind."""
    rng = np.random.default_rng(0)
    for color_type, depths in DEPTHS.items():
        cases = itertools.product(depths, (0, 1), (False, True))
        for depth, is_interlaced, has_key in cases:
            if has_key and color_type in (GRAY_ALPHA, RGB_ALPHA):
                continue
            levels = 1 << depth
            shape = (*SIZE, CHANNELS[color_type])
            samples = rng.integers(0, levels, shape)
            scaled = (
                samples >> 8 if depth == 16 else samples * 255 // (levels - 1)
            )
            alpha = np.full((*SIZE, 1), 255)
            chunks = []
            if color_type == PALETTE:
                colors = rng.integers(0, 256, (levels, 3))
                chunks.append(chunk(b"PLTE", colors.astype("u1").tobytes()))
                rgb = colors[samples[..., 0]]
            elif color_type in (GRAY_ALPHA, RGB_ALPHA):
                rgb, alpha = scaled[..., :-1], scaled[..., -1:]
            else:
                rgb = scaled
            if has_key and color_type == PALETTE:
                alphas = rng.integers(0, 256, levels)
                chunks.append(chunk(b"tRNS", alphas.astype("u1").tobytes()))
                alpha = alphas[samples]
            elif has_key:
                key = samples[2, 3]
                chunks.append(chunk(b"tRNS", key.astype(">u2").tobytes()))
                alpha = np.where(samples == key, 0, 255).max(-1, keepdims=True)
            content = png(samples, color_type, depth, is_interlaced, *chunks)
            rgb = np.broadcast_to(rgb, (*SIZE, 3))
            name = f"{color_type}-{depth}-{is_interlaced}-{has_key}"
            yield name, content, np.concatenate([rgb, alpha], axis=-1)


KINDS = {name: (content, rgba) for name, content, rgba in kinds()}
FILES = [content for content, _ in KINDS.values()]


def over(background, rgba):
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    mixed = np.round((rgb * alpha + background * (255 - alpha)) / 255)
    return mixed.astype(np.uint8)


def by_folder(folder):
    paths = [f"{folder}/{name}" for name in KINDS]
    return Decoder(TOKENIZER, 1000, are_paths=True).decode(paths)


def by_tar(folder):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i, name in enumerate(KINDS):
            tar.add(folder / name, f"{i:03}.png")
    return TarSource(f"{folder}/a.tar", TOKENIZER, 1000).read(0).images


def by_name(folder):
    return [TOKENIZER.read(folder / name) for name in KINDS]


def by_pillow(folder):
    return [GRAPH.decode(image_files.normalize(folder / n)) for n in KINDS]


def by_saved_model(folder):
    module = tf.Module()
    module.decode = tf.function(
        GRAPH.decode, [tf.TensorSpec((), tf.string)], autograph=False
    )
    tf.saved_model.save(module, str(folder / "1"))
    loaded = tf.saved_model.load(str(folder / "1"))
    return [loaded.decode(content) for content in FILES]


@pytest.mark.parametrize(
    "read", [by_folder, by_tar, by_name, by_pillow, by_saved_model]
)
def test_every_kind_of_png_has_its_pixels(tmp_path, read):
    for name, (content, _) in KINDS.items():
        (tmp_path / name).write_bytes(content)
    images = zip(KINDS.items(), read(tmp_path), strict=True)
    for (name, (_, rgba)), image in images:
        np.testing.assert_array_equal(image, over(255, rgba), name)


def test_every_kind_of_png_is_the_same_mask_here_and_on_a_server(tmp_path):
    for name, (content, rgba) in KINDS.items():
        (tmp_path / name).write_bytes(content)
        on_black = Image.fromarray(over(0, rgba))
        np.testing.assert_array_equal(
            masks.read_mask(tmp_path / name), on_black.convert("L"), name
        )
        served = GRAPH.decode_whole(content, is_mask=True)
        np.testing.assert_array_equal(served, on_black, name)


def test_a_palette_of_the_faintest_alpha_is_not_taken_for_an_opaque_one():
    samples = np.zeros((*SIZE, 1), int)
    for depth in (1, 2, 4):
        lowest = (1 << depth) - 1  # TensorFlow's alpha where there is none.
        for alphas, expected in ((b"", 0), (bytes([lowest]), 255 - lowest)):
            chunks = [chunk(b"PLTE", b"\0\0\0")]
            if alphas:
                chunks.append(chunk(b"tRNS", alphas))
            content = png(samples, PALETTE, depth, 0, *chunks)
            assert np.all(GRAPH.decode(content) == expected)


@pytest.mark.parametrize("is_interlaced", [0, 1])
def test_a_transparent_color_of_16_bits_is_meant_with_all_of_them(
    is_interlaced, tmp_path
):
    samples = np.full((*SIZE, 3), 0x1234)
    samples[1, 2], samples[3, 4, 1], samples[2] = 0x1235, 0x12FF, 0x3412
    key = chunk(b"tRNS", b"\x12\x34" * 3)
    content = png(samples, RGB, 16, is_interlaced, key)
    (tmp_path / "a.png").write_bytes(content)
    expected = np.full((*SIZE, 3), 255)
    expected[1, 2] = expected[3, 4] = 0x12
    expected[2] = 0x34
    np.testing.assert_array_equal(GRAPH.decode(content), expected)
    np.testing.assert_array_equal(TOKENIZER.read(tmp_path / "a.png"), expected)


def test_an_orientation_beside_a_transparent_gray_keeps_both(tmp_path):
    for name, (content, rgba) in KINDS.items():
        if not name.endswith("True"):
            continue
        exif = Image.Exif()
        exif[0x0112] = 3  # Upside down.
        place = content.index(b"tRNS") - 4
        data = exif.tobytes().removeprefix(b"Exif\0\0")
        content = content[:place] + chunk(b"eXIf", data) + content[place:]
        turned = Image.open(
            io.BytesIO(image_files.normalize(io.BytesIO(content)))
        )
        alpha = np.asarray(turned.convert("RGBA"))[::-1, ::-1, 3:]
        np.testing.assert_array_equal(alpha, rgba[..., 3:], name)

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from pixace_tf.data import decoding
from pixace_tf.data.decoding import Decoder
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError

MAX_PIXELS = 10_000
RNG = np.random.default_rng(0)


def encode(size=(9, 7), kind="PNG", **options):
    pixels = RNG.integers(0, 256, (*size[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(kind="JPEG", exif=exif)


# Broken in its pixels: only the decoder of TensorFlow notices, then Pillow.
CUT = encode((60, 60))[:2000]
FILES = {
    "png": (encode(), ""),
    "bmp": (encode(kind="BMP"), ""),
    "turned": (turned(), ""),
    "text": (b"text", "not a picture in a known format"),
    "empty": (b"", "empty file"),
    "large": (encode((200, 200)), "200 x 200 pixels, more than 0.01 megap"),
    "cut": (CUT, "broken picture"),
    "jpeg": (encode(kind="JPEG"), ""),
}


def expected(content, tokenizer):
    """Decode alone, upright, by Pillow where its bytes are not plain."""
    image = Image.open(io.BytesIO(content))
    if image.format == "JPEG" and not image.getexif():
        return tokenizer.decode(content).numpy()
    image = image.convert("RGB")
    if image.getexif().get(0x0112) == 6:
        image = image.transpose(Image.Transpose.ROTATE_270)
    return tokenizer.resize_image(np.asarray(image)).numpy()


@pytest.mark.parametrize("are_paths", [False, True])
@pytest.mark.parametrize("block_bytes", [1, decoding._BLOCK_BYTES])
def test_each_file_gives_its_image_or_the_reason(
    tmp_path, are_paths, block_bytes, monkeypatch
):
    monkeypatch.setattr(decoding, "_BLOCK_BYTES", block_bytes)
    tokenizer = PixelTokenizer((8, 8))
    names = RNG.permutation([*FILES] * 20)
    files = [FILES[name][0] for name in names]
    if are_paths:
        for i, content in enumerate(files):
            (tmp_path / f"{i}").write_bytes(content)
        files = [f"{tmp_path}/{i}" for i in range(len(files))]
    results = Decoder(tokenizer, MAX_PIXELS, are_paths).decode(files)
    for name, result in zip(names, results, strict=True):
        content, reason = FILES[name]
        if reason:
            assert reason in result
        else:
            wanted = expected(content, tokenizer)
            np.testing.assert_array_equal(result, wanted)


def test_a_decoder_serves_again_after_it_was_left():
    decoder = Decoder(PixelTokenizer((8, 8)), MAX_PIXELS, are_paths=False)
    first, second = encode(), encode()
    for content in (first, second):
        # Only some of the images are asked for.
        results = decoder.decode(itertools.repeat(content, 1000))
        for result in itertools.islice(results, 3):
            np.testing.assert_array_equal(
                result, expected(content, PixelTokenizer((8, 8)))
            )
        results.close()


def test_what_came_before_an_error_is_served_first():
    def files():
        yield from [encode()] * 70
        raise UserError("The rest is gone.")

    decoder = Decoder(PixelTokenizer((8, 8)), MAX_PIXELS, are_paths=False)
    results = decoder.decode(files())
    assert len(list(itertools.islice(results, 64))) == 64
    with pytest.raises(UserError, match="The rest is gone"):
        list(results)


def test_a_file_in_memory_has_a_limit(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", 2**20)
    decoder = Decoder(PixelTokenizer((8, 8)), MAX_PIXELS, are_paths=False)
    files = [encode(), encode() + b" " * 2**20]
    image, reason = decoder.decode(files)
    assert image.shape == (8, 8, 3)
    assert reason == "larger than 1 MiB"

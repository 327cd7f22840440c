import errno
import io
import itertools
import threading
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from pixace_tf.data import decoding, image_files
from pixace_tf.data.decoding import Decoder
from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.image_files import PixelBudget
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError

MAX_PIXELS = 10_000
TOKENIZER = PixelTokenizer((8, 8))
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
        return GraphTokenizer(tokenizer).decode(content).numpy()
    image = image.convert("RGB")
    if image.getexif().get(0x0112) == 6:
        image = image.transpose(Image.Transpose.ROTATE_270)
    return tokenizer.resize_image(np.asarray(image))


@pytest.mark.parametrize("are_paths", [False, True])
@pytest.mark.parametrize("block_bytes", [1, decoding._BLOCK_BYTES])
def test_each_file_gives_its_image_or_the_reason(
    tmp_path, are_paths, block_bytes, monkeypatch
):
    monkeypatch.setattr(decoding, "_BLOCK_BYTES", block_bytes)
    names = RNG.permutation([*FILES] * 6)
    files = [FILES[name][0] for name in names]
    if are_paths:
        for i, content in enumerate(files):
            (tmp_path / f"{i}").write_bytes(content)
        files = [f"{tmp_path}/{i}" for i in range(len(files))]
    results = Decoder(TOKENIZER, MAX_PIXELS, are_paths).decode(files)
    for name, result in zip(names, results, strict=True):
        content, reason = FILES[name]
        if reason:
            assert reason in result
        else:
            wanted = expected(content, TOKENIZER)
            np.testing.assert_array_equal(result, wanted)


def test_a_decoder_serves_again_after_it_was_left():
    decoder = Decoder(TOKENIZER, MAX_PIXELS, are_paths=False)
    first, second = encode(), encode()
    for content in (first, second):
        # Only some of the images are asked for.
        results = decoder.decode(itertools.repeat(content, 1000))
        for result in itertools.islice(results, 3):
            np.testing.assert_array_equal(result, expected(content, TOKENIZER))
        results.close()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a bug"),
        MemoryError(),
        OSError(errno.EIO, "Input/output error"),
        UserError("The rest is gone."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_source_ends_the_decoding(error):
    def files():
        yield encode()
        raise error

    decoder = Decoder(TOKENIZER, MAX_PIXELS, are_paths=False)
    with pytest.raises(type(error)) as raised:
        list(decoder.decode(files()))
    assert raised.value is error
    assert raised.traceback[-1].name == "files"


def test_an_error_while_decoding_is_not_taken_for_a_broken_file(monkeypatch):
    def decode(self, image_bytes):
        return tf.numpy_function(fail, [image_bytes], tf.uint8)

    def fail(image_bytes):
        raise MemoryError

    monkeypatch.setattr(GraphTokenizer, "decode", decode)
    # Of another size than elsewhere, so it is traced here.
    tokenizer = PixelTokenizer((7, 8))
    decoder = Decoder(tokenizer, MAX_PIXELS, are_paths=False)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        list(decoder.decode([encode()]))


def test_a_lack_of_memory_in_pillow_is_no_broken_file(monkeypatch):
    def fail(image):
        raise MemoryError

    monkeypatch.setattr(BmpImageFile, "load", fail)
    decoder = Decoder(TOKENIZER, MAX_PIXELS, are_paths=False)
    with pytest.raises(MemoryError):
        list(decoder.decode([encode(kind="BMP")]))


@pytest.mark.parametrize("kind", ["BMP", "PNG"])
def test_few_files_are_held_however_many_there_are(kind, monkeypatch):
    monkeypatch.setattr(decoding, "_WAITING_BYTES", 2**20)
    monkeypatch.setattr(decoding, "_BLOCK_BYTES", 2**19)
    small, padding = encode(kind=kind), 2**18
    taken = 0

    def files():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield small + b" " * padding

    decoder = Decoder(TOKENIZER, MAX_PIXELS, are_paths=False)
    list(decoder.decode([small]))
    taken = 0
    tracemalloc.start()
    for done, _ in enumerate(decoder.decode(files())):
        assert taken - done <= 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * padding


def test_threads_wait_until_others_have_decoded_their_pixels():
    budget = PixelBudget(4)
    entered = threading.Event()

    def decode():
        with budget.hold(1000):  # More than the limit: alone.
            entered.set()

    thread = threading.Thread(target=decode)
    with budget.hold(1):
        thread.start()
        assert not entered.wait(0.05)
        with budget.hold(3):
            pass
    assert entered.wait(10)
    thread.join()


def test_pixels_are_held_while_files_are_decoded(monkeypatch):
    held = []
    hold = image_files.DECODING.hold
    monkeypatch.setattr(
        image_files.DECODING, "hold", lambda n: held.append(n) or hold(n)
    )
    decoder = Decoder(TOKENIZER, MAX_PIXELS, are_paths=False)
    list(decoder.decode([encode((9, 7)), encode((30, 20), "BMP"), b"text"]))
    assert held == [600]


def test_a_file_in_memory_has_a_limit(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", 2**20)
    decoder = Decoder(TOKENIZER, MAX_PIXELS, are_paths=False)
    files = [encode(), encode() + b" " * 2**20]
    image, reason = decoder.decode(files)
    assert image.shape == (8, 8, 3)
    assert reason == "larger than 1 MiB"

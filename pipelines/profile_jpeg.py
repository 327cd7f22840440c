"""Time each step from a JPEG file to tokens.

Prints milliseconds of one core for each step, as medians over the files of a
folder.

Command:  python pipelines/profile_jpeg.py FOLDER
Hardware: 1 CPU core
Time:     a minute
Expected: pictures of 512x512 and 80 kB take 1.0 ms to decode at an eighth of
          their size, most of it for their Huffman code, 1.6 ms in full, and
          0.1 ms to read and check. Nothing can be four times as fast as
          a pool that takes 3.4 ms: the decoding alone takes more.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import tensorflow as tf
from PIL import Image

from pixace_tf.data import image_files
from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.tokenizer import PixelTokenizer

MAX_FILES = 500


@click.command()
@click.argument("folder")
@click.option("--size", default=32, help="Pixels to scale down to.")
def main(folder: str, size: int) -> None:
    """Time each step on the JPEG files of FOLDER."""
    scanned = image_files.scan(folder)
    paths = [
        os.path.join(scanned.root, path)
        for path in scanned.loads
        if path.lower().endswith((".jpg", ".jpeg"))
    ][:MAX_FILES]
    if not paths:
        raise click.ClickException(f"There is no JPEG file in {folder!r}.")
    tokenizer = PixelTokenizer((size, size))
    decode = tf.function(
        GraphTokenizer(tokenizer).decode,
        input_signature=[tf.TensorSpec((), tf.string)],
    )
    steps: dict[str, Callable[[str], Any]] = {
        "read the file": _read,
        "check its header": image_files.read_header,
        "Pillow, at an eighth": lambda path: _pillow(path, 8),
        "Pillow, in full": lambda path: _pillow(path, 1),
        "TensorFlow, at an eighth": lambda path: tf.io.decode_jpeg(
            _read(path), ratio=8, dct_method="INTEGER_ACCURATE"
        ),
        "decode and resize in a graph": lambda path: decode(_read(path)),
        "read by Pillow and NumPy": tokenizer.read,
    }
    for name, step in steps.items():
        click.echo(f"{_milliseconds(step, paths):7.3f} ms  {name}")


def _milliseconds(step: Callable[[str], Any], paths: list[str]) -> float:
    step(paths[0])
    times = []
    for path in paths:
        begin = time.perf_counter()
        step(path)
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _pillow(path: str, ratio: int) -> None:
    with Image.open(path) as image:
        image.draft("RGB", (image.width // ratio, image.height // ratio))
        image.load()


if __name__ == "__main__":
    main()

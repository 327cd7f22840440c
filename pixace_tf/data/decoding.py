"""Image files become small images, many at a time."""

import collections
import functools
import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.data import image_files
from pixace_tf.data.image_files import UnloadableError
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.machine import num_cores

# Largest file that is held in memory.
MAX_FILE_BYTES = 256 * 2**20
# So many files are checked at a time, or so many bytes.
_BLOCK_FILES, _BLOCK_BYTES = 64, 32 * 2**20
# A path, or the bytes of a file.
File = str | bytes
# A small image, uint8 `(height, width, 3)`, or the reason why there is none.
Result = np.ndarray | str
_OTHER = "only Pillow can decode it"
# Numbers of files, int64 `(N,)`, and what TensorFlow decodes: their bytes or
# encoded paths, objects `(N,)`. An empty one is the last.
Block = tuple[np.ndarray, np.ndarray]


class Decoder:
    """Checks, decodes and scales down image files in parallel.

    Pillow reads the headers while TensorFlow decodes the files before them. A
    file that TensorFlow cannot decode goes through Pillow, which either reads
    it or tells what is wrong with it.

    One decoder serves all files of a source, since TensorFlow keeps what it has
    traced, and with it what that refers to.

    Args:
        tokenizer: Decodes and resizes.
        max_pixels: Largest image to decode, by its header.
        are_paths: Whether the files are given by their paths, so that nothing
            holds many of them, or as bytes.
    """

    def __init__(
        self, tokenizer: PixelTokenizer, max_pixels: int, are_paths: bool
    ) -> None:
        self._tokenizer, self._max_pixels = tokenizer, max_pixels
        self._are_paths = are_paths
        self._blocks: Iterator[Block] = iter(())
        self._decode_png = tf.function(
            tokenizer.decode,
            input_signature=[tf.TensorSpec((), tf.string)],
            autograph=False,
        )

    @functools.cached_property
    def _batches(self) -> tf.data.Dataset:
        """Numbers and small images of the plain files of `_blocks`."""

        # `from_generator` would change, for the whole process and so for the
        # training after it, when freed memory goes back to the system.
        @tf.autograph.experimental.do_not_convert
        def next_block(_: tf.Tensor) -> Any:
            numbers, files = tf.numpy_function(
                lambda: next(self._blocks), [], [tf.int64, tf.string]
            )
            return tf.ensure_shape(numbers, (None,)), tf.ensure_shape(
                files, (None,)
            )

        @tf.autograph.experimental.do_not_convert
        def decode(number: tf.Tensor, file: tf.Tensor) -> Any:
            content = tf.io.read_file(file) if self._are_paths else file
            return number, self._tokenizer.decode(content)

        options = tf.data.Options()
        # The files keep the cores busy; the parts of one would only wait.
        options.threading.max_intra_op_parallelism = 1
        return (
            tf.data.Dataset.counter()
            .map(next_block)
            .take_while(lambda numbers, files: tf.size(numbers) > 0)
            .prefetch(1)
            .unbatch()
            .map(decode, tf.data.AUTOTUNE, deterministic=True)
            .ignore_errors()
            .batch(_BLOCK_FILES)
            .prefetch(1)
            .with_options(options)
        )

    def decode(self, files: Iterable[File]) -> Iterator[Result]:
        """Yield the small image of each file, in order.

        Args:
            files: Paths or bytes; another thread asks for them.

        Yields:
            uint8 `(height, width, 3)`, or the reason why there is no image.

        Raises:
            UserError: If `files` raises it; what came before is yielded first.
        """
        # Each file from its check until it is yielded.
        checked: collections.deque[tuple[File, Result | None]]
        checked = collections.deque()
        failures: list[UserError] = []

        def blocks() -> Iterator[Block]:
            start = 0
            try:
                for block in self._check_blocks(files):
                    checked.extend(block)
                    plain = {
                        number: os.fsencode(file)
                        for number, (file, result) in enumerate(block, start)
                        if result is None
                    }
                    start += len(block)
                    if plain:
                        yield _block(plain)
            except UserError as error:
                # TensorFlow would show its traceback.
                failures.append(error)
            yield _block({})

        self._blocks = blocks()
        number = 0
        try:
            for numbers, images in self._batches.as_numpy_iterator():
                decoded = dict(zip(numbers.tolist(), images, strict=True))
                # They come in order: what is missing before them has failed.
                while number <= numbers[-1]:
                    file, result = checked.popleft()
                    if result is None:
                        result = decoded.get(number)
                    yield self._normalize(file) if result is None else result
                    number += 1
        finally:
            self._blocks = iter(())
        for file, result in checked:
            yield self._normalize(file) if result is None else result
        if failures:
            raise failures[0]

    def _check_blocks(
        self, files: Iterable[File]
    ) -> Iterator[list[tuple[File, Result | None]]]:
        """Yield some files at a time; None where TensorFlow decodes them."""
        with ThreadPoolExecutor(num_cores()) as pool:
            for block in _in_blocks(files):
                # Threads would make this slower: it is all Python.
                results = [self._check(file) for file in block]
                others = [i for i, r in enumerate(results) if r is _OTHER]
                images = pool.map(self._normalize, [block[i] for i in others])
                for i, image in zip(others, images, strict=True):
                    results[i] = image
                yield list(zip(block, results, strict=True))

    def _check(self, file: File) -> Result | None:
        """Read the header.

        Returns:
            None where TensorFlow may decode the file, `_OTHER` where only
            Pillow can, or the reason why there is no image.
        """
        if isinstance(file, bytes) and len(file) > MAX_FILE_BYTES:
            return f"larger than {MAX_FILE_BYTES >> 20} MiB"
        try:
            is_plain = image_files.inspect(
                *(_readable(file), self._max_pixels),
                is_header_only=True,
                allow_own=False,
            )
        except UnloadableError as error:
            return str(error)
        return None if is_plain else _OTHER

    def _normalize(self, file: File) -> Result:
        """Decode by Pillow, or return what is wrong."""
        try:
            png = image_files.normalize(_readable(file), self._max_pixels)
        except UnloadableError as error:
            return str(error)
        return np.asarray(self._decode_png(png))


def _in_blocks(files: Iterable[File]) -> Iterator[list[File]]:
    block: list[File] = []
    size = 0
    for file in files:
        block.append(file)
        size += len(file)
        if len(block) == _BLOCK_FILES or size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _block(plain: dict[int, bytes]) -> Block:
    return np.array([*plain], np.int64), np.array([*plain.values()], object)


def _readable(file: File) -> str | io.BytesIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file

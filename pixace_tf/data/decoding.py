"""Decodes image files to small images, many at a time."""

import collections
import dataclasses
import functools
import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.data import image_files
from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.image_files import Header, UnloadableError
from pixace_tf.data.tokenizer import NATIVE, PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.machine import num_cores
from pixace_tf.typing import Tensor

# Largest file that is held in memory.
MAX_FILE_BYTES = 256 * 2**20
# A thread decodes at most this many files, or bytes, before it takes more.
_BLOCK_FILES, _BLOCK_BYTES = 16, 8 * 2**20
# Bytes that wait for a thread, unless a single block has more.
_WAITING_BYTES = 64 * 2**20
# A path, or the bytes of a file.
File = str | bytes
# A small image, uint8 `(height, width, C)`, or the reason why there is none.
Result = np.ndarray | str
# A file with its header, or with the reason why it cannot be used.
Checked = tuple[File, Header | str]
# What TensorFlow raises for a file that it cannot read or decode.
_UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)


class Decoder:
    """Checks, decodes and scales down image files in parallel.

    The caller's thread reads the headers with Pillow; a pool of threads decodes
    with TensorFlow, or with Pillow what TensorFlow cannot decode.

    `are_paths` tells whether the files are given by path rather than as bytes.
    """

    def __init__(
        self, tokenizer: PixelTokenizer, max_pixels: int, are_paths: bool
    ) -> None:
        self._max_pixels = max_pixels
        self._tokenizer = tokenizer
        self._decode_bytes = _decoding(tokenizer, are_paths=False)
        self._decode_files = _decoding(tokenizer, are_paths=are_paths)

    def decode(self, files: Iterable[File]) -> Iterator[Result]:
        """Yield a uint8 `(height, width, C)` per file, or why there is none.

        A bounded number of files is held in memory. Errors of `files` are
        raised.
        """
        under_way = collections.deque[tuple[int, Future[list[Result]]]]()
        num_threads = num_cores()
        with ThreadPoolExecutor(num_threads) as pool:
            for size, block in self._blocks(files):
                while under_way and (
                    len(under_way) > num_threads
                    or size + sum(s for s, _ in under_way) > _WAITING_BYTES
                ):
                    yield from under_way.popleft()[1].result()
                future = pool.submit(self._decode_block, block)
                under_way.append((size, future))
            for _, future in under_way:
                yield from future.result()

    def decode_clear(self, files: Iterable[File]) -> Iterator[np.ndarray]:
        """Yield the images that may be transparent, as `decode` does."""

        def has_alpha(file: File) -> bool:
            header = self._check(file)
            return isinstance(header, Header) and header.has_alpha

        results = self.decode(filter(has_alpha, files))
        yield from (image for image in results if not isinstance(image, str))

    def _blocks(
        self, files: Iterable[File]
    ) -> Iterator[tuple[int, list[Checked]]]:
        """Check headers; yield blocks of files, each after its size."""
        block: list[Checked] = []
        size = 0
        for file in files:
            block.append((file, self._check(file)))
            size += len(file)
            if len(block) == _BLOCK_FILES or size >= _BLOCK_BYTES:
                yield size, block
                block, size = [], 0
        if block:
            yield size, block

    def _check(self, file: File) -> Header | str:
        if isinstance(file, bytes) and len(file) > MAX_FILE_BYTES:
            return f"larger than {MAX_FILE_BYTES >> 20} MiB"
        try:
            header = image_files.read_header(
                _readable(file), self._max_pixels, allow_own=False
            )
        except UnloadableError as error:
            return str(error)
        if self._tokenizer.resize == NATIVE:
            # A graph would not say why an image does not fit, and the canvas
            # around an image is transparent.
            return dataclasses.replace(header, is_plain=False, has_alpha=True)
        return header

    def _decode_block(self, block: list[Checked]) -> list[Result]:
        good = [(f, h) for f, h in block if isinstance(h, Header)]
        plain = [os.fsencode(file) for file, header in good if header.is_plain]
        most_pixels = max((h.num_pixels for _, h in good), default=0)
        with image_files.DECODING.hold(most_pixels):
            images = iter(self._decode_plain(plain))

            def result(file: File, header: Header | str) -> Result:
                if isinstance(header, str):
                    return header
                image = next(images) if header.is_plain else None
                return self._normalize(file) if image is None else image

            return [result(file, header) for file, header in block]

    def _decode_plain(self, files: list[bytes]) -> list[np.ndarray | None]:
        """Decode with TensorFlow; None for files to try with Pillow."""
        try:
            return list(self._decode_files(files).numpy()) if files else []
        except _UNREADABLE:
            if len(files) == 1:
                return [None]
        return [image for f in files for image in self._decode_plain([f])]

    def _normalize(self, file: File) -> Result:
        """Decode with Pillow, or return the reason why that fails."""
        tokenizer, source = self._tokenizer, _readable(file)
        try:
            if tokenizer.resize == NATIVE:
                pixels = np.asarray(image_files.load(source, self._max_pixels))
                return tokenizer.resize_image(tokenizer.with_alpha(pixels))
            png = image_files.normalize(source, self._max_pixels)
        except UserError as error:
            return str(error)
        return self._decode_bytes([png]).numpy()[0]


# Tracing takes most of a second.
@functools.lru_cache(maxsize=8)
def _decoding(tokenizer: PixelTokenizer, are_paths: bool) -> Any:
    """Return a graph function from files to uint8 `(N, height, width, C)`."""
    spec = tf.TensorSpec(tokenizer.image_shape, tf.uint8)
    graph = GraphTokenizer(tokenizer)

    def decode(file: Tensor) -> Tensor:
        return graph.decode(tf.io.read_file(file) if are_paths else file)

    def decode_all(files: Tensor) -> Tensor:
        files = tf.convert_to_tensor(files)  # A list if functions run eagerly.
        with tf.device("CPU"):
            # The other cores decode other blocks.
            return tf.map_fn(
                decode, files, parallel_iterations=1, fn_output_signature=spec
            )

    return tf.function(
        decode_all, [tf.TensorSpec((None,), tf.string)], autograph=False
    )


def _readable(file: File) -> str | io.BytesIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file

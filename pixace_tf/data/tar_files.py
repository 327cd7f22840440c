"""Images in tar files, as WebDataset lays them out.

The members of one sample follow each other and share their name up to the first
dot: `0001.jpg` and `0001.cls`, which holds the class. Without one, the folder
in the name is the class. Nothing is unpacked to the disk.
"""

import io
import itertools
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback
from pixace_tf.data import image_files
from pixace_tf.data.image_files import PARTS, Skipped, UnloadableError
from pixace_tf.data.sources import SmallImages, Source
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError, first_line

# A source with such an ending is tar files; it may have wildcards.
ENDING = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)
MAX_FILE_BYTES = 256 * 2**20
_IMAGES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm"}
_CLASS = "cls"
_BROKEN = (tarfile.TarError, zlib.error, EOFError, OSError, tf.errors.OpError)
# Samples that are read at a time.
_BLOCK = 64
# Gives blocks of files with their numbers.
Blocks = Callable[[], Iterable[tuple[list[int], list[bytes]]]]


class TarSource(Source):
    """Tar files, each a chunk, sorted by their paths.

    Where the names of some have the word `train` and those of others `val`,
    `validation` or `test`, these are the parts, as with folders.

    Args:
        pattern: A path, or one with wildcards, on any file system that
            TensorFlow reads, such as `gs://`.
        max_pixels: Largest image to decode, by its header.

    Raises:
        UserError: If there is no such file.
    """

    def __init__(self, pattern: str, max_pixels: int) -> None:
        try:
            paths = sorted(tf.io.gfile.glob(pattern))
        except tf.errors.OpError as error:
            raise UserError(f"{pattern}: {first_line(error)}") from None
        if not paths:
            raise UserError(f"There is no tar file {pattern!r}.")
        words = {path: _part_word(path) for path in paths}
        parts = image_files.parts_of(set(words.values()))
        self._parts = {path: parts.get(words[path], "") for path in paths}
        self.has_parts = {"train", "validation"} <= set(parts.values())
        reasons = {"test": "kept for testing: the word test in its name"}
        if self.has_parts:
            reasons[""] = "no word in its name says to which part it belongs"
        self.skipped = [
            Skipped(path, reasons[part])
            for path, part in self._parts.items()
            if part in reasons
        ]
        self._paths = [p for p in paths if self._parts[p] not in reasons]
        self._max_pixels = max_pixels
        self.num_chunks = len(self._paths)
        self._decoder: _Decoder | None = None

    def read(
        self,
        chunk: int,
        tokenizer: PixelTokenizer,
        progress: ProgressCallback | None = None,
    ) -> SmallImages:
        """See `Source`; the images of the file are counted, their number is 0.

        Raises:
            UserError: If the tar file is broken.
        """
        path = self._paths[chunk]
        if self._decoder is None or self._decoder.tokenizer is not tokenizer:
            self._decoder = _Decoder(tokenizer)
        reader = _TarReader(path, self._decoder, self._max_pixels)
        for num_done in reader.read():
            if progress is not None:
                progress(num_done, 0)
        return reader.small_images(self._parts[path])

    def state(self) -> Iterator[str]:
        """See `Source`: each file with its size and time."""
        for path in self._paths:
            status = tf.io.gfile.stat(path)
            yield f"{path}\0{status.length} {status.mtime_nsec}"


class _Decoder:
    """Decodes files in parallel, in TensorFlow, and leaves out what fails.

    It is made once for many tar files, since TensorFlow keeps what it has
    traced, and with it what that refers to.

    Args:
        tokenizer: Decodes and resizes.
    """

    def __init__(self, tokenizer: PixelTokenizer) -> None:
        self.tokenizer = tokenizer
        self._blocks: Blocks = tuple  # It gives none.

        @tf.autograph.experimental.do_not_convert
        def decode(number: tf.Tensor, file: tf.Tensor) -> Any:
            return number, tokenizer.decode(file)

        self._batches = (
            tf.data.Dataset.from_generator(
                lambda: iter(self._blocks()),
                output_signature=(
                    tf.TensorSpec((None,), tf.int64),
                    tf.TensorSpec((None,), tf.string),
                ),
            )
            .unbatch()
            .map(decode, tf.data.AUTOTUNE, deterministic=True)
            .ignore_errors()
            .batch(_BLOCK)
            .prefetch(1)
        )

    def decode(self, blocks: Blocks) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield numbers and small images, uint8 `(N, height, width, 3)`.

        Args:
            blocks: Gives blocks of files with their numbers, which rise; it is
                called in a thread of TensorFlow.
        """
        self._blocks = blocks
        try:
            for numbers, images in self._batches.as_numpy_iterator():
                yield numbers.tolist(), images
        finally:
            self._blocks = tuple


class _TarReader:
    """Reads the images of one tar file.

    A file that TensorFlow cannot decode goes through Pillow, which either reads
    it or tells what is wrong with it.

    Args:
        path: The tar file.
        decoder: Decodes its files.
        max_pixels: Largest image to decode, by its header.
    """

    def __init__(self, path: str, decoder: _Decoder, max_pixels: int) -> None:
        self._path, self._decoder = path, decoder
        self._max_pixels = max_pixels
        # Of each sample; its place in these is its number.
        self._names: list[str] = []
        self._labels: list[str] = []
        # The file until it is decoded; then the small image, or the reason why
        # there is none.
        self._waiting: dict[int, bytes] = {}
        self._found: dict[int, np.ndarray | str] = {}
        self._failure: UserError | None = None

    def read(self) -> Iterator[int]:
        """Read all images; yield now and then how many are done.

        Raises:
            UserError: If the tar file is broken.
        """
        for numbers, images in self._decoder.decode(self._blocks):
            self._found.update(zip(numbers, images, strict=True))
            # They come in order: what is missing before them has failed.
            for number in [n for n in list(self._waiting) if n <= numbers[-1]]:
                file = self._waiting.pop(number)
                if number not in self._found:
                    self._found[number] = self._reread(file)
            yield len(self._found)
        for number, file in self._waiting.items():
            self._found[number] = self._reread(file)
        yield len(self._found)
        if self._failure is not None:
            raise self._failure

    def small_images(self, part: str) -> SmallImages:
        """Return what was read, in the order of the file."""
        small = SmallImages(np.array([]), [], [], [])
        images = []
        for number, image in sorted(self._found.items(), key=lambda i: i[0]):
            if isinstance(image, str):
                name = f"{self._path}/{self._names[number]}"
                small.skipped.append(Skipped(name, image))
            else:
                images.append(image)
                small.labels.append(self._labels[number])
                small.parts.append(part)
        small.images = np.array(images, np.uint8)
        return small

    def _blocks(self) -> Iterator[tuple[list[int], list[bytes]]]:
        """Yield some files at a time that TensorFlow may decode.

        It runs in a thread of TensorFlow, which would show a traceback of what
        is raised here.
        """
        samples = _samples(self._path)
        try:
            with ThreadPoolExecutor() as pool:
                while block := list(itertools.islice(samples, _BLOCK)):
                    start = len(self._names)
                    self._names += [name for name, _, _ in block]
                    self._labels += [label for _, _, label in block]
                    contents = [content for _, content, _ in block]
                    files = {}
                    checked = enumerate(pool.map(self._check, contents), start)
                    for number, file in checked:
                        if isinstance(file, str):
                            self._found[number] = file
                        else:
                            files[number] = file
                            self._waiting[number] = contents[number - start]
                    if files:
                        yield list(files), list(files.values())
        except UserError as error:
            self._failure = error

    def _check(self, content: bytes) -> bytes | str:
        """Return a file that TensorFlow may decode, or why there is none."""
        if len(content) > MAX_FILE_BYTES:
            return f"larger than {MAX_FILE_BYTES >> 20} MiB"
        if not content:
            return "empty file"
        try:
            is_plain = image_files.inspect(
                *(io.BytesIO(content), self._max_pixels),
                is_header_only=True,
                allow_own=False,
            )
            return content if is_plain else self._normalize(content)
        except UnloadableError as error:
            return str(error)

    def _reread(self, content: bytes) -> np.ndarray | str:
        """Decode by Pillow, or return what is wrong."""
        try:
            png = self._normalize(content)
        except UnloadableError as error:
            return str(error)
        return np.asarray(self._decoder.tokenizer.decode(png))

    def _normalize(self, content: bytes) -> bytes:
        return image_files.normalize(io.BytesIO(content), self._max_pixels)


def _samples(path: str) -> Iterator[tuple[str, bytes, str]]:
    """Yield the name, the content and the class of each image."""
    try:
        with (
            tf.io.gfile.GFile(path, "rb") as file,
            tarfile.open(fileobj=file, mode="r|*") as tar,
        ):
            groups = itertools.groupby(_members(tar), lambda m: m[0])
            for key, members in groups:
                yield from _images_of(key, [m[1:] for m in members])
    except _BROKEN as error:
        raise UserError(
            f"The tar file {path} is broken: {first_line(error)}"
        ) from None


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Yield the key, the ending and the content of each file that counts."""
    for member in tar:
        folder, slash, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        ending = ending.lower()
        if not member.isfile() or _kind(ending) not in {*_IMAGES, _CLASS}:
            continue
        content = tar.extractfile(member)
        assert content is not None
        # One byte more tells that it is too large.
        yield folder + slash + stem, ending, content.read(MAX_FILE_BYTES + 1)


def _images_of(
    key: str, members: list[tuple[str, bytes]]
) -> Iterator[tuple[str, bytes, str]]:
    label = key.rpartition("/")[0].removeprefix("./").split("/")[0]
    for ending, content in members:
        if ending == _CLASS:
            label = content.decode("utf-8", "replace").strip()
    images = [m for m in members if _kind(m[0]) in _IMAGES]
    # Beside `0001.jpg`, a `0001.mask.png` is no image to learn from.
    plain = [m for m in images if m[0] in _IMAGES]
    for ending, content in plain or images:
        yield f"{key}.{ending}", content, label


def _kind(ending: str) -> str:
    return ending.rpartition(".")[2]


def _part_word(path: str) -> str:
    """Return the word in the name of a tar file that tells its part, or ""."""
    name = path.rpartition("/")[2].lower()
    words = [word for word in re.split("[^a-z]+", name) if word in PARTS]
    return words[0] if words else ""

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
from collections.abc import Iterator
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
# Samples in memory at a time, before they are scaled down.
_BLOCK = 256


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
        small = SmallImages(np.array([]), [], [], [])
        images: list[np.ndarray] = []
        decode = tf.function(
            tokenizer.decode,
            input_signature=[tf.TensorSpec((), tf.string)],
            autograph=False,
        )

        def load(content: bytes) -> np.ndarray | str:
            try:
                return self._decode(content, decode)
            except UnloadableError as error:
                return str(error)

        with ThreadPoolExecutor() as pool:
            samples = _samples(path)
            while block := list(itertools.islice(samples, _BLOCK)):
                contents = [content for _, content, _ in block]
                loaded = pool.map(load, contents)
                for (name, _, label), image in zip(block, loaded, strict=True):
                    if isinstance(image, str):
                        small.skipped.append(Skipped(f"{path}/{name}", image))
                        continue
                    images.append(image)
                    small.labels.append(label)
                    small.parts.append(self._parts[path])
                if progress is not None:
                    progress(len(images), 0)
        small.images = np.array(images, np.uint8)
        return small

    def state(self) -> Iterator[str]:
        """See `Source`: each file with its size and time."""
        for path in self._paths:
            status = tf.io.gfile.stat(path)
            yield f"{path}\0{status.length} {status.mtime_nsec}"

    def _decode(self, content: bytes, decode: Any) -> np.ndarray:
        if len(content) > MAX_FILE_BYTES:
            raise UnloadableError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        if not content:
            raise UnloadableError("empty file")
        file = io.BytesIO(content)
        if image_files.inspect(
            file, self._max_pixels, is_header_only=True, allow_own=False
        ):
            try:
                return np.asarray(decode(content))
            except tf.errors.InvalidArgumentError:
                pass  # Pillow either reads it or tells what is wrong with it.
        png = image_files.normalize(io.BytesIO(content), self._max_pixels)
        return np.asarray(decode(png))


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

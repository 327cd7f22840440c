"""Images in tar files, as WebDataset lays them out.

The members of a sample are adjacent and share their name up to the first dot
that no number follows, such as `0001.jpg` and `0001.cls`, which holds the
class; without it, the folder is the class. Nothing is unpacked to disk.
"""

import contextlib
import itertools
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback, counted
from pixace_tf.data.decoding import MAX_FILE_BYTES, Decoder
from pixace_tf.data.image_files import Skipped
from pixace_tf.data.parts import OUTSIDE, TEST, part_of, parts_of, place
from pixace_tf.data.sources import SmallImages, Source
from pixace_tf.data.tokenizer import NATIVE, PixelTokenizer
from pixace_tf.errors import UserError, first_line

# The ending of a source of tar files, which may have wildcards and braces.
ENDING = re.compile(r"\.(tar(\.gz|\.bz2|\.xz)?|tgz|tbz2?|txz)$", re.IGNORECASE)
_IMAGES = {
    *("jpg", "jpeg", "jfif", "png", "apng", "webp", "gif", "bmp", "tif"),
    *("tiff", "ppm", "pgm", "pbm", "pnm", "avif", "ico", "tga"),
}
_CLASS = "cls"
# The name of a sample, and the rest.
_NAME = re.compile(r"([^.]*(?:\.\d+(?=\.))*)\.?(.*)", re.DOTALL)
# Limits of a sample, lest equal names fill the memory.
_MAX_MEMBERS, _MAX_BYTES = 64, 64 * 2**20
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_BROKEN = (
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    tf.errors.OpError,
)


class TarSource(Source):
    """Tar files, each a chunk, sorted by their paths.

    Words such as `train` and `val` in the names of the files tell their parts,
    as with folders; see `parts.parts_of`.

    The pattern is a path, or has wildcards or braces as in WebDataset
    (`a-{00..12}.tar`, `{a,b}.tar`), also on `gs://` and the like.

    Raises:
        UserError: If there is no such file.
    """

    def __init__(
        self, pattern: str, tokenizer: PixelTokenizer, max_pixels: int
    ) -> None:
        words = {path: _part_word(path) for path in _paths(pattern)}
        self.parts = parts_of(words.values())
        self._parts = {p: self.parts.get(word, "") for p, word in words.items()}
        reasons = {TEST: "kept for testing: the word test in its name"}
        if "validation" in self.parts.values():
            reasons[""] = "no word in its name says to which part it belongs"
        self.skipped = [
            Skipped(path, reasons[part])
            for path, part in self._parts.items()
            if part in reasons
        ]
        self._paths = [p for p, n in self._parts.items() if n not in reasons]
        self._decoder = Decoder(tokenizer, max_pixels, are_paths=False)
        self._is_pixel_art = tokenizer.resize == NATIVE
        self.num_chunks = len(self._paths)

    def read(
        self, chunk: int, progress: ProgressCallback | None = None
    ) -> SmallImages:
        """See `Source`; the number of images, unknown, is reported as 0."""
        path = self._paths[chunk]
        parts = parts_of(_top_folders(path))
        places: list[tuple[str, str, str]] = []
        left_out: dict[str, str] = {}

        def contents() -> Iterator[bytes]:
            for name, content, label in _samples(path):
                folders = name.split("/")[:-1]
                part, folder = place(folders, parts)
                if part == TEST:
                    left_out[folders[0]] = "kept for testing"
                elif part == OUTSIDE:
                    left_out[name] = f"lies outside {' and '.join(parts)}"
                else:
                    part = part or self._parts[path]
                    label = folder if label is None else label
                    places.append((f"{path}/{name}", part, label))
                    yield content

        results = counted(self._decoder.decode(contents()), 0, progress)
        small = SmallImages.of(results, places.__getitem__, self._is_pixel_art)
        for name, reason in left_out.items():
            small.skipped.append(Skipped(f"{path}/{name}", reason))
        return small

    def read_clear(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """See `Source`: among the first images."""
        every = itertools.chain.from_iterable(map(_samples, self._paths))
        first = itertools.islice(every, limit)
        yield from self._decoder.decode_clear(
            content for _, content, _ in first
        )

    def state(self) -> Iterator[str]:
        """See `Source`: each file with its size and time."""
        for path in self._paths:
            status = tf.io.gfile.stat(path)
            yield f"{path}\0{status.length} {status.mtime_nsec}"


def _paths(pattern: str) -> list[str]:
    paths: set[str] = set()
    try:
        if tf.io.gfile.exists(pattern):  # Its brackets are part of its name.
            return [pattern]
        for name in _expand(pattern):
            found = tf.io.gfile.glob(name)
            if not found:
                raise UserError(f"There is no tar file {name!r}.")
            paths.update(found)
    except tf.errors.OpError as error:
        raise UserError(f"{pattern}: {first_line(error)}") from None
    return sorted(paths)


def _expand(pattern: str) -> Iterator[str]:
    """Yield each expansion of a pattern's braces, as a shell does."""
    braces = _RANGE.search(pattern)
    if braces is None:
        yield pattern
        return
    first, last, words = braces.groups()
    if words is None:
        numbers = range(int(first), int(last) + 1)
        choices = [f"{number:0{len(first)}}" for number in numbers]
    else:
        choices = words.split(",")
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    for choice in choices:
        yield from _expand(before + choice + after)


def _top_folders(path: str) -> set[str]:
    with _open(path, "r:*") as tar:
        return {
            name.split("/")[0]
            for name in map(_name, tar)
            if "/" in name and _kind(name.lower()) in _IMAGES
        }


def _samples(path: str) -> Iterator[tuple[str, bytes, str | None]]:
    """Yield the name, the content and the `.cls` of each image."""
    with _open(path, "r|*") as tar:
        groups = itertools.groupby(_members(tar), lambda m: m[0])
        for key, members in groups:
            for some in _bounded(m[1:] for m in members):
                yield from _images_of(key, some)


@contextlib.contextmanager
def _open(path: str, mode: Literal["r:*", "r|*"]) -> Iterator[tarfile.TarFile]:
    try:
        with (
            tf.io.gfile.GFile(path, "rb") as file,
            tarfile.open(fileobj=file, mode=mode) as tar,
        ):
            yield tar
    except _BROKEN as error:
        message = f"The tar file {path} is broken: {first_line(error)}"
        raise UserError(message) from None


def _bounded(
    members: Iterable[tuple[str, bytes]],
) -> Iterator[list[tuple[str, bytes]]]:
    """Yield the members of a sample in lists of bounded size."""
    some: list[tuple[str, bytes]] = []
    size = 0
    for member in members:
        some.append(member)
        size += len(member[1])
        if len(some) == _MAX_MEMBERS or size >= _MAX_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Yield the key, the ending and the content of each image or class."""
    for member in tar:
        folder, slash, name = _name(member).rpartition("/")
        parts = _NAME.fullmatch(name)
        assert parts is not None
        stem, ending = parts[1], parts[2].lower()
        if not member.isfile() or _kind(ending) not in {*_IMAGES, _CLASS}:
            continue
        content = tar.extractfile(member)
        assert content is not None
        # One more byte shows that the file is too large.
        yield folder + slash + stem, ending, content.read(MAX_FILE_BYTES + 1)


def _name(member: tarfile.TarInfo) -> str:
    # Some programs on Windows write backslashes.
    return member.name.replace("\\", "/").removeprefix("./")


def _images_of(
    key: str, members: list[tuple[str, bytes]]
) -> Iterator[tuple[str, bytes, str | None]]:
    """Yield the name, the content and the `.cls` of the images of a sample."""
    texts = [content for ending, content in members if ending == _CLASS]
    label = texts[-1].decode("utf-8", "replace").strip() if texts else None
    images = [m for m in members if _kind(m[0]) in _IMAGES]
    # A `0001.mask.png` beside `0001.jpg` is not an image to learn from.
    plain = [m for m in images if m[0] in _IMAGES]
    for ending, content in plain or images:
        yield f"{key}.{ending}", content, label


def _kind(ending: str) -> str:
    return ending.rpartition(".")[2]


def _part_word(path: str) -> str:
    """Return the word in the name of a tar file that tells its part, or ""."""
    words = re.split("[^a-z]+", path.rpartition("/")[2].lower())
    return next(filter(part_of, words), "")

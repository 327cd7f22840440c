"""Sources of images: folders and TensorFlow data sets, scaled down."""

import abc
import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import (
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback, counted
from pixace_tf.data import image_files
from pixace_tf.data.cutter import Cutter
from pixace_tf.data.cutting import Cutting
from pixace_tf.data.decoding import Decoder, Result
from pixace_tf.data.image_files import Listing, Skipped, printable
from pixace_tf.data.labels import label_name
from pixace_tf.data.pairing import Pairing, have_one_shape, pair_files, single
from pixace_tf.data.parts import (
    TEST,
    TRAIN,
    VALIDATION,
    describe,
    part_of,
    parts_of,
)
from pixace_tf.data.tokenizer import NATIVE, PixelTokenizer
from pixace_tf.data.variants import (
    Series,
    digest_of,
    pair_keys,
    series_of,
    split_keys,
)
from pixace_tf.errors import UserError, first_line
from pixace_tf.storage import StrPath

VALIDATION_SHARE = 0.05
TFDS_PREFIX = "tfds:"


@dataclasses.dataclass
class SmallImages:
    """Images at the size of a tokenizer, before the palette.

    Attributes:
        images: uint8 `(N, height, width, C)`; see `PixelTokenizer`.
        parts: "train", "validation", or "" if the source has no parts.
        labels: Class names as `labels.label_name` spells them, "" for none.
        skipped: Files, pictures of files, and folders that are skipped.
        notes: Lines on files that were cut into pictures.
        series: Of each image of pixel art, whose variants lie on one side;
            None for other images.
        names: The path of each image in its source; `sheet.png#3` is the third
            piece of a file, `tfds:mnist#3` the third example of a data set.
        are_pairs: Whether each image is a pair of pictures; see `pairing`.
    """

    images: np.ndarray
    parts: list[str]
    labels: list[str]
    skipped: list[Skipped]
    notes: list[str] = dataclasses.field(default_factory=list)
    series: list[Series | None] | None = None
    names: list[str] = dataclasses.field(default_factory=list)
    are_pairs: bool = False

    @classmethod
    def of(
        cls,
        results: Iterable[Result],
        place: Callable[[int], tuple[str, str, str]],
        is_pixel_art: bool,
        series_of: Callable[[str], Series | None] = series_of,
    ) -> "SmallImages":
        """Collect the results of a `Decoder`.

        `place` returns the path, the part and the label of the i-th result.
        """
        images, parts, labels, skipped = [], [], [], []
        series, names = [], []
        for i, result in enumerate(results):
            path, part, label = place(i)
            if isinstance(result, str):
                skipped.append(Skipped(path, result))
            else:
                images.append(result)
                parts.append(part)
                labels.append(label_name(label))
                series.append(series_of(path))
                names.append(path)
        return cls(
            np.array(images, np.uint8),
            parts,
            labels,
            skipped,
            series=series if is_pixel_art else None,
            names=names,
        )

    def in_train(self) -> np.ndarray:
        """Return bool `(N,)`: which images train; the others validate.

        Without parts in the source, the 5% of images validate whose
        `split_keys` are the lowest.
        """
        if VALIDATION in self.parts:
            # A validation image that also trains would flatter the model.
            keys = [digest_of(image) for image in self.images]
            pairs = zip(keys, self.parts, strict=True)
            train = {key for key, part in pairs if part == TRAIN}
        else:
            keys = self.split_keys()
            # Each side gets an image, if two of them differ.
            distinct = sorted(set(keys))
            count = max(1, sum(map(is_held_out, distinct)))
            train = set(distinct[min(count, len(distinct) - 1) :])
        return np.array([key in train for key in keys])

    def split_keys(self) -> list[bytes]:
        """Return 16 bytes for each image; images of equal keys lie on one side.

        They are the BLAKE2b digests of the small pixels, so adding images moves
        none to the other side, and equal small images lie on one side. Of
        pixel art, variants of a sprite have one key; see `variants.split_keys`.
        So have pairs that share a picture; see `variants.pair_keys`.
        """
        most = max(1.0, VALIDATION_SHARE * len(self.images))
        if self.series is not None:
            parts = 2 if self.are_pairs else 1
            return split_keys(self.images, self.series, most, parts)
        if self.are_pairs:
            return pair_keys(self.images, most)
        return [digest_of(image) for image in self.images]


def is_held_out(key: bytes) -> bool:
    """Return whether images of this key validate, if a source has no parts."""
    return int.from_bytes(key[:4]) < VALIDATION_SHARE * 2**32


class Source(abc.ABC):
    """Images in a fixed order, in chunks that can be read one by one.

    Attributes:
        num_chunks: Number of chunks.
        parts: The part of each folder, tar file or split; see `parts.parts_of`.
        skipped: Files and folders that are skipped without being read.
    """

    num_chunks: int
    parts: Mapping[str, str]
    skipped: Sequence[Skipped] = ()

    @abc.abstractmethod
    def read(
        self, chunk: int, progress: ProgressCallback | None = None
    ) -> SmallImages:
        """Read and scale down the images of one chunk.

        Args:
            chunk: In `[0, num_chunks)`.
            progress: Called with the images read and their number.

        Raises:
            UserError: If the chunk as a whole cannot be read.
        """

    @abc.abstractmethod
    def read_clear(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """Read images that may be transparent, among some or all images.

        They are uint8 `(height, width, 4)`; the tokenizer must have alpha.
        """

    @abc.abstractmethod
    def state(self) -> Iterator[str]:
        """Yield lines that change whenever an image changes."""

    def digest(self) -> str:
        """Return a hex digest of `state`."""
        digest = hashlib.blake2b(digest_size=16)
        for line in self.state():
            digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


def load_images(
    source: StrPath,
    tokenizer: PixelTokenizer,
    max_pixels: int = image_files.MAX_PIXELS,
    download: bool = False,
    progress: ProgressCallback | None = None,
    cutting: Cutting | None = None,
    pairs: StrPath | None = None,
) -> SmallImages:
    """Read images and scale them down.

    See `token_dataset.load` for the arguments.

    Raises:
        UserError: If there is no usable image.
    """
    source = os.fspath(source)
    opened = open_source(
        source, tokenizer, max_pixels, download, cutting=cutting, pairs=pairs
    )
    return read_all(opened, source, progress)


def open_source(
    source: str,
    tokenizer: PixelTokenizer,
    max_pixels: int,
    download: bool,
    chunk_size: int | None = None,
    cutting: Cutting | None = None,
    pairs: StrPath | None = None,
) -> Source:
    """Open a folder or a TensorFlow data set; see `load_images`.

    Raises:
        UserError: If the source cannot be opened, cut or paired.
    """
    if source.startswith(TFDS_PREFIX):
        if cutting is not None:
            raise UserError(cannot_cut(source))
        if pairs is not None:
            raise UserError(f"--pairs needs two folders. Received: {source}")
        return TfdsSource(source, tokenizer, download, chunk_size)
    if pairs is not None:
        files = pair_files(source, pairs)
        return PairSource(files, tokenizer, max_pixels, chunk_size)
    listing = image_files.list_files(source)
    if cutting is not None:
        return CutSource(listing, tokenizer, max_pixels, cutting, chunk_size)
    return FolderSource(listing, tokenizer, max_pixels, chunk_size)


def read_all(
    opened: Source, name: str, progress: ProgressCallback | None = None
) -> SmallImages:
    """Read all chunks of a source; `name` is for errors. See `load_images`."""
    chunks = [opened.read(i, progress) for i in range(opened.num_chunks)]
    skipped = [*opened.skipped, *(s for c in chunks for s in c.skipped)]
    skipped.sort(key=lambda s: s.path)
    filled = [chunk.images for chunk in chunks if len(chunk.images)]
    if not filled:
        raise UserError(nothing_usable(name, skipped))
    series = [one for chunk in chunks for one in chunk.series or ()]
    return SmallImages(
        np.concatenate(filled),
        [part for chunk in chunks for part in chunk.parts],
        [label for chunk in chunks for label in chunk.labels],
        skipped,
        [note for chunk in chunks for note in chunk.notes],
        None if chunks[0].series is None else series,
        [name for chunk in chunks for name in chunk.names],
        chunks[0].are_pairs,
    )


class FolderSource(Source):
    """The image files below a folder, sorted by path; see `image_files.scan`.

    A chunk has `chunk_size` files, by default all.
    """

    def __init__(
        self,
        listing: Listing,
        tokenizer: PixelTokenizer,
        max_pixels: int,
        chunk_size: int | None = None,
    ) -> None:
        self._listing = listing
        self._decoder = Decoder(tokenizer, max_pixels, are_paths=True)
        self._is_pixel_art = tokenizer.resize == NATIVE
        paths = list(self._listing.places)
        size = chunk_size or max(1, len(paths))
        # One chunk, if there are no files.
        self._chunks = [
            paths[start : start + size]
            for start in range(0, max(1, len(paths)), size)
        ]
        self.num_chunks = len(self._chunks)
        self.skipped = self._listing.skipped
        self.parts = self._listing.parts

    def read(
        self, chunk: int, progress: ProgressCallback | None = None
    ) -> SmallImages:
        """See `Source`."""
        paths = self._chunks[chunk]
        return SmallImages.of(
            counted(self._results(chunk), len(paths), progress),
            lambda i: (paths[i], *self._listing.places[paths[i]]),
            self._is_pixel_art,
            self._series_of,
        )

    def _results(self, chunk: int) -> Iterator[Result]:
        """Decode the files of a chunk."""
        return self._decoder.decode(
            os.path.join(self._listing.root, path)
            for path in self._chunks[chunk]
        )

    def _series_of(self, path: str) -> Series | None:
        """Return the series of a file."""
        return series_of(path)

    def read_clear(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """See `Source`: among files that are evenly spaced."""
        paths = list(self._listing.places)
        step = -(-len(paths) // (limit or len(paths))) if paths else 1
        yield from self._decoder.decode_clear(
            os.path.join(self._listing.root, path) for path in paths[::step]
        )

    def state(self) -> Iterator[str]:
        """See `Source`: each file with its size and time."""
        for path, state in image_files.file_states(self._listing):
            yield f"{path}\0{state}"


class CutSource(FolderSource):
    """A folder whose files are cut into tiles or frames.

    The third picture of `sheet.png` is skipped as `sheet.png#3`. A chunk has
    the pictures of `chunk_size` files.
    """

    def __init__(
        self,
        listing: Listing,
        tokenizer: PixelTokenizer,
        max_pixels: int,
        cutting: Cutting,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(listing, tokenizer, max_pixels, chunk_size)
        self._cutting = cutting
        self._cutter = Cutter(cutting, tokenizer, max_pixels)

    def read(
        self, chunk: int, progress: ProgressCallback | None = None
    ) -> SmallImages:
        """See `Source`; the files are counted."""
        paths = self._chunks[chunk]
        full = (os.path.join(self._listing.root, path) for path in paths)
        cut = counted(self._cutter.cut_all(full), len(paths), progress)
        images: list[np.ndarray] = []
        small = SmallImages(np.zeros(0, np.uint8), [], [], [])
        series: list[Series | None] = []
        for path, file in zip(paths, cut, strict=True):
            part, label = self._listing.places[path]
            count = len(file.images)
            images += file.images
            small.parts += [part] * count
            small.labels += [label_name(label)] * count
            series += [self._series(path, name) for name in file.names]
            small.names += [f"{path}#{name}" for name in file.names]
            for name, reason in file.skipped:
                place = f"{path}#{name}" if name else path
                small.skipped.append(Skipped(place, reason))
            if note := file.counts.describe(self._cutting):
                small.notes.append(f"{image_files.printable(path)}: {note}")
        small.images = np.array(images, np.uint8)
        small.series = series if self._is_pixel_art else None
        return small

    def _series(self, path: str, name: str) -> Series | None:
        """Return the series of a piece: the same tile of all frames."""
        if not self._cutting.frames:
            return None
        frame, _, tile = name.partition(".")
        return Series(f"{path}#{tile}", int(frame), is_certain=True)

    def read_clear(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """See `Source`: of the first files."""
        full = (
            os.path.join(self._listing.root, p) for p in self._listing.places
        )
        every = (i for cut in self._cutter.cut_all(full) for i in cut.images)
        yield from itertools.islice(every, limit)

    def state(self) -> Iterator[str]:
        """See `Source`: how the files are cut, and as for a folder."""
        yield repr(self._cutting)
        yield from super().state()


class PairSource(FolderSource):
    """Pairs of pictures, each read as without the other, then stacked."""

    def __init__(
        self,
        files: Pairing,
        tokenizer: PixelTokenizer,
        max_pixels: int,
        chunk_size: int | None = None,
    ) -> None:
        options = single(tokenizer), max_pixels, chunk_size
        super().__init__(files.firsts, *options)
        self._seconds = FolderSource(files.seconds, *options)
        self._names = dict(zip(files.firsts.places, files.names, strict=True))
        self._num_left = files.num_left

    def read(
        self, chunk: int, progress: ProgressCallback | None = None
    ) -> SmallImages:
        """See `Source`; a pair is skipped if either picture is."""
        small = super().read(chunk, progress)
        small.are_pairs = True
        if not self._is_pixel_art:
            small.notes += self._on_shapes(
                chunk, {s.path for s in small.skipped}
            )
        if self._num_left and not chunk:
            small.notes.append(
                f"{self._num_left:,} files of --pairs have no first picture, "
                "and are left out."
            )
        return small

    def _results(self, chunk: int) -> Iterator[Result]:
        """Decode and stack the pictures of a chunk."""
        for path, first, second in zip(
            self._seconds._chunks[chunk],
            super()._results(chunk),
            self._seconds._results(chunk),
            strict=True,
        ):
            if isinstance(first, str):
                yield first
            elif isinstance(second, str):
                yield f"its partner {printable(path)}: {second}"
            else:
                yield np.concatenate([first, second])

    def _on_shapes(self, chunk: int, skipped: Container[str]) -> list[str]:
        """Return a line on the pairs whose pictures differ in their aspect."""
        ours, theirs = self._chunks[chunk], self._seconds._chunks[chunk]
        roots = self._listing.root, self._seconds._listing.root
        differ = [
            pair[0]
            for pair in zip(ours, theirs, strict=True)
            if pair[0] not in skipped
            and not have_one_shape(*map(os.path.join, roots, pair))
        ]
        if not differ:
            return []
        return [
            f"{len(differ):,} of the pairs have pictures of two shapes, first "
            f"{printable(differ[0])}: each is fitted to --image-size without "
            "the other."
        ]

    def _series_of(self, path: str) -> Series | None:
        return series_of(self._names[path])

    def read_clear(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """See `Source`: of both pictures of a pair."""
        yield from super().read_clear(limit)
        yield from self._seconds.read_clear(limit)

    def state(self) -> Iterator[str]:
        """See `Source`: the names of the pairs, and both folders."""
        yield from ("pairs", *self._names.values())
        yield from super().state()
        yield from self._seconds.state()


class TfdsSource(Source):
    """The images of a TensorFlow data set, split by split.

    A chunk has `chunk_size` images, by default all of a split.

    Raises:
        UserError: If the data set does not exist or is not on this machine.
    """

    def __init__(
        self,
        source: str,
        tokenizer: PixelTokenizer,
        download: bool,
        chunk_size: int | None = None,
    ) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._builder, split = _tfds_builder(source, download)
        self._features = self._builder.info.features
        if "image" not in self._features:
            raise UserError(
                f"{source} has no feature 'image', only "
                f"{', '.join(self._features)}."
            )
        splits = list(self._builder.info.splits)
        self.parts = {split: ""} if split else _tfds_parts(splits)
        chunks = [
            (part, examples)
            for name, part in self.parts.items()
            if part != TEST
            for examples in self._pieces(name, chunk_size)
        ]
        self._parts = [part for part, _ in chunks]
        self._examples = [examples for _, examples in chunks]
        self.num_chunks = len(chunks)
        # A size below 0 is unknown or infinite.
        sizes = [int(e.cardinality()) for e in self._examples]
        self._total = sum(sizes) if min(sizes) >= 0 else 0
        self._before = [0, *itertools.accumulate(sizes)]

    def read(
        self, chunk: int, progress: ProgressCallback | None = None
    ) -> SmallImages:
        """See `Source`; the images of all chunks are counted."""
        names = None
        if "label" in self._features:
            names = getattr(self._features["label"], "names", None)
        images, labels, skipped, paths, count = [], [], [], [], 0
        before = self._before[chunk] if self._total else 0
        for example in self._examples[chunk].as_numpy_iterator():
            count += 1
            path = f"{self._source}#{before + count}"
            if progress is not None:
                progress(before + count, self._total)
            try:
                images.append(self._small(example))
            except UserError as error:
                skipped.append(Skipped(path, str(error)))
                continue
            paths.append(path)
            label = example.get("label", "")
            if names:  # A number below 0 is no class.
                label = names[label] if label >= 0 else ""
            labels.append(label_name(str(label)))
        parts = [self._parts[chunk]] * len(images)
        pixels = np.array(images, np.uint8)
        small = SmallImages(pixels, parts, labels, skipped, names=paths)
        if self._tokenizer.resize == NATIVE:
            small.series = [None] * len(images)
        return small

    def _small(self, example: dict[str, Any]) -> np.ndarray:
        pixels = _to_uint8(example["image"], self._source)
        image = self._tokenizer.with_alpha(_to_color(pixels))
        return self._tokenizer.resize_image(image)

    def read_clear(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """See `Source`: the first images, if they may be transparent."""
        is_native = self._tokenizer.resize == NATIVE  # Clear around an image.
        if self._features["image"].shape[-1] != 4 and not is_native:
            return
        every = (e for part in self._examples for e in part.as_numpy_iterator())
        for example in itertools.islice(every, limit):
            with contextlib.suppress(UserError):  # It does not fit.
                yield self._small(example)

    def state(self) -> Iterator[str]:
        """See `Source`: the name with its version, and the sizes."""
        yield f"{self._builder.info.full_name} {self._total} {self._parts}"

    def _pieces(
        self, name: str, chunk_size: int | None
    ) -> Iterator[tf.data.Dataset]:
        """Yield a split in chunks; only plain splits can be cut."""
        whole = self._split(name)
        count = int(whole.cardinality())
        is_plain = name in self._builder.info.splits
        if chunk_size is None or count <= chunk_size or not is_plain:
            yield whole
            return
        for start in range(0, count, chunk_size):
            stop = min(start + chunk_size, count)
            yield self._split(f"{name}[{start}:{stop}]")

    def _split(self, name: str) -> tf.data.Dataset:
        try:
            return self._builder.as_dataset(split=name)
        except Exception as error:
            message = f"{self._source} has no split {name!r}"
            raise UserError(f"{message}: {first_line(error)}") from None


def _tfds_parts(splits: list[str]) -> dict[str, str]:
    """Return the part of each split that is read or kept for testing."""
    plain = [split for split in splits if not part_of(split)]
    train = [split for split in splits if part_of(split) == TRAIN]
    return parts_of(splits) or {[*train, *plain, "train"][0]: ""}


def _tfds_builder(source: str, download: bool) -> tuple[Any, str]:
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix(TFDS_PREFIX).partition(":")
    if not name:
        raise UserError(
            "A TensorFlow data set is given as tfds:NAME[/CONFIG][:SPLIT]. "
            f"Received: {source}"
        )
    try:
        builder = tfds.builder(name)
        if download:
            builder.download_and_prepare()
        # Raises if the data are not on this machine.
        builder.as_dataset(split=split or None)
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"There is no TensorFlow data set {name!r}.") from None
    except AssertionError:
        raise UserError(
            f"{source} is not on this machine yet; add --download to fetch it."
        ) from None
    except Exception as error:
        raise UserError(f"{source}: {first_line(error)}") from None
    return builder, split


def _to_uint8(pixels: np.ndarray, source: str) -> np.ndarray:
    """Return the pixels in 8 bits; of 16 bits, the high byte."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if pixels.dtype.kind == "f" and np.all((pixels >= 0) & (pixels <= 1)):
        return np.round(255 * pixels).astype(np.uint8)
    raise UserError(
        f"The images of {source} must be uint8, uint16, or floats in [0, 1]. "
        f"Received: {pixels.dtype} in [{pixels.min():g}, {pixels.max():g}]"
    )


def _to_color(image: np.ndarray) -> np.ndarray:
    """Give a uint8 image of 1, 3 or 4 channels 3 or 4 of them."""
    if image.shape[-1] == 1:
        return np.broadcast_to(image, (*image.shape[:2], 3))
    return image


def cannot_cut(source: str) -> str:
    """Return the error message for a source that is no folder."""
    return f"--tiles and --frames cut the files of a folder. Received: {source}"


def nothing_usable(source: str, skipped: Sequence[Skipped]) -> str:
    """Return the error message for a source without usable images."""
    if not skipped:
        return f"There are no pictures in {source!r}."
    first = skipped[0]
    return (
        f"No usable picture in {source!r}: {len(skipped)} skipped, the first "
        f"{image_files.printable(first.path)} ({first.reason})."
    )


def nothing_to_train(source: str, parts: Mapping[str, str]) -> str:
    """Return the error message for a source whose images all validate."""
    roles = describe(parts) or "all of them validate"
    way_out = "Add a folder train/"
    if source.startswith(TFDS_PREFIX):
        way_out = "Name a split to train on, such as tfds:NAME:train"
    return f"{source!r} has no pictures to train on: {roles}. {way_out}."

"""Sources of images: folders and TensorFlow data sets, scaled down."""

import abc
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback
from pixace_tf.data import image_files
from pixace_tf.data.decoding import Decoder, Result
from pixace_tf.data.image_files import Skipped
from pixace_tf.data.tokenizer import PixelTokenizer, over_white
from pixace_tf.errors import UserError, first_line
from pixace_tf.storage import StrPath

VALIDATION_SHARE = 0.05
TFDS_PREFIX = "tfds:"


@dataclasses.dataclass
class SmallImages:
    """Images at the size of a tokenizer, before the palette.

    Attributes:
        images: uint8 `(N, height, width, 3)`.
        parts: "train", "validation", or "" where the source does not say.
        labels: Class names, "" where there are none.
        skipped: Files and folders that are left out.
    """

    images: np.ndarray
    parts: list[str]
    labels: list[str]
    skipped: list[Skipped]

    @classmethod
    def of(
        cls,
        results: Iterable[Result],
        place: Callable[[int], tuple[str, str, str]],
    ) -> "SmallImages":
        """Collect what a `Decoder` yields.

        Args:
            results: In order.
            place: Gives the path, the part and the label of the i-th of them.
        """
        small = cls(np.zeros((0,), np.uint8), [], [], [])
        images = []
        for i, result in enumerate(results):
            path, part, label = place(i)
            if isinstance(result, str):
                small.skipped.append(Skipped(path, result))
            else:
                images.append(result)
                small.parts.append(part)
                small.labels.append(label)
        small.images = np.array(images, np.uint8)
        return small

    def in_train(self) -> np.ndarray:
        """Return bool `(N,)`: which images train; the others validate.

        Where the source has no parts, a stable 5% validate: those whose
        pixels have a BLAKE2b digest in the lowest 5% of its range, so that
        more images leave each one on its side. Equal small images always lie
        on one side, whatever files they come from. Since the small image
        decides, the split depends on the `image_size` and the `resize` of the
        tokenizer.
        """
        return _split([digest_of(image) for image in self.images], self.parts)


def digest_of(image: np.ndarray) -> bytes:
    """Return the BLAKE2b digest of the pixels, 16 bytes."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def is_held_out(digest: bytes) -> bool:
    """Tell whether an image validates, where its source has no parts."""
    return int.from_bytes(digest[:4]) < VALIDATION_SHARE * 2**32


class Source(abc.ABC):
    """Images in a fixed order, in chunks that can be read one by one.

    Attributes:
        num_chunks: How many chunks there are.
        has_parts: Whether it says which images train and which validate.
        skipped: What is left out before anything is read.
    """

    num_chunks: int
    has_parts: bool
    skipped: Sequence[Skipped] = ()

    @abc.abstractmethod
    def read(
        self, chunk: int, progress: ProgressCallback | None = None
    ) -> SmallImages:
        """Read and scale down the images of one chunk.

        Args:
            chunk: In `[0, num_chunks)`.
            progress: Told how far the reading is.

        Raises:
            UserError: If the chunk as a whole cannot be read.
        """

    @abc.abstractmethod
    def state(self) -> Iterator[str]:
        """Yield lines that are others when the images are."""


def load_images(
    source: StrPath,
    tokenizer: PixelTokenizer,
    max_pixels: int = image_files.MAX_PIXELS,
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> SmallImages:
    """Read images and scale them down.

    Args:
        source: A folder of images, or `tfds:NAME[/CONFIG][:SPLIT]`.
        tokenizer: Decodes and resizes.
        max_pixels: Largest image to decode, by its header.
        download: Whether a TensorFlow data set may be downloaded.
        progress: Called with the images read and their number.

    Raises:
        UserError: If there is no usable image.
    """
    source = os.fspath(source)
    opened: Source
    if source.startswith(TFDS_PREFIX):
        opened = TfdsSource(source, tokenizer, download)
    else:
        opened = FolderSource(source, tokenizer, max_pixels)
    small = join(
        [opened.read(chunk, progress) for chunk in range(opened.num_chunks)]
    )
    skipped = [*opened.skipped, *small.skipped]
    small.skipped = sorted(skipped, key=lambda s: s.path)
    if not len(small.images):
        raise UserError(nothing_usable(source, small.skipped))
    return small


def join(chunks: Sequence[SmallImages]) -> SmallImages:
    """Return the images of some chunks, at least one, as one."""
    filled = [chunk.images for chunk in chunks if len(chunk.images)]
    return SmallImages(
        np.concatenate(filled) if filled else np.zeros((0,), np.uint8),
        [part for chunk in chunks for part in chunk.parts],
        [label for chunk in chunks for label in chunk.labels],
        [skipped for chunk in chunks for skipped in chunk.skipped],
    )


class FolderSource(Source):
    """The image files below a folder, sorted by path; see `image_files.scan`.

    Args:
        root: The folder.
        tokenizer: Decodes and resizes.
        max_pixels: Largest image to decode, by its header.
        chunk_size: Files in a chunk; by default all.

    Raises:
        UserError: If there is no such folder.
    """

    def __init__(
        self,
        root: str,
        tokenizer: PixelTokenizer,
        max_pixels: int,
        chunk_size: int | None = None,
    ) -> None:
        self._listing = image_files.list_files(root)
        self._decoder = Decoder(tokenizer, max_pixels, are_paths=True)
        paths = list(self._listing.places)
        size = chunk_size or max(1, len(paths))
        self._chunks = [
            paths[start : start + size] for start in range(0, len(paths), size)
        ]
        self.num_chunks = max(1, len(self._chunks))
        self.skipped = self._listing.skipped
        parts = {part for part, _ in self._listing.places.values()}
        self.has_parts = {"train", "validation"} <= parts

    def read(
        self, chunk: int, progress: ProgressCallback | None = None
    ) -> SmallImages:
        """See `Source`."""
        paths = self._chunks[chunk] if self._chunks else []
        results = self._decoder.decode(
            os.path.join(self._listing.root, path) for path in paths
        )
        return SmallImages.of(
            counted(results, len(paths), progress),
            lambda i: (paths[i], *self._listing.places[paths[i]]),
        )

    def state(self) -> Iterator[str]:
        """See `Source`: each file with its size and time."""
        for path, state in image_files.file_states(self._listing):
            yield f"{path}\0{state}"


class TfdsSource(Source):
    """The images of a TensorFlow data set, split by split.

    Args:
        source: `tfds:NAME[/CONFIG][:SPLIT]`.
        tokenizer: Resizes.
        download: Whether it may be downloaded.
        chunk_size: Images in a chunk; by default a split is one.

    Raises:
        UserError: If there is no such data set, or none on this machine.
    """

    def __init__(
        self,
        source: str,
        tokenizer: PixelTokenizer,
        download: bool,
        chunk_size: int | None = None,
    ) -> None:
        self._source, self._tokenizer = source, tokenizer
        self._builder, split = _tfds_builder(source, download)
        self._features = self._builder.info.features
        if "image" not in self._features:
            raise UserError(
                f"{source} has no feature 'image', only "
                f"{', '.join(self._features)}."
            )
        splits = list(self._builder.info.splits)
        parts = {split: ""} if split else _tfds_parts(splits)
        self.has_parts = len(parts) > 1
        self._parts: list[str] = []
        self._examples: list[tf.data.Dataset] = []
        for name, part in parts.items():
            for piece in self._pieces(name, chunk_size):
                self._parts.append(part)
                self._examples.append(piece)
        self.num_chunks = len(self._parts)
        # A size below 0 is unknown or infinite.
        sizes = [int(e.cardinality()) for e in self._examples]
        self._total = sum(sizes) if min(sizes) >= 0 else 0
        self._before = [sum(sizes[:i]) for i in range(len(sizes))]

    def read(
        self, chunk: int, progress: ProgressCallback | None = None
    ) -> SmallImages:
        """See `Source`; the images of all chunks are counted."""
        names = None
        if "label" in self._features:
            names = getattr(self._features["label"], "names", None)
        resize = tf.function(
            lambda image: self._tokenizer.resize_image(_to_rgb(image)),
            autograph=False,
            reduce_retracing=True,
        )
        images, labels = [], []
        before = self._before[chunk] if self._total else 0
        for example in self._examples[chunk].as_numpy_iterator():
            images.append(resize(example["image"]).numpy())
            label = example.get("label", "")
            if names:  # A number below 0 is no class.
                label = names[label] if label >= 0 else ""
            labels.append(str(label))
            if progress is not None:
                progress(before + len(images), self._total)
        parts = [self._parts[chunk]] * len(images)
        return SmallImages(np.array(images, np.uint8), parts, labels, [])

    def state(self) -> Iterator[str]:
        """See `Source`: the name with its version, and the sizes."""
        yield f"{self._builder.info.full_name} {self._total} {self._parts}"

    def _pieces(
        self, name: str, chunk_size: int | None
    ) -> Iterator[tf.data.Dataset]:
        """Yield a split in chunks, if its name is one that can be cut."""
        whole = _tfds_split(self._source, self._builder, name)
        count = int(whole.cardinality())
        is_plain = name in self._builder.info.splits
        if chunk_size is None or count <= chunk_size or not is_plain:
            yield whole
            return
        for start in range(0, count, chunk_size):
            stop = min(start + chunk_size, count)
            yield _tfds_split(
                self._source, self._builder, f"{name}[{start}:{stop}]"
            )


def counted(
    results: Iterable[Result], total: int, progress: ProgressCallback | None
) -> Iterator[Result]:
    """Yield results; tell how many there were."""
    for done, result in enumerate(results, 1):
        yield result
        if progress is not None:
            progress(done, total)


def _tfds_parts(splits: list[str]) -> dict[str, str]:
    """Choose the splits to read; return the part of each."""
    first = "train" if "train" in splits or not splits else splits[0]
    for other in ("validation", "test"):
        if other in splits and other != first:
            return {first: "train", other: "validation"}
    return {first: ""}


def _tfds_split(source: str, builder: Any, name: str) -> tf.data.Dataset:
    try:
        return builder.as_dataset(split=name)
    except Exception as error:
        raise UserError(
            f"{source} has no split {name!r}: {first_line(error)}"
        ) from None


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
        # Raises where the data are not on this machine.
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


def _to_rgb(image: tf.Tensor) -> tf.Tensor:
    """Give a uint8 image of 1, 3 or 4 channels 3 of them, over white."""
    if image.shape[-1] == 4:
        return over_white(image[..., :3], image[..., 3:])
    return tf.broadcast_to(image, [*tf.unstack(tf.shape(image)[:2]), 3])


def _split(digests: list[bytes], parts: list[str]) -> np.ndarray:
    """Return bool `(N,)`: which images train; see `SmallImages.in_train`."""
    if {"train", "validation"} <= set(parts):
        train = {d for d, p in zip(digests, parts, strict=True) if p == "train"}
        # A validation image that also trains would flatter the model.
        return np.array([digest in train for digest in digests])
    different = sorted(set(digests))
    share = [digest for digest in different if is_held_out(digest)]
    if len(different) > 1 and not share:
        share = different[:1]
    if len(share) == len(different):
        share = share[:-1]
    held_out = set(share)
    return np.array([digest not in held_out for digest in digests])


def nothing_usable(source: str, skipped: Sequence[Skipped]) -> str:
    """Return what to say of a source without usable images."""
    if not skipped:
        return f"There are no pictures in {source!r}."
    first = skipped[0]
    return (
        f"No usable picture in {source!r}: {len(skipped)} skipped, the first "
        f"{image_files.printable(first.path)} ({first.reason})."
    )

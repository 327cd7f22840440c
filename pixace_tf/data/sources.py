"""Sources of images: folders and TensorFlow data sets, scaled down."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback
from pixace_tf.data import image_files
from pixace_tf.data.image_files import ImageFile, Skipped
from pixace_tf.data.tokenizer import PixelTokenizer, over_white
from pixace_tf.errors import UserError
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

    def in_train(self) -> np.ndarray:
        """Return bool `(N,)`: which images train; the others validate.

        Where the source has no parts, a stable 5% validate: those whose
        pixels have a BLAKE2b digest in the lowest 5% of its range, so that
        more images leave each one on its side. Equal small images always lie
        on one side, whatever files they come from. Since the small image
        decides, the split depends on the `image_size` and the `resize` of the
        tokenizer.
        """
        digests = [
            hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
            for image in self.images
        ]
        return _split(digests, self.parts)


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
        progress: Called with the images read and their number. For a folder
            the headers of all files are counted first, then the images.

    Raises:
        UserError: If there is no usable image.
    """
    source = os.fspath(source)
    if source.startswith(TFDS_PREFIX):
        small = _read_tfds(source, tokenizer, download, progress)
    else:
        small = _read_folder(source, tokenizer, max_pixels, progress)
    if not len(small.images):
        raise UserError(_nothing_usable(source, small.skipped))
    return small


def _read_folder(
    root: str,
    tokenizer: PixelTokenizer,
    max_pixels: int,
    progress: ProgressCallback | None,
) -> SmallImages:
    scanned = image_files.scan(root, max_pixels, progress, is_header_only=True)
    files, skipped = scanned.loads, list(scanned.skipped)
    decoded: dict[int, np.ndarray] = {}
    images = _decode(files, scanned.root, tokenizer, max_pixels)
    for done, (i, image) in enumerate(images, 1):
        if isinstance(image, Skipped):
            skipped.append(image)
        else:
            decoded[i] = image
        if progress is not None:
            progress(done, len(files))
    order = sorted(decoded)
    return SmallImages(
        np.array([decoded[i] for i in order], np.uint8),
        [files[i].part for i in order],
        [files[i].label for i in order],
        skipped,
    )


def _decode(
    files: list[ImageFile],
    root: str,
    tokenizer: PixelTokenizer,
    max_pixels: int,
) -> Iterator[tuple[int, np.ndarray | Skipped]]:
    """Yield the index and the small image of each file, in any order."""
    full_paths = [os.path.join(root, file.path) for file in files]
    plain = [i for i, file in enumerate(files) if file.is_plain]
    others = set(range(len(files)))
    for i, image in _decode_plain(plain, full_paths, tokenizer):
        others.remove(i)
        yield i, image
    decode = tf.function(
        tokenizer.decode,
        input_signature=[tf.TensorSpec((), tf.string)],
        autograph=False,
    )

    def decode_other(index: int) -> tuple[int, np.ndarray | Skipped]:
        try:
            png = image_files.normalize(full_paths[index], max_pixels)
        except image_files.UnloadableError as error:
            return index, Skipped(files[index].path, str(error))
        return index, np.asarray(decode(png))

    # A plain file that TensorFlow cannot decode is among them: Pillow either
    # reads it or tells what is wrong with it.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(decode_other, sorted(others))


def _decode_plain(
    plain: list[int], full_paths: list[str], tokenizer: PixelTokenizer
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode plain files in parallel; leave out what fails."""
    if not plain:
        return
    paths = [os.fsencode(full_paths[i]) for i in plain]

    @tf.autograph.experimental.do_not_convert
    def decode(index: tf.Tensor, path: tf.Tensor) -> Any:
        return index, tokenizer.decode(tf.io.read_file(path))

    batches = (
        tf.data.Dataset.from_tensor_slices((plain, paths))
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
        .batch(256)
        .prefetch(1)
    )
    for indices, images in batches.as_numpy_iterator():
        yield from zip(indices.tolist(), images, strict=True)


def _read_tfds(
    source: str,
    tokenizer: PixelTokenizer,
    download: bool,
    progress: ProgressCallback | None,
) -> SmallImages:
    builder, split = _tfds_builder(source, download)
    features = builder.info.features
    if "image" not in features:
        raise UserError(
            f"{source} has no feature 'image', only {', '.join(features)}."
        )
    names = None
    if "label" in features:
        names = getattr(features["label"], "names", None)
    resize = tf.function(
        lambda image: tokenizer.resize_image(_to_rgb(image)),
        autograph=False,
        reduce_retracing=True,
    )
    parts = {split: ""} if split else _tfds_parts(list(builder.info.splits))
    examples = {name: _tfds_split(source, builder, name) for name in parts}
    # A size below 0 is unknown or infinite.
    sizes = [int(e.cardinality()) for e in examples.values()]
    total = sum(sizes) if min(sizes) >= 0 else 0
    small = SmallImages(np.array([]), [], [], [])
    images = []
    for name, part in parts.items():
        for example in examples[name].as_numpy_iterator():
            images.append(resize(example["image"]).numpy())
            small.parts.append(part)
            label = example.get("label", "")
            small.labels.append(names[int(label)] if names else str(label))
            if progress is not None:
                progress(len(images), total)
    small.images = np.array(images, np.uint8)
    return small


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
            f"{source} has no split {name!r}: {_first_line(error)}"
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
        raise UserError(f"{source}: {_first_line(error)}") from None
    return builder, split


def _to_rgb(image: tf.Tensor) -> tf.Tensor:
    """Give a uint8 image of 1, 3 or 4 channels 3 of them, over white."""
    if image.shape[-1] == 4:
        return over_white(image[..., :3], image[..., 3:])
    return tf.broadcast_to(image, [*tf.unstack(tf.shape(image)[:2]), 3])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _split(digests: list[str], parts: list[str]) -> np.ndarray:
    """Return bool `(N,)`: which images train; see `SmallImages.in_train`."""
    if {"train", "validation"} <= set(parts):
        train = {d for d, p in zip(digests, parts, strict=True) if p == "train"}
        # A validation image that also trains would flatter the model.
        return np.array([digest in train for digest in digests])
    different = sorted(set(digests))
    share = [d for d in different if int(d[:8], 16) < VALIDATION_SHARE * 2**32]
    if len(different) > 1 and not share:
        share = different[:1]
    if len(share) == len(different):
        share = share[:-1]
    held_out = set(share)
    return np.array([digest not in held_out for digest in digests])


def _nothing_usable(source: str, skipped: list[Skipped]) -> str:
    if not skipped:
        return f"There are no pictures in {source!r}."
    first = skipped[0]
    return (
        f"No usable picture in {source!r}: {len(skipped)} skipped, the first "
        f"{image_files.printable(first.path)} ({first.reason})."
    )

"""Sources of pictures: folders and TensorFlow data sets, scaled down."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.data import image_files
from pixace_tf.data.image_files import Skipped
from pixace_tf.data.tokenizer import PixelTokenizer, over_white

VALIDATION_SHARE = 0.05
TFDS_PREFIX = "tfds:"

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclasses.dataclass
class SmallPictures:
    """Pictures at the size of a tokenizer, before the palette.

    Attributes:
        images: uint8 `(N, height, width, 3)`.
        digests: Hex digest of each one's content.
        parts: "train", "validation", or "" where the source does not say.
        labels: Class names, "" where there are none.
        skipped: Files that do not load.
    """

    images: np.ndarray
    digests: list[str]
    parts: list[str]
    labels: list[str]
    skipped: list[Skipped]

    def in_train(self) -> np.ndarray:
        """Return bool `(N,)`: which pictures train; the others validate.

        Where the source has no parts, a stable 5% by content validate.
        """
        return _split(self.digests, self.parts)


def load_pictures(
    source: str,
    tokenizer: PixelTokenizer,
    max_pixels: int = image_files.MAX_PIXELS,
    download: bool = False,
    progress: Progress | None = None,
) -> SmallPictures:
    """Read pictures and scale them down; see `load` for the arguments.

    Raises:
        ValueError: If there is no usable picture.
    """
    skipped: list[Skipped] = []
    if source.startswith(TFDS_PREFIX):
        rows = _read_tfds(source, tokenizer, download, progress)
    else:
        rows, skipped = _read_folder(source, tokenizer, max_pixels, progress)
    if not rows:
        raise ValueError(_nothing_usable(source, skipped))
    return SmallPictures(
        np.stack([row.image for row in rows]),
        [row.digest for row in rows],
        [row.part for row in rows],
        [row.label for row in rows],
        skipped,
    )


@dataclasses.dataclass
class _Row:
    image: np.ndarray
    digest: str
    part: str
    label: str


def _read_folder(
    root: str,
    tokenizer: PixelTokenizer,
    max_pixels: int,
    progress: Progress | None,
) -> tuple[list[_Row], list[Skipped]]:
    # A plain file that does not decode below is checked by Pillow after that.
    scanned = image_files.scan(root, max_pixels, progress, is_header_only=True)
    skipped = list(scanned.skipped)
    full_paths = [os.path.join(scanned.root, p.path) for p in scanned.loads]
    small = _decode_plain(scanned.loads, full_paths, tokenizer)
    decode = tf.function(
        tokenizer.decode, input_signature=[tf.TensorSpec((), tf.string)]
    )

    def decode_other(index: int) -> np.ndarray | Skipped:
        try:
            png = image_files.normalize(full_paths[index], max_pixels)
        except image_files.UnloadableError as error:
            return Skipped(scanned.loads[index].path, str(error))
        return np.asarray(decode(png))

    others = [i for i in range(len(full_paths)) if i not in small]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(decode_other, others)
        for i, result in zip(others, results, strict=True):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                small[i] = result
    rows = [
        _Row(small[i], picture.digest, picture.part, picture.label)
        for i, picture in enumerate(scanned.loads)
        if i in small
    ]
    return rows, skipped


def _decode_plain(
    pictures: list[image_files.Picture],
    full_paths: list[str],
    tokenizer: PixelTokenizer,
) -> dict[int, np.ndarray]:
    """Decode the plain files in parallel; leave out what fails."""
    plain = [i for i, picture in enumerate(pictures) if picture.is_plain]
    if not plain:
        return {}
    paths = [os.fsencode(full_paths[i]) for i in plain]

    def decode(index: tf.Tensor, path: tf.Tensor) -> Any:
        return index, tokenizer.decode(tf.io.read_file(path))

    batches = (
        tf.data.Dataset.from_tensor_slices((plain, paths))
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
        .batch(256)
        .prefetch(1)
    )
    return {
        int(i): image
        for index, decoded in batches.as_numpy_iterator()
        for i, image in zip(index, decoded, strict=True)
    }


def _read_tfds(
    source: str,
    tokenizer: PixelTokenizer,
    download: bool,
    progress: Progress | None,
) -> list[_Row]:
    builder, split = _tfds_builder(source, download)
    info = builder.info
    if "image" not in info.features:
        raise ValueError(
            f"{source} has no feature 'image', only {', '.join(info.features)}."
        )
    has_label = "label" in info.features
    names = (
        getattr(info.features["label"], "names", None) if has_label else None
    )
    if split:
        splits = {split: ""}
    else:
        known = list(info.splits)
        first = "train" if "train" in known or not known else known[0]
        other = next((s for s in ("validation", "test") if s in known), None)
        splits = {first: "train" if other else ""}
        if other:
            splits[other] = "validation"
    resize = tf.function(
        lambda image: tokenizer.resize_image(_to_rgb(image)),
        reduce_retracing=True,
    )
    rows = []
    for name, part in splits.items():
        try:
            examples = builder.as_dataset(split=name)
        except Exception as error:
            raise ValueError(
                f"{source} has no split {name!r}: {_first_line(error)}"
            ) from None
        iterator: Iterable[Any] = examples.as_numpy_iterator()
        if progress is not None:
            iterator = progress(iterator, int(examples.cardinality()))
        for example in iterator:
            image = example["image"]
            digest = hashlib.blake2b(image.tobytes(), digest_size=16)
            label = _label_name(example["label"], names) if has_label else ""
            rows.append(
                _Row(resize(image).numpy(), digest.hexdigest(), part, label)
            )
    return rows


def _tfds_builder(source: str, download: bool) -> tuple[Any, str]:
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix(TFDS_PREFIX).partition(":")
    if not name:
        raise ValueError(
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
        raise ValueError(f"There is no TensorFlow data set {name!r}.") from None
    except AssertionError:
        raise ValueError(
            f"{source} is not on this machine yet; add --download to fetch it."
        ) from None
    except Exception as error:
        raise ValueError(f"{source}: {_first_line(error)}") from None
    return builder, split


def _to_rgb(image: tf.Tensor) -> tf.Tensor:
    """Give a uint8 picture of 1, 3 or 4 channels 3 of them, over white."""
    if image.shape[-1] == 4:
        return over_white(image[..., :3], image[..., 3:])
    return tf.broadcast_to(image, [*tf.unstack(tf.shape(image)[:2]), 3])


def _label_name(label: Any, names: list[str] | None) -> str:
    return names[int(label)] if names else str(label)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _split(digests: list[str], parts: list[str]) -> np.ndarray:
    """Return bool `(N,)`: which pictures train."""
    if "train" in parts and "validation" in parts:
        train = {d for d, p in zip(digests, parts, strict=True) if p == "train"}
        # A validation picture that also trains would flatter the model.
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

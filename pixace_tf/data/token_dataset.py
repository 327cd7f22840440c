"""Data sets of tokens: made from images once, then served in batches.

Shapes: N images, T tokens of an image, B images of a batch.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback
from pixace_tf.data import image_files, labels, raster_orders
from pixace_tf.data.image_files import Skipped
from pixace_tf.data.labels import NULL_LABEL, NULL_SHARE
from pixace_tf.data.sources import (
    TFDS_PREFIX,
    Source,
    nothing_to_train,
    open_source,
    read_all,
)
from pixace_tf.data.token_shards import ShardRows, Shards
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.storage import open_npz, write_npz

_ARRAYS = ("train", "validation", "train_labels", "validation_labels")
_CHUNK = 4096
# Changes when equal files may give other tokens, labels or parts than before.
_FINGERPRINT = 2
# Of shards, so many rows of each part are held in memory: those that validate,
# and those that a run keeps, to compare with.
MAX_SAMPLE = 10_000
# Of so many numbers one is a coin: more than an epoch has images.
_MANY = 1 << 40
# With the 4 of TensorFlow's `index_shuffle`, neighbors stay neighbors.
_ROUNDS = 16


class MemoryRows:
    """Rows of tokens in memory.

    Args:
        token_ids: integers `(N, T)`.
        label_numbers: int32 `(N,)`, labels as in `PixaceCausalLM`; None gives
            all the null label.

    Attributes:
        shape: `(N, T)`.
    """

    failure = None  # Memory does not fail; see `ShardRows`.

    def __init__(
        self, token_ids: np.ndarray, label_numbers: np.ndarray | None = None
    ) -> None:
        self.shape = token_ids.shape
        if label_numbers is None:
            label_numbers = np.full(len(token_ids), NULL_LABEL)
        self._token_ids = tf.constant(token_ids)
        self._label_numbers = tf.constant(label_numbers, tf.int32)

    def gather(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return rows in a graph of tf.data.

        Args:
            index: int64 `(B,)`.

        Returns:
            int32 `(B, T)` tokens and int32 `(B,)` label numbers.
        """
        token_ids = tf.cast(tf.gather(self._token_ids, index), tf.int32)
        return token_ids, tf.gather(self._label_numbers, index)


@dataclasses.dataclass
class TokenDataset:
    """The tokens of a set of images, in memory.

    Attributes:
        train: uint16 or int32 `(N, T)`.
        validation: Like `train`, `(M, T)`; no small image is in both.
        train_labels: int32 `(N,)`, indices into `label_names`.
        validation_labels: int32 `(M,)`.
        label_names: The class folders in order; `[""]` where there are none.
        skipped: Files that do not load.
        fingerprint: Changes when a file is touched or the tokenizer changes;
            "" where that cannot be told.
        is_cached: Whether it came from a cache.
        parts: See `sources.Source`.
    """

    train: np.ndarray
    validation: np.ndarray
    train_labels: np.ndarray
    validation_labels: np.ndarray
    label_names: list[str]
    skipped: list[Skipped]
    fingerprint: str
    is_cached: bool = False
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def label_counts(self) -> dict[str, int]:
        """Return how many images each class has, 0 if none of them train."""
        train, validation = (
            np.bincount(classes, minlength=len(self.label_names))
            for classes in (self.train_labels, self.validation_labels)
        )
        counts = np.where(train > 0, train + validation, 0)
        return dict(zip(self.label_names, counts.tolist(), strict=True))

    def rows(self, names: Sequence[str]) -> MemoryRows:
        """Return the training rows.

        Args:
            names: The labels of a model.
        """
        numbers = labels.numbers(names, self.label_names, self.train_labels)
        return MemoryRows(self.train, numbers)

    def digest(self) -> str:
        """Return a hex digest of the tokens: what a model is trained on."""
        digest = hashlib.blake2b(self.train.tobytes(), digest_size=16)
        digest.update(self.validation.tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokens as `.npz`, unless they come from that file."""
        if self.is_cached:
            return
        write_npz(
            path,
            {name: getattr(self, name) for name in _ARRAYS},
            {
                "label_names": self.label_names,
                "skipped": [dataclasses.asdict(s) for s in self.skipped],
                "fingerprint": self.fingerprint,
            },
        )


class ShardedDataset:
    """The tokens of a folder of shards, which are read when they are needed.

    It has what `TokenDataset` has, but for the labels of each image.

    Args:
        shards: The folder.

    Attributes:
        train: The training rows.
        validation: integers `(M, T)`, at most `MAX_SAMPLE` rows.
        label_names: See `TokenDataset`.
        skipped: None: those were told when the shards were made.
    """

    skipped: Sequence[Skipped] = ()

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self.train = ShardRows(shards, "train")
        self.label_names = shards.label_names
        self.validation, self._validation_labels = _sample(
            ShardRows(shards, "validation")
        )

    def label_counts(self) -> dict[str, int]:
        """See `TokenDataset`; skipped copies count."""
        return self._shards.manifest["label_counts"]

    def rows(self, names: Sequence[str]) -> ShardRows:
        """See `TokenDataset`."""
        every = np.arange(len(self.label_names))
        numbers = labels.numbers(names, self.label_names, every)
        return ShardRows(self._shards, "train", numbers)

    def digest(self) -> str:
        """See `TokenDataset`."""
        return self._shards.digest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write some rows, evenly spaced, in the format of `TokenDataset`."""
        if os.path.exists(path):
            return
        train, train_labels = _sample(self.train)
        write_npz(
            path,
            {
                "train": train,
                "validation": self.validation,
                "train_labels": train_labels,
                "validation_labels": self._validation_labels,
            },
            {
                "label_names": self.label_names,
                "skipped": [],
                "fingerprint": "",
                "num_train": len(self.train),
            },
        )


def _sample(rows: ShardRows) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and labels of at most `MAX_SAMPLE` rows."""
    count = min(len(rows), MAX_SAMPLE)
    if not count:
        return np.zeros((0, rows.shape[1]), rows.dtype), np.zeros(0, np.int32)
    try:
        return rows.read(np.linspace(0, len(rows) - 1, count).astype(np.int64))
    finally:
        rows.close()  # It has opened most of the files.


def load(
    source: str | os.PathLike[str],
    tokenizer: PixelTokenizer,
    cache_path: str | os.PathLike[str] | None = None,
    max_pixels: int = image_files.MAX_PIXELS,
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> TokenDataset:
    """Tokenize a folder or a TensorFlow data set, once.

    Args:
        source: A folder of images, or `tfds:NAME[/CONFIG][:SPLIT]`.
        tokenizer: Makes the tokens.
        cache_path: What `TokenDataset.save` wrote; it is read instead of the
            images while neither files nor tokenizer have changed. The files of
            a TensorFlow data set are not watched, so it is always read.
        max_pixels: Largest image to decode, by its header.
        download: Whether a TensorFlow data set may be downloaded.
        progress: Told the images done and their number.

    Returns:
        The tokens in two parts; see `SmallImages.in_train`.

    Raises:
        UserError: If there is no usable image.
    """
    source = os.fspath(source)
    opened = open_source(source, tokenizer, max_pixels, download)
    fingerprint = ""
    if not source.startswith(TFDS_PREFIX):
        fingerprint = _fingerprint(opened, tokenizer, max_pixels)
    if cache_path is not None and fingerprint:
        cached = _load_cache(cache_path, fingerprint)
        if cached is not None:
            return dataclasses.replace(cached, parts=opened.parts)
    small = read_all(opened, source, progress)
    in_train = small.in_train()
    if not in_train.any():
        raise UserError(nothing_to_train(source, opened.parts))
    is_narrow = tokenizer.palette.vocabulary_size <= 1 << 16
    token_ids = tokenize(small.images, tokenizer)
    token_ids = token_ids.astype(np.uint16 if is_narrow else np.int32)
    label_names = sorted(set(small.labels))
    places = {name: i for i, name in enumerate(label_names)}
    classes = np.array([places[name] for name in small.labels], np.int32)
    return TokenDataset(
        train=token_ids[in_train],
        validation=token_ids[~in_train],
        train_labels=classes[in_train],
        validation_labels=classes[~in_train],
        label_names=label_names,
        skipped=small.skipped,
        fingerprint=fingerprint,
        parts=opened.parts,
    )


def tokenize(small: np.ndarray, tokenizer: PixelTokenizer) -> np.ndarray:
    """Tokenize many small images, some at a time.

    Args:
        small: uint8 `(N, height, width, 3)`.
        tokenizer: Makes the tokens.

    Returns:
        int32 `(N, height*width)`.
    """
    chunks = [
        tokenizer.tokenize(small[start : start + _CHUNK]).numpy()
        for start in range(0, len(small), _CHUNK)
    ]
    return np.concatenate(chunks)


def _fingerprint(
    opened: Source, tokenizer: PixelTokenizer, max_pixels: int
) -> str:
    key = [_FINGERPRINT, tokenizer.get_config(), max_pixels, opened.digest()]
    text = json.dumps(key, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _load_cache(
    path: str | os.PathLike[str], fingerprint: str
) -> TokenDataset | None:
    try:
        with open_npz(path) as file:
            meta = file.meta
            if meta["fingerprint"] != fingerprint:
                return None
            arrays = {name: file.read(name) for name in file.shapes}
    except UserError:  # Missing or damaged: it is made again.
        return None
    meta["skipped"] = [Skipped(**s) for s in meta["skipped"]]
    fields: dict[str, Any] = {**arrays, **meta}
    return TokenDataset(**fields, is_cached=True)


def training_batches(
    rows: MemoryRows | ShardRows,
    image_size: tuple[int, int],
    batch_size: int,
    seed: int,
    orders: Sequence[int] = (0, 0),
    epoch: int = 0,
    step: int = 0,
    steps_per_epoch: int | None = None,
    share: tuple[int, int] = (0, 1),
    parts: int = 1,
) -> tf.data.Dataset:
    """Serve training batches without end.

    Which image comes at a place of an epoch, how it is read and whether its
    label is dropped are functions of seed, epoch and place alone. So a run that
    starts at `(epoch, step)` sees what an uninterrupted one would, whatever the
    batches are, and no list of all images is held.

    Args:
        rows: N images, each with its label.
        image_size: `(height, width)`.
        batch_size: At most N; what an epoch leaves over is dropped.
        seed: Of all that is random.
        orders: The raster orders to show, as in `PixaceCausalLM`; by default
            half of the images are mirrored left to right. A share of
            `NULL_SHARE` of the labels becomes the null label.
        epoch: The first epoch to serve.
        step: Elements of that epoch to leave out.
        steps_per_epoch: Elements of an epoch; by default those of all full
            batches.
        share: `(i, n)`: serve the i-th of n equal parts of each batch, from 0
            on.
        parts: Serve each batch as this number of elements of equal size, one
            after the other.

    Returns:
        Pairs of inputs, which are int32 `(B, T)` and conditions int32 `(B, 2)`,
        and of targets, the same `(B, T)`; B is `batch_size` over n and over
        `parts`, rounded up. Where the parts do not divide a batch, the last one
        is filled up, and a third tensor, float32 `(B, 1)`, weights the images:
        0 for what fills up, and equal numbers otherwise, so that the mean over
        the parts is that over the batch.
    """
    size = -(-batch_size // (share[1] * parts))
    num_images, length = rows.shape
    steps = steps_per_epoch or num_images // batch_size * parts
    is_padded = size * parts * share[1] != batch_size
    vectors = tf.constant(orders, tf.int32)
    bounds = tf.constant(np.cumsum(raster_orders.shares(tuple(orders)))[:-1])
    permutations = tf.constant(
        raster_orders.permutations(len(orders), image_size)
    )

    def numbers(place: tf.Tensor, kind: int, e: tf.Tensor, most: int) -> Any:
        """Return another number up to `most` for each place in an epoch."""
        return tf.raw_ops.RandomIndexShuffle(
            index=place,
            seed=tf.concat([tf.constant([kind, seed], tf.int64), e[None]], 0),
            max_index=tf.constant(most, tf.int64),
            rounds=_ROUNDS,
        )

    @tf.autograph.experimental.do_not_convert
    def batch(number: tf.Tensor) -> Any:
        e, first = number // steps, number % steps // parts * batch_size
        part = share[0] * parts + number % parts
        offset = part * size + tf.range(size, dtype=tf.int64)
        place = first + tf.minimum(offset, batch_size - 1)
        index = numbers(place, 0, e, num_images - 1)
        coins, label_coins = (
            tf.cast(numbers(place, kind, e, _MANY - 1), tf.float64) / _MANY
            for kind in (1, 2)
        )
        token_ids, label = rows.gather(index)
        order = tf.searchsorted(bounds, coins, side="right")
        if len(orders) > 1:
            when = tf.gather(permutations, order)
            token_ids = tf.gather(token_ids, when, batch_dims=1)
        label = tf.where(label_coins >= NULL_SHARE, label, NULL_LABEL)
        condition = tf.stack([tf.gather(vectors, order), label], axis=1)
        token_ids = tf.ensure_shape(token_ids, (size, length))
        condition = tf.ensure_shape(condition, (size, 2))
        if not is_padded:
            return (token_ids, condition), token_ids
        weight = tf.where(offset < batch_size, size * parts / batch_size, 0.0)
        return (token_ids, condition), token_ids, weight[:, None]

    options = tf.data.Options()
    options.deterministic = True
    return (
        tf.data.Dataset.range(epoch * steps + step, np.iinfo(np.int64).max)
        .map(batch, num_parallel_calls=1)
        .prefetch(2)
        .with_options(options)
    )

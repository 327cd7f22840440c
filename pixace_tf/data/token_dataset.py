"""Data sets of tokens: made from images once, then served in batches.

Shapes: N images, T tokens of an image, B images of a batch.
"""

import dataclasses
import hashlib
import json
import os
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback
from pixace_tf.data import augmentation, image_files, labels, raster_orders
from pixace_tf.data.augmentation import Augmentation
from pixace_tf.data.cutting import Cutting
from pixace_tf.data.image_files import Skipped
from pixace_tf.data.labels import NULL_LABEL, NULL_SHARE
from pixace_tf.data.sources import (
    TFDS_PREFIX,
    nothing_to_train,
    open_source,
    read_all,
)
from pixace_tf.data.token_shards import ShardRows, Shards
from pixace_tf.data.tokenizer import NATIVE, PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath, open_npz, write_npz
from pixace_tf.typing import Tensor

_ARRAYS = ("train", "validation", "train_labels", "validation_labels")
_CHUNK = 4096
# Increased whenever equal files give other tokens, labels or parts.
_FINGERPRINT = 2
# Rows of each part of shards held in memory to validate, and kept in a run.
MAX_SAMPLE = 10_000
# Coins are drawn from this range; it must exceed the images of an epoch.
_NUM_COINS = 1 << 40
# The default of `index_shuffle`, 4, leaves neighbors together.
_ROUNDS = 16
_FOREVER = np.iinfo(np.int64).max


class MemoryRows:
    """Rows of tokens in memory, integers `(N, T)`.

    Their labels, int32 `(N,)` as in `PixaceCausalLM`, are null by default.
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

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return int32 tokens `(B, T)` and label numbers `(B,)` of some rows.

        Works in a graph; `index` is int64 `(B,)`.
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
        label_names: The classes in order; `[""]` if there are none.
        skipped: Files that do not load.
        fingerprint: Changes with files and tokenizer; "" if the source cannot
            tell.
        is_cached: Whether the tokens were read from a cache.
        parts: See `sources.Source`.
        notes: See `sources.SmallImages`; empty for tokens of a cache.
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
    notes: Sequence[str] = ()

    def label_counts(self) -> dict[str, int]:
        """Return how many images each class has, 0 if none of them train."""
        train, validation = (
            np.bincount(classes, minlength=len(self.label_names))
            for classes in (self.train_labels, self.validation_labels)
        )
        counts = np.where(train > 0, train + validation, 0)
        return dict(zip(self.label_names, counts.tolist(), strict=True))

    def rows(self, names: Sequence[str]) -> MemoryRows:
        """Return the training rows, labeled for a model with these labels."""
        numbers = labels.numbers(names, self.label_names, self.train_labels)
        return MemoryRows(self.train, numbers)

    def digest(self) -> str:
        """Return a hex digest of the tokens."""
        digest = hashlib.blake2b(self.train.tobytes(), digest_size=16)
        digest.update(self.validation.tobytes())
        return digest.hexdigest()

    def save(self, path: StrPath) -> None:
        """Write the tokens as `.npz`, unless they come from that file."""
        if self.is_cached:
            return
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        meta = {
            "label_names": self.label_names,
            "skipped": [dataclasses.asdict(s) for s in self.skipped],
            "fingerprint": self.fingerprint,
        }
        write_npz(path, arrays, meta)


class ShardedDataset:
    """The tokens of a folder of shards, read when they are needed.

    Its interface is that of `TokenDataset`, except for the labels of single
    images.

    Attributes:
        train: The training rows.
        validation: Integers `(M, T)`, at most `MAX_SAMPLE` rows.
        label_names: See `TokenDataset`.
        skipped, notes, parts: Empty: `tokenize` has reported them.
    """

    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = ()
    parts: Mapping[str, str] = types.MappingProxyType({})

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

    def save(self, path: StrPath) -> None:
        """Write a sample of the rows in the format of `TokenDataset`."""
        if os.path.exists(path):
            return
        train, train_labels = _sample(self.train)
        held_out, held_out_labels = self.validation, self._validation_labels
        arrays = (train, held_out, train_labels, held_out_labels)
        meta = {
            "label_names": self.label_names,
            "skipped": [],
            "fingerprint": "",
            "num_train": len(self.train),
        }
        write_npz(path, dict(zip(_ARRAYS, arrays, strict=True)), meta)


Dataset = TokenDataset | ShardedDataset


def _sample(rows: ShardRows) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and labels of at most `MAX_SAMPLE` evenly spaced rows."""
    count = min(len(rows), MAX_SAMPLE)
    if not count:
        return np.zeros((0, rows.shape[1]), rows.dtype), np.zeros(0, np.int32)
    try:
        return rows.read(np.linspace(0, len(rows) - 1, count).astype(np.int64))
    finally:
        rows.close()  # The sample has opened most of the files.


def load(
    source: StrPath,
    tokenizer: PixelTokenizer,
    cache_path: StrPath | None = None,
    max_pixels: int = image_files.MAX_PIXELS,
    download: bool = False,
    progress: ProgressCallback | None = None,
    cutting: Cutting | None = None,
    pairs: StrPath | None = None,
) -> TokenDataset:
    """Tokenize a folder or a TensorFlow data set, once.

    Args:
        source: A folder of images, or `tfds:NAME[/CONFIG][:SPLIT]`.
        tokenizer: Makes the tokens.
        cache_path: A file of `TokenDataset.save` to read if nothing changed.
        max_pixels: Largest image to decode, by its header.
        download: Whether a TensorFlow data set may be downloaded.
        progress: Called with the images done and their number.
        cutting: How to cut the files of a folder into pictures.
        pairs: A folder with the second picture of each pair; see `pairing`. The
            tokenizer is then that of pairs.

    Returns:
        The tokens, split as in `SmallImages.in_train`.

    Raises:
        UserError: If there is no usable image.
    """
    source = os.fspath(source)
    opened = open_source(
        source, tokenizer, max_pixels, download, cutting=cutting, pairs=pairs
    )
    fingerprint = ""
    if not source.startswith(TFDS_PREFIX):
        config, images = tokenizer.get_config(), opened.digest()
        key = [_FINGERPRINT, config, max_pixels, images]
        if tokenizer.resize == NATIVE:
            key.append("variants on one side, 2")
        text = json.dumps(key, sort_keys=True).encode()
        fingerprint = hashlib.blake2b(text, digest_size=16).hexdigest()
        cached = cache_path and _load_cache(cache_path, fingerprint)
        if cached:
            return dataclasses.replace(cached, parts=opened.parts)
    small = read_all(opened, source, progress)
    in_train = small.in_train()
    if not in_train.any():
        raise UserError(nothing_to_train(source, opened.parts))
    token_ids = tokenize(small.images, tokenizer)
    if tokenizer.palette.num_bits <= 16:
        token_ids = token_ids.astype(np.uint16)
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
        notes=small.notes,
    )


def tokenize(small: np.ndarray, tokenizer: PixelTokenizer) -> np.ndarray:
    """Tokenize small images, uint8 `(N, height, width, C)`, in bounded memory.

    Returns:
        int32 `(N, height*width)`.
    """
    chunks = np.split(small, range(_CHUNK, len(small), _CHUNK))
    return np.concatenate([tokenizer.tokenize(c) for c in chunks])


def _load_cache(path: StrPath, fingerprint: str) -> TokenDataset | None:
    try:
        with open_npz(path) as file:
            if file.meta["fingerprint"] != fingerprint:
                return None
            fields = {name: file.read(name) for name in file.shapes} | file.meta
    except UserError:  # Missing or damaged: the tokens are made again.
        return None
    fields["skipped"] = [Skipped(**s) for s in fields["skipped"]]
    return TokenDataset(**fields, is_cached=True)


def training_batches(
    rows: MemoryRows | ShardRows,
    image_size: tuple[int, int],
    batch_size: int,
    seed: int,
    orders: Sequence[int] = (0, 0),
    epoch: int = 0,
    step: int = 0,
    share: tuple[int, int] = (0, 1),
    parts: int = 1,
    changes: Augmentation | None = None,
) -> tf.data.Dataset:
    """Serve training batches without end.

    Seed, epoch and place in the epoch alone decide what is served and how: with
    another share or other parts, an image is changed alike.

    Args:
        rows: N images, each with its label.
        image_size: `(height, width)`.
        batch_size: At most N; an epoch drops what does not fill a batch.
        seed: Seed of all that is random.
        orders: As in `PixaceCausalLM`; by default plain and mirrored.
        epoch: The first epoch to serve.
        step: Elements of that epoch to skip.
        share: `(i, n)`: serve the i-th of n equal shares of each batch, from 0.
        parts: Number of elements of equal size that a batch is cut into.
        changes: How images are changed; by default not at all.

    Returns:
        Elements `((token_ids, conditions), token_ids)` of int32 `(B, T)` and
        `(B, 2)`; B is `batch_size` over n and `parts`, rounded up. If rounded,
        images repeat, and a third tensor, float32 `(B, 1)`, weighs repeated
        ones with 0 and the others so that the mean over the batch stays. If the
        model is told of augmentation, conditions are `(B, 3)`; with noise, the
        tokens that the decoder reads, `(B, T)`, follow them.
    """
    size = -(-batch_size // (share[1] * parts))
    steps = rows.shape[0] // batch_size * parts
    reader = _Reader(rows, image_size, orders, seed, changes)

    @tf.autograph.experimental.do_not_convert
    def batch(number: Tensor) -> Any:
        e, first = number // steps, number % steps // parts * batch_size
        part = share[0] * parts + number % parts
        offset = part * size + tf.range(size, dtype=tf.int64)
        row = tf.minimum(offset, batch_size - 1)
        read = reader.read(e, first, row, batch_size)
        inputs = tuple(tf.ensure_shape(x, (size, x.shape[1])) for x in read)
        token_ids = inputs[0]
        if size * parts * share[1] == batch_size:
            return inputs, token_ids
        weight = tf.where(offset < batch_size, size * parts / batch_size, 0.0)
        return inputs, token_ids, weight[:, None]

    dataset = tf.data.Dataset.range(epoch * steps + step, _FOREVER)
    dataset = dataset.map(batch, num_parallel_calls=1, deterministic=True)
    return dataset.prefetch(2)


class _Reader:
    """Reads images at places in an epoch, in orders and with changes."""

    def __init__(
        self,
        rows: MemoryRows | ShardRows,
        image_size: tuple[int, int],
        orders: Sequence[int],
        seed: int,
        changes: Augmentation | None,
    ) -> None:
        self._rows, self._seed, self._changes = rows, seed, changes
        self._vectors = tf.constant(orders, tf.int32)
        shares = raster_orders.shares(tuple(orders))
        self._bounds = tf.constant(np.cumsum(shares)[:-1])
        self._sequences = raster_orders.permutations(len(orders), image_size)

    def read(
        self, epoch: Tensor, first: Tensor, row: Tensor, batch_size: int
    ) -> list[Tensor]:
        """Return the inputs of a model, as in `training_batches`.

        `first` is the place of the batch, `row` int64 `(B,)` are rows of it.
        """
        index, order_coins, label_coins = self._numbers(epoch, first + row)
        token_ids, label = self._gather(index)
        label = tf.where(
            label_coins >= int(NULL_SHARE * _NUM_COINS), label, NULL_LABEL
        )
        share = tf.cast(order_coins, tf.float64) / _NUM_COINS
        order = tf.searchsorted(self._bounds, share, side="right")
        conditions = [tf.gather(self._vectors, order), label]

        def draw(kind: int, *shape: int) -> Tensor:
            """Return random numbers of the rows, float32 `(B, *shape)`."""
            seeds = 2 * self._seed + kind, epoch * _NUM_COINS + first
            draws = tf.random.stateless_uniform(
                (batch_size, *shape), tf.stack(seeds), alg="philox"
            )
            return tf.gather(draws, row)

        changes = self._changes
        if changes and changes.is_told:
            draws = draw(0, augmentation.NUM_DRAWS)
            token_ids, number = changes.change(token_ids, draws)
            conditions.append(number)
        if len(self._sequences) > 1:
            when = tf.gather(self._sequences, order)
            token_ids = tf.gather(token_ids, when, batch_dims=1)
        inputs = [token_ids, tf.stack(conditions, axis=1)]
        if changes and changes.input_noise:
            next_place = first + (row + 1) % batch_size
            others, _ = self._gather(self._numbers(epoch, next_place)[0])
            draws = draw(1, token_ids.shape[1], 2)
            inputs.append(changes.add_noise(token_ids, others, draws))
        return inputs

    def _gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens, of static length, and the labels of rows."""
        token_ids, label = self._rows.gather(index)
        return tf.ensure_shape(token_ids, (None, self._rows.shape[1])), label

    def _numbers(self, epoch: Tensor, place: Tensor) -> list[Tensor]:
        """Return the indices of images, and their coins for order and label."""
        counts = self._rows.shape[0], _NUM_COINS, _NUM_COINS
        return [
            _shuffle(place, [kind, self._seed, epoch], count)
            for kind, count in enumerate(counts)
        ]


def _shuffle(place: Tensor, seed: Sequence[Tensor], count: int) -> Tensor:
    """Return a distinct number in `[0, count)` for each place below `count`."""
    return tf.raw_ops.RandomIndexShuffle(
        index=place,
        seed=tf.stack(seed),
        max_index=tf.constant(count - 1, tf.int64),
        rounds=_ROUNDS,
    )

"""Data sets of tokens: made from images once, then served in batches."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback
from pixace_tf.data import image_files, raster_orders
from pixace_tf.data.image_files import Skipped
from pixace_tf.data.labels import NULL_LABEL, NULL_SHARE
from pixace_tf.data.sources import TFDS_PREFIX, load_images
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.storage import read_npz, write_npz

_ARRAYS = ("train", "validation", "train_labels", "validation_labels")
_CHUNK = 4096


@dataclasses.dataclass
class TokenDataset:
    """The tokens of a set of images.

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
    """

    train: np.ndarray
    validation: np.ndarray
    train_labels: np.ndarray
    validation_labels: np.ndarray
    label_names: list[str]
    skipped: list[Skipped]
    fingerprint: str
    is_cached: bool = False

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
    fingerprint = _fingerprint(source, tokenizer, max_pixels)
    if cache_path is not None and fingerprint:
        cached = _load_cache(cache_path, fingerprint)
        if cached is not None:
            return cached
    small = load_images(source, tokenizer, max_pixels, download, progress)
    in_train = small.in_train()
    is_narrow = tokenizer.palette.vocabulary_size <= 1 << 16
    token_ids = tokenize(small.images, tokenizer)
    token_ids = token_ids.astype(np.uint16 if is_narrow else np.int32)
    label_names = sorted(set(small.labels))
    labels = np.array([label_names.index(x) for x in small.labels], np.int32)
    return TokenDataset(
        train=token_ids[in_train],
        validation=token_ids[~in_train],
        train_labels=labels[in_train],
        validation_labels=labels[~in_train],
        label_names=label_names,
        skipped=small.skipped,
        fingerprint=fingerprint,
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
    source: str, tokenizer: PixelTokenizer, max_pixels: int
) -> str:
    if source.startswith(TFDS_PREFIX):
        return ""
    key = hashlib.blake2b(digest_size=16)
    key.update(json.dumps(tokenizer.get_config(), sort_keys=True).encode())
    key.update(f"{max_pixels}".encode())
    for path, state in image_files.file_states(source):
        key.update(os.fsencode(path) + f"\0{state}\0".encode())
    return key.hexdigest()


def _load_cache(
    path: str | os.PathLike[str], fingerprint: str
) -> TokenDataset | None:
    try:
        arrays, meta = read_npz(path)
    except UserError:  # Missing or damaged: it is made again.
        return None
    if meta["fingerprint"] != fingerprint:
        return None
    meta["skipped"] = [Skipped(**s) for s in meta["skipped"]]
    fields: dict[str, Any] = {**arrays, **meta}
    return TokenDataset(**fields, is_cached=True)


def training_batches(
    token_ids: np.ndarray,
    image_size: tuple[int, int],
    batch_size: int,
    seed: int,
    orders: Sequence[int] = (0, 0),
    labels: np.ndarray | None = None,
    epoch: int = 0,
    step: int = 0,
    steps_per_epoch: int | None = None,
) -> tf.data.Dataset:
    """Serve training batches without end.

    The order of the images, how each is read and whether its label is dropped
    are a function of seed and epoch alone, so a run that starts at `(epoch,
    step)` sees what an uninterrupted one would.

    Args:
        token_ids: integers `(N, T)`.
        image_size: `(height, width)`.
        batch_size: At most N; what an epoch leaves over is dropped.
        seed: Of all that is random.
        orders: The raster orders to show, as in `PixaceCausalLM`; by default
            half of the images are mirrored left to right.
        labels: int32 `(N,)`, labels as in `PixaceCausalLM`; a share of
            `NULL_SHARE` becomes the null label. None gives that to all.
        epoch: The first epoch to serve.
        step: Batches of that epoch to leave out.
        steps_per_epoch: Batches of an epoch; by default all that are full.

    Returns:
        Pairs of inputs, which are int32 `(batch_size, T)` and conditions int32
        `(batch_size, 2)`, and of targets, the same `(batch_size, T)`.
    """
    tokens = tf.constant(token_ids)
    num_images, length = token_ids.shape
    if labels is None:
        labels = np.full(num_images, NULL_LABEL)
    all_labels = tf.constant(labels, tf.int32)
    rows = tf.constant(orders, tf.int32)
    bounds = tf.constant(np.cumsum(raster_orders.shares(tuple(orders)))[:-1])
    permutations = tf.constant(
        raster_orders.permutations(len(orders), image_size)
    )
    most = -1 if steps_per_epoch is None else steps_per_epoch

    @tf.autograph.experimental.do_not_convert
    def epoch_indices(e: tf.Tensor) -> tf.data.Dataset:
        shuffled = tf.random.experimental.stateless_shuffle(
            tf.range(num_images, dtype=tf.int64), seed=tf.stack([seed, e])
        )
        coins, label_coins = (
            tf.random.stateless_uniform(
                [num_images], seed=tf.stack([seed + i, e]), dtype=tf.float64
            )
            for i in (1, 2)
        )
        order = tf.searchsorted(bounds, coins, side="right")
        skip = tf.where(e == epoch, tf.cast(step, tf.int64), 0)
        return (
            tf.data.Dataset.from_tensor_slices(
                (shuffled, order, label_coins >= NULL_SHARE)
            )
            .batch(batch_size, drop_remainder=True)
            .take(most)
            .skip(skip)
        )

    @tf.autograph.experimental.do_not_convert
    def gather(index: tf.Tensor, order: tf.Tensor, has_label: tf.Tensor) -> Any:
        batch = tf.cast(tf.gather(tokens, index), tf.int32)
        if len(orders) > 1:
            when = tf.gather(permutations, order)
            batch = tf.gather(batch, when, batch_dims=1)
        label = tf.where(has_label, tf.gather(all_labels, index), NULL_LABEL)
        condition = tf.stack([tf.gather(rows, order), label], axis=1)
        batch = tf.ensure_shape(batch, (batch_size, length))
        return (batch, tf.ensure_shape(condition, (batch_size, 2))), batch

    epochs = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max)
    options = tf.data.Options()
    options.deterministic = True
    return (
        epochs.flat_map(epoch_indices)
        .map(gather, num_parallel_calls=1)
        .prefetch(2)
        .with_options(options)
    )

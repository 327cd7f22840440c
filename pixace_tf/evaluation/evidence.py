"""The images that a run is evaluated on, and its training images.

Shapes: N evaluated images, M training images, T tokens of an image.
"""

import dataclasses
import os
from typing import Any

import numpy as np

from pixace_tf import storage
from pixace_tf.data.labels import label_name
from pixace_tf.data.token_dataset import tokenize
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.runs.run_config import TOKENS_FILE
from pixace_tf.runs.run_folder import Run

_CHUNK = 1024
# Evaluated and drawn images are compared with at most this many.
MAX_TRAINING = 10_000

# The figures of a part of the report, and its images as PNG files by name.
Part = tuple[dict[str, Any], dict[str, bytes]]


class MissingDataError(Exception):
    """Why a part of the report is left out: images or classes are missing."""


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The images of a training, as tokens.

    Attributes:
        token_ids: integers `(M, T)`, a sample of at most `MAX_TRAINING` of the
            images that the run has kept.
        labels: str `(M,)`, the class of each image, "" for none.
        validation_token_ids: integers `(V, T)`; they chose the best weights.
        num_images: The number of images that the weights learned from.
        num_kept: The number of images that the run has kept.
    """

    token_ids: np.ndarray
    labels: np.ndarray
    validation_token_ids: np.ndarray
    num_images: int
    num_kept: int


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A run and the images to evaluate it on.

    Attributes:
        run: A trained model.
        images: uint8 `(N, height, width, C)`, before the palette.
        labels: str `(N,)`, "" for none, spelled as by `labels.label_name`.
        token_ids: int32 `(N, T)`.
        quantized: uint8 `(N, height, width, C)`, in the colors of the palette.
        training: The training images, None if the run has lost them.
        is_held_out: bool `(N,)`, whether the image is none of the training
            images that the run has kept.
    """

    run: Run
    images: np.ndarray
    labels: np.ndarray
    token_ids: np.ndarray
    quantized: np.ndarray
    training: TrainingData | None
    is_held_out: np.ndarray

    def sample(self, count: int) -> "Evidence":
        """Return evidence of at most `count` of the images, evenly spaced."""
        return self._take(evenly_spaced(len(self.images), count))

    def held_out(self) -> "Evidence":
        """Return evidence of the images that are no training images.

        Raises:
            MissingDataError: If there are none.
        """
        if not self.is_held_out.any():
            raise MissingDataError(
                "All of the evaluated pictures are training pictures."
            )
        return self._take(np.flatnonzero(self.is_held_out))

    def _take(self, rows: np.ndarray) -> "Evidence":
        names = ("images", "labels", "token_ids", "quantized", "is_held_out")
        taken = {name: getattr(self, name)[rows] for name in names}
        return dataclasses.replace(self, **taken)

    def require_training(self) -> TrainingData:
        """Return `training`, or raise a `MissingDataError`."""
        if self.training is None:
            raise MissingDataError(
                "The run has lost the tokens of its training pictures."
            )
        return self.training

    def training_images(self) -> np.ndarray:
        """Return the training images in the colors of the palette.

        They are uint8 `(M, height, width, C)`, or `(2*M, height, width, C)` if
        the run was also trained on the mirrored images.
        """
        token_ids = self.require_training().token_ids
        images = detokenize(token_ids, self.run.tokenizer)
        return with_mirrored(images) if self.run.arguments["flip"] else images


def gather(run: Run, images: np.ndarray, labels: list[str]) -> Evidence:
    """Prepare images, uint8 `(N, height, width, C)`, with labels or ""."""
    token_ids = tokenize(images, run.tokenizer)
    training, is_held_out = None, np.ones(len(images), bool)
    if os.path.exists(run.file(TOKENS_FILE)):
        with storage.open_npz(run.file(TOKENS_FILE)) as file:
            training = _read_training(file)
            for start in range(0, training.num_kept, _CHUNK):
                rows = file.read("train", slice(start, start + _CHUNK))
                is_held_out &= ~are_among(token_ids, rows)
    return Evidence(
        run,
        images,
        np.array([label_name(name) for name in labels], str),
        token_ids,
        detokenize(token_ids, run.tokenizer),
        training,
        is_held_out,
    )


def _read_training(file: storage.Npz) -> TrainingData:
    num_kept = len(file.read("train_labels"))
    chosen = np.arange(num_kept)
    if num_kept > MAX_TRAINING:
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.choice(num_kept, MAX_TRAINING, replace=False))
    names = np.array([label_name(n) for n in file.meta["label_names"]], str)
    return TrainingData(
        file.read("train", chosen),
        names[file.read("train_labels", chosen)],
        file.read("validation"),
        file.meta.get("num_train", num_kept),
        num_kept,
    )


def are_among(token_ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return bool `(N,)`: which rows `(N, T)` are among the others `(M, T)`."""
    known = {row.tobytes() for row in others.astype(np.int32)}
    return np.array(
        [row.tobytes() in known for row in token_ids.astype(np.int32)], bool
    )


def detokenize(token_ids: np.ndarray, tokenizer: PixelTokenizer) -> np.ndarray:
    """Return the images of `(N, T)`, uint8 `(N, height, width, C)`."""
    starts = range(0, len(token_ids), _CHUNK)
    return np.concatenate(
        [tokenizer.detokenize(token_ids[i : i + _CHUNK]) for i in starts]
    )


def with_mirrored(images: np.ndarray) -> np.ndarray:
    """Return `(2*N, height, width, C)`: images, then their mirror images."""
    return np.concatenate([images, images[:, :, ::-1]])


def evenly_spaced(length: int, count: int) -> np.ndarray:
    """Return at most `count` indices below `length`, int64, ascending.

    Images lie in the order of their classes, so the first ones would not do.
    """
    return np.linspace(0, length - 1, min(length, count)).astype(np.int64)

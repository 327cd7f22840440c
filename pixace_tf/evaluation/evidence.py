"""The images that a run is evaluated on, and those that it was trained on.

Shapes: N evaluated images, M training images, T tokens of an image.
"""

import dataclasses
import os

import numpy as np

from pixace_tf import storage
from pixace_tf.data.labels import label_name
from pixace_tf.data.token_dataset import tokenize
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.runs.run_config import TOKENS_FILE
from pixace_tf.runs.run_folder import Run

_CHUNK = 1024
# Training images that evaluated and drawn images are compared with.
MAX_TRAINING = 10_000


class MissingDataError(Exception):
    """Why a part of the report cannot be given: images or classes lack."""


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The images of a training, as tokens.

    Attributes:
        token_ids: integers `(M, T)`, images that the weights learned from.
        labels: str `(M,)`, the class of each one, "" for none.
        validation_token_ids: integers `(V, T)`; these chose the best weights.
        num_images: How many images the weights learned from.
        num_kept: How many of them the run has kept; `token_ids` are a sample
            of at most `MAX_TRAINING` of these.
    """

    token_ids: np.ndarray
    labels: np.ndarray
    validation_token_ids: np.ndarray
    num_images: int
    num_kept: int

    @property
    def is_whole(self) -> bool:
        """Whether the run has kept all images."""
        return self.num_kept == self.num_images


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A run and the images to evaluate it on.

    Attributes:
        run: A trained model.
        images: uint8 `(N, height, width, 3)`, before the palette.
        labels: str `(N,)`, "" for none.
        token_ids: int32 `(N, T)`.
        quantized: uint8 `(N, height, width, 3)`, in the colors of the palette.
        training: What the run was trained on, None where that is lost.
        is_held_out: bool `(N,)`, whether the run was not trained on the image,
            as far as it has kept what it was trained on.
    """

    run: Run
    images: np.ndarray
    labels: np.ndarray
    token_ids: np.ndarray
    quantized: np.ndarray
    training: TrainingData | None
    is_held_out: np.ndarray

    def require_training(self) -> TrainingData:
        """Return `training`.

        Raises:
            MissingDataError: If it is lost.
        """
        if self.training is None:
            raise MissingDataError(
                "The run has lost the tokens of its training pictures."
            )
        return self.training

    def training_images(self) -> np.ndarray:
        """Return what the run was trained on, in the colors of the palette.

        Returns:
            uint8 `(M, height, width, 3)`, or `(2*M, height, width, 3)` with
            the mirrored images where the run was trained on these, too.

        Raises:
            MissingDataError: If they are lost.
        """
        token_ids = self.require_training().token_ids
        images = detokenize(token_ids, self.run.tokenizer)
        return with_mirrored(images) if self.run.arguments["flip"] else images


def gather(run: Run, images: np.ndarray, labels: list[str]) -> Evidence:
    """Prepare images to evaluate a run on.

    Args:
        run: A trained model.
        images: uint8 `(N, height, width, 3)`, N at least 1.
        labels: The class of each one, "" for none.

    Raises:
        UserError: If the run's tokens are damaged.
    """
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
        np.array(labels, str),
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
    """Tell which images have the same tokens as one of the others.

    Args:
        token_ids: integers `(N, T)`.
        others: integers `(M, T)`.

    Returns:
        bool `(N,)`.
    """
    known = {row.tobytes() for row in others.astype(np.int32)}
    return np.array(
        [row.tobytes() in known for row in token_ids.astype(np.int32)], bool
    )


def detokenize(token_ids: np.ndarray, tokenizer: PixelTokenizer) -> np.ndarray:
    """Turn the tokens of many images into images, some at a time.

    Args:
        token_ids: integers `(N, T)`, N at least 1.
        tokenizer: What they mean.

    Returns:
        uint8 `(N, height, width, 3)`.
    """
    starts = range(0, len(token_ids), _CHUNK)
    return np.concatenate(
        [tokenizer.detokenize(token_ids[i : i + _CHUNK]) for i in starts]
    )


def with_mirrored(images: np.ndarray) -> np.ndarray:
    """Return images, then each of them mirrored left to right.

    Args:
        images: uint8 `(N, height, width, 3)`.

    Returns:
        uint8 `(2*N, height, width, 3)`.
    """
    return np.concatenate([images, images[:, :, ::-1]])


def evenly_spaced(length: int, count: int) -> np.ndarray:
    """Choose indices evenly, since images lie in the order of their classes.

    Args:
        length: How many there are.
        count: How many to choose, at most.

    Returns:
        int64 `(min(length, count),)`, ascending.
    """
    return np.linspace(0, length - 1, min(length, count)).astype(np.int64)

"""What a run has learned from: the pictures to hold its work against."""

import dataclasses
import os

import numpy as np

from pixace_tf import storage
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.runs.run_folder import TOKENS_FILE, Run

_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class LearnedPictures:
    """The pictures of a training, as tokens.

    Attributes:
        train: integers `(N, T)`.
        labels: str `(N,)`, the class of each one of `train`, "" for none.
        validation: integers `(M, T)`; these chose the best weights.
    """

    train: np.ndarray
    labels: np.ndarray
    validation: np.ndarray


def read_learned(run: Run) -> LearnedPictures | None:
    """Read the tokens that a run was trained on.

    Returns:
        None where the run has lost them.

    Raises:
        ValueError: If the file is damaged.
    """
    if not os.path.exists(run.file(TOKENS_FILE)):
        return None
    arrays, meta = storage.read_npz(run.file(TOKENS_FILE))
    names = np.array(meta["label_names"], str)
    return LearnedPictures(
        arrays["train"], names[arrays["train_labels"]], arrays["validation"]
    )


def are_among(token_ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Tell which pictures are, to the token, among others.

    Args:
        token_ids: integers `(N, T)`.
        others: integers `(M, T)`.

    Returns:
        bool `(N,)`.
    """
    known = {row.tobytes() for row in others.astype(np.int32)}
    rows = token_ids.astype(np.int32)
    return np.array([row.tobytes() in known for row in rows], bool)


def decode(token_ids: np.ndarray, tokenizer: PixelTokenizer) -> np.ndarray:
    """Turn many tokens into pictures, some at a time.

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


def spread(length: int, count: int) -> np.ndarray:
    """Choose evenly: pictures lie in the order of their names and classes.

    Args:
        length: How many there are, at least 1.
        count: How many to choose, at most.

    Returns:
        int64 `(min(length, count),)`, ascending indices.
    """
    return np.linspace(0, length - 1, min(length, count)).astype(np.int64)

"""Functions of a fixed batch size, applied to any number of rows."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pixace_tf.console import ProgressCallback


def pad(array: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last row of an array until it has `size` rows."""
    missing = size - len(array)
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1), "edge")


def apply(
    function: Callable[..., Any],
    size: int,
    *arrays: np.ndarray,
    progress: ProgressCallback | None = None,
) -> np.ndarray:
    """Apply a function batch by batch; the last batch is padded.

    Args:
        function: Takes a batch of each array; returns an array `(size, ...)`.
        size: Rows of a batch.
        *arrays: `(N, ...)` each, with at least one row.
        progress: Called with the rows done and their number.

    Returns:
        The results for the N rows, `(N, ...)`.
    """
    done = []
    count = len(arrays[0])
    for start in range(0, count, size):
        stop = min(start + size, count)
        batch = (pad(array[start:stop], size) for array in arrays)
        done.append(np.asarray(function(*batch))[: stop - start])
        if progress is not None:
            progress(stop, count)
    return np.concatenate(done)

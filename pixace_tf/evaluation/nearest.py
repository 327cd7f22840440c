"""The nearest pictures, by brute force: what is new, and what is a copy."""

import numpy as np

_CHUNK = 4096


def find_nearest(
    queries: np.ndarray, references: np.ndarray, count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest pictures by the root of the mean squared difference.

    Args:
        queries: uint8 `(Q, height, width, 3)`.
        references: uint8 `(R, height, width, 3)`, R at least 1.
        count: How many to find for each, at most.

    Returns:
        Indices of references, int64 `(Q, min(R, count))`, nearest first, and
        their distances, float64 of that shape, in levels of 0 to 255.
    """
    rows = np.arange(len(queries))[:, None]
    flat = _centered(queries)
    indices = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(references), _CHUNK):
        chunk = _centered(references[start : start + _CHUNK])
        # The squared distance, less the square of the query.
        further = np.sum(chunk**2, axis=1) - 2 * flat @ chunk.T
        scores = np.concatenate([scores, further], axis=1)
        further_indices = start + np.arange(len(chunk))
        indices = np.concatenate(
            [indices, np.broadcast_to(further_indices, further.shape)], axis=1
        )
        best = np.argsort(scores, axis=1, kind="stable")[:, :count]
        scores, indices = scores[rows, best], indices[rows, best]
    return indices, rmse(queries[:, None], references[indices])


def rmse(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the root of the mean squared difference of pictures, in levels.

    Args:
        first: uint8 `(..., height, width, 3)`.
        second: uint8 of a shape that goes with it.

    Returns:
        float64 `(...)`.
    """
    difference = first.astype(np.float32) - second
    squares = np.mean(difference**2, axis=(-3, -2, -1), dtype=np.float64)
    return np.sqrt(squares)


def with_mirrored(images: np.ndarray) -> np.ndarray:
    """Return pictures, then each of them mirrored left to right.

    Args:
        images: uint8 `(N, height, width, 3)`.

    Returns:
        uint8 `(2*N, height, width, 3)`.
    """
    return np.concatenate([images, images[:, :, ::-1]])


def _centered(images: np.ndarray) -> np.ndarray:
    # Around 0, float32 holds the products nearly exactly.
    return images.reshape(len(images), -1).astype(np.float32) - 128

"""Antialiased resizing in NumPy, with the numbers of TensorFlow."""

import numpy as np


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image as `tf.image.resize(antialias=True)` does.

    A triangle filter, stretched when the image shrinks, mixes rows, then
    columns. Weights, order of summation and rounding are those of TensorFlow's
    `ScaleAndTranslate`, so the results are equal to the bit where TensorFlow
    uses no fused multiply-add, as on x86.

    Args:
        image: `(any_height, any_width, channels)`, of any type of number.
        height: Height of the result.
        width: Width of the result.

    Returns:
        float32 `(height, width, channels)`.
    """
    rows = _mix_rows(image, height)
    return _mix_rows(rows.swapaxes(0, 1), width).swapaxes(0, 1)


def _mix_rows(image: np.ndarray, height: int) -> np.ndarray:
    """Return float32 `(height, ...)`."""
    starts, weights = _filters(len(image), height)
    mixed = np.zeros((height, *image.shape[1:]), np.float32)
    for k, weight in enumerate(weights):
        # Behind the last row, the weight is 0.
        rows = image[np.minimum(starts + k, len(image) - 1)]
        mixed += rows.astype(np.float32) * weight[:, None, None]
    return mixed


def _filters(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows to mix, and how.

    Args:
        before: Number of rows of the image.
        after: Number of rows of the result.

    Returns:
        int64 `(after,)`, the first row of the image that each row of the result
        mixes; and float32 `(longest, after)`, the weights of this row and of
        those behind it.
    """
    half = np.float32(0.5)
    step = 1 / (np.float32(after) / np.float32(before))
    radius = np.maximum(step, np.float32(1))
    centers = (np.arange(after, dtype=np.float32) + half) * step
    starts = np.ceil(centers - radius - half).astype(np.int64)
    stops = np.floor(centers + radius - half).astype(np.int64)
    starts, stops = (np.clip(n, 0, before - 1) for n in (starts, stops))
    places = starts + np.arange((stops - starts).max() + 1)[:, None]
    distances = places.astype(np.float32) + half - centers
    shares = 1 - np.abs(distances * (1 / radius))
    shares = np.where(places <= stops, np.maximum(shares, 0), 0)
    # A cumulative sum adds one after the other, other sums in pairs.
    return starts, shares * (1 / np.cumsum(shares, axis=0)[-1])

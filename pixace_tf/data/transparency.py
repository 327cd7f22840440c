"""How many bits of alpha a set of images needs."""

from collections.abc import Iterable

import numpy as np

from pixace_tf.data.palette import ALPHA, MAX_ALPHA_BITS, Palette
from pixace_tf.data.quantization import dequantize, quantize
from pixace_tf.data.sources import Source

# Edges are hard if at most this share of the pixels is neither transparent nor
# opaque, in images with transparency.
MAX_SOFT_SHARE = 0.01
SOFT_BITS = 2
# Images to look at, unless alpha must be exact.
MAX_IMAGES = 4000


def find_alpha(source: Source, is_exact: bool) -> int:
    """Choose the bits of alpha by the images of a source.

    It looks at all images if alpha must be exact, else at some thousands.
    """
    limit = None if is_exact else MAX_IMAGES
    return choose_alpha(source.read_clear(limit), is_exact)


def choose_alpha(images: Iterable[np.ndarray], is_exact: bool = False) -> int:
    """Choose the bits of alpha.

    Args:
        images: uint8 `(height, width, 4)` each: those that may be transparent.
        is_exact: Whether every alpha must survive the palette, and the margins
            of a canvas be transparent.

    Returns:
        0 if all is opaque, 1 if edges are hard, else 2; or, if exact, as few
        bits as have all levels that occur, at least 1.
    """
    counts = np.zeros(256, np.int64)
    for image in images:
        alpha = image[..., ALPHA].ravel()
        if alpha.min() < 255:
            counts += np.bincount(alpha, minlength=256)
    if is_exact:
        widths = range(1, MAX_ALPHA_BITS + 1)
        levels = np.flatnonzero(counts)
        return next(bits for bits in widths if _has_levels(bits, levels))
    if not counts.any():
        return 0
    soft_share = counts[1:-1].sum() / counts.sum()
    return 1 if soft_share <= MAX_SOFT_SHARE else SOFT_BITS


def describe(num_bits: int) -> str:
    """Return a line that says so."""
    unit = "bit" if num_bits == 1 else "bits"
    return (
        f"Transparency takes {num_bits} {unit} of alpha (--alpha 0 lays "
        "pictures over white)."
    )


def _has_levels(num_bits: int, levels: np.ndarray) -> bool:
    """Return whether a palette with so many bits has these levels of alpha."""
    palette = Palette("rgb", (1, 1, 1), num_bits)
    rgba = np.zeros((len(levels), 4), np.int32)
    rgba[:, ALPHA] = levels
    decoded = dequantize(quantize(rgba, palette), palette)
    return np.array_equal(decoded[:, ALPHA], levels)

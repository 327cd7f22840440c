"""How close a palette, or a sample, comes to an image."""

import math

import numpy as np

from pixace_tf.data.tokenizer import PixelTokenizer


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 arrays, in dB."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    mean_square = float(np.mean(difference**2))
    return 10 * math.log10(255**2 / mean_square) if mean_square else math.inf


def through_palette(
    images: np.ndarray, tokenizer: PixelTokenizer
) -> np.ndarray:
    """Return images, uint8 `(N, height, width, 3)`, in a palette's colors."""
    return tokenizer.detokenize(tokenizer.tokenize(images))


def color_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean CIEDE2000 difference of two uint8 sRGB arrays `(..., 3)`.

    People notice differences of about 1 or more side by side.

    Raises:
        ImportError: If scikit-image is not installed.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    return float(np.mean(deltaE_ciede2000(rgb2lab(first), rgb2lab(second))))


def count_colors(images: np.ndarray) -> int:
    """Return the number of different colors in uint8 images `(..., 3)`."""
    red, green, blue = np.moveaxis(images.astype(np.int32), -1, 0)
    return len(np.unique(red << 16 | green << 8 | blue))

"""How close a palette, or a sample, comes to an image."""

import math

import numpy as np

from pixace_tf.data.tokenizer import PixelTokenizer, over_white


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 arrays, in dB."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    mean_square = float(np.mean(difference**2))
    return 10 * math.log10(255**2 / mean_square) if mean_square else math.inf


def through_palette(
    images: np.ndarray, tokenizer: PixelTokenizer
) -> np.ndarray:
    """Return images, uint8 `(N, height, width, C)`, in a palette's colors."""
    return tokenizer.detokenize(tokenizer.tokenize(images))


def color_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean CIEDE2000 difference of two batches of sRGB images.

    They are uint8 `(N, height, width, 3 or 4)`, compared over white. People
    notice differences of about 1 or more side by side.

    Raises:
        ImportError: If scikit-image is not installed.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    labs = [rgb2lab(on_white(images)) for images in (first, second)]
    return float(np.mean(deltaE_ciede2000(*labs)))


def count_colors(images: np.ndarray) -> int:
    """Return the number of different colors in uint8 images `(..., 3 or 4)`."""
    places = 256 ** np.arange(images.shape[-1])
    return len(np.unique(images.astype(np.int64) @ places))


def on_white(images: np.ndarray) -> np.ndarray:
    """Lay images, uint8 `(..., height, width, 3 or 4)`, over white: RGB."""
    if images.shape[-1] == 3:
        return images
    *above, width, channels = images.shape
    flat = over_white(images.reshape(-1, width, channels))
    return flat.reshape(*above, width, 3)

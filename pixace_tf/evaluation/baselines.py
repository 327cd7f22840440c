"""The bits that simple methods need: models that count, PNG and WebP.

Shapes: N images to score, M training images, T pixels.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pixace_tf.console import ProgressCallback
from pixace_tf.machine import num_cores

# The options that make Pillow's lossless files smallest, by format.
LOSSLESS: dict[str, dict[str, object]] = {
    "png": {"optimize": True},
    "webp": {"lossless": True, "quality": 100, "method": 6},
}


def count_models(
    train: np.ndarray,
    token_ids: np.ndarray,
    image_size: tuple[int, int],
    num_colors: int,
    progress: ProgressCallback | None = None,
) -> dict[str, np.ndarray]:
    """Return the bits that models which only count need for each pixel.

    `unigram` counts how often each color occurs, `left` how often it follows
    the pixel to its left, `left_and_above` how often it follows these two
    neighbors. Pixels outside the image have a color of their own. Each model
    is smoothed with the one before it (Witten and Bell, 1991), the first one
    with equal probabilities, so that no color has the probability 0.

    Integer tokens are counted in `train`, `(M, T)`, M at least 1, and scored in
    `token_ids`, `(N, T)`; a pixel can have `num_colors` codes.

    Returns:
        float64 `(N, T)` by name of the model, minus log2 probability.
    """
    images = np.concatenate([train, token_ids]).reshape(-1, *image_size)
    colors, ranks = np.unique(images, return_inverse=True)
    ranks = ranks.reshape(images.shape)
    inner, before, outside = (0, 0), (1, 0), len(colors)
    left = np.pad(
        ranks[:, :, :-1], (inner, inner, before), constant_values=outside
    )
    above = np.pad(
        ranks[:, :-1], (inner, before, inner), constant_values=outside
    )
    contexts = {
        "unigram": np.zeros_like(ranks),
        "left": left,
        "left_and_above": left * (outside + 1) + above,
    }
    probability = np.full(token_ids.size, 1 / num_colors)
    bits = {}
    for name, context in contexts.items():
        probability = _witten_bell(context.ravel(), ranks.ravel(), probability)
        bits[name] = -np.log2(probability).reshape(token_ids.shape)
        if progress is not None:
            progress(len(bits), len(contexts))
    return bits


def _witten_bell(
    contexts: np.ndarray, pixels: np.ndarray, shorter: np.ndarray
) -> np.ndarray:
    """Return the probability of each scored pixel in its context.

    It is `(count of the pixel + kinds of pixels * shorter) / (count of all
    pixels + kinds)` in this context, and `shorter` in an unknown context.

    Contexts and pixels, int64 `(M*T + N*T,)`, are those to count, then those to
    score; `shorter`, float64 `(N*T,)`, are probabilities in shorter contexts.
    """
    num_counted = len(pixels) - len(shorter)
    # Dense ranks: the product of a context and a pixel must fit 64 bits.
    _, context = np.unique(contexts, return_inverse=True)
    stride = pixels.max() + 1
    pairs, pair = np.unique(context * stride + pixels, return_inverse=True)
    times = np.bincount(pair[:num_counted], minlength=len(pairs))
    size = context.max() + 1
    totals = np.bincount(context[:num_counted], minlength=size)
    kinds = np.bincount(pairs[times > 0] // stride, minlength=size)
    scored = context[num_counted:]
    count, all_counts = times[pair[num_counted:]], totals[scored]
    mixed = count + kinds[scored] * shorter
    # An unknown context has no counts and no kinds.
    return np.where(
        all_counts > 0,
        mixed / np.maximum(all_counts + kinds[scored], 1),
        shorter,
    )


def lossless_bits_per_pixel(
    images: np.ndarray, progress: ProgressCallback | None = None
) -> dict[str, float]:
    """Return the bits per pixel of PNG and WebP files, headers included.

    Each of the images, uint8 `(N, height, width, C)`, becomes one file.
    """
    bits = file_bits(images, tuple(LOSSLESS), progress).mean(axis=0)
    return dict(zip(LOSSLESS, bits.tolist(), strict=True))


def file_bits(
    images: np.ndarray,
    formats: Sequence[str] = ("png",),
    progress: ProgressCallback | None = None,
) -> np.ndarray:
    """Return the bits per pixel of one lossless file for each image.

    Args:
        images: uint8 `(N, height, width, C)`.
        formats: Names of `LOSSLESS`.
        progress: Told the images done and their number.

    Returns:
        float64 `(N, len(formats))`, headers included.
    """

    def file_size(image: Image.Image, name: str) -> int:
        buffer = io.BytesIO()
        image.save(buffer, name, **LOSSLESS[name])
        return buffer.tell()

    def sizes(pixels: np.ndarray) -> list[int]:
        image = Image.fromarray(pixels)
        return [file_size(image, name) for name in formats]

    rows = []
    with ThreadPoolExecutor(num_cores()) as pool:
        for row in pool.map(sizes, images):
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(images))
    height, width = images.shape[1:3]
    return 8 * np.array(rows, np.float64) / (height * width)

"""The bits that simple methods need: models that count, PNG and WebP.

Shapes: N images to score, M training images, T pixels.
"""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pixace_tf.console import ProgressCallback
from pixace_tf.machine import num_cores

# Each model is smoothed with the one before it.
COUNT_MODELS = ("unigram", "left", "left_and_above")
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

    Args:
        train: integers `(M, T)`, tokens to count, M at least 1.
        token_ids: integers `(N, T)`, tokens to score.
        image_size: `(height, width)`.
        num_colors: Number of codes that a pixel can have.
        progress: Told the models done and their number.

    Returns:
        float64 `(N, T)` by name of the model, minus log2 probability.
    """
    colors, ranks = np.unique(train, return_inverse=True)
    place, is_known = _find(colors, token_ids)
    # Colors that do not occur in training share one more rank.
    place = np.where(is_known, place, len(colors))
    counted, scored = (
        _pixels_and_contexts(x.reshape(-1, *image_size), len(colors) + 1)
        for x in (ranks, place)
    )
    probability = np.full(place.size, 1 / num_colors)
    bits = {}
    for name in COUNT_MODELS:
        probability = _witten_bell(
            (counted[name], counted["pixel"]),
            (scored[name], scored["pixel"]),
            probability,
        )
        bits[name] = -np.log2(probability).reshape(token_ids.shape)
        if progress is not None:
            progress(len(bits), len(COUNT_MODELS))
    return bits


def _pixels_and_contexts(
    ranks: np.ndarray, outside: int
) -> dict[str, np.ndarray]:
    """Return int64 `(N*T,)`: each pixel, and its context for each model.

    Args:
        ranks: integers `(N, height, width)`, all less than `outside`.
        outside: The rank of pixels outside the image.
    """
    left = np.pad(
        ranks[:, :, :-1], ((0, 0), (0, 0), (1, 0)), constant_values=outside
    )
    above = np.pad(
        ranks[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=outside
    )
    return {
        "pixel": ranks.ravel(),
        "unigram": np.zeros(ranks.size, np.int64),
        "left": left.ravel(),
        "left_and_above": (left * (outside + 1) + above).ravel(),
    }


def _witten_bell(
    counted: tuple[np.ndarray, np.ndarray],
    scored: tuple[np.ndarray, np.ndarray],
    shorter: np.ndarray,
) -> np.ndarray:
    """Return the probability of each scored pixel in its context.

    It is `(count of the pixel + kinds of pixels * shorter) / (count of all
    pixels + kinds)` in this context, and `shorter` in an unknown context.

    Args:
        counted: Contexts and pixels to count, int64 `(M*T,)` each.
        scored: Contexts and pixels to score, int64 `(N*T,)` each.
        shorter: float64 `(N*T,)`, their probabilities in a shorter context.

    Returns:
        float64 `(N*T,)`.
    """
    contexts, ranks, totals = np.unique(
        counted[0], return_inverse=True, return_counts=True
    )
    # Dense ranks: the product of a context and a pixel must fit 64 bits.
    stride = max(counted[1].max(), scored[1].max()) + 1
    pairs, times = np.unique(ranks * stride + counted[1], return_counts=True)
    kinds = np.bincount(pairs // stride)
    rank, is_known = _find(contexts, scored[0])
    pair, is_counted = _find(pairs, rank * stride + scored[1])
    seen = np.where(is_counted, times[pair], 0)
    mixed = (seen + kinds[rank] * shorter) / (totals[rank] + kinds[rank])
    return np.where(is_known, mixed, shorter)


def _find(values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the indices of wanted items in sorted values, and which exist."""
    place = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return place, values[place] == wanted


def lossless_bits_per_pixel(
    images: np.ndarray, progress: ProgressCallback | None = None
) -> dict[str, float]:
    """Return the bits per pixel of PNG and WebP files, headers included.

    Args:
        images: uint8 `(N, height, width, 3)`; each becomes one file.
        progress: Told the images done and their number.
    """

    def sizes(pixels: np.ndarray) -> list[int]:
        image = Image.fromarray(pixels)
        return [_file_size(image, *choice) for choice in LOSSLESS.items()]

    total = np.zeros(len(LOSSLESS))
    with ThreadPoolExecutor(num_cores()) as pool:
        for done, row in enumerate(pool.map(sizes, images), 1):
            total += row
            if progress is not None:
                progress(done, len(images))
    bits = 8 * total / images[..., 0].size
    return dict(zip(LOSSLESS, bits.tolist(), strict=True))


def _file_size(
    image: Image.Image, name: str, options: dict[str, object]
) -> int:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.tell()

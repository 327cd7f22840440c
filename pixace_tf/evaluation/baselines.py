"""What simple methods need for the same pictures: counts, PNG and WebP.

Shapes: N pictures, T pixels.
"""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pixace_tf.data.color_codes import is_canonical
from pixace_tf.data.tokenizer import PixelTokenizer

# The models that count, each smoothed with the one before it.
COUNTED = ("unigram", "left", "left_and_above")
# Pillow's formats, and what makes their files smallest without loss.
LOSSLESS: dict[str, dict[str, object]] = {
    "png": {"optimize": True},
    "webp": {"lossless": True, "quality": 100, "method": 6},
}
_CHUNK = 1 << 20


def num_canonical_codes(tokenizer: PixelTokenizer) -> int:
    """Count the codes that a pixel of this palette can have."""
    palette = tokenizer.bit_widths, tokenizer.color_space
    count = 0
    for start in range(0, tokenizer.vocabulary_size, _CHUNK):
        stop = min(start + _CHUNK, tokenizer.vocabulary_size)
        codes = np.arange(start, stop, dtype=np.int32)
        count += int(np.count_nonzero(is_canonical(codes, *palette)))
    return count


def count_models(
    train: np.ndarray,
    token_ids: np.ndarray,
    image_size: tuple[int, int],
    num_codes: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return what models that only count need for each pixel.

    `unigram` knows how often each color is; `left` how often it follows the
    pixel to its left; `left_and_above` how often it lies between these two.
    Outside the picture is a color of its own. Each is smoothed after Witten and
    Bell (1991) with the model before it, the first one with equal chances for
    all codes, so that no color has the probability 0.

    Args:
        train: integers `(M, T)`, tokens to count, M at least 1.
        token_ids: integers `(N, T)`, tokens to score.
        image_size: `(height, width)`.
        num_codes: How many codes a pixel can have.
        progress: Told the models done and their number.

    Returns:
        float64 `(N, T)` by name of the model: minus log2 probability.
    """
    colors, ranks = np.unique(train, return_inverse=True)
    # A color that was never seen stands behind all others.
    place = np.minimum(np.searchsorted(colors, token_ids), len(colors) - 1)
    place[colors[place] != token_ids] = len(colors)
    counted, scored = (
        _pixels_and_neighbors(x.reshape(-1, *image_size), len(colors) + 1)
        for x in (ranks, place)
    )
    chances = np.full(place.size, 1 / num_codes)
    bits = {}
    for name in COUNTED:
        chances = _witten_bell(
            (counted[name], counted["pixel"]),
            (scored[name], scored["pixel"]),
            chances,
        )
        bits[name] = -np.log2(chances).reshape(token_ids.shape)
        if progress is not None:
            progress(len(bits), len(COUNTED))
    return bits


def _pixels_and_neighbors(
    ranks: np.ndarray, outside: int
) -> dict[str, np.ndarray]:
    """Return int64 `(N*T,)`: each pixel, and what each model sees of it."""
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

    `(times of the pixel + kinds of pixels * shorter) / (all times + kinds)`,
    each counted in this context; an unknown context leaves `shorter`.

    Args:
        counted: Contexts and pixels to count, int64 `(M,)` each.
        scored: Contexts and pixels to score, int64 `(N,)` each.
        shorter: float64 `(N,)`, their probabilities in a shorter context.

    Returns:
        float64 `(N,)`.
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
    """Return where each is in sorted values, and whether it is at all."""
    place = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return place, values[place] == wanted


def lossless_bits_per_pixel(
    images: np.ndarray, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """Return the size of pictures as the smallest PNG and WebP files.

    Args:
        images: uint8 `(N, height, width, 3)`.
        progress: Told the pictures done and their number.

    Returns:
        By format: the mean of 8 * bytes / pixels over the files, one a
        picture, each with its header.
    """

    def sizes(pixels: np.ndarray) -> list[int]:
        return [
            _file_size(Image.fromarray(pixels), form, options)
            for form, options in LOSSLESS.items()
        ]

    total = np.zeros(len(LOSSLESS))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, row in enumerate(pool.map(sizes, images), 1):
            total += row
            if progress is not None:
                progress(done, len(images))
    bits = 8 * total / images[..., 0].size
    return dict(zip(LOSSLESS, bits.tolist(), strict=True))


def _file_size(
    image: Image.Image, form: str, options: dict[str, object]
) -> int:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.tell()

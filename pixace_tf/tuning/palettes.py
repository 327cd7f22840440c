"""What is known of palettes before any training."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pixace_tf.fidelity import count_colors, psnr, through_palette
from pixace_tf.sources import load_pictures
from pixace_tf.tokenizer import PixelTokenizer
from pixace_tf.tuning.space import parse_palette, parse_size

DEFAULT_BIT_WIDTHS = {
    "hsv": ((4, 3, 4), (4, 4, 4), (4, 4, 5), (5, 4, 4), (5, 4, 5), (5, 5, 5)),
    "rgb": ((3, 4, 3), (4, 4, 4), (4, 5, 4), (5, 5, 5)),
}
# Enough for a figure that does not change in its first decimal.
_MAX_PICTURES = 500

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def measure_palettes(
    source: str,
    names: list[str],
    image_sizes: list[str],
    resize: str,
    min_psnr: float,
    max_pixels: int,
    download: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Compare palettes with the pictures they are to show.

    Args:
        source: The pictures, as for `fit`.
        names: Palettes of a sweep's space.
        image_sizes: Such as `"32x32"`.
        resize: See `PixelTokenizer`.
        min_psnr: In dB; a palette that misses it at any size is excluded.
        max_pixels: Larger pictures are skipped.
        download: Whether a TensorFlow data set may be downloaded.
        progress: Wraps an iterable in a progress bar.

    Returns:
        For each palette and size "palette", "image_size", "psnr" (None where
        nothing is lost), "colors" used, and "is_excluded".

    Raises:
        ValueError: If there is no usable picture.
    """
    rows: list[dict[str, Any]] = []
    for size in image_sizes:
        plain = PixelTokenizer(parse_size(size), resize=resize)
        images = load_pictures(
            source, plain, max_pixels, download, progress
        ).images
        chosen = np.linspace(
            0, len(images) - 1, min(len(images), _MAX_PICTURES)
        )
        images = images[chosen.astype(int)]
        for name in names:
            space, widths = parse_palette(name)
            palette = PixelTokenizer(parse_size(size), widths, space, resize)
            decoded = through_palette(images, palette)
            quality = psnr(images, decoded)
            rows.append(
                {
                    "palette": name,
                    "image_size": size,
                    "psnr": None if np.isinf(quality) else quality,
                    "colors": count_colors(decoded),
                }
            )
    poor = {r["palette"] for r in rows if (r["psnr"] or min_psnr) < min_psnr}
    return [{**row, "is_excluded": row["palette"] in poor} for row in rows]

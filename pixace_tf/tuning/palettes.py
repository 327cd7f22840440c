"""The fidelity of palettes, measured before any training."""

from typing import Any

import numpy as np

from pixace_tf.data.fidelity import count_colors, psnr, through_palette
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.tuning.space import parse_size

DEFAULT_BIT_WIDTHS = {
    "hsv": ((4, 3, 4), (4, 4, 4), (4, 4, 5), (5, 4, 4), (5, 4, 5), (5, 5, 5)),
    "rgb": ((3, 4, 3), (4, 4, 4), (4, 5, 4), (5, 5, 5)),
}
# More would not change the first decimal of the PSNR.
_MAX_IMAGES = 500


def measure_palettes(
    images_by_size: dict[str, np.ndarray], names: list[str], min_psnr: float
) -> list[dict[str, Any]]:
    """Measure how well palettes show some images.

    Args:
        images_by_size: uint8 `(N, height, width, 3)` by size, such as
            `"32x32"`; 500 of them, evenly spread, are measured.
        names: Palettes, such as `"hsv 5,4,4"`.
        min_psnr: Fidelity in dB; a palette below it at any size is excluded.

    Returns:
        For each palette and size "palette", "image_size", "psnr" (None if
        nothing is lost), "colors" used, and "is_excluded".
    """
    rows: list[dict[str, Any]] = []
    for size, images in images_by_size.items():
        chosen = np.linspace(0, len(images) - 1, min(len(images), _MAX_IMAGES))
        images = images[chosen.astype(int)]
        for name in names:
            decoded = through_palette(
                images, PixelTokenizer(parse_size(size), name)
            )
            quality = psnr(images, decoded)
            rows.append(
                {
                    "palette": name,
                    "image_size": size,
                    "psnr": None if np.isinf(quality) else quality,
                    "colors": count_colors(decoded),
                }
            )
    poor = {row["palette"] for row in rows if is_poor(row, min_psnr)}
    return [{**row, "is_excluded": row["palette"] in poor} for row in rows]


def is_poor(row: dict[str, Any], min_psnr: float) -> bool:
    """Tell whether a palette misses a fidelity at one size."""
    return row["psnr"] is not None and bool(row["psnr"] < min_psnr)

"""The fidelity of palettes, measured before any training."""

from typing import Any

import numpy as np

from pixace_tf.data.fidelity import count_colors, psnr, through_palette
from pixace_tf.data.tokenizer import PixelTokenizer

# More images would not change the first decimal of the PSNR.
_MAX_IMAGES = 500


def measure_palettes(
    images_by_size: dict[tuple[int, int], np.ndarray],
    names: list[str],
    min_psnr: float,
) -> list[dict[str, Any]]:
    """Measure the fidelity of palettes, such as `"hsv 5,4,4"`, for some images.

    At most 500 of them, evenly spaced, are measured: uint8 `(N, height, width,
    3)` by `(height, width)`. A palette below `min_psnr` dB is excluded.

    Returns:
        For each palette and size "palette", "image_size" (such as `"32x32"`),
        "psnr" in dB (None if exact), "colors" used, and "is_excluded".
    """
    rows: list[dict[str, Any]] = []
    for (height, width), images in images_by_size.items():
        count = min(len(images), _MAX_IMAGES)
        chosen = images[np.linspace(0, len(images) - 1, count).astype(int)]
        for name in names:
            tokenizer = PixelTokenizer((height, width), name)
            decoded = through_palette(chosen, tokenizer)
            quality = psnr(chosen, decoded)
            rows.append(
                {
                    "palette": name,
                    "image_size": f"{height}x{width}",
                    "psnr": None if np.isinf(quality) else quality,
                    "colors": count_colors(decoded),
                }
            )
    poor = {row["palette"] for row in rows if is_poor(row, min_psnr)}
    return [{**row, "is_excluded": row["palette"] in poor} for row in rows]


def is_poor(row: dict[str, Any], min_psnr: float) -> bool:
    """Return whether a palette misses a fidelity at one size."""
    return row["psnr"] is not None and bool(row["psnr"] < min_psnr)

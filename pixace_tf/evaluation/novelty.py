"""Whether new pictures are new, or copies of what the model has seen."""

from typing import Any

import numpy as np
from PIL import Image

from pixace_tf.evaluation.nearest import find_nearest
from pixace_tf.painting.sheets import Tile, contact_sheet

_PAIRS = 12
_PAIRS_IN_A_ROW = 4


def compare_with_learned(
    new: np.ndarray, held_out: np.ndarray, learned: np.ndarray
) -> tuple[dict[str, Any], Image.Image]:
    """Measure how far new pictures are from the nearest training picture.

    All of them in the colors of the palette; distances are roots of mean
    squared differences, in levels of 0 to 255. Pictures that the model has not
    seen are the yardstick: new ones that lie much nearer are memorized.

    Args:
        new: uint8 `(N, height, width, 3)`, drawn by the model, N at least 1.
        held_out: uint8 `(M, height, width, 3)`, no training pictures; M may
            be 0.
        learned: uint8 `(R, height, width, 3)`, training pictures, with their
            mirrored ones where the model has learned from those.

    Returns:
        `new_median` and `new_least` of the `new` pictures, `held_out_median`
        and `held_out_least` of the `held_out` ones (None without any), and
        `copies`, the new ones that equal a training picture; and a sheet of
        the pairs that are nearest.
    """
    indices, distances = find_nearest(new, learned)
    nearest, of_new = learned[indices[:, 0]], distances[:, 0]
    figures = {
        "new": len(new),
        "new_median": np.median(of_new),
        "new_least": of_new.min(),
        "copies": int(np.sum(of_new == 0)),
        "held_out": len(held_out),
        "held_out_median": None,
        "held_out_least": None,
    }
    if len(held_out):
        _, of_held_out = find_nearest(held_out, learned)
        figures["held_out_median"] = np.median(of_held_out)
        figures["held_out_least"] = of_held_out.min()
    order = np.argsort(of_new, kind="stable")[:_PAIRS]
    tiles = [
        tile
        for i in order
        for tile in (Tile(new[i], f"{of_new[i]:.1f}"), Tile(nearest[i]))
    ]
    step = 2 * _PAIRS_IN_A_ROW
    rows = [tiles[i : i + step] for i in range(0, len(tiles), step)]
    headings = ["new", "nearest"] * (min(len(tiles), step) // 2)
    return figures, contact_sheet(rows, headings)

"""The nearest training images: whether new images are new, or copies."""

import numpy as np

from pixace_tf.evaluation.copies import Matches, find_copies
from pixace_tf.evaluation.evidence import Part, with_mirrored
from pixace_tf.evaluation.plots import png
from pixace_tf.painting.sheets import Tile, contact_sheet

_NUM_PAIRS = 12
_PAIRS_IN_A_ROW = 4


def find_nearest(
    queries: np.ndarray, references: np.ndarray, num_neighbors: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest images by the root of the mean squared difference.

    Queries and references are uint8, `(Q, height, width, C)` and `(R, ...)`.

    Returns:
        Indices of references, int64 `(Q, min(num_neighbors, R))`, nearest
        first, and their distances, float64, in levels of 0 to 255.
    """
    from sklearn.neighbors import NearestNeighbors

    # Scikit-learn sums the squares of float32 in float64: exact for integers.
    flat_queries, flat_references = (
        images.reshape(len(images), -1).astype(np.float32)
        for images in (queries, references)
    )
    search = NearestNeighbors(
        n_neighbors=min(num_neighbors, len(references)), algorithm="brute"
    )
    distances, indices = search.fit(flat_references).kneighbors(flat_queries)
    return indices, distances / np.sqrt(flat_queries.shape[1])


def compare_with_training(
    new: np.ndarray,
    held_out: np.ndarray,
    training: np.ndarray,
    is_mirrored: bool = False,
    is_pixel_art: bool = False,
) -> Part:
    """Measure how far new images are from the nearest training image.

    Images, uint8 `(..., height, width, C)`, are in the colors of the palette;
    `held_out` may be empty. New images that lie much nearer to a training image
    than held-out ones do are memorized.

    Args:
        new: Painted images.
        held_out: Images that the model has not seen.
        training: Images that it has seen.
        is_mirrored: Whether it has also seen their mirror images.
        is_pixel_art: How copies are found; see `copies.find_copies`.

    Returns:
        `new_median` and `new_least`, distances of the `new` images as in
        `find_nearest`, `held_out_median` and `held_out_least`, distances of the
        `held_out` images (None if there are none), and `equal`, the number of
        new images that equal one; `copies` and `held_out_copies`, how many are
        copies of one, and `copy_bound`; and a PNG `nearest` of the nearest
        pairs.
    """
    seen = with_mirrored(training) if is_mirrored else training
    _, distances = find_nearest(new, seen)
    matches = find_copies(new, training, is_pixel_art)
    figures = {
        "new": len(new),
        "new_median": np.median(distances),
        "new_least": distances.min(),
        "equal": int(np.sum(distances == 0)),
        "copies": matches.num_copies,
        "copy_bound": matches.bound,
        "is_pixel_art": is_pixel_art,
        "held_out": len(held_out),
        "held_out_median": None,
        "held_out_least": None,
        "held_out_copies": None,
    }
    if len(held_out):
        _, unseen = find_nearest(held_out, seen)
        figures["held_out_median"] = np.median(unseen)
        figures["held_out_least"] = unseen.min()
        known = find_copies(held_out, training, is_pixel_art)
        figures["held_out_copies"] = known.num_copies
    return figures, {"nearest": _sheet(new, matches, is_pixel_art)}


def _sheet(new: np.ndarray, matches: Matches, is_pixel_art: bool) -> bytes:
    order = np.argsort(matches.differences, kind="stable")[:_NUM_PAIRS]
    form = "{:.0%}" if is_pixel_art else "{:.1f}"
    tiles = []
    for i in order:
        tiles.append(Tile(new[i], form.format(matches.differences[i])))
        tiles.append(Tile(matches.aligned[i]))
    step = 2 * _PAIRS_IN_A_ROW
    rows = [tiles[i : i + step] for i in range(0, len(tiles), step)]
    headings = ["new", "nearest"] * (min(len(tiles), step) // 2)
    return png(contact_sheet(rows, headings))

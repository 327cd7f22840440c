"""The nearest training images: whether new images are new, or copies."""

import numpy as np

from pixace_tf.evaluation.evidence import Part
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
    new: np.ndarray, held_out: np.ndarray, training: np.ndarray
) -> Part:
    """Measure how far new images are from the nearest training image.

    Images, uint8 `(..., height, width, C)`, are in the colors of the palette;
    `held_out` may be empty, and `training` holds mirror images if the model was
    trained on them. New images that lie much nearer to a training image than
    held-out ones do are memorized.

    Returns:
        `new_median` and `new_least`, distances of the `new` images as in
        `find_nearest`, `held_out_median` and `held_out_least`, distances of the
        `held_out` images (None if there are none), and `copies`, the number of
        new images that equal one; and a PNG `nearest` of the nearest pairs.
    """
    indices, distances = find_nearest(new, training)
    nearest, distances = training[indices[:, 0]], distances[:, 0]
    figures = {
        "new": len(new),
        "new_median": np.median(distances),
        "new_least": distances.min(),
        "copies": int(np.sum(distances == 0)),
        "held_out": len(held_out),
        "held_out_median": None,
        "held_out_least": None,
    }
    if len(held_out):
        _, unseen = find_nearest(held_out, training)
        figures["held_out_median"] = np.median(unseen)
        figures["held_out_least"] = unseen.min()
    return figures, {"nearest": _sheet(new, nearest, distances)}


def _sheet(
    new: np.ndarray, nearest: np.ndarray, distances: np.ndarray
) -> bytes:
    order = np.argsort(distances, kind="stable")[:_NUM_PAIRS]
    tiles = [
        tile
        for i in order
        for tile in (Tile(new[i], f"{distances[i]:.1f}"), Tile(nearest[i]))
    ]
    step = 2 * _PAIRS_IN_A_ROW
    rows = [tiles[i : i + step] for i in range(0, len(tiles), step)]
    headings = ["new", "nearest"] * (min(len(tiles), step) // 2)
    return png(contact_sheet(rows, headings))

"""How well regions of any shape are filled: against what surrounds them.

Shapes: N images, H height, W width, T pixels.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pixace_tf.console import ProgressBar
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    detokenize,
    evenly_spaced,
)
from pixace_tf.evaluation.plots import png
from pixace_tf.painting import masks
from pixace_tf.painting.sheets import Tile, contact_sheet, hide
from pixace_tf.sampling import NUM_PARTICLES
from pixace_tf.sampling.likelihood import Scorer

NUM_IMAGES = 12
REGIONS = ("bottom", "top", "left", "center", "brushed")
# Known pixels belong to the seam down to so many rows below the region.
_SEAM_ROWS = 2
_SHEET_ROWS = 6
# Strokes are drawn so much larger than the small image.
_OVERSAMPLING = 8


def fill_regions(
    evidence: Evidence,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Hide regions of images, fill them, and ask the model how it finds that.

    The seam of a region are the known pixels behind its first one, down to two
    rows below its last one. What they cost the model tells how well they
    continue what was filled in: in the original image, after a fill by
    particles (`filled`), and after one that ignores them (`naive`). A lower
    half has no seam.

    Args:
        evidence: `NUM_IMAGES` of its images, evenly spaced, are filled.

    Returns:
        The numbers of `pictures` and `particles`; and for each of `regions` its
        `hidden_share` and the mean bits per pixel of the `seam` (or None) and
        of the `whole` image, each for `original`, `filled` and `naive`; and a
        PNG `regions`.

    Raises:
        MissingDataError: If the images have one row.
    """
    run = evidence.run
    height, width = run.tokenizer.image_size
    if height < 2:
        raise MissingDataError("Pictures of one row have no regions.")
    chosen = evenly_spaced(len(evidence.images), NUM_IMAGES)
    originals = evidence.token_ids[chosen]
    scorer = Scorer(run.model, jit_compile=run.jit_compile)
    bits = scorer.bits(originals)
    figures: dict[str, Any] = {}
    fills = {}
    for name in REGIONS:
        is_hidden = np.stack(
            [
                brushed(i, height, width)
                if name == "brushed"
                else masks.cover(name, height, width)
                for i in range(len(chosen))
            ]
        ).reshape(len(chosen), -1)
        of_each = {"original": bits}
        for kind, count in (("filled", NUM_PARTICLES), ("naive", 1)):
            with ProgressBar(f"Filling: {name}, {kind}") as bar:
                filled = run.sampler.fill(
                    *(originals, is_hidden, np.arange(len(chosen))),
                    num_particles=count,
                    progress=bar.count,
                )
            of_each[kind] = scorer.bits(filled)
            if kind == "filled":
                fills[name] = is_hidden, filled
        on_seam = seam(is_hidden, width)
        figures[name] = {
            "hidden_share": is_hidden.mean(),
            "seam": {kind: b[on_seam].mean() for kind, b in of_each.items()}
            if on_seam.any()
            else None,
            "whole": {kind: b.mean() for kind, b in of_each.items()},
        }
    sheet = _sheet(evidence, chosen, fills)
    return {
        "pictures": len(chosen),
        "particles": NUM_PARTICLES,
        "regions": figures,
    }, {"regions": sheet}


def seam(is_hidden: np.ndarray, width: int) -> np.ndarray:
    """Return the known pixels that tell how well a region was filled.

    Args:
        is_hidden: bool `(N, T)`.
        width: W.

    Returns:
        bool `(N, T)`: not hidden, behind the first hidden pixel, and at most
        two rows below the last one.
    """
    position = np.arange(is_hidden.shape[1])
    first = np.argmax(is_hidden, axis=1)[:, None]
    last = position[-1] - np.argmax(is_hidden[:, ::-1], axis=1)[:, None]
    is_near = position // width <= last // width + _SEAM_ROWS
    return ~is_hidden & (position > first) & is_near


def brushed(seed: int, height: int, width: int) -> np.ndarray:
    """Return what one to three strokes of a brush hide.

    Args:
        seed: The same seed gives the same strokes.
        height: H.
        width: W.

    Returns:
        bool `(H, W)`.
    """
    rng = np.random.default_rng(seed)
    size = np.array([width, height]) * _OVERSAMPLING
    image = Image.new("L", tuple(size.tolist()))
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 4)):
        corners = rng.uniform(size=(3, 2)) * size
        thickness = rng.uniform(0.12, 0.25) * size.min()
        canvas.line(
            [tuple(corner) for corner in corners],
            fill=255,
            width=round(thickness),
            joint="curve",
        )
        for x, y in corners:
            r = thickness / 2
            canvas.ellipse((x - r, y - r, x + r, y + r), fill=255)
    small = image.resize((width, height), Image.Resampling.BOX)
    return masks.is_painted(np.asarray(small))


def _sheet(
    evidence: Evidence,
    chosen: np.ndarray,
    fills: dict[str, tuple[np.ndarray, np.ndarray]],
) -> bytes:
    """Return a sheet: the original, then each region hidden and filled."""
    tokenizer = evidence.run.tokenizer
    rows = []
    for i in evenly_spaced(len(chosen), _SHEET_ROWS):
        row = [Tile(evidence.images[chosen[i]])]
        for is_hidden, filled in fills.values():
            small = evidence.quantized[chosen[i]]
            mask = is_hidden[i].reshape(tokenizer.image_size)
            (done,) = detokenize(filled[i : i + 1], tokenizer)
            row += [Tile(hide(small, mask)), Tile(done)]
        rows.append(row)
    headings = ["original"]
    for name in fills:
        headings += [name, "filled"]
    return png(contact_sheet(rows, headings))

"""How near completions come to the hidden halves, beside simple rivals.

Shapes: N images, K candidates for the lower half of each.
"""

from typing import Any

import numpy as np

from pixace_tf.console import ProgressBar
from pixace_tf.data import fidelity
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    detokenize,
    evenly_spaced,
)
from pixace_tf.evaluation.nearest import find_nearest
from pixace_tf.evaluation.plots import png
from pixace_tf.painting.sheets import Tile, contact_sheet, hide_after

NUM_IMAGES = 16
NUM_SAMPLES = 8
# The error of rounding to 8 bits; an equal half would be infinitely good.
CEILING_DB = 59.0
_SHEET_ROWS = 8
# How many candidates of each kind the sheet shows.
_SHEET_COLUMNS = {"drawn": 3, "nearest": 1, "mirrored": 1}


def complete_halves(
    evidence: Evidence,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Hide lower halves, complete each of them several times, compare.

    The PSNR is that of the hidden half against the image before the palette,
    at most `CEILING_DB`, as a mean over images:

    - `drawn`: of all completions; `drawn_best`: of the best one of each image;
    - `mirrored`: of the upper half, turned upside down;
    - `nearest`: of the lower half of the training image whose upper half is
      nearest (mirrored images included, where the run was trained on these);
      `nearest_best`: of the best one of as many nearest images as there are
      completions; both are left out where the training images are lost;
    - `palette`: of the hidden half itself in the colors of the palette, which
      no completion can exceed by much.

    Args:
        evidence: `NUM_IMAGES` of its images, evenly spaced, are completed.

    Returns:
        The numbers of `pictures` and `samples`, `hidden_rows` of all `rows`,
        and `psnr` in dB; and a PNG `completed`.

    Raises:
        MissingDataError: If the images have one row.
    """
    height = evidence.run.tokenizer.image_size[0]
    if height < 2:
        raise MissingDataError("Pictures of one row have no lower half.")
    num_kept = height // 2
    chosen = evenly_spaced(len(evidence.images), NUM_IMAGES)
    candidates = _candidates(evidence, chosen, num_kept)
    quality = {
        name: _hidden_psnr(evidence.images[chosen], images, num_kept)
        for name, images in candidates.items()
    }
    figures = {
        "pictures": len(chosen),
        "samples": NUM_SAMPLES,
        "rows": height,
        "hidden_rows": height - num_kept,
        "psnr": _mean_psnr(quality),
    }
    sheet = _sheet(evidence, chosen, candidates, quality)
    return figures, {"completed": sheet}


def _candidates(
    evidence: Evidence, chosen: np.ndarray, num_kept: int
) -> dict[str, np.ndarray]:
    """Return uint8 `(N, K, height, width, 3)` by kind; upper halves vary."""
    run, quantized = evidence.run, evidence.quantized[chosen]
    with ProgressBar("Completing") as bar:
        drawn = run.sampler.complete(
            np.repeat(evidence.token_ids[chosen], NUM_SAMPLES, axis=0),
            num_kept * run.tokenizer.image_size[1],
            np.tile(np.arange(NUM_SAMPLES), len(chosen)),
            progress=bar.count,
        )
    images = detokenize(drawn, run.tokenizer)
    candidates = {
        "drawn": images.reshape(-1, NUM_SAMPLES, *images.shape[1:]),
        "mirrored": _turn_down(quantized, num_kept)[:, None],
        "palette": quantized[:, None],
    }
    if evidence.training is not None:
        training = evidence.training_images()
        indices, _ = find_nearest(
            quantized[:, :num_kept], training[:, :num_kept], NUM_SAMPLES
        )
        candidates["nearest"] = training[indices]
    return candidates


def _turn_down(images: np.ndarray, num_kept: int) -> np.ndarray:
    """Return images whose lower rows mirror the upper ones."""
    num_hidden = images.shape[1] - num_kept
    return np.pad(
        images[:, :num_kept],
        ((0, 0), (0, num_hidden), (0, 0), (0, 0)),
        mode="symmetric",
    )


def _hidden_psnr(
    originals: np.ndarray, candidates: np.ndarray, num_kept: int
) -> np.ndarray:
    """Return float64 `(N, K)`, the PSNR of the lower halves in dB."""
    return np.array(
        [
            [
                min(fidelity.psnr(hidden, image[num_kept:]), CEILING_DB)
                for image in images
            ]
            for hidden, images in zip(
                originals[:, num_kept:], candidates, strict=True
            )
        ]
    )


def _mean_psnr(quality: dict[str, np.ndarray]) -> dict[str, float]:
    """Return means over images: of each kind, and of the best of several."""
    means: dict[str, float] = {}
    for name in ("drawn", "mirrored", "nearest", "palette"):
        if name not in quality:
            continue
        first = quality[name][:, :1] if name == "nearest" else quality[name]
        means[name] = first.mean()
        if name in ("drawn", "nearest"):
            means[f"{name}_best"] = quality[name].max(axis=1).mean()
    return means


def _sheet(
    evidence: Evidence,
    chosen: np.ndarray,
    candidates: dict[str, np.ndarray],
    quality: dict[str, np.ndarray],
) -> bytes:
    height, width = evidence.run.tokenizer.image_size
    columns = [
        (name, k)
        for name, number in _SHEET_COLUMNS.items()
        if name in candidates
        for k in range(number)
    ]
    rows = []
    for i in evenly_spaced(len(chosen), _SHEET_ROWS):
        quantized = evidence.quantized[chosen[i]]
        row = [
            Tile(evidence.images[chosen[i]]),
            Tile(hide_after(quantized, height // 2 * width)),
        ]
        for name, k in columns:
            caption = f"{quality[name][i, k]:.1f} dB"
            row.append(Tile(candidates[name][i, k], caption))
        rows.append(row)
    headings = ["original", "kept", *(name for name, _ in columns)]
    return png(contact_sheet(rows, headings))

"""How close completions come to the hidden halves, beside simple rivals.

Shapes: N images, K candidates for the lower half of each.
"""

import numpy as np

from pixace_tf.console import ProgressBar
from pixace_tf.data import fidelity
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    Part,
    detokenize,
    evenly_spaced,
)
from pixace_tf.evaluation.nearest import find_nearest
from pixace_tf.evaluation.plots import png
from pixace_tf.painting.sheets import Tile, contact_sheet, hide_after

NUM_IMAGES = 16
NUM_SAMPLES = 8
# The error of rounding to 8 bits. The PSNR of an equal half would be infinite.
CEILING_DB = 59.0
_SHEET_ROWS = 8
# The candidates of each kind on the sheet.
_SHEET_COLUMNS = {"drawn": 3, "nearest": 1, "mirrored": 1}


def complete_halves(evidence: Evidence) -> Part:
    """Hide lower halves, complete each of them several times, and compare.

    The PSNR is that of the hidden half against the image before the palette,
    at most `CEILING_DB`, as a mean over `NUM_IMAGES` evenly spaced images:

    - `drawn`: all completions; `drawn_best`: the best one of each image;
    - `mirrored`: the upper half, turned upside down;
    - `nearest`: the lower half of the training image with the nearest upper
      half (including mirrored images if the run was trained on them);
      `nearest_best`: the best of as many nearest images as there are
      completions; both are left out if the run has lost its training images;
    - `palette`: the hidden half in the colors of the palette, which
      completions can hardly exceed.

    Returns:
        The numbers of `pictures` and `samples`, `hidden_rows` of all `rows`,
        and `psnr` in dB; and a PNG `completed`.

    Raises:
        MissingDataError: If the images have one row.
    """
    height = evidence.run.tokenizer.image_size[0]
    if height < 2:
        raise MissingDataError("Pictures of one row have no lower half.")
    evidence = evidence.sample(NUM_IMAGES)
    num_kept = height // 2
    candidates = _candidates(evidence, num_kept)
    is_hidden = np.arange(height) >= num_kept
    masks = np.tile(is_hidden, (len(evidence.images), 1))
    quality = {
        name: hidden_psnr(evidence.images, images, masks)
        for name, images in candidates.items()
    }
    figures = {
        "pictures": len(evidence.images),
        "samples": NUM_SAMPLES,
        "rows": height,
        "hidden_rows": height - num_kept,
        "psnr": _mean_psnr(quality),
    }
    return figures, {"completed": _sheet(evidence, candidates, quality)}


def hidden_psnr(
    originals: np.ndarray, candidates: np.ndarray, masks: np.ndarray
) -> np.ndarray:
    """Return the PSNR of hidden pixels in dB, at most `CEILING_DB`: `(N, K)`.

    Originals are uint8 `(N, height, width, C)`, candidates `(N, K, ...)`; masks
    are bool `(N, height)` or `(N, height, width)`, True where hidden.
    """
    quality = [
        [fidelity.psnr(original[mask], image[mask]) for image in images]
        for original, images, mask in zip(
            originals, candidates, masks, strict=True
        )
    ]
    return np.minimum(quality, CEILING_DB)


def _candidates(evidence: Evidence, num_kept: int) -> dict[str, np.ndarray]:
    """Return uint8 `(N, K, height, width, C)` by kind; upper halves vary."""
    run, quantized = evidence.run, evidence.quantized
    with ProgressBar("Completing") as bar:
        drawn = run.sampler.complete(
            np.repeat(evidence.token_ids, NUM_SAMPLES, axis=0),
            num_kept * run.tokenizer.image_size[1],
            np.tile(np.arange(NUM_SAMPLES), len(quantized)),
            progress=bar.count,
        )
    images = detokenize(drawn, run.tokenizer)
    num_hidden = quantized.shape[1] - num_kept
    margins = ((0, 0), (0, num_hidden), (0, 0), (0, 0))
    mirrored = np.pad(quantized[:, :num_kept], margins, mode="symmetric")
    candidates = {
        "drawn": images.reshape(-1, NUM_SAMPLES, *images.shape[1:]),
        "mirrored": mirrored[:, None],
        "palette": quantized[:, None],
    }
    if evidence.training is not None:
        training = evidence.training_images()
        indices, _ = find_nearest(
            quantized[:, :num_kept], training[:, :num_kept], NUM_SAMPLES
        )
        candidates["nearest"] = training[indices]
    return candidates


def _mean_psnr(quality: dict[str, np.ndarray]) -> dict[str, float]:
    means = {name: values.mean() for name, values in quality.items()}
    means["drawn_best"] = quality["drawn"].max(axis=1).mean()
    if "nearest" in quality:
        means["nearest"] = quality["nearest"][:, 0].mean()
        means["nearest_best"] = quality["nearest"].max(axis=1).mean()
    return means


def _sheet(
    evidence: Evidence,
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
    for i in evenly_spaced(len(evidence.images), _SHEET_ROWS):
        kept = hide_after(evidence.quantized[i], height // 2 * width)
        row = [Tile(evidence.images[i]), Tile(kept)]
        for name, k in columns:
            caption = f"{quality[name][i, k]:.1f} dB"
            row.append(Tile(candidates[name][i, k], caption))
        rows.append(row)
    headings = ["original", "kept", *(name for name, _ in columns)]
    return png(contact_sheet(rows, headings))

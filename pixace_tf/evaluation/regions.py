"""How well regions of any shape are filled, judged by their surroundings.

Shapes: N images, H height, W width, T pixels.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pixace_tf.console import ProgressBar
from pixace_tf.evaluation.completion import hidden_psnr
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    Part,
    detokenize,
    evenly_spaced,
)
from pixace_tf.evaluation.plots import png
from pixace_tf.painting import masks
from pixace_tf.painting.sheets import Tile, contact_sheet, hide
from pixace_tf.sampling import NUM_PARTICLES
from pixace_tf.sampling.likelihood import Scorer

NUM_IMAGES = 12
# For each image and region.
NUM_FILLS = 4
REGIONS = ("bottom", "top", "left", "center", "brushed")
# The seam reaches this many rows below the region.
_SEAM_ROWS = 2
_SHEET_ROWS = 6
# Strokes are drawn this many times larger than the small image.
_OVERSAMPLING = 8


def fill_regions(evidence: Evidence) -> Part:
    """Hide regions of images, fill them, and measure how well they fit.

    The seam of a region consists of the known pixels behind its first one,
    down to two rows below its last one. Their bits per pixel tell how well they
    continue the original image, a fill by particles (`filled`), and a fill
    that ignores them (`naive`). A lower half has no seam. PSNR compares the
    hidden pixels with the image before the palette, as in `hidden_psnr`.

    Returns:
        The numbers of `pictures` (evenly spaced), `fills` and `particles`; and
        for each of `regions` its `hidden_share`; the mean bits per pixel of the
        `seam` (or None) and of the `whole` image, each for `original`, `filled`
        and `naive`; the mean `psnr` in dB of the fills, and of the `best` one
        of each image; and a PNG `regions`.

    Raises:
        MissingDataError: If the images have one row.
    """
    run = evidence.run
    if run.tokenizer.image_size[0] < 2:
        raise MissingDataError("Pictures of one row have no regions.")
    evidence = evidence.sample(NUM_IMAGES)
    scorer = Scorer(run.model, jit_compile=run.jit_compile)
    bits = scorer.bits(evidence.token_ids)
    regions, fills = {}, {}
    for name in REGIONS:
        is_hidden = _hidden(name, evidence)
        filled = _fill(evidence, is_hidden, name, NUM_PARTICLES, NUM_FILLS)
        costs = {
            "original": bits,
            "filled": scorer.bits(filled),
            "naive": scorer.bits(_fill(evidence, is_hidden, name, 1, 1)),
        }
        images = detokenize(filled, run.tokenizer)
        fills[name] = images.reshape(-1, NUM_FILLS, *images.shape[1:])
        quality = hidden_psnr(evidence.images, fills[name], is_hidden)
        regions[name] = {
            "hidden_share": is_hidden.mean(),
            **_surprise(costs, seam(is_hidden)),
            "psnr": {
                "filled": quality.mean(),
                "best": quality.max(axis=1).mean(),
            },
        }
    figures = {
        "pictures": len(bits),
        "fills": NUM_FILLS,
        "particles": NUM_PARTICLES,
        "regions": regions,
    }
    return figures, {"regions": _sheet(evidence, fills)}


def _hidden(region: str, evidence: Evidence) -> np.ndarray:
    """Return bool `(N, H, W)`, the hidden pixels of each image."""
    size = evidence.run.tokenizer.image_size
    count = len(evidence.images)
    if region == "brushed":
        return np.stack([brushed(seed, *size) for seed in range(count)])
    return np.repeat(masks.cover(region, *size)[None], count, axis=0)


def _fill(
    evidence: Evidence,
    is_hidden: np.ndarray,
    region: str,
    num_particles: int,
    times: int,
) -> np.ndarray:
    """Fill a region of each image; return int32 `(N * times, T)`."""
    count = len(is_hidden)
    text = f"Filling: {region}, particles: {num_particles}"
    with ProgressBar(text) as bar:
        return evidence.run.sampler.fill(
            np.repeat(evidence.token_ids, times, axis=0),
            np.repeat(is_hidden.reshape(count, -1), times, axis=0),
            np.arange(times * count),
            num_particles=num_particles,
            progress=bar.count,
        )


def _surprise(
    costs: dict[str, np.ndarray], is_seam: np.ndarray
) -> dict[str, Any]:
    """Return mean bits per pixel of the seam and of the whole, by kind.

    `costs` are float `(N * times, T)` by kind, `is_seam` is bool `(N, H, W)`.
    """
    flat = is_seam.reshape(len(is_seam), -1)
    seams = {
        kind: bits[np.repeat(flat, len(bits) // len(flat), axis=0)].mean()
        for kind, bits in costs.items()
        if flat.any()
    }
    whole = {kind: bits.mean() for kind, bits in costs.items()}
    return {"seam": seams or None, "whole": whole}


def seam(is_hidden: np.ndarray) -> np.ndarray:
    """Return the known pixels, bool `(N, H, W)`, that tell how well it fits.

    They lie behind the first hidden pixel, and at most two rows below the last.
    """
    flat = is_hidden.reshape(len(is_hidden), -1)
    width = is_hidden.shape[2]
    position = np.arange(flat.shape[1])
    first = np.argmax(flat, axis=1)[:, None]
    last = position[-1] - np.argmax(flat[:, ::-1], axis=1)[:, None]
    is_near = position // width <= last // width + _SEAM_ROWS
    found = ~flat & (position > first) & is_near
    return found.reshape(is_hidden.shape)


def brushed(seed: int, height: int, width: int) -> np.ndarray:
    """Return bool `(H, W)`: the pixels that one to three strokes hide."""
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


def _sheet(evidence: Evidence, fills: dict[str, np.ndarray]) -> bytes:
    """Show the original, then each region hidden and filled."""
    hidden = {name: _hidden(name, evidence) for name in fills}
    rows = []
    for i in evenly_spaced(len(evidence.images), _SHEET_ROWS):
        row = [Tile(evidence.images[i])]
        for name, images in fills.items():
            kept = hide(evidence.quantized[i], hidden[name][i])
            row += [Tile(kept), Tile(images[i, 0])]
        rows.append(row)
    headings = ["original", *(h for name in fills for h in (name, "filled"))]
    return png(contact_sheet(rows, headings))

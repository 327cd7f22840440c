"""How well regions of any shape are filled: against what surrounds them.

Shapes: N images, H height, W width, T pixels.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pixace_tf.console import ProgressBar
from pixace_tf.data.fidelity import psnr
from pixace_tf.evaluation.completion import CEILING_DB
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
# Of each image and region.
NUM_FILLS = 4
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
    half has no seam. How near the hidden pixels come to the image before the
    palette is told as PSNR, at most `CEILING_DB`.

    Args:
        evidence: `NUM_IMAGES` of its images, evenly spaced, are filled,
            `NUM_FILLS` times by particles.

    Returns:
        The numbers of `pictures`, `fills` and `particles`; and for each of
        `regions` its `hidden_share`; the mean bits per pixel of the `seam` (or
        None) and of the `whole` image, each for `original`, `filled` and
        `naive`; the mean `psnr` in dB of the fills, and of the `best` one of
        each image; and a PNG `regions`.

    Raises:
        MissingDataError: If the images have one row.
    """
    run = evidence.run
    if run.tokenizer.image_size[0] < 2:
        raise MissingDataError("Pictures of one row have no regions.")
    chosen = evenly_spaced(len(evidence.images), NUM_IMAGES)
    scorer = Scorer(run.model, jit_compile=run.jit_compile)
    bits = scorer.bits(evidence.token_ids[chosen])
    figures: dict[str, Any] = {}
    fills = {}
    for name in REGIONS:
        is_hidden = np.stack(
            [
                brushed(i, *run.tokenizer.image_size)
                if name == "brushed"
                else masks.cover(name, *run.tokenizer.image_size)
                for i in range(len(chosen))
            ]
        ).reshape(len(chosen), -1)
        filled = {
            "original": evidence.token_ids[chosen],
            "filled": _fill(
                evidence, chosen, is_hidden, name, NUM_PARTICLES, NUM_FILLS
            ),
            "naive": _fill(evidence, chosen, is_hidden, name, 1, 1),
        }
        fills[name] = is_hidden, filled["filled"][::NUM_FILLS]
        on_seam = seam(is_hidden, run.tokenizer.image_size[1])
        quality = _hidden_psnr(evidence, chosen, is_hidden, filled["filled"])
        figures[name] = {
            "hidden_share": is_hidden.mean(),
            **_surprise(scorer, bits, filled, on_seam),
            "psnr": {
                "filled": quality.mean(),
                "best": quality.max(axis=1).mean(),
            },
        }
    sheet = _sheet(evidence, chosen, fills)
    return {
        "pictures": len(chosen),
        "fills": NUM_FILLS,
        "particles": NUM_PARTICLES,
        "regions": figures,
    }, {"regions": sheet}


def _fill(
    evidence: Evidence,
    chosen: np.ndarray,
    is_hidden: np.ndarray,
    region: str,
    num_particles: int,
    times: int,
) -> np.ndarray:
    """Fill a region of some images; return int32 `(N * times, T)`."""
    text = f"Filling: {region}, particles: {num_particles}"
    with ProgressBar(text) as bar:
        return evidence.run.sampler.fill(
            np.repeat(evidence.token_ids[chosen], times, axis=0),
            np.repeat(is_hidden, times, axis=0),
            np.arange(times * len(chosen)),
            num_particles=num_particles,
            progress=bar.count,
        )


def _surprise(
    scorer: Scorer,
    bits: np.ndarray,
    filled: dict[str, np.ndarray],
    on_seam: np.ndarray,
) -> dict[str, Any]:
    """Return bits per pixel of the seam and of the whole, by kind.

    Args:
        scorer: Scores them.
        bits: float `(N, T)`, those of the originals.
        filled: int32 `(N * times, T)` by kind.
        on_seam: bool `(N, T)`.
    """
    costs = {
        kind: bits if kind == "original" else scorer.bits(token_ids)
        for kind, token_ids in filled.items()
    }
    seams = {
        kind: of[np.repeat(on_seam, len(of) // len(bits), axis=0)].mean()
        for kind, of in costs.items()
        if on_seam.any()
    }
    return {
        "seam": seams or None,
        "whole": {kind: of.mean() for kind, of in costs.items()},
    }


def _hidden_psnr(
    evidence: Evidence,
    chosen: np.ndarray,
    is_hidden: np.ndarray,
    filled: np.ndarray,
) -> np.ndarray:
    """Return the PSNR of the hidden pixels of each fill.

    Args:
        evidence: Has the images.
        chosen: int `(N,)`, which of them were filled.
        is_hidden: bool `(N, T)`.
        filled: int32 `(N * NUM_FILLS, T)`.

    Returns:
        float64 `(N, NUM_FILLS)`, dB.
    """
    height, width = evidence.run.tokenizer.image_size
    images = detokenize(filled, evidence.run.tokenizer)
    fills = images.reshape(len(chosen), NUM_FILLS, height, width, 3)
    masks_of_all = is_hidden.reshape(-1, height, width)
    return np.array(
        [
            [min(psnr(original[mask], f[mask]), CEILING_DB) for f in of_image]
            for original, mask, of_image in zip(
                evidence.images[chosen], masks_of_all, fills, strict=True
            )
        ]
    )


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

"""How well colors are drawn anew, given the lightness of unseen images.

Shapes: N images, T pixels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from pixace_tf.console import ProgressBar
from pixace_tf.data.palette import Palette
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    Part,
    detokenize,
)
from pixace_tf.evaluation.frechet import Judge
from pixace_tf.evaluation.plots import png
from pixace_tf.painting.sheets import Tile, contact_sheet
from pixace_tf.sampling import NUM_PARTICLES
from pixace_tf.sampling.likelihood import Scorer

NUM_IMAGES = 12
# The channel closest to the lightness that people see.
LIGHTNESS = {"hsv": "value", "rgb": "green"}
_KINDS = ("original", "recolored", "naive")
_HEADINGS = ("original", "given", "recolored", "naive")
_IMAGES_IN_A_ROW = 2


def recolor(evidence: Evidence, judge: Callable[[], Judge]) -> Part:
    """Draw the colors of held-out images anew, and compare.

    Every pixel keeps its lightness, and its alpha if the palette has any. The
    colors are drawn by particles (`recolored`), which know the lightness of the
    pixels to come, and without them (`naive`).

    Returns:
        The numbers of `pictures` (evenly spaced) and `particles`; the channels
        that were `given`; and, each for `original`, `recolored` and `naive`,
        `bits_per_pixel`, and `named`, the share of images in which a
        classifier sees their class, with the number of `pictures` whose class
        it knows (None if there are none); and a PNG `recolored`.

    Raises:
        MissingDataError: If all images are training images, or the palette has
            no other channels.
    """
    palette = evidence.run.tokenizer.palette
    given = given_channels(palette)
    evidence = evidence.held_out().sample(NUM_IMAGES)
    token_ids = {
        "original": evidence.token_ids,
        "recolored": _recolor(evidence, given, NUM_PARTICLES),
        "naive": _recolor(evidence, given, 1),
    }
    scorer = Scorer(evidence.run.model, jit_compile=evidence.run.jit_compile)
    images = {
        kind: detokenize(tokens, evidence.run.tokenizer)
        for kind, tokens in token_ids.items()
    }
    figures = {
        "pictures": len(evidence.images),
        "particles": NUM_PARTICLES,
        "given": given,
        "bits_per_pixel": {
            kind: scorer.bits(tokens).mean()
            for kind, tokens in token_ids.items()
        },
        "named": _named(evidence, images, judge),
    }
    shown = palette.shown(evidence.token_ids, palette.channels_named(given))
    images["given"] = detokenize(shown, evidence.run.tokenizer)
    return figures, {"recolored": _sheet(images)}


def given_channels(palette: Palette) -> list[str]:
    """Return the channels that stay: lightness, and alpha if there is any.

    Raises:
        MissingDataError: If there are no other channels.
    """
    lightness = LIGHTNESS[palette.color_space]
    sizes = (palette.channel_sizes[c] for c in palette.chain_order)
    levels = dict(zip(palette.channel_names, sizes, strict=True))
    given = [name for name in levels if name in ("alpha", lightness)]
    if all(levels[name] == 1 for name in levels if name not in given):
        raise MissingDataError(
            f"The palette has no channel beside {', '.join(given)} to draw."
        )
    return given


def _recolor(
    evidence: Evidence, given: list[str], num_particles: int
) -> np.ndarray:
    """Draw all other channels of each image; return int32 `(N, T)`."""
    token_ids = evidence.token_ids
    with ProgressBar(f"Recoloring, particles: {num_particles}") as bar:
        return evidence.run.sampler.fill(
            token_ids,
            np.ones(token_ids.shape, bool),
            np.arange(len(token_ids)),
            num_particles=num_particles,
            progress=bar.count,
            given=given,
        )


def _named(
    evidence: Evidence,
    images: dict[str, np.ndarray],
    judge: Callable[[], Judge],
) -> dict[str, Any] | None:
    """Return the share of images with the right class, by kind."""
    if not np.any(evidence.labels != ""):
        return None
    try:
        judged_by = judge()
    except MissingDataError:
        return None
    is_known = np.isin(evidence.labels, judged_by.names)
    if not is_known.any():
        return None
    labels = evidence.labels[is_known]
    return {
        "pictures": len(labels),
        **{
            kind: judged_by.share_right(images[kind][is_known], labels)
            for kind in _KINDS
        },
    }


def _sheet(images: dict[str, np.ndarray]) -> bytes:
    """Show each image, what is given of it, and both ways to color it."""
    tiles = [
        Tile(images[name][i])
        for i in range(len(images["given"]))
        for name in _HEADINGS
    ]
    step = _IMAGES_IN_A_ROW * len(_HEADINGS)
    rows = [tiles[i : i + step] for i in range(0, len(tiles), step)]
    times = len(rows[0]) // len(_HEADINGS)
    return png(contact_sheet(rows, _HEADINGS * times))

"""The worth of labels, and whether drawn images show them.

Shapes: N images, K labels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from pixace_tf.console import ProgressBar
from pixace_tf.data.image_files import printable
from pixace_tf.data.labels import label_name, number_of
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    Part,
    detokenize,
    evenly_spaced,
)
from pixace_tf.evaluation.frechet import Judge
from pixace_tf.evaluation.plots import png
from pixace_tf.painting.sheets import Tile, contact_sheet, readable
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling.likelihood import Scorer

GUIDANCE = (1.0, 1.5, 2.0, 3.0)
# The guidance of the images on the sheet.
SHOWN_GUIDANCE = 2.0
MAX_LABELS = 16
NUM_IMAGES = 8
# Held-out images of each class that are scored with and without the label.
_MAX_SCORED = 64


def paint_classes(evidence: Evidence, judge: Callable[[], Judge]) -> Part:
    """Draw images of each label, and let a classifier name what they show.

    Returns:
        The number of `pictures` drawn for each label; the `judge_accuracy` on
        real images, None if unknown; for each of `agreement` the `guidance` and
        the share of images classified as the label asked for; for each of
        `labels` its `name`, and the bits per pixel of held-out images without
        (`plain`) and `given` the label, None if there are no images. And a PNG
        `classes`.

    Raises:
        MissingDataError: If the model knows no labels, or the training images
            are lost.
    """
    labels = evidence.run.model.labels
    if not labels:
        raise MissingDataError("The model was trained without labels.")
    judged_by = judge()
    chosen = evenly_spaced(len(labels), MAX_LABELS)
    names = [label_name(labels[i]) for i in chosen]
    drawn = {g: _draw(evidence.run, chosen + 1, g) for g in GUIDANCE}
    asked = np.repeat(names, NUM_IMAGES)
    figures = {
        "pictures": NUM_IMAGES,
        "judge_accuracy": judged_by.accuracy,
        "shown_guidance": SHOWN_GUIDANCE,
        "agreement": [
            {
                "guidance": g,
                "share": judged_by.share_right(np.concatenate(images), asked),
            }
            for g, images in drawn.items()
        ],
        "labels": bits_of_labels(evidence, names),
    }
    captions = readable([*map(printable, names)])
    rows = [
        [Tile(images[0], caption), *map(Tile, images[1:])]
        for caption, images in zip(captions, drawn[SHOWN_GUIDANCE], strict=True)
    ]
    return figures, {"classes": png(contact_sheet(rows))}


def _draw(run: Run, numbers: np.ndarray, guidance: float) -> np.ndarray:
    """Return uint8 `(K, NUM_IMAGES, height, width, C)`, drawn given labels."""
    with ProgressBar(f"Painting labels, guidance {guidance:g}") as bar:
        token_ids = run.sampler.generate(
            np.tile(np.arange(NUM_IMAGES), len(numbers)),
            None,
            bar.count,
            labels=np.repeat(numbers, NUM_IMAGES),
            guidance=guidance,
        )
    images = detokenize(token_ids, run.tokenizer)
    return images.reshape(-1, NUM_IMAGES, *images.shape[1:])


def bits_of_labels(
    evidence: Evidence, names: list[str]
) -> list[dict[str, Any]]:
    """Return the bits per pixel of held-out images; see `paint_classes`."""
    model = evidence.run.model
    scorer = Scorer(model, jit_compile=evidence.run.jit_compile)
    found = []
    for name in names:
        is_named = evidence.is_held_out & (evidence.labels == label_name(name))
        token_ids = evidence.token_ids[is_named][:_MAX_SCORED]
        plain = given = None
        if len(token_ids):
            label = number_of(name, model.labels)
            plain = float(scorer.bits(token_ids).mean())
            given = float(scorer.bits(token_ids, labels=label).mean())
        found.append({"name": printable(name), "plain": plain, "given": given})
    return found

"""Labels: what they are worth, and whether drawn images show them.

Shapes: N images, K labels, T pixels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from pixace_tf.console import ProgressBar
from pixace_tf.data.image_files import printable
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    detokenize,
    evenly_spaced,
)
from pixace_tf.evaluation.frechet import Judge, extract
from pixace_tf.evaluation.plots import png
from pixace_tf.painting.sheets import Tile, contact_sheet, readable
from pixace_tf.sampling.likelihood import Scorer

GUIDANCE = (1.0, 1.5, 2.0, 3.0)
# Of the panel.
SHOWN_GUIDANCE = 2.0
MAX_LABELS = 16
NUM_IMAGES = 8
# Of each class, to tell what the label saves.
_MAX_SCORED = 64


def paint_classes(
    evidence: Evidence, judge: Callable[[], Judge]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Draw images of each label, and let a classifier say what they show.

    Args:
        evidence: A run, and images that it was not trained on.
        judge: Returns a classifier of the training images.

    Returns:
        The number of `pictures` drawn for each label; the `judge_accuracy` on
        real images, None where it cannot be told; for each of `agreement` the
        `guidance` and the share that is taken for what was asked; for each of
        `labels` its `name`, and the bits per pixel of held-out images, without
        (`plain`) and `given` the label, None where there are no images. And a
        PNG `classes`.

    Raises:
        MissingDataError: If the model knows no labels, or the training images
            are lost.
    """
    run = evidence.run
    if not run.model.labels:
        raise MissingDataError("The model was trained without labels.")
    judged_by = judge()
    chosen = evenly_spaced(len(run.model.labels), MAX_LABELS)
    names = [run.model.labels[i] for i in chosen]
    wanted = np.repeat(chosen + 1, NUM_IMAGES)
    seeds = np.tile(np.arange(NUM_IMAGES), len(names))
    drawn = {}
    for guidance in GUIDANCE:
        with ProgressBar(f"Painting labels, guidance {guidance:g}") as bar:
            token_ids = run.sampler.generate(
                seeds, None, bar.count, labels=wanted, guidance=guidance
            )
        drawn[guidance] = detokenize(token_ids, run.tokenizer)
    asked = np.repeat(names, NUM_IMAGES)
    agreement = []
    for guidance, images in drawn.items():
        logits = extract(judged_by.network, images)
        taken_for = judged_by.names[logits.argmax(axis=1)]
        agreement.append(
            {"guidance": guidance, "share": np.mean(taken_for == asked)}
        )
    shown = drawn[SHOWN_GUIDANCE]
    rows = [
        [
            Tile(pixels, caption if not i else "")
            for i, pixels in enumerate(
                shown[k * NUM_IMAGES : (k + 1) * NUM_IMAGES]
            )
        ]
        for k, caption in enumerate(readable([*map(printable, names)]))
    ]
    return {
        "pictures": NUM_IMAGES,
        "judge_accuracy": judged_by.accuracy,
        "shown_guidance": SHOWN_GUIDANCE,
        "agreement": agreement,
        "labels": _bits_of_labels(evidence, names),
    }, {"classes": png(contact_sheet(rows))}


def _bits_of_labels(
    evidence: Evidence, names: list[str]
) -> list[dict[str, Any]]:
    """Return what held-out images cost, with and without their label."""
    model = evidence.run.model
    scorer = Scorer(model, jit_compile=evidence.run.jit_compile)
    found = []
    for name in names:
        is_it = evidence.is_held_out & (evidence.labels == name)
        token_ids = evidence.token_ids[is_it][:_MAX_SCORED]
        plain = given = None
        if len(token_ids):
            label = model.labels.index(name) + 1
            plain = float(scorer.bits(token_ids).mean())
            given = float(scorer.bits(token_ids, labels=label).mean())
        found.append({"name": printable(name), "plain": plain, "given": given})
    return found

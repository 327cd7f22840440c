"""What a model draws, what it has made its own, and the pictures of both."""

import dataclasses
import io
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from PIL import Image

from pixace_tf.console import ProgressBar
from pixace_tf.data import fidelity
from pixace_tf.evaluation.account import Evidence, Measurement, json_ready
from pixace_tf.evaluation.completion import complete_halves
from pixace_tf.evaluation.features import (
    drop_head,
    extract,
    train_classifier,
)
from pixace_tf.evaluation.frechet import frechet_distance
from pixace_tf.evaluation.learned import LearnedPictures, decode, spread
from pixace_tf.evaluation.nearest import with_mirrored
from pixace_tf.evaluation.novelty import compare_with_learned
from pixace_tf.evaluation.plots import (
    bits_by_place,
    color_map,
    likelihood_bars,
    probe_by_layer,
)
from pixace_tf.evaluation.probe import (
    HAS_SCIKIT_LEARN,
    probe_layers,
    shared_classes,
)
from pixace_tf.painting import sheets
from pixace_tf.painting.sheets import Tile

# All that an account may have.
PICTURES = frozenset(
    {
        *("likelihood", "bits-by-place", "expected", "palette", "completed"),
        *("new", "nearest", "probe", "colors", "learning-curve"),
    }
)
_MAX_REFERENCE = 5000
_MAX_NEW_SHOWN = 49
_SHEET_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class Account:
    """All that is known of a model, or a part of it.

    Attributes:
        figures: JSON-ready in the end.
        pictures: PNG files by name.
    """

    figures: dict[str, Any]
    pictures: dict[str, bytes]


class _MissingError(Exception):
    """Why a part of the account cannot be given."""


def illustrate(
    evidence: Evidence,
    measured: Measurement,
    samples: int = 128,
    network: keras.Model | None = None,
) -> Account:
    """Draw, compare what was drawn, and look into the model: some minutes.

    Args:
        evidence: What to evaluate.
        measured: What `measure` found.
        samples: New pictures to draw, with the seeds from 0 on.
        network: Gives the features of `frechet`; without one a small
            classifier is trained, where the training pictures have classes.

    Returns:
        The figures of `measured` and further ones, each None where `missing`
        tells why: `completion` (see `completion.complete_halves`), `nearest`
        (see `novelty.compare_with_learned`), `probe` (see
        `probe.probe_layers`) and `frechet`, squared Fréchet distances to
        `reference_pictures` training pictures, each from the same number of
        `pictures`: new `samples`, evaluated pictures in the colors of the
        palette (`palette_floor`), and these before it (`real`); with the number
        of `features`, the `network`, and the `held_out_accuracy` of a trained
        one, None where there is nothing to tell it from.
    """
    run = evidence.run
    with ProgressBar("Painting") as bar:
        token_ids = run.sampler.generate(np.arange(samples), progress=bar.count)
    new = decode(token_ids, run.tokenizer)
    parts: dict[str, Callable[[], Account]] = {
        "completion": lambda: _complete(evidence),
        "nearest": lambda: _find_nearest(evidence, new),
        "frechet": lambda: _compare_features(evidence, new, network),
        "probe": lambda: _probe(evidence),
    }
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    pictures = _pictures(evidence, measured)
    pictures["new"] = _png(sheets.grid(new[:_MAX_NEW_SHOWN]))
    for name, examine in parts.items():
        try:
            part = examine()
        except _MissingError as error:
            found[name], missing[name] = None, str(error)
        else:
            found[name] = part.figures
            pictures |= part.pictures
    assert set(pictures) <= PICTURES
    figures = {**measured.figures, **json_ready(found), "missing": missing}
    return Account(figures, pictures)


def _pictures(evidence: Evidence, measured: Measurement) -> dict[str, bytes]:
    """Return what needs no drawing by the model."""
    run, bits = evidence.run, measured.bits
    by_place = bits.mean(axis=0).reshape(run.tokenizer.image_size)
    pictures = {
        "likelihood": likelihood_bars(measured.figures),
        "bits-by-place": bits_by_place(by_place),
        "expected": _png(_expected_sheet(evidence, bits.mean(axis=1))),
        "palette": _png(_palette_sheet(evidence)),
        "colors": color_map(run),
    }
    curve = run.file("learning_curve.png")
    if os.path.exists(curve):
        with open(curve, "rb") as file:
            pictures["learning-curve"] = file.read()
    return pictures


def _complete(evidence: Evidence) -> Account:
    run, learned = evidence.run, evidence.learned
    if run.tokenizer.image_size[0] < 2:
        raise _MissingError("Pictures of one row have no lower half.")
    with ProgressBar("Completing") as bar:
        figures, sheet = complete_halves(
            run,
            evidence.images,
            None if learned is None else decode(learned.train, run.tokenizer),
            bar.count,
        )
    return Account(figures, {"completed": _png(sheet)})


def _find_nearest(evidence: Evidence, new: np.ndarray) -> Account:
    learned = decode(_learned(evidence).train, evidence.run.tokenizer)
    if evidence.run.arguments["flip"]:
        learned = with_mirrored(learned)
    held_out = evidence.shown[evidence.held_out]
    if len(held_out):
        held_out = held_out[spread(len(held_out), len(new))]
    figures, sheet = compare_with_learned(new, held_out, learned)
    return Account(figures, {"nearest": _png(sheet)})


def _compare_features(
    evidence: Evidence, new: np.ndarray, network: keras.Model | None
) -> Account:
    learned = _learned(evidence)
    count = min(len(new), len(evidence.images))
    if count < 2 or len(learned.train) < 2:
        raise _MissingError("One picture alone has no spread to compare.")
    chosen = spread(len(learned.train), _MAX_REFERENCE)
    reference = decode(learned.train[chosen], evidence.run.tokenizer)
    name, accuracy = "a classifier trained for this report", None
    if network is not None:
        name = network.name
    else:
        network, accuracy = _own_network(
            evidence, reference, learned.labels[chosen]
        )
    with ProgressBar("Comparing") as bar:
        of_reference = extract(network, reference, bar.count)
    same = spread(len(evidence.images), count)
    sets = {
        "samples": new[:count],
        "palette_floor": evidence.shown[same],
        "real": evidence.images[same],
    }
    figures = {
        "pictures": count,
        "reference_pictures": len(reference),
        "features": of_reference.shape[1],
        "network": name,
        "held_out_accuracy": accuracy,
    }
    for key, images in sets.items():
        of_images = extract(network, images)
        figures[key] = frechet_distance(of_images, of_reference)
    return Account(figures, {})


def _own_network(
    evidence: Evidence, images: np.ndarray, labels: np.ndarray
) -> tuple[keras.Model, float | None]:
    """Return a network of features, and the accuracy of its classifier."""
    images, labels = images[labels != ""], labels[labels != ""]
    names, classes = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise _MissingError(
            "The training pictures have no classes to train a network with; "
            "give one with --features."
        )
    with ProgressBar("Training a classifier") as bar:
        classifier = train_classifier(
            images, classes, evidence.run.arguments["flip"], progress=bar.count
        )
    known = evidence.held_out & np.isin(evidence.labels, names)
    accuracy = None
    if known.any():
        logits = extract(classifier, evidence.shown[known])
        right = names[logits.argmax(axis=1)] == evidence.labels[known]
        accuracy = float(np.mean(right))
    return drop_head(classifier), accuracy


def _probe(evidence: Evidence) -> Account:
    learned = _learned(evidence)
    if not HAS_SCIKIT_LEARN:
        raise _MissingError("It needs: pip install 'pixace-tf[evaluate]'")
    labels = evidence.labels[evidence.held_out]
    if len(shared_classes(learned.labels, labels)) < 2:
        raise _MissingError(
            "It needs at least two classes that both training pictures and "
            "evaluated pictures outside of training have."
        )
    token_ids = evidence.token_ids[evidence.held_out]
    with ProgressBar("Probing") as bar:
        figures = probe_layers(
            evidence.run, learned, token_ids, labels, bar.count
        )
    return Account(figures, {"probe": probe_by_layer(figures)})


def _learned(evidence: Evidence) -> LearnedPictures:
    if evidence.learned is None:
        raise _MissingError(
            "The run has lost the tokens of its training pictures."
        )
    return evidence.learned


def _expected_sheet(evidence: Evidence, bits: np.ndarray) -> Image.Image:
    """Show the pictures that cost least, then those that cost most."""
    order = np.argsort(bits, kind="stable")
    count = min(_SHEET_COLUMNS, -(-len(order) // 2))
    return sheets.contact_sheet(
        [
            [Tile(evidence.shown[i], f"{bits[i]:.2f}") for i in row]
            for row in (order[:count], order[::-1][:count])
        ]
    )


def _palette_sheet(evidence: Evidence) -> Image.Image:
    """Show pictures, and below them what the palette makes of them."""
    chosen = spread(len(evidence.images), _SHEET_COLUMNS)
    pairs = [(evidence.images[i], evidence.shown[i]) for i in chosen]
    quality = [fidelity.psnr(*pair) for pair in pairs]
    return sheets.contact_sheet(
        [
            [Tile(original, "original") for original, _ in pairs],
            [
                Tile(shown, "exact" if np.isinf(db) else f"{db:.1f} dB")
                for (_, shown), db in zip(pairs, quality, strict=True)
            ],
        ]
    )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()

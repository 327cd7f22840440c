"""The report: a folder with a page, its figures and its images."""

import base64
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from pixace_tf import storage
from pixace_tf.console import ProgressBar
from pixace_tf.data.tokenizer import NATIVE
from pixace_tf.errors import UserError
from pixace_tf.evaluation import plots
from pixace_tf.evaluation.classes import paint_classes
from pixace_tf.evaluation.completion import complete_halves
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    Part,
    detokenize,
    evenly_spaced,
)
from pixace_tf.evaluation.frechet import compare_features, train_judge
from pixace_tf.evaluation.metrics import (
    BASELINE_NAMES,
    Measurement,
    baseline_bits,
    json_ready,
)
from pixace_tf.evaluation.nearest import compare_with_training
from pixace_tf.evaluation.probe import probe_layers
from pixace_tf.evaluation.recoloring import recolor
from pixace_tf.evaluation.regions import fill_regions
from pixace_tf.painting import sheets

PAGE_FILE = "index.html"
FIGURES_FILE = "figures.json"
TEMPLATE_FILE = "report.html.jinja"
# All images that a report may have.
IMAGES = {
    "bits-by-place",
    "classes",
    "colors",
    "completed",
    "expected",
    "learning-curve",
    "likelihood",
    "nearest",
    "new",
    "palette",
    "probe",
    "recolored",
    "regions",
}
_EXTRA_PACKAGES = ("jinja2", "sklearn", "skimage")
_MAX_NEW_SHOWN = 49


@dataclasses.dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        figures: JSON-ready.
        images: PNG files by name, of `IMAGES`.
    """

    figures: dict[str, Any]
    images: dict[str, bytes]


def check_report(folder: str) -> None:
    """Check, before long work, that `write_report` can write into `folder`.

    Raises:
        UserError: If packages or the parent folder are missing, or the folder
            contains anything but a report.
    """
    if not all(map(importlib.util.find_spec, _EXTRA_PACKAGES)):
        raise UserError("A report needs: pip install 'pixace-tf[evaluate]'")
    parent = os.path.dirname(os.path.abspath(folder))
    if not os.path.isdir(parent):
        raise UserError(f"There is no folder {parent!r} for the report.")
    if not os.path.lexists(folder) or _is_report(folder):
        return
    if not os.path.isdir(folder) or os.listdir(folder):
        raise UserError(
            f"{folder!r} exists and is no report: it has no {FIGURES_FILE} "
            f"and {PAGE_FILE}. Choose another folder."
        )


def build_report(
    evidence: Evidence,
    measurement: Measurement,
    num_samples: int = 200,
    network: keras.Model | None = None,
) -> Report:
    """Draw images, compare them, and probe the model; takes some minutes.

    New images are drawn with seeds from 0. The network gives the features of
    `frechet`; by default a classifier is trained, if images have classes.

    Returns:
        The figures of `measurement` and of `completion`, `filling`
        (`regions.py`), `recoloring`, `nearest`, `frechet`, `classes` and
        `probe`, each None if `missing` tells why; with all their images.
    """
    run = evidence.run
    with ProgressBar("Generating") as bar:
        seeds = np.arange(num_samples)
        token_ids = run.sampler.generate(seeds, progress=bar.count)
    new = detokenize(token_ids, run.tokenizer)
    judge = functools.cache(lambda: train_judge(evidence))
    parts: dict[str, Callable[[], Part]] = {
        "completion": lambda: complete_halves(evidence),
        "filling": lambda: fill_regions(evidence),
        "recoloring": lambda: recolor(evidence, judge),
        "nearest": lambda: _compare_with_training(evidence, new),
        "frechet": lambda: compare_features(evidence, new, judge, network),
        "classes": lambda: paint_classes(evidence, judge),
        "probe": lambda: probe_layers(evidence),
    }
    figures: dict[str, Any] = dict(measurement.figures)
    images = _images(evidence, measurement)
    images["new"] = plots.png(sheets.grid(new[:_MAX_NEW_SHOWN]))
    missing: dict[str, str] = {}
    for name, part in parts.items():
        try:
            figures[name], drawn = part()
        except MissingDataError as error:
            figures[name], missing[name] = None, str(error)
        else:
            images |= drawn
    assert set(images) <= IMAGES
    return Report(json_ready({**figures, "missing": missing}), images)


def _compare_with_training(evidence: Evidence, new: np.ndarray) -> Part:
    held_out = evidence.quantized[evidence.is_held_out]
    chosen = evenly_spaced(len(held_out), len(new))
    run = evidence.run
    training = detokenize(evidence.require_training().token_ids, run.tokenizer)
    return compare_with_training(
        new,
        held_out[chosen],
        training,
        is_mirrored=run.arguments["flip"],
        is_pixel_art=run.tokenizer.resize == NATIVE,
    )


def _images(evidence: Evidence, measurement: Measurement) -> dict[str, bytes]:
    """Return the images that the model need not draw."""
    run, bits = evidence.run, measurement.bits
    by_place = bits.mean(axis=0).reshape(run.tokenizer.image_size)
    images = {
        "likelihood": plots.likelihood_bars(measurement.figures),
        "bits-by-place": plots.bits_by_place(by_place),
        "expected": plots.expected_sheet(evidence, bits.mean(axis=1)),
        "palette": plots.palette_sheet(evidence),
        "colors": plots.color_map(run),
    }
    curve = run.file("learning_curve.png")
    if os.path.exists(curve):
        with open(curve, "rb") as file:
            images["learning-curve"] = file.read()
    return images


def render(report: Report) -> str:
    """Return the page of a report as HTML that needs no other file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pixace_tf.evaluation", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["number"] = format
    environment.filters["counted"] = _counted
    return environment.get_template(TEMPLATE_FILE).render(
        figures=report.figures,
        images={
            name: base64.b64encode(content).decode()
            for name, content in report.images.items()
        },
        baselines=baseline_bits(report.figures),
        baseline_names=BASELINE_NAMES,
        run_name=os.path.basename(report.figures["record"]["run"]),
    )


def _counted(number: int, noun: str) -> str:
    """Return a number with its noun, singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def write_report(report: Report, folder: str) -> str:
    """Write the page, its figures and its images; return the path of the page.

    A new folder, which `check_report` must accept, appears with all its files.
    In the folder of an older report, each file is replaced in one step. The
    page comes last and needs no other file, so a whole page exists at any time.
    """
    files = {f"{name}.png": png for name, png in report.images.items()}
    # JSON has no infinity.
    figures = json.dumps(report.figures, indent=2, allow_nan=False)
    files[FIGURES_FILE] = f"{figures}\n".encode()
    files[PAGE_FILE] = render(report).encode()
    page = os.path.join(folder, PAGE_FILE)
    if not _is_report(folder):
        with storage.new_folder(folder) as temporary:
            _write(files, temporary)
        return page
    _write(files, folder)
    for name in IMAGES - set(report.images):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, f"{name}.png"))
    return page


def _write(files: dict[str, bytes], folder: str) -> None:
    storage.mark_folder(folder)
    for name, content in files.items():
        storage.write_atomic(os.path.join(folder, name), content)


def _is_report(path: str) -> bool:
    names = (FIGURES_FILE, PAGE_FILE)
    return all(os.path.isfile(os.path.join(path, name)) for name in names)

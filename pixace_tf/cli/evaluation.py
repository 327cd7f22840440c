"""The command that measures a run."""

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from pixace_tf.cli.group import main, needs_tensorflow, say, typed_command
from pixace_tf.cli.options import download, max_megapixels
from pixace_tf.errors import UserError

if TYPE_CHECKING:
    from pixace_tf.evaluation.evidence import Evidence
    from pixace_tf.evaluation.metrics import Measurement
    from pixace_tf.runs.run_folder import Run

DEFAULT_SAMPLES = 200


@main.command()
@click.argument("run_path", metavar="RUN", type=click.Path())
@click.argument("source", metavar="IMAGES")
@click.option(
    "--validation-only",
    is_flag=True,
    help="Only the part that fit keeps for validation.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(),
    help="Also draw, compare and probe, and write a page into DIR; takes some "
    "minutes.",
)
@click.option(
    "--samples",
    type=click.IntRange(2),
    help="New pictures to draw for the report.  [default: 200]",
)
@click.option(
    "--features",
    metavar="FILE",
    type=click.Path(),
    help="A .keras network for the Fréchet distance of the report; it takes "
    "pixels from 0 to 255.  [default: one is trained on the classes]",
)
@click.option(
    "--outliers",
    metavar="FILE.png",
    type=click.Path(),
    help="Also list the pictures that the model finds unlikeliest, and show "
    "them, each beside a map of its unlikely pixels. Pictures that the run was "
    "trained on are likelier than others.",
)
@click.option(
    "--num-outliers",
    type=click.IntRange(1),
    help="Pictures to list as outliers.  [default: 15]",
)
@click.option(
    "--pairs",
    type=click.Path(),
    help="The second pictures, if RUN comes from fit --pairs.",
)
@max_megapixels
@download
@needs_tensorflow
def evaluate(
    run_path: str,
    source: str,
    validation_only: bool,
    as_json: bool,
    report: str | None,
    samples: int | None,
    features: str | None,
    outliers: str | None,
    num_outliers: int | None,
    pairs: str | None,
    max_megapixels: float,
    download: bool,
) -> None:
    """Measure a run on IMAGES: a folder, a picture or a tfds: data set.

    Prints the bits per pixel of the model, beside those of simple methods on
    the same pictures, and the loss by the palette. The report is one page that
    opens without internet; it also shows and measures drawings of the model.
    Outliers are the odd ones out of a folder, and stray pixels.

    \b
    Examples:
      pixace-tf evaluate saved_models/animals data/animals --validation-only
      pixace-tf evaluate saved_models/animals unseen --report report
      pixace-tf evaluate saved_models/animals data/animals --outliers odd.png
      pixace-tf evaluate saved_models/sketches sketches --pairs photos
    """
    if report is None and (samples, features) != (None, None):
        raise click.UsageError("--samples and --features need --report.")
    if outliers is None and num_outliers is not None:
        raise click.UsageError("--num-outliers needs --outliers.")
    from pixace_tf.evaluation.frechet import load_network
    from pixace_tf.evaluation.metrics import measure, summary
    from pixace_tf.evaluation.outliers import describe
    from pixace_tf.evaluation.report import (
        build_report,
        check_report,
        write_report,
    )
    from pixace_tf.painting.sheets import check_image_path
    from pixace_tf.runs.run_folder import load_run

    if report is not None:
        check_report(report)
    if outliers is not None:
        check_image_path(outliers)
    run = load_run(run_path)
    if run.are_pairs != (pairs is not None):
        raise UserError(
            f"{run_path} was trained on pairs: give their second pictures with "
            "--pairs."
            if run.are_pairs
            else f"{run_path} was not trained on pairs: leave out --pairs."
        )
    network = load_network(features) if features else None
    max_pixels = int(max_megapixels * 1e6)
    evidence, names, num_skipped = _read(
        run, source, pairs, validation_only, max_pixels, download
    )
    command = typed_command(click.get_current_context(), ["as_json"])
    measurement = measure(evidence, num_skipped, command)
    if outliers is not None:
        measurement = _with_outliers(
            evidence, measurement, names, outliers, num_outliers
        )
    figures, page = measurement.figures, None
    if report is not None:
        built = build_report(
            evidence, measurement, samples or DEFAULT_SAMPLES, network
        )
        figures, page = built.figures, write_report(built, report)
    if as_json:
        say(json.dumps(figures))
        return
    say(summary(figures))
    if outliers is not None:
        say(describe(figures["outliers"], figures["pictures"]))
        say(f"Look at {outliers}")
    if page is not None:
        say(f"Look at {page}")


def _with_outliers(
    evidence: "Evidence",
    measurement: "Measurement",
    names: list[str],
    path: str,
    count: int | None,
) -> "Measurement":
    """Save a sheet of outliers; return the figures with them."""
    from pixace_tf.evaluation.outliers import NUM_OUTLIERS, find_outliers
    from pixace_tf.painting.sheets import save_image

    found, sheet = find_outliers(
        evidence, measurement.bits, names, count or NUM_OUTLIERS
    )
    save_image(sheet, path)
    figures = {**measurement.figures, "outliers": found}
    return dataclasses.replace(measurement, figures=figures)


def _read(
    run: "Run",
    source: str,
    pairs: str | None,
    validation_only: bool,
    max_pixels: int,
    download: bool,
) -> "tuple[Evidence, list[str], int]":
    """Return the images to evaluate, their names, and how many are skipped."""
    from pixace_tf import console
    from pixace_tf.data.cutting import Cutting
    from pixace_tf.data.sources import load_images
    from pixace_tf.evaluation.evidence import gather

    with console.ProgressBar("Reading images") as bar:
        # The files are cut as they were for the training.
        small = load_images(
            source,
            run.tokenizer,
            max_pixels,
            download,
            bar.count,
            Cutting.of(run.arguments),
            pairs,
        )
    chosen = [
        i
        for i, trains in enumerate(small.in_train())
        if not (validation_only and trains)
    ]
    if not chosen:
        raise UserError(f"{source!r} has no validation pictures.")
    labels = [small.labels[i] for i in chosen]
    names = [small.names[i] for i in chosen]
    evidence = gather(run, small.images[chosen], labels)
    return evidence, names, len(small.skipped)

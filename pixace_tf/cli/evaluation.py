"""The command that measures a run."""

import json
from typing import TYPE_CHECKING

import click

from pixace_tf.cli.group import main, needs_tensorflow, say, typed_command
from pixace_tf.cli.options import download, max_megapixels
from pixace_tf.errors import UserError

if TYPE_CHECKING:
    from pixace_tf.evaluation.evidence import Evidence
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
    max_megapixels: float,
    download: bool,
) -> None:
    """Measure a run on IMAGES: a folder, a picture or a tfds: data set.

    Prints the bits per pixel of the model, beside those of simple methods on
    the same pictures, and the loss by the palette. The report is one page that
    opens without internet; it also shows and measures drawings of the model.

    \b
    Examples:
      pixace-tf evaluate saved_models/animals data/animals --validation-only
      pixace-tf evaluate saved_models/animals unseen --report report
    """
    if report is None and (samples, features) != (None, None):
        raise click.UsageError("--samples and --features need --report.")
    from pixace_tf.evaluation.frechet import load_network
    from pixace_tf.evaluation.metrics import measure, summary
    from pixace_tf.evaluation.report import (
        build_report,
        check_report,
        write_report,
    )
    from pixace_tf.runs.run_folder import load_run

    if report is not None:
        check_report(report)
    run = load_run(run_path)
    network = load_network(features) if features else None
    max_pixels = int(max_megapixels * 1e6)
    evidence, num_skipped = _read(
        run, source, validation_only, max_pixels, download
    )
    command = typed_command(click.get_current_context(), ["as_json"])
    measurement = measure(evidence, num_skipped, command)
    figures, page = measurement.figures, None
    if report is not None:
        built = build_report(
            evidence, measurement, samples or DEFAULT_SAMPLES, network
        )
        figures, page = built.figures, write_report(built, report)
    say(json.dumps(figures) if as_json else summary(figures))
    if page is not None and not as_json:
        say(f"Look at {page}")


def _read(
    run: "Run",
    source: str,
    validation_only: bool,
    max_pixels: int,
    download: bool,
) -> "tuple[Evidence, int]":
    """Return the images to evaluate, and the number of skipped files."""
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
        )
    chosen = [
        i
        for i, trains in enumerate(small.in_train())
        if not (validation_only and trains)
    ]
    if not chosen:
        raise UserError(f"{source!r} has no validation pictures.")
    labels = [small.labels[i] for i in chosen]
    return gather(run, small.images[chosen], labels), len(small.skipped)

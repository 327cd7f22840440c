"""The command that measures a run."""

import json
import shlex

import click

from pixace_tf.cli.group import main, needs_tensorflow
from pixace_tf.cli.options import download, max_megapixels


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
    help="Also draw, compare and probe, and write a page into DIR: some "
    "minutes.",
)
@click.option(
    "--samples",
    type=click.IntRange(2),
    help="New pictures to draw for the report.  [default: 128]",
)
@click.option(
    "--features",
    metavar="FILE",
    type=click.Path(),
    help="A .keras network of pictures of 0 to 255, for the Fréchet distance "
    "of the report.  [default: one is trained on the classes]",
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
    the same pictures, and what the palette loses. The report also shows
    drawings and what they are worth, in one page that opens without internet.

    \b
    Examples:
      pixace-tf evaluate saved_models/animals data/animals --validation-only
      pixace-tf evaluate saved_models/animals unseen --report report
    """
    if report is None and (samples, features) != (None, None):
        raise click.UsageError("--samples and --features need --report.")
    from pixace_tf import console, evaluation
    from pixace_tf.data import sources
    from pixace_tf.runs.run_folder import load_run

    if report is not None:
        evaluation.check_folder(report)
    run = load_run(run_path)
    network = evaluation.load_network(features) if features else None
    pictures = sources.load_pictures(
        source,
        run.tokenizer,
        int(max_megapixels * 1e6),
        download,
        console.track("Reading pictures"),
    )
    chosen = [
        i
        for i, trains in enumerate(pictures.in_train())
        if not (validation_only and trains)
    ]
    if not chosen:
        raise ValueError(f"{source!r} has no validation pictures.")
    evidence = evaluation.gather(
        run, pictures.images[chosen], [pictures.labels[i] for i in chosen]
    )
    command = ["pixace-tf", "evaluate", run_path, source]
    command += ["--validation-only"] if validation_only else []
    command += ["--report", report] if report else []
    command += ["--samples", str(samples)] if samples else []
    command += ["--features", features] if features else []
    measured = evaluation.measure(
        evidence, len(pictures.skipped), shlex.join(command)
    )
    figures = measured.figures
    if report is not None:
        account = evaluation.illustrate(
            evidence, measured, samples or 128, network
        )
        figures = account.figures
        page = evaluation.write_report(account, report)
    if as_json:
        click.echo(json.dumps(figures))
        return
    click.echo(evaluation.summary(figures))
    if report is not None:
        click.echo(f"Look at {page}")

"""The command that exports a run for a server."""

import click

from pixace_tf.cli.group import main, needs_tensorflow, say


@main.command()
@click.argument("run_path", metavar="RUN", type=click.Path())
@click.option(
    "--keep",
    type=click.IntRange(1),
    help="Versions to keep, the new one included.  [default: all]",
)
@needs_tensorflow
def export(run_path: str, keep: int | None) -> None:
    """Write the next version of RUN for TensorFlow Serving, and a model card.

    The version is a SavedModel in a numbered folder of the run. A stock
    TensorFlow Serving loads it within a second, without this package. A model
    from the box or from the Hub is copied to saved_models/ first. A README.md
    that you have written or changed stays as it is.

    \b
    Examples:
      pixace-tf export saved_models/animals
      MODEL=animals docker compose up serve
      pixace-tf complete --server http://localhost:8501 --model animals cat.jpg
    """
    from pixace_tf.runs import catalog
    from pixace_tf.runs.run_folder import load_run
    from pixace_tf.serving.export import export as run_export

    path = catalog.locate_own(run_path, say)
    run_export(load_run(path), keep, say)

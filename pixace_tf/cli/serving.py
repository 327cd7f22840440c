"""The command that exports a run for other programs."""

import click

from pixace_tf.cli.group import import_tensorflow, main, say


@main.command()
@click.argument("run_path", metavar="RUN", type=click.Path())
@click.option(
    "--keep",
    type=click.IntRange(1),
    help="Versions to keep, the new one included.  [default: all]",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["saved-model", "litert"]),
    default="saved-model",
    help="saved-model for TensorFlow Serving, litert for programs without "
    "TensorFlow.",
)
@click.option(
    "--out",
    type=click.Path(),
    help="Folder for litert.  [default: litert/ in the run folder]",
)
def export(run_path: str, keep: int | None, kind: str, out: str | None) -> None:
    """Write RUN in a form for other programs, and a card that shows its use.

    saved-model is the next version for TensorFlow Serving, in a numbered folder
    of the run. A stock TensorFlow Serving loads it within a second, without
    this package. litert is one file that paints with LiteRT alone: on phones,
    in small containers, on a Raspberry Pi.

    A model from the box or from the Hub is copied to saved_models/ first. A
    README.md that you have written or changed stays as it is.

    \b
    Examples:
      pixace-tf export saved_models/animals
      pixace-tf export saved_models/animals --format litert --out animals-litert
      MODEL=animals docker compose up serve
      pixace-tf complete --server http://localhost:8501 --model animals cat.jpg
    """
    from pixace_tf.runs import catalog

    if kind == "litert":
        if keep is not None:
            raise click.UsageError("--keep needs --format saved-model.")
        from pixace_tf.serving.lite_export import export as export_lite

        export_lite(catalog.locate_own(run_path, say), out, say)
        return
    if out is not None:
        raise click.UsageError("--out needs --format litert.")
    import_tensorflow()
    from pixace_tf.runs.run_folder import load_run
    from pixace_tf.serving.export import export as run_export

    path = catalog.locate_own(run_path, say)
    run_export(load_run(path, jit_compile=False), keep, say)

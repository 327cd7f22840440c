"""Commands about runs: list them, publish one."""

import click

from pixace_tf.cli.group import main, say

STRIP_HEIGHT = 64


@main.command()
@click.option(
    "--out",
    metavar="FILE",
    help="Also write a sheet with samples of each.",
)
def models(out: str | None) -> None:
    """List the runs in saved_models/ and the models in the box.

    Each name can be given wherever a command takes a RUN. A line tells the
    image size and palette, decoder and preset, the lowest bits per pixel in
    validation, the size of the weights, and the labels.

    \b
    Examples:
      pixace-tf models
      pixace-tf models --out models.png
    """
    from pixace_tf.data.image_files import printable
    from pixace_tf.painting import sheets
    from pixace_tf.runs.catalog import is_in_box, known_runs

    if out is not None:
        sheets.check_image_path(out)
    runs = known_runs()
    if not runs:
        say("There is no run yet; see pixace-tf fit.")
    for run in runs:
        height, width = run.image_size
        bits = run.bits_per_pixel
        labels = ", ".join(map(printable, run.labels[:8]))
        facts = [
            "in the box" if is_in_box(run.path) else run.path,
            f"{width}x{height}, {run.palette.name}",
            run.decoder,
            "not validated yet" if bits is None else f"{bits:.3f} bits/pixel",
            f"{run.num_bytes / 1e6:.1f} MB",
        ]
        if labels:
            more = ", ..." if len(run.labels) > 8 else ""
            facts.append(f"labels: {labels}{more}")
        say(f"{printable(run.name)}: {'; '.join(facts)}")
    if out is None:
        return
    strips = {r.name: r.samples for r in runs if r.samples is not None}
    if not strips:
        raise click.UsageError("None of these runs has painted samples yet.")
    sheets.save_image(sheets.strips(strips, STRIP_HEIGHT), out)
    say(f"{len(strips)} strips of samples: {out}")


@main.command()
@click.argument("run_path", metavar="RUN", type=click.Path())
@click.argument("address", metavar="hf://USER/NAME")
@click.option(
    "--private",
    is_flag=True,
    help="Make a new repository private, and refuse a public one.",
)
def push(run_path: str, address: str, private: bool) -> None:
    """Publish RUN on the Hugging Face Hub, where others use it by its address.

    One commit adds weights.npz, run.json, history.json, README.md and
    samples.png, if RUN has them, to the repository, which is created if
    necessary. A README.md that begins with the YAML header of a model card is
    sent as it is; otherwise a card is written.

    tokens.npz, checkpoint.npz and pictures/ are never sent, since they hold the
    images that RUN has learned from. run.json names their folder without its
    path.

    This needs `pip install 'pixace-tf[hub]'` and a token that may write: log in
    with `hf auth login`, or set HF_TOKEN.

    \b
    Examples:
      pixace-tf push saved_models/animals hf://ann/animals --private
      pixace-tf generate hf://ann/animals@1f2e3d4c5b6a
    """
    from pixace_tf.runs import catalog, hub

    path = catalog.locate(run_path, say)
    published = hub.push(path, hub.parse(address), private, say)
    say(f"Published: {published}")

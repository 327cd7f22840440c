"""The command line. TensorFlow is imported only by what needs it."""

import contextlib
import functools
import importlib.util
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from pixace_tf.cli.options import (
    BitWidths,
    ImageSize,
    batch_size,
    decoder,
    download,
    flip,
    jit_compile,
    max_megapixels,
    preset,
    resize,
    sampling,
    scale,
    served,
    training_seed,
)


class Commands(click.Group):
    """Turns errors into one clear line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            _fail(str(error), 2)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _fail(f"{place}{error.strerror or error}", 1)
        except KeyboardInterrupt as error:
            signum = getattr(error, "signum", signal.SIGINT)
            name = signal.Signals(signum).name
            _fail(f"Stopped by {name}.", 128 + signum)
        except Exception as error:
            if type(error).__name__ != "ResourceExhaustedError":
                raise
            if "No space left" in str(error):
                _fail("No space left on the disk.", 1)
            _fail("Out of memory; try a smaller --batch-size.", 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"pixace-tf: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 88,
        "show_default": True,
    },
)
@click.version_option(package_name="pixace-tf")
def main() -> None:
    """Learn to finish half-covered pictures and to paint new ones.

    \b
    The way to go:
      pixace-tf demo                                  # all of it, 10 minutes
      pixace-tf fit data/animals                      # train on your pictures
      pixace-tf complete saved_models/animals cat.jpg --out completed.png
      pixace-tf generate saved_models/animals --count 16 --out new.png

    Every command has its own --help.
    """


def _needs_tensorflow(command: Callable[..., None]) -> Callable[..., None]:
    """Import TensorFlow before the command, without its chatter.

    The chatter comes from C++ and heeds no setting; who sets
    TF_CPP_MIN_LOG_LEVEL sees it all.
    """

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        _import_tensorflow()
        command(**arguments)

    return wrapped


def _import_tensorflow() -> None:
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        with _silent_stderr():
            import tensorflow as tf

            tf.config.list_physical_devices()


def _open_painter(
    run_path: str | None, server: str | None, model: str
) -> tuple[Any, Any]:
    """Return the module that paints, and the run or server it paints with."""
    if (run_path is None) == (server is None):
        raise click.UsageError("Give either RUN or --server.")
    if server is None:
        _import_tensorflow()
        from pixace_tf.runs.run_folder import load_run

        return local, load_run(str(run_path))
    if server.startswith("grpc:"):
        _import_tensorflow()
    from pixace_tf.painting import served

    return served, served.Server(server, model)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@main.command()
@click.argument("source", metavar="IMAGES")
@click.option("--name", help="Name of the run.  [default: that of IMAGES]")
@click.option(
    "--runs-dir", default="saved_models", help="Folder that holds the runs."
)
@preset
@decoder
@click.option(
    "--num-layers",
    type=click.IntRange(1),
    help="Layers of the (outer) stack.  [default: the preset's]",
)
@click.option(
    "--hidden-dim",
    type=click.IntRange(1),
    help="Width of the (outer) stack.  [default: the preset's]",
)
@click.option(
    "--num-hashes",
    type=click.IntRange(0),
    default=0,
    help="Reformer: LSH attention with so many rounds, from 64x64 on; 0 is "
    "exact attention.",
)
@click.option(
    "--head",
    default="chain",
    type=click.Choice(["chain", "packed"]),
    help="Predict a color channel by channel, or in one softmax.",
)
@click.option(
    "--image-size",
    type=ImageSize(),
    default="32",
    help="Pixels to scale down to: 32 or 24x40 (height x width).",
)
@click.option(
    "--bit-widths",
    type=BitWidths(),
    default="5,4,4",
    help="Bits per color channel, in the order of --color-space.",
)
@click.option("--color-space", default="hsv", type=click.Choice(["hsv", "rgb"]))
@resize
@click.option(
    "--epochs", type=click.IntRange(1), help="Passes over the pictures."
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(0, min_open=True),
    help="Time to train instead of --epochs.  [default: 10]",
)
@batch_size
@click.option(
    "--learning-rate",
    type=float,
    help="At its peak.  [default: nano 3e-3, small 2e-3, base 1e-3]",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="0.1 helps on few pictures and long runs.",
)
@flip
@training_seed
@click.option(
    "--precision",
    default="auto",
    type=click.Choice(["auto", "float32", "mixed_float16", "mixed_bfloat16"]),
    help="auto: mixed_float16 on a GPU, float32 on a CPU.",
)
@jit_compile
@max_megapixels
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(0),
    default=60.0,
    help="Time between two checkpoints.",
)
@download
@_needs_tensorflow
def fit(**arguments: Any) -> None:
    """Train a model on IMAGES: a folder, or tfds:NAME[/CONFIG][:SPLIT].

    The folder may be flat or have class folders, train/ and val/ or neither.
    The run lies in saved_models/NAME. Interrupt it when you like: the same
    command goes on where it was, and more --epochs or --max-minutes extend a
    finished run.

    \b
    Examples:
      pixace-tf fit data/animals
      pixace-tf fit photos --image-size 24x32 --max-minutes 60 --name photos-24
      pixace-tf fit photos --preset base --epochs 100      # with a GPU
    """
    from pixace_tf.training.fit import fit as run_fit

    run = run_fit(**arguments, say=click.echo)
    click.echo(f"Now try: pixace-tf generate {run.path} --out new.png")


@main.command()
@click.argument("paths", metavar="[RUN] IMAGE...", nargs=-1, required=True)
@click.option("--out", default="completed.png", help="The sheet to write.")
@click.option(
    "--keep",
    type=click.FloatRange(0, 1),
    default=0.5,
    help="Share of each picture to keep, from the top.",
)
@click.option(
    "--prefix-length",
    type=click.IntRange(0),
    help="Pixels to keep, row by row, instead of --keep.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=1,
    help="Completions for each picture and temperature.",
)
@sampling
@served
def complete(
    paths: tuple[str, ...],
    out: str,
    server: str | None,
    model: str,
    scale: int | None,
    tiles: str | None,
    **arguments: Any,
) -> None:
    """Keep the top of each IMAGE (path or http address), draw the rest.

    The sheet shows original, what was kept, and one column of completions for
    each temperature and sample.

    \b
    Examples:
      pixace-tf complete saved_models/animals cat.jpg dog.png
      pixace-tf complete saved_models/animals cat.jpg --keep 0.3 --samples 4
      pixace-tf complete saved_models/animals cat.jpg --temperature 0.9,1.0,1.1
      pixace-tf complete --server http://localhost:8501 --model animals cat.jpg
    """
    from pixace_tf import console
    from pixace_tf.painting import sheets

    sheets.check_picture_path(out)
    run_path, pictures = (None, paths) if server else (paths[0], paths[1:])
    if not pictures:
        raise click.UsageError("Give RUN and then at least one IMAGE.")
    painter, source = _open_painter(run_path, server, model)
    with console.ProgressBar("Completing") as bar:
        completions = painter.complete(
            source, pictures, progress=bar.count, **arguments
        )
    sheets.save_picture(completions.sheet(scale), out)
    if tiles is not None:
        sheets.save_tiles(
            completions.images.reshape(-1, *completions.kept.shape[1:]), tiles
        )
    click.echo(f"{len(pictures)} pictures completed: {out}")


@main.command()
@click.argument("run_path", metavar="[RUN]", type=click.Path(), required=False)
@click.option("--out", default="new.png", help="The sheet to write.")
@click.option("--count", type=click.IntRange(1), default=16)
@sampling
@served
def generate(
    run_path: str | None,
    server: str | None,
    model: str,
    out: str,
    count: int,
    temperatures: tuple[float, ...],
    scale: int | None,
    tiles: str | None,
    **arguments: Any,
) -> None:
    """Paint new pictures, in a grid; the k-th has the seed SEED + k.

    Several temperatures give one row of pictures each.

    \b
    Examples:
      pixace-tf generate saved_models/animals
      pixace-tf generate saved_models/animals --count 8 --temperature 0.9,1.0
      pixace-tf generate --server grpc://localhost:8500 --model animals
    """
    from pixace_tf import console
    from pixace_tf.painting import sheets

    sheets.check_picture_path(out)
    painter, source = _open_painter(run_path, server, model)
    with console.ProgressBar("Painting") as bar:
        painted = painter.generate(
            source,
            count,
            temperatures=temperatures,
            progress=bar.count,
            **arguments,
        )
    sheet = (
        sheets.grid(painted[0], scale)
        if len(temperatures) == 1
        else sheets.contact_sheet(
            [
                [sheets.Tile(pixels, f"T {temperature:g}") for pixels in row]
                for temperature, row in zip(temperatures, painted, strict=True)
            ],
            scale=scale,
        )
    )
    painted = painted.reshape(-1, *painted.shape[2:])
    sheets.save_picture(sheet, out)
    if tiles is not None:
        sheets.save_tiles(painted, tiles)
    click.echo(f"{len(painted)} new pictures: {out}")


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
@_needs_tensorflow
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
    from pixace_tf import console
    from pixace_tf.data import sources
    from pixace_tf.evaluation.evidence import gather
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
    evidence = gather(
        run, pictures.images[chosen], [pictures.labels[i] for i in chosen]
    )
    command = ["pixace-tf", "evaluate", run_path, source]
    command += ["--validation-only"] if validation_only else []
    command += ["--report", report] if report else []
    command += ["--samples", str(samples)] if samples else []
    command += ["--features", features] if features else []
    measured = measure(evidence, len(pictures.skipped), shlex.join(command))
    figures = measured.figures
    if report is not None:
        built = build_report(evidence, measured, samples or 128, network)
        figures = built.figures
        page = write_report(built, report)
    if as_json:
        click.echo(json.dumps(figures))
        return
    click.echo(summary(figures))
    if report is not None:
        click.echo(f"Look at {page}")


@main.command()
@click.argument("run_path", metavar="RUN", type=click.Path())
@click.option(
    "--keep",
    type=click.IntRange(1),
    help="Versions to keep, the new one included.  [default: all]",
)
@_needs_tensorflow
def export(run_path: str, keep: int | None) -> None:
    """Write the next version of RUN for TensorFlow Serving, and a model card.

    The version is a SavedModel in a numbered folder of the run; a stock
    TensorFlow Serving takes it up within a second, without this package.

    \b
    Examples:
      pixace-tf export saved_models/animals
      MODEL=animals docker compose up serve
      pixace-tf complete --server http://localhost:8501 --model animals cat.jpg
    """
    from pixace_tf.runs.run_folder import load_run
    from pixace_tf.serving.export import export as run_export

    run_export(load_run(run_path), keep, click.echo)


@main.command()
@click.argument("run_path", metavar="[RUN]", type=click.Path(), required=False)
@served
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen at; 0.0.0.0 lets in everyone who can reach you.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    help="0 takes a free one.",
)
def app(
    run_path: str | None, server: str | None, model: str, host: str, port: int
) -> None:
    """Open a web page to play with RUN: finish pictures, paint new ones.

    Needs `pip install 'pixace-tf[app]'`. Works without internet.

    \b
    Examples:
      pixace-tf app saved_models/animals
      pixace-tf app --server grpc://localhost:8500 --model animals
    """
    if importlib.util.find_spec("gradio") is None:
        raise click.UsageError("The page needs: pip install 'pixace-tf[app]'")
    painter, source = _open_painter(run_path, server, model)
    from pixace_tf import app as page

    title = os.path.basename(os.path.abspath(run_path)) if run_path else model
    examples = painter.examples(source) if run_path else ()
    studio = page.Studio(painter, source)
    address = page.launch(page.build(studio, title, examples), host, port)
    click.echo(f"Open {address} in a browser; Ctrl-C ends it.")
    while True:
        time.sleep(3600)


@main.command()
@click.argument("source", metavar="IMAGES")
@click.option("--name", help="Name of the sweep.  [default: that of IMAGES]")
@click.option(
    "--sweeps-dir", default="sweeps", help="Folder that holds the sweeps."
)
@click.option(
    "--bit-widths",
    type=BitWidths(),
    multiple=True,
    help="Bits per channel to try; give it several times.  [default: from "
    "4,3,4 to 5,5,5]",
)
@click.option(
    "--color-space",
    multiple=True,
    default=["hsv"],
    type=click.Choice(["hsv", "rgb"]),
    help="What the bits are of; may be given twice.",
)
@click.option(
    "--image-size",
    multiple=True,
    type=ImageSize(),
    default=["32"],
    help="Pixels to scale down to; may be given several times.",
)
@click.option(
    "--num-layers",
    multiple=True,
    type=click.IntRange(1),
    help="Depths to try.  [default: the preset's]",
)
@click.option(
    "--hidden-dim",
    multiple=True,
    type=click.IntRange(1),
    help="Widths to try.  [default: the preset's]",
)
@click.option(
    "--learning-rate",
    multiple=True,
    type=click.FloatRange(0, min_open=True),
    help="Peaks to try.  [default: the preset's]",
)
@preset
@decoder
@resize
@click.option("--epochs", type=click.IntRange(1), help="Passes of each trial.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(0, min_open=True),
    help="Time to train each trial, instead of --epochs.  [default: 5]",
)
@batch_size
@flip
@jit_compile
@training_seed
@click.option(
    "--tuner",
    default="grid",
    type=click.Choice(["grid", "random", "hyperband", "bayesian"]),
    help="How keras-tuner chooses: all; at random; short trials, of which the "
    "better ones go on for --epochs (3 or more); or by a Gaussian process.",
)
@click.option(
    "--max-trials",
    type=click.IntRange(1),
    help="At most so many; random and bayesian need it, hyperband has its own "
    "number.",
)
@click.option(
    "--objective",
    default="bits-per-pixel",
    type=click.Choice(["bits-per-pixel", "bits-per-dim"]),
    help="What shall be low. Bits per pixel only compare among palettes that "
    "are good enough, bits per dimension among all.",
)
@click.option(
    "--min-psnr",
    type=click.FloatRange(0),
    default=32.0,
    help="Palettes with less fidelity, in dB, are not trained at all.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=1,
    help="Trials at a time on this machine; 0 for a chief that only leads.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    help="Minutes after which a trial counts as failed.  [default: 10 more "
    "than three times --max-minutes, none with --epochs]",
)
@click.option(
    "--memory-limit",
    type=click.FloatRange(0, min_open=True),
    help="Gigabytes after which a trial counts as failed.  [default: four "
    "fifths of the memory, over the workers]",
)
@max_megapixels
@download
@_needs_tensorflow
def tune(objective: str, **arguments: Any) -> None:
    """Find the bit widths, and sizes, that learn best from IMAGES.

    Palettes that show the pictures poorly are left out before any training.
    Each other trains in a process of its own. The table, a plot, sample
    pictures and the command that trains the winner lie in sweeps/NAME;
    `tensorboard --logdir sweeps/NAME/runs` compares the trials. Interrupt it
    when you like: the same command goes on where it was. Failed trials are not
    tried again.

    On several machines, share the folder and set keras-tuner's variables
    KERASTUNER_TUNER_ID (another on each, with "chief" in it on one of them),
    KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT (those of the chief). The
    limits are the chief's.

    \b
    Examples:
      pixace-tf tune data/animals
      pixace-tf tune photos --bit-widths 5,4,4 --bit-widths 4,4,5 --epochs 20
      pixace-tf tune photos --color-space hsv --color-space rgb --workers 2
      pixace-tf tune photos --tuner random --max-trials 8 --num-layers 2 \\
          --num-layers 4 --learning-rate 1e-3 --learning-rate 3e-3
    """
    from pixace_tf.tuning.sweep import tune as run_tune

    run_tune(**arguments, objective=objective.replace("-", "_"), say=click.echo)


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@max_megapixels
def scan(folder: str, as_json: bool, max_megapixels: float) -> None:
    """Tell which files below DIR will load, and why others will not."""
    from pixace_tf import console
    from pixace_tf.data import image_files

    result = image_files.scan(
        folder, int(max_megapixels * 1e6), console.track("Reading pictures")
    )
    if as_json:
        skipped = [{"path": s.path, "reason": s.reason} for s in result.skipped]
        loads = [picture.path for picture in result.loads]
        click.echo(json.dumps({"loads": loads, "skipped": skipped}))
        return
    for entry in result.skipped:
        click.echo(
            f"skipped {image_files.printable(entry.path)}: {entry.reason}"
        )
    click.echo(f"{len(result.loads)} load, {len(result.skipped)} skipped.")


@main.command()
@click.argument("pictures", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--bit-widths",
    type=BitWidths(),
    multiple=True,
    default=["5,4,4", "4,3,3", "3,2,2"],
    help="A column for each.",
)
@click.option("--color-space", default="hsv", type=click.Choice(["hsv", "rgb"]))
@click.option("--image-size", type=ImageSize(), default="64")
@click.option("--out", default="palette.png", help="The sheet to write.")
@scale
@_needs_tensorflow
def palette(
    pictures: tuple[str, ...],
    bit_widths: tuple[tuple[int, int, int], ...],
    color_space: str,
    image_size: tuple[int, int],
    out: str,
    scale: int | None,
) -> None:
    """Show what bit widths do to each IMAGE, with PSNR and colors used.

    \b
    Example:
      pixace-tf palette cat.jpg --bit-widths 5,4,4 --bit-widths 3,2,2
    """
    from pixace_tf.data.tokenizer import PixelTokenizer
    from pixace_tf.painting import local, sheets

    sheets.check_picture_path(out)
    palettes = [
        PixelTokenizer(image_size, widths, color_space) for widths in bit_widths
    ]
    sheet = local.palette_sheet(pictures, palettes, scale)
    sheets.save_picture(sheet, out)
    click.echo(
        f"{len(pictures)} pictures under {len(palettes)} palettes: {out}"
    )


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--count", type=click.IntRange(1), default=1600)
@click.option("--seed", type=click.IntRange(0), default=0)
def draw(folder: str, count: int, seed: int) -> None:
    """Draw labelled cartoon animal faces into DIR: pictures to learn from.

    \b
    Example:
      pixace-tf draw data/animals --count 1600 --seed 0
    """
    from pixace_tf import console
    from pixace_tf.data import cartoons

    paths = cartoons.draw_folder(folder, count, seed, console.track("Drawing"))
    click.echo(f"{len(paths)} pictures: {folder}")


@main.command()
@click.option(
    "--dir",
    "folder",
    default="demo",
    type=click.Path(),
    help="Where data/, saved_models/ and the sheets go.",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(0, min_open=True),
    default=7.0,
    help="Time to train.",
)
@click.option("--count", type=click.IntRange(16), default=1600)
@_needs_tensorflow
def demo(folder: str, max_minutes: float, count: int) -> None:
    """Draw pictures, train on them, complete and generate: 10 minutes."""
    from pixace_tf.demo import run_demo

    run_demo(folder, max_minutes, count, click.echo)


if __name__ == "__main__":
    main()

"""Commands that train: one model, a sweep of many, or the demo."""

import shlex
from typing import Any

import click

from pixace_tf.cli.group import main, needs_tensorflow
from pixace_tf.cli.options import (
    BitWidths,
    ImageSize,
    training_option,
    training_options,
)


@main.command()
@click.argument("source", metavar="IMAGES")
@click.option("--name", help="Name of the run.  [default: that of IMAGES]")
@click.option(
    "--runs-dir", default="saved_models", help="Folder that holds the runs."
)
@training_options()
@needs_tensorflow
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
    path = shlex.quote(run.path)
    click.echo(f"Now try: pixace-tf generate {path} --out new.png")


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
@training_options("preset", "decoder", "resize")
@training_option("epochs", help="Passes of each trial.")
@training_option(
    "max_minutes",
    help="Time to train each trial, instead of --epochs.  [default: 5]",
)
@training_options("batch_size", "flip", "jit_compile", "seed")
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
@training_options("max_megapixels", "download")
@needs_tensorflow
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
@needs_tensorflow
def demo(folder: str, max_minutes: float, count: int) -> None:
    """Draw pictures, train on them, complete and generate: 10 minutes."""
    from pixace_tf.demo import run_demo

    run_demo(folder, max_minutes, count, click.echo)

"""Commands that train: one model, a sweep, or the demo."""

import os
import shlex

import click

from pixace_tf.cli.group import main, needs_tensorflow, say
from pixace_tf.cli.options import handing_over, option_of, options_of
from pixace_tf.training.training_arguments import TrainingArguments
from pixace_tf.tuning.sweep_arguments import SweepArguments


@main.command()
@click.argument("source", metavar="IMAGES")
@click.option("--name", help="Name of the run.  [default: that of IMAGES]")
@click.option(
    "--runs-dir", default="saved_models", help="Folder that holds the runs."
)
@click.option(
    "--from",
    "start_from",
    metavar="RUN",
    type=click.Path(),
    help="Start with the weights, the image size, the colors and the model "
    "size of another run or of a model in the box, if there are few images or "
    "few minutes.",
)
@options_of(TrainingArguments)
@handing_over(arguments=TrainingArguments)
@needs_tensorflow
def fit(
    source: str,
    name: str | None,
    runs_dir: str,
    start_from: str | None,
    arguments: TrainingArguments,
) -> None:
    """Train a model on IMAGES: a folder, or tfds:NAME[/CONFIG][:SPLIT].

    The folder may be flat or have class folders, with or without train/ and
    val/, or come from `tokenize`, for more images than fit into memory. The run
    is written to saved_models/NAME. You can interrupt it at any time: the same
    command goes on where it stopped, and more --epochs or --max-minutes extend
    a finished run.

    \b
    Examples:
      pixace-tf fit data/animals
      pixace-tf fit photos --image-size 24x32 --max-minutes 60 --name photos-24
      pixace-tf fit photos --preset base --epochs 100      # with a GPU
      pixace-tf fit my-cats --from saved_models/animals --max-minutes 2
      pixace-tf fit sketches --pairs sprites     # then: complete RUN sketch.png
    """
    from pixace_tf.training.fit import fit as run_fit

    run = run_fit(
        source,
        arguments,
        start_from=start_from,
        name=name,
        runs_dir=runs_dir,
        say=say,
    )
    if os.path.exists(run.path):  # Only the first host keeps it.
        _prepare(run.path)
        path = shlex.quote(run.path)
        if run.are_pairs:
            say(f"Now try: pixace-tf complete {path} IMAGE")
        else:
            say(f"Now try: pixace-tf generate {path} --out new.png")


def _prepare(path: str) -> None:
    """Make the painter file of a run, if LiteRT can paint with it."""
    from pixace_tf.runs import painter

    if not painter.is_supported(path) or painter.find(path):
        return
    try:
        painter.make(path, say=say)
    except painter.ConversionError as error:
        say(str(error))


@main.command()
@click.argument("source", metavar="IMAGES")
@click.option("--name", help="Name of the sweep.  [default: that of IMAGES]")
@click.option(
    "--sweeps-dir", default="sweeps", help="Folder that holds the sweeps."
)
@options_of(SweepArguments, "bit_widths", "color_space", "image_size")
@options_of(SweepArguments, "num_layers", "hidden_dim", "learning_rate")
@options_of(TrainingArguments, "preset", "decoder", "resize")
@option_of(
    TrainingArguments, "epochs", help="Passes of each trial over the images."
)
@option_of(
    TrainingArguments,
    "max_minutes",
    help="Minutes to train each trial, instead of --epochs.  [default: 5]",
)
@options_of(TrainingArguments, "batch_size", "flip", "jit_compile", "seed")
@options_of(SweepArguments, "tuner", "max_trials", "objective", "min_psnr")
@options_of(SweepArguments, "workers", "time_limit", "memory_limit")
@options_of(TrainingArguments, "max_megapixels", "download")
@handing_over(arguments=SweepArguments, training=TrainingArguments)
@needs_tensorflow
def tune(
    source: str,
    name: str | None,
    sweeps_dir: str,
    arguments: SweepArguments,
    training: TrainingArguments,
) -> None:
    """Find the bit widths, and sizes, that learn best from IMAGES.

    Palettes that show the images poorly are left out before any training. Each
    remaining palette is trained in its own process. The table, a plot, sample
    images and the command that trains the winner are written to sweeps/NAME;
    `tensorboard --logdir sweeps/NAME/runs` compares the trials. You can
    interrupt it at any time: the same command continues the sweep. Failed
    trials are not tried again.

    To use several machines, start the same command on each of them, with a
    shared folder as --sweeps-dir. A machine can join or leave at any time.

    \b
    Examples:
      pixace-tf tune data/animals
      pixace-tf tune photos --bit-widths 5,4,4 --bit-widths 4,4,5 --epochs 20
      pixace-tf tune photos --color-space hsv --color-space rgb --workers 2
      pixace-tf tune photos --tuner random --max-trials 8 --num-layers 2 \\
          --num-layers 4 --learning-rate 1e-3 --learning-rate 3e-3
    """
    from pixace_tf.tuning.sweep import tune as run_tune

    run_tune(
        source, arguments, training, name=name, sweeps_dir=sweeps_dir, say=say
    )


@main.command()
@click.option(
    "--dir",
    "folder",
    default="demo",
    type=click.Path(),
    help="Folder for data/, saved_models/ and the sheets.",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(0, min_open=True),
    default=7.0,
    help="Minutes to train.",
)
@click.option(
    "--count",
    type=click.IntRange(16),
    default=6000,
    help="Pictures to draw and train on.",
)
@needs_tensorflow
def demo(folder: str, max_minutes: float, count: int) -> None:
    """Draw pictures, train on them, complete and paint some, in 8 minutes."""
    from pixace_tf.demo import IMAGE_SIZE, run_demo

    arguments = TrainingArguments(
        image_size=IMAGE_SIZE, max_minutes=max_minutes
    )
    run_demo(folder, arguments, count, say)

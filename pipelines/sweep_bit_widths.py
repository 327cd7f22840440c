"""Where are 13 bits best spent? A sweep over HSV and RGB palettes.

Trains each palette for the same time and writes the table, the plot and the
sample pictures.

Command:  python pipelines/sweep_bit_widths.py EMOJI --minutes 3 \
              --out pipelines/results/bit-widths-emoji
Hardware: 2 CPU cores
Time:     about eight times the minutes
Expected: see pipelines/results/
"""

import os
import shutil

import click
from origin import origin

from pixace_tf.storage import write_atomic
from pixace_tf.training.training_arguments import TrainingArguments
from pixace_tf.tuning import results
from pixace_tf.tuning.space import load_sweep
from pixace_tf.tuning.sweep import tune
from pixace_tf.tuning.sweep_arguments import SweepArguments

# Three ways to spend 13 bits.
BIT_WIDTHS = ((5, 4, 4), (4, 5, 4), (4, 4, 5))


@click.command()
@click.argument("folder")
@click.option("--minutes", default=3.0)
@click.option("--image-size", default=16)
@click.option("--sweeps-dir", default="sweeps")
@click.option("--out", required=True, help="Beginning of the files' names.")
def main(
    folder: str, minutes: float, image_size: int, sweeps_dir: str, out: str
) -> None:
    """Sweep the palettes on FOLDER."""
    swept = tune(
        folder,
        SweepArguments(
            bit_widths=BIT_WIDTHS,
            color_space=("hsv", "rgb"),
            image_size=((image_size, image_size),),
            min_psnr=0,
        ),
        TrainingArguments(max_minutes=minutes),
        sweeps_dir=sweeps_dir,
        say=click.echo,
    )
    sweep = load_sweep(swept)
    trials = results.read_trials(swept, sweep)
    name = os.path.basename(os.path.normpath(folder))
    text = "\n".join(
        [
            f"# Bit widths on {name}, {image_size}x{image_size}, {minutes:g} "
            "minutes each",
            "",
            results.table(sweep, trials),
            *origin("keras-tuner"),
        ]
    )
    write_atomic(f"{out}.md", f"{text}\n".encode())
    for file in (results.PARETO_FILE, results.STRIPS_FILE):
        kind = os.path.splitext(file)[0]
        shutil.copyfile(os.path.join(swept, file), f"{out}-{kind}.png")


if __name__ == "__main__":
    main()

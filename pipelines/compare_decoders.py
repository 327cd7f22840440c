"""Which decoder learns most in equal wall time?

Trains every decoder for every budget, each in a process of its own, and writes
a table of validation bits per pixel.

Command:  python pipelines/compare_decoders.py FOLDER --image-size 32 \
              --minutes 1,5,20,60 --out pipelines/results/decoders-NAME.md
Hardware: 2 CPU cores
Time:     about 2.2 times the sum of the minutes
Expected: multiscale ahead at every budget; see pipelines/results/
"""

import json
import os
import subprocess
import sys
import tempfile

import click
from origin import origin

from pixace_tf.model.presets import PRESETS
from pixace_tf.storage import write_atomic


@click.command()
@click.argument("folder")
@click.option("--image-size", default="32")
@click.option("--minutes", default="1,5,20,60")
@click.option("--preset", default="nano")
@click.option("--out", required=True)
def main(
    folder: str, image_size: str, minutes: str, preset: str, out: str
) -> None:
    """Train each decoder for each number of minutes on FOLDER."""
    budgets = minutes.split(",")
    rows = []
    for decoder in PRESETS[preset]:
        cells = [
            f"{train(folder, image_size, preset, decoder, budget):.3f}"
            for budget in budgets
        ]
        rows.append(f"| {decoder} | {' | '.join(cells)} |")
    name = os.path.basename(os.path.normpath(folder))
    head = " | ".join(f"{budget} min" for budget in budgets)
    lines = [
        f"# Decoders on {name} at {image_size}, preset {preset}",
        "",
        "Best validation bits per pixel after equal wall time, compilation",
        "included.",
        "",
        f"| decoder | {head} |",
        f"|---|{'---|' * len(budgets)}",
        *rows,
        "",
        *origin(),
    ]
    write_atomic(out, ("\n".join(lines) + "\n").encode())
    click.echo("\n".join(lines))


def train(
    folder: str, image_size: str, preset: str, decoder: str, minutes: str
) -> float:
    """Train in a fresh process; return the best validation bits per pixel."""
    with tempfile.TemporaryDirectory() as runs_dir:
        command = [
            *(sys.executable, "-m", "pixace_tf", "fit", folder),
            *("--runs-dir", runs_dir, "--name", "run"),
            *("--image-size", image_size, "--preset", preset),
            *("--decoder", decoder, "--max-minutes", minutes),
            *("--recipe", "plain"),
        ]
        subprocess.run(command, check=True)
        with open(os.path.join(runs_dir, "run", "history.json")) as file:
            history = json.load(file)
    return min(float(entry["val_bits_per_pixel"]) for entry in history)


if __name__ == "__main__":
    main()

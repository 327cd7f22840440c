"""A demonstration of the whole program on pictures that it draws."""

import glob
import os

from pixace_tf import console
from pixace_tf.data import cartoons
from pixace_tf.painting import local, sheets
from pixace_tf.training.fit import fit
from pixace_tf.training.training_arguments import TrainingArguments

# The seed of the training pictures is 0.
HELD_OUT_SEED = 1
# Small enough for several epochs in a few minutes.
IMAGE_SIZE = (24, 24)


def run_demo(
    folder: str,
    arguments: TrainingArguments,
    count: int,
    say: console.Say = print,
) -> None:
    """Draw, fit, complete and generate; report the paths of the sheets.

    `folder` gets `data/`, `saved_models/` and the sheets; `count` pictures are
    drawn, unless an earlier demo has drawn them.
    """
    train = os.path.join(folder, "data", "animals")
    held_out = os.path.join(folder, "data", "unseen-animals")
    _draw(train, count, 0)
    _draw(held_out, len(cartoons.SPECIES), HELD_OUT_SEED)
    runs_dir = os.path.join(folder, "saved_models")
    run = fit(train, arguments, runs_dir=runs_dir, say=say)
    unseen = sorted(glob.glob(os.path.join(glob.escape(held_out), "*", "*")))
    with console.ProgressBar("Completing") as bar:
        completions = local.complete(
            run, unseen, samples=4, temperatures=(0.9,), progress=bar.count
        )
    with console.ProgressBar("Painting") as bar:
        (painted,) = local.generate(
            run, 24, temperatures=(0.9,), progress=bar.count
        )
    images = {"completed": completions.sheet(), "new": sheets.grid(painted)}
    for name, sheet in images.items():
        path = os.path.join(folder, f"{name}.png")
        sheets.save_image(sheet, path)
        say(f"Look at {path}")


def _draw(folder: str, count: int, seed: int) -> None:
    if not os.path.isdir(folder):
        with console.ProgressBar("Drawing") as bar:
            cartoons.draw_folder(folder, count, seed, bar.count)

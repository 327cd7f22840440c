"""The whole program once, on pictures drawn on the spot."""

import os
from collections.abc import Callable

from pixace_tf import console
from pixace_tf.data import cartoons
from pixace_tf.painting import local, sheets
from pixace_tf.training.fit import fit
from pixace_tf.training.training_arguments import TrainingArguments

# The training pictures have the seed 0.
HELD_OUT_SEED = 1
# Small enough to see every picture several times in a few minutes.
IMAGE_SIZE = (24, 24)


def run_demo(
    folder: str,
    arguments: TrainingArguments,
    count: int,
    say: Callable[[str], None] = print,
) -> None:
    """Draw, fit, complete and generate; report where the sheets lie.

    Args:
        folder: Gets `data/`, `saved_models/` and the sheets.
        arguments: The arguments of `fit`.
        count: Pictures to draw; the pictures of an earlier demo are used again.
        say: Takes each line of the report.
    """
    train, held_out = (
        os.path.join(folder, "data", name)
        for name in ("animals", "unseen-animals")
    )
    for path, number, seed in (
        (train, count, 0),
        (held_out, len(cartoons.SPECIES), HELD_OUT_SEED),
    ):
        if not os.path.isdir(path):
            with console.ProgressBar("Drawing") as bar:
                cartoons.draw_folder(path, number, seed, bar.count)
    run = fit(
        train,
        arguments,
        runs_dir=os.path.join(folder, "saved_models"),
        say=say,
    )
    unseen = sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(held_out)
        for name in names
    )
    with console.ProgressBar("Completing") as bar:
        completions = local.complete(
            run,
            unseen,
            samples=4,
            temperatures=(0.9,),
            progress=bar.count,
        )
    with console.ProgressBar("Painting") as bar:
        (painted,) = local.generate(
            run, 24, temperatures=(0.9,), progress=bar.count
        )
    for name, sheet in (
        ("completed.png", completions.sheet()),
        ("new.png", sheets.grid(painted)),
    ):
        path = os.path.join(folder, name)
        sheets.save_image(sheet, path)
        say(f"Look at {path}")

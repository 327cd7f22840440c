"""The whole way on pictures drawn on the spot."""

import os
from collections.abc import Callable
from typing import Any

from pixace_tf import console
from pixace_tf.data import cartoons
from pixace_tf.painting import local, sheets
from pixace_tf.training.fit import fit

# Not among the training pictures: those have the seed 0.
HELD_OUT_SEED = 1
# Small enough to see every picture some times in the time.
IMAGE_SIZE = (24, 24)


def run_demo(
    folder: str,
    max_minutes: float,
    count: int,
    say: Callable[[str], None] = print,
    image_size: tuple[int, int] = IMAGE_SIZE,
    **options: Any,
) -> None:
    """Draw, fit, complete, generate; say where the sheets lie.

    Args:
        folder: Gets `data/`, `saved_models/` and the sheets.
        max_minutes: Time to train.
        count: Pictures to draw; those of an earlier demo are used again.
        say: Takes each line of the report.
        image_size: `(height, width)` in pixels.
        **options: Further arguments of `fit`.
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
        runs_dir=os.path.join(folder, "saved_models"),
        max_minutes=max_minutes,
        say=say,
        image_size=image_size,
        **options,
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

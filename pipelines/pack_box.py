"""Put a trained run into the box: what `pixace-tf` can paint with at once.

The weights are kept in float16, the training pictures not at all; a strip of
new pictures, a sheet of completions and a few validation pictures go along,
none of them picked, and a card.

Command:  python pipelines/pack_box.py saved_models/NAME --card CARD.md
Hardware: any
Time:     a minute
Expected: pixace_tf/box/NAME, at most 10 MB
"""

import json
import os
import pathlib
import shutil

import click
import numpy as np

from pixace_tf import storage
from pixace_tf.evaluation.evidence import evenly_spaced
from pixace_tf.painting import sheets
from pixace_tf.painting.local import LocalPainter
from pixace_tf.painting.request import Request, generation
from pixace_tf.runs import run_config
from pixace_tf.runs.catalog import BOX_DIR
from pixace_tf.runs.run_folder import load_run
from pixace_tf.sampling.likelihood import Scorer

MAX_BYTES = 10e6
NUM_SAMPLES, NUM_EXAMPLES, NUM_SCORED = 12, 6, 1000


@click.command()
@click.argument("run_path", metavar="RUN")
@click.option("--card", required=True, type=click.Path(exists=True))
def main(run_path: str, card: str) -> None:
    """Write the box's copy of RUN; its CARD becomes README.md."""
    name = os.path.basename(os.path.abspath(run_path))
    target = pathlib.Path(BOX_DIR, name)
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads(pathlib.Path(run_path, storage.RUN_FILE).read_text())
    config["arguments"]["source"] = name
    storage.write_json(target / storage.RUN_FILE, config)
    arrays, entry = storage.read_npz(
        os.path.join(run_path, run_config.WEIGHTS_FILE)
    )
    half = {path: a.astype(np.float16) for path, a in arrays.items()}
    storage.write_npz(target / run_config.WEIGHTS_FILE, half, entry)
    shutil.copyfile(card, target / "README.md")
    whole, packed = load_run(run_path), load_run(str(target))
    examples = LocalPainter(whole).examples(NUM_EXAMPLES)
    painter = LocalPainter(packed)
    (new,) = painter.generate(generation(NUM_SAMPLES))
    done = painter.complete(Request(list(examples), samples=4))
    for image, file in (
        (sheets.strip(new), run_config.SAMPLES_FILE),
        (done.sheet(), run_config.COMPLETED_FILE),
        (sheets.strip(examples), run_config.EXAMPLES_FILE),
    ):
        sheets.save_image(image, target / file)
    held_out, _ = storage.read_npz(
        os.path.join(run_path, run_config.TOKENS_FILE)
    )
    token_ids = held_out["validation"].astype(np.int32)
    some = token_ids[evenly_spaced(len(token_ids), NUM_SCORED)]
    before, after = (
        Scorer(run.model).bits(some).mean() for run in (whole, packed)
    )
    entry["val_bits_per_pixel"] = float(after)
    storage.write_json(target / run_config.HISTORY_FILE, [entry])
    click.echo(f"{after:.4f} bits/pixel in float16, {before:.4f} before")
    size = sum(file.stat().st_size for file in target.iterdir())
    click.echo(f"{target}: {size / 1e6:.1f} MB")
    if size > MAX_BYTES:
        raise click.ClickException("That is too large for the box.")


if __name__ == "__main__":
    main()

"""Put a trained run into the box, the models that ship with `pixace-tf`.

The weights are stored in float16, without the training pictures. The script
adds sheets of unpicked pictures: new ones, completions of a few held-out ones,
and the new pictures that come nearest to a training picture. With `--painted`,
it completes new pictures instead, and no sheet shows a picture that was not
painted; `--label` is that of the new pictures. It prints the held-out bits per
pixel for the card.

Command:  python pipelines/pack_box.py saved_models/NAME --card CARD.md
Hardware: any
Time:     5 minutes
Expected: pixace_tf/box/NAME, at most 10 MB
"""

import dataclasses
import json
import os
import pathlib
import shutil

import click
import numpy as np

from pixace_tf import storage
from pixace_tf.data.tokenizer import NATIVE
from pixace_tf.evaluation import baselines
from pixace_tf.evaluation.evidence import evenly_spaced
from pixace_tf.evaluation.nearest import compare_with_training
from pixace_tf.painting import sheets
from pixace_tf.painting.local import LocalPainter
from pixace_tf.painting.request import Request, generation
from pixace_tf.runs import run_config
from pixace_tf.runs.catalog import BOX_DIR
from pixace_tf.runs.run_folder import Run, load_run
from pixace_tf.sampling.likelihood import Scorer

MAX_BYTES = 10e6
NUM_SAMPLES, NUM_EXAMPLES, NUM_SCORED = 12, 6, 1000
NUM_PANEL, NUM_COMPARED = 64, 512
# The counting models need too much memory for more.
NUM_COUNTED = 6000


@click.command()
@click.argument("run_path", metavar="RUN")
@click.option("--card", required=True, type=click.Path(exists=True))
@click.option("--painted", is_flag=True, help="Show painted pictures alone.")
@click.option("--label", help="Label of the new pictures.")
@click.option("--guidance", default=1.0, help="How strongly to follow it.")
@click.option("--symmetric", is_flag=True, help="For the panel alone.")
def main(
    run_path: str,
    card: str,
    painted: bool,
    label: str | None,
    guidance: float,
    symmetric: bool,
) -> None:
    """Write the box's copy of RUN; its CARD becomes README.md."""
    name = os.path.basename(os.path.abspath(run_path))
    target = pathlib.Path(BOX_DIR, name)
    target.mkdir(parents=True, exist_ok=True)
    entry = copy_run(pathlib.Path(run_path), target)
    shutil.copyfile(card, target / "README.md")
    whole, packed = load_run(run_path), load_run(str(target))
    painter = LocalPainter(packed)
    request = generation(NUM_COMPARED, label=label, guidance=guidance)
    (new,) = painter.generate(request)
    (panel,) = painter.generate(
        dataclasses.replace(request, samples=NUM_PANEL, symmetric=symmetric)
    )
    examples = new[NUM_PANEL:][:NUM_EXAMPLES]
    if not painted:
        examples = LocalPainter(whole).examples(NUM_EXAMPLES)
    done = painter.complete(Request(list(examples), samples=4))
    for image, file in (
        (sheets.strip(new[:NUM_SAMPLES]), run_config.SAMPLES_FILE),
        (sheets.grid(panel, scale=2), "panel.png"),
        (done.sheet(), run_config.COMPLETED_FILE),
        (sheets.strip(examples), run_config.EXAMPLES_FILE),
    ):
        sheets.save_image(image, target / file)
    tokens, _ = storage.read_npz(os.path.join(run_path, run_config.TOKENS_FILE))
    held_out = some_of(tokens["validation"], NUM_SCORED)
    before, after = (
        Scorer(run.model).bits(held_out).mean() for run in (whole, packed)
    )
    click.echo(f"{after:.4f} bits/pixel in float16, {before:.4f} before")
    entry["val_bits_per_pixel"] = float(after)
    storage.write_json(target / run_config.HISTORY_FILE, [entry])
    nearest = compare(packed, new, held_out, tokens["train"])
    if not painted:
        storage.write_atomic(target / "nearest.png", nearest)
    size = sum(file.stat().st_size for file in target.iterdir())
    click.echo(f"{target}: {size / 1e6:.1f} MB")
    if size > MAX_BYTES:
        raise click.ClickException("That is too large for the box.")


def copy_run(run: pathlib.Path, target: pathlib.Path) -> dict[str, float]:
    """Copy the model; return the entry of the epoch of its weights."""
    config = json.loads((run / storage.RUN_FILE).read_text())
    config["arguments"]["source"] = target.name
    storage.write_json(target / storage.RUN_FILE, config)
    arrays, entry = storage.read_npz(run / run_config.WEIGHTS_FILE)
    half = {path: a.astype(np.float16) for path, a in arrays.items()}
    storage.write_npz(target / run_config.WEIGHTS_FILE, half, entry)
    return entry


def some_of(token_ids: np.ndarray, count: int) -> np.ndarray:
    """Return some rows, evenly spaced, as int32."""
    return token_ids[evenly_spaced(len(token_ids), count)].astype(np.int32)


def compare(
    run: Run,
    new: np.ndarray,
    held_out: np.ndarray,
    train: np.ndarray,
) -> bytes:
    """Print the bits of other models, and how the new pictures compare.

    Args:
        run: The model.
        new: uint8 `(N, height, width, C)`, pictures that it painted.
        held_out: int32 `(M, T)`, tokens.
        train: integers `(K, T)`, tokens.

    Returns:
        A PNG of the new pictures that come nearest to a training picture.
    """
    tokenizer = run.tokenizer
    colors = tokenizer.detokenize(held_out)
    counts = baselines.count_models(
        some_of(train, NUM_COUNTED),
        held_out,
        tokenizer.image_size,
        tokenizer.palette.num_colors,
    )
    needed = {name: float(bits.mean()) for name, bits in counts.items()}
    needed |= baselines.lossless_bits_per_pixel(colors)
    for name, bits in needed.items():
        click.echo(f"{name}: {bits:.3f} bits/pixel")
    learned = tokenizer.detokenize(train)
    figures, files = compare_with_training(
        new,
        colors,
        learned,
        is_mirrored=run.arguments["flip"],
        is_pixel_art=tokenizer.resize == NATIVE,
    )
    click.echo(json.dumps(figures, default=float))
    return files["nearest"]


if __name__ == "__main__":
    main()

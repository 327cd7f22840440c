"""Drawn animal faces of 64x64 pixels: 4,096 tokens, by hashed attention.

Trains the reformer with LSH attention and paints, which attends exactly; says
what that difference costs on the validation pictures.

Command:  python pipelines/bigger_pictures.py --minutes 40
Hardware: 2 CPU cores
Time:     50 minutes
Expected: 1.00 bits/pixel hashed, 1.05 exact (beside other work, so after less
          training than on an idle machine); pipelines/results/
"""

import click
import numpy as np

from pixace_tf import load_run
from pixace_tf.demo import run_demo
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling.likelihood import Scorer
from pixace_tf.storage import open_npz
from pixace_tf.training.training_arguments import TrainingArguments


@click.command()
@click.option("--dir", "folder", default="bigger-animals")
@click.option("--minutes", default=25.0)
@click.option("--image-size", default=64)
@click.option("--preset", default="nano")
@click.option("--count", default=1528)
def main(
    folder: str, minutes: float, image_size: int, preset: str, count: int
) -> None:
    """Train, paint, and score with hashed and with exact attention."""
    arguments = TrainingArguments(
        max_minutes=minutes,
        image_size=(image_size, image_size),
        preset=preset,
        decoder="reformer",
        num_hashes=2,
    )
    run_demo(folder, arguments, count)
    run = load_run(f"{folder}/saved_models/animals")
    with open_npz(run.file("tokens.npz")) as file:
        held_out = file.read("validation")
    for name, model in (
        ("hashed", run.model),
        ("exact", exact_twin(run.model)),
    ):
        bits = Scorer(model, batch_size=1).bits(held_out)
        click.echo(f"{name} attention: {bits.mean():.4f} bits/pixel")


def exact_twin(model: PixaceCausalLM) -> PixaceCausalLM:
    """Return a model with the same weights and full attention.

    With one bucket and a chunk as long as the sequence, LSH attention is full.
    """
    config = model.get_config()
    config["image_size"] = tuple(config["image_size"])
    config["decoder_config"] = {
        **config["decoder_config"],
        "num_hashes": 1,
        "num_buckets": 1,
        "chunk_length": model.sequence_length,
    }
    twin = PixaceCausalLM(**config)
    for ours, theirs in zip(twin.weights, model.weights, strict=True):
        if not ours.path.endswith("rotations"):
            ours.assign(np.asarray(theirs))
    return twin


if __name__ == "__main__":
    main()

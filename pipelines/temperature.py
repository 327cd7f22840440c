"""Which temperature and filters draw pictures nearest to real ones?

Draws new pictures of a run with each setting and compares them, in the colors
of the palette, with pictures that the run has not seen: by the Fréchet distance
between features of a classifier trained on the labels of the real pictures, and
by eye, on a sheet with a row for each setting.

Command:  python pipelines/temperature.py RUN IMAGES \
              --out pipelines/results/temperature-NAME
Hardware: 2 CPU cores
Time:     1 minute per setting for 1,000 pictures of 24x24, nano
Expected: pipelines/results/temperature-*.md and .png
"""

import os

import click
import keras
import numpy as np
from origin import origin

from pixace_tf import load_run
from pixace_tf.data import token_dataset
from pixace_tf.evaluation import frechet
from pixace_tf.painting import sheets
from pixace_tf.sampling.sampling_config import SamplingConfig
from pixace_tf.storage import write_atomic

SETTINGS: list[dict[str, float]] = [
    *({"temperature": t} for t in (0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1)),
    *({"top_p": p} for p in (0.9, 0.95, 0.98)),
    *({"min_p": p} for p in (0.01, 0.03, 0.1)),
    {"temperature": 0.9, "min_p": 0.01},
]
SHOWN = 10


def features_of(images: np.ndarray, classes: np.ndarray) -> keras.Model:
    """Train a classifier, and return it without its last layer."""
    classifier = frechet.train_classifier(
        images, classes, True, frechet.NUM_STEPS
    )
    return frechet.drop_head(classifier)


@click.command()
@click.argument("path", metavar="RUN")
@click.argument("folder", metavar="IMAGES")
@click.option("--count", default=1000, help="Pictures per setting.")
@click.option("--out", required=True)
def main(path: str, folder: str, count: int, out: str) -> None:
    """Compare pictures of RUN at several settings with unseen IMAGES."""
    run = load_run(path)
    data = token_dataset.load(folder, run.tokenizer)
    # The split of the folder does not matter: the run has seen none of it.
    token_ids = np.concatenate([data.train, data.validation])
    labels = np.concatenate([data.train_labels, data.validation_labels])
    order = np.random.default_rng(0).permutation(len(token_ids))
    images = run.tokenizer.detokenize(token_ids[order])
    network = features_of(images, labels[order])
    first, second = np.array_split(images, 2)
    reference = frechet.extract(network, first)
    floor = frechet.frechet_distance(
        frechet.extract(network, second[:count]), reference
    )
    rows: dict[str, np.ndarray] = {}
    lines = [
        f"# How freely to generate: {os.path.basename(os.path.abspath(path))}",
        "",
        f"Fréchet distance of {count:,} new pictures to {len(first):,} that "
        f"the run has not seen; that of {len(second[:count]):,} other real "
        f"ones is {floor:.3f}.",
        "",
        "| setting | distance |",
        "|---|---:|",
    ]
    for setting in SETTINGS:
        config = SamplingConfig(**setting)
        drawn = run.sampler.generate(np.arange(count), config)
        pictures = run.tokenizer.detokenize(drawn)
        features = frechet.extract(network, pictures)
        distance = frechet.frechet_distance(features, reference)
        name = ", ".join(f"{k} {v:g}" for k, v in setting.items())
        rows[name] = pictures[:SHOWN]
        lines.append(f"| {name} | {distance:.3f} |")
        click.echo(lines[-1])
    lines += ["", *origin()]
    write_atomic(f"{out}.md", ("\n".join(lines) + "\n").encode())
    tiles = [
        [
            sheets.Tile(pixels, "" if index else name)
            for index, pixels in enumerate(pictures)
        ]
        for name, pictures in rows.items()
    ]
    sheets.save_image(sheets.contact_sheet(tiles, scale=3), f"{out}.png")


if __name__ == "__main__":
    main()

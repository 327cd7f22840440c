"""Measure tokenizing and training with ten thousand to two million pictures.

The script draws random pictures of 32x32 pixels into tar files, writes their
token shards, and trains 200 steps from the shards. Each stage runs in its own
process, whose memory is measured. A table shows whether the cost of a picture
and of a step stays flat.

Command:  python pipelines/large_data.py --out pipelines/results/large-data
Hardware: 2 CPU cores, 25 GB of disk
Time:     40 minutes
Expected: pipelines/results/large-data.md
"""

import io
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from typing import Any

import click
import numpy as np
from origin import origin
from PIL import Image

SIZE = 32
IMAGES_OF_A_TAR = 10_000
NUM_STEPS, NUM_READ, BATCH_SIZE = 200, 1000, 4
COUNTS = "10000,100000,1000000,2000000"
COLUMNS = {
    "pictures": "{:,}",
    "tokenizing, pictures/s": "{:,.0f}",
    "tokenizing, resident MB": "{:,.0f}",
    "shards, bytes a picture": "{:,.0f}",
    "seconds for 1,000 steps": "{:.1f}",
    "of these reading": "{:.2f}",
    "training, resident MB": "{:,.0f}",
}


@click.command()
@click.option("--out", required=True, help="Path of the results, no suffix.")
@click.option(
    "--counts",
    default=COUNTS,
    show_default=True,
    help="Multiples of 10,000, or a single number.",
)
@click.option("--scratch", type=click.Path(), help="Folder for the pictures.")
def main(out: str, counts: str, scratch: str | None) -> None:
    """Measure; write a table and its JSON."""
    rows = []
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for count in sorted(map(int, counts.split(","))):
            rows.append(measure(count, pathlib.Path(folder)))
            click.echo(json.dumps(rows[-1]))
    path = pathlib.Path(out)
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        "# Data larger than memory",
        "",
        f"Random pictures of {SIZE}x{SIZE} pixels, in tar files of "
        f"{IMAGES_OF_A_TAR:,}; steps of {BATCH_SIZE} with `--preset micro`.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---:" * len(COLUMNS) + "|",
        *(
            "| "
            + " | ".join(f.format(row[n]) for n, f in COLUMNS.items())
            + " |"
            for row in rows
        ),
        "",
        *origin(),
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def measure(count: int, folder: pathlib.Path) -> dict[str, Any]:
    """Return a row of the table."""
    draw_tars(count, folder / "tars")
    os.sync()
    shards = folder / "shards"
    begin = time.monotonic()
    tokenized = in_process("tokenize", str(folder / "tars"), str(shards))
    seconds = time.monotonic() - begin
    size = sum(file.stat().st_size for file in shards.iterdir())
    trained = in_process("train", str(shards), "")
    shutil.rmtree(shards)
    return {
        "pictures": count,
        "tokenizing, pictures/s": count / seconds,
        "tokenizing, resident MB": tokenized["resident"],
        "shards, bytes a picture": size / count,
        "seconds for 1,000 steps": trained["seconds"],
        "of these reading": trained["reading"],
        "training, resident MB": trained["resident"],
    }


def draw_tars(count: int, folder: pathlib.Path) -> None:
    """Draw pictures: a few random colors each, smoothly mixed.

    Tar files that are there already, of a smaller count, are kept.
    """
    folder.mkdir(exist_ok=True)
    for start in range(0, count, IMAGES_OF_A_TAR):
        path = folder / f"{start:08}.tar"
        if path.exists():
            continue
        rng = np.random.default_rng(start)
        some = min(IMAGES_OF_A_TAR, count - start)
        colors = rng.integers(0, 256, (some, 4, 4, 3), np.uint8)
        with tarfile.open(path, "w") as tar:
            for i, few in enumerate(colors):
                image = Image.fromarray(few).resize((SIZE, SIZE))
                buffer = io.BytesIO()
                image.save(buffer, "PNG", compress_level=1)
                info = tarfile.TarInfo(f"{start + i:08}.png")
                info.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(info, buffer)


def in_process(*arguments: str) -> dict[str, float]:
    """Run one of the functions below in its own process; return its result."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def tokenize(tars: str, shards: str) -> dict[str, float]:
    """Write the shards."""
    from pixace_tf.data import tokenizing
    from pixace_tf.data.tokenizer import PixelTokenizer

    tokenizer = PixelTokenizer((SIZE, SIZE))
    tokenizing.tokenize(f"{tars}/*.tar", shards, tokenizer)
    return {"resident": resident_mb()}


def train(shards: str, _: str) -> dict[str, float]:
    """Time some steps, then read batches without training.

    A thousand batches are read, since the first ones open all shards.
    """
    from pixace_tf.data.palette import Palette
    from pixace_tf.data.token_dataset import ShardedDataset, training_batches
    from pixace_tf.data.token_shards import Shards
    from pixace_tf.model.causal_lm import PixaceCausalLM
    from pixace_tf.model.presets import decoder_config
    from pixace_tf.training.compile import compile_model

    size = SIZE, SIZE
    model = PixaceCausalLM(
        size,
        Palette("hsv", (5, 4, 4)),
        "multiscale",
        decoder_config("micro", "multiscale", SIZE),
    )
    compile_model(model, 1e-3, True)
    rows = ShardedDataset(Shards.open(shards)).rows([])
    batches = training_batches(rows, size, BATCH_SIZE, seed=0)
    reading = timed(lambda batch: None, batches, NUM_READ)
    seconds = timed(
        lambda batch: model.train_on_batch(*batch), batches, NUM_STEPS
    )
    return {"seconds": seconds, "reading": reading, "resident": resident_mb()}


def timed(use: Any, batches: Any, count: int) -> float:
    """Return the seconds that 1,000 batches take, the first one left out."""
    iterator = iter(batches)
    use(next(iterator))
    begin = time.monotonic()
    for _ in range(count):
        use(next(iterator))
    return (time.monotonic() - begin) / count * 1000


def resident_mb() -> float:
    """Return the peak of the resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    functions = {"tokenize": tokenize, "train": train}
    if sys.argv[1:2] and sys.argv[1] in functions:
        print(json.dumps(functions[sys.argv[1]](*sys.argv[2:])))
    else:
        main()

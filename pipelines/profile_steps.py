"""Where the time of a training step and of a drawn pixel goes.

Traces both with TensorFlow's profiler and adds up the kernels that XLA made.
The traces stay in --out, for `tensorboard --logdir`.

Command:  python pipelines/profile_steps.py --decoder transformer --out traces
Hardware: 2 CPU cores
Time:     half a minute
Expected: matrix products take 72% of the kernels' time in training and 48% in
          drawing; 76% and 62% with --decoder multiscale
"""

import collections
import glob
import os
import re
from collections.abc import Callable
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import PRESETS, decoder_config
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.training.compile import compile_model

# Patterns in the names that XLA gives to kernels.
KINDS = {
    "matrix products": r"dot|MatMul|ynn",
    "sums and maxima": r"reduce",
    "other loops": r"fusion|copy|select|concat|wrapped|transpose|sort|pad",
}
SIZE = 32


@click.command()
@click.option("--preset", type=click.Choice(list(PRESETS)), default="nano")
@click.option(
    "--decoder",
    type=click.Choice(list(PRESETS["nano"])),
    default="multiscale",
    show_default=True,
)
@click.option("--batch-size", default=4, show_default=True)
@click.option("--out", required=True, help="Folder for the traces.")
def main(preset: str, decoder: str, batch_size: int, out: str) -> None:
    """Profile a training step, and the second half of one picture."""
    keras.utils.set_random_seed(0)
    model = PixaceCausalLM(
        (SIZE, SIZE),
        "hsv 5,4,4",
        decoder,
        decoder_config(preset, decoder, SIZE),
    )
    compile_model(model, 1e-3, True)
    noise = np.random.default_rng(0).integers(
        0, 256, (batch_size, SIZE, SIZE, 3), dtype=np.uint8
    )
    token_ids = PixelTokenizer((SIZE, SIZE)).tokenize(noise)
    sampler = Sampler(GraphEngine(model))
    half = SIZE * SIZE // 2
    report(
        f"training step, batch {batch_size}",
        lambda: model.train_on_batch(token_ids, token_ids),
        os.path.join(out, "training"),
    )
    report(
        f"second half of one picture, {half} pixels",
        lambda: sampler.complete(token_ids[:1], half, [0]),
        os.path.join(out, "sampling"),
    )


def report(title: str, work: Callable[[], Any], logdir: str) -> None:
    """Trace some work when it is warm; print the time of its kernels."""
    work()
    work()
    with tf.profiler.experimental.Profile(logdir):
        work()
    times = kernel_times(logdir)
    total = sum(times.values())
    click.echo(f"{title}: {total:.1f} ms in kernels, all threads together")
    for kind, pattern in KINDS.items():
        chosen = [t for name, t in times.items() if kind_of(name) == kind]
        click.echo(f"  {sum(chosen) / total:4.0%}  {kind}, by {pattern}")
    for name, elapsed in times.most_common(5):
        click.echo(f"  {elapsed:7.2f} ms  {name}")


def kernel_times(logdir: str) -> collections.Counter[str]:
    """Return the milliseconds of each kernel in the newest trace."""
    pattern = os.path.join(logdir, "**", "*.xplane.pb")
    newest = max(glob.glob(pattern, recursive=True), key=os.path.getmtime)
    space = xplane_pb2.XSpace()
    with open(newest, "rb") as file:
        space.ParseFromString(file.read())
    times: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        names = plane.event_metadata
        for line in plane.lines:
            for event in line.events:
                name = names[event.metadata_id].name
                if kind_of(name):
                    times[name] += event.duration_ps / 1e9
    return times


def kind_of(name: str) -> str | None:
    """Return what a kernel does, or None for what is no kernel of XLA."""
    if not re.fullmatch(r"[a-zA-Z_\-]+[\d_]*(\.\d+)?", name):
        return None
    if re.match(r"Thread|Execut|Eager|TFE|Kernel|tf_|_decode", name):
        return None
    for kind, pattern in KINDS.items():
        if re.search(pattern, name):
            return kind
    return None


if __name__ == "__main__":
    main()

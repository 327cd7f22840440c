"""This program, as a subject of the benchmark."""

import functools
import json
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import timing

from pixace_tf.data import token_dataset
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.model.reformer.branches import (
    CausalSelfAttention,
    LSHSelfAttention,
)
from pixace_tf.sampling import converter
from pixace_tf.sampling.engine import Engine, ModelFacts
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.lite_engine import LiteEngine, open_interpreter
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.training.compile import compile_model
from pixace_tf.training.fit import fit
from pixace_tf.training.schedule import (
    CPU_MICRO_BATCH_PIXELS,
    micro_batch_size,
)
from pixace_tf.training.training_arguments import TrainingArguments


def sample(
    preset: str,
    decoder: str,
    head: str,
    size: int,
    batch_size: int,
    seconds: float,
) -> None:
    """Complete the second half of pictures; pixels per second."""
    sampler = Sampler(_engine(_model(preset, decoder, head, size)))
    half = size * size // 2
    token_ids = _pictures(batch_size, size)
    timing.rates(
        lambda: sampler.complete(token_ids, half, np.arange(batch_size)),
        batch_size * (size * size - half),
        seconds,
    )


def _engine(model: PixaceCausalLM) -> Engine:
    """Return the engine that paints on a CPU."""
    if model.decoder.has_growing_cache:
        return GraphEngine(model)
    content, _ = converter.convert(model)
    return LiteEngine(
        ModelFacts.of(model), functools.partial(open_interpreter, content)
    )


def train(
    preset: str,
    decoder: str,
    head: str,
    size: int,
    batch_size: int,
    seconds: float,
) -> None:
    """Train with `model.fit` as `pixace-tf fit` does; pixels per second."""
    model = _model(preset, decoder, head, size)
    compile_model(model, 1e-3, True)
    rows = token_dataset.MemoryRows(_pictures(4 * batch_size, size))
    batches = token_dataset.training_batches(rows, (size, size), batch_size, 0)
    rounds = _Rounds(batch_size * size * size, seconds)
    model.fit(batches, steps_per_epoch=10**6, callbacks=[rounds], verbose=0)


def learn(
    folder: str,
    runs_dir: str,
    preset: str,
    decoder: str,
    size: int,
    minutes: float,
) -> dict:
    """Train with the defaults; validation bits per pixel against seconds."""
    arguments = TrainingArguments(
        preset=preset,
        decoder=decoder,
        image_size=(size, size),
        max_minutes=minutes,
    )
    run = fit(folder, arguments, name="learned", runs_dir=runs_dir)
    with open(run.file("history.json")) as file:
        history = json.load(file)
    return {
        "curve": [
            [entry["seconds"], entry["val_bits_per_pixel"]]
            for entry in history
            # Some epochs go by without a validation.
            if "val_bits_per_pixel" in entry
        ],
        "parameters": run.model.count_params(),
    }


def train_memory(preset: str, decoder: str, size: int, batch_size: int) -> dict:
    """Train two batches; the peak of the memory, in bytes."""
    model = _model(preset, decoder, "chain", size)
    micro = micro_batch_size(batch_size, size**2, CPU_MICRO_BATCH_PIXELS)
    compile_model(model, 1e-3, True, batch_size // micro)
    token_ids = _pictures(micro, size)
    for _ in range(2 * batch_size // micro):
        model.train_on_batch(token_ids, token_ids)
    return {"peak_bytes": timing.peak_bytes()}


def attend(preset: str, num_hashes: int, length: int, seconds: float) -> None:
    """Run one attention branch both ways on one sequence; tokens per second."""
    keras.utils.set_random_seed(0)
    sizes = decoder_config(preset, "reformer")
    layer = (
        LSHSelfAttention(sizes["num_heads"], num_hashes)
        if num_hashes
        else CausalSelfAttention(sizes["num_heads"])
    )
    x = tf.random.normal((1, length, sizes["hidden_dim"]))
    layer.build(x.shape)

    @tf.function(jit_compile=True)
    def both_ways(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = layer(x)
        return tape.gradient(output, x)

    timing.rates(lambda: both_ways(x).numpy(), length, seconds)


def load_images(
    folder: str, size: int, num_pictures: int, seconds: float
) -> None:
    """Scan a folder and turn it into tokens; pictures per second."""
    tokenizer = PixelTokenizer((size, size))
    timing.rates(
        lambda: token_dataset.load(folder, tokenizer), num_pictures, seconds
    )


class _Rounds(keras.callbacks.Callback):
    """Tells the rate of each round, and waits for the next."""

    def __init__(self, pixels: int, seconds: float) -> None:
        super().__init__()
        self.pixels = pixels  # Pixels of a step.
        self.seconds = seconds
        self.steps = -1  # The first one compiles.
        self.begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        spent = time.perf_counter() - self.begin
        if self.steps == 0:
            answer = {"first_seconds": spent}
        elif spent < self.seconds:
            return
        else:
            answer = {"per_second": self.steps * self.pixels / spent}
        self.model.stop_training = not timing.tell(answer)
        self.steps, self.begin = 0, time.perf_counter()


def _model(preset: str, decoder: str, head: str, size: int) -> PixaceCausalLM:
    keras.utils.set_random_seed(0)
    return PixaceCausalLM(
        (size, size),
        "hsv 5,4,4",
        decoder,
        decoder_config(preset, decoder, size),
        head,
    )


def _pictures(count: int, size: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(
        0, 256, (count, size, size, 3), dtype=np.uint8
    )
    return PixelTokenizer((size, size)).tokenize(noise)


if __name__ == "__main__":
    timing.main(sample, train, learn, train_memory, attend, load_images)

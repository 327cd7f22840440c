"""This program, as a subject of the benchmark."""

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
from pixace_tf.model.reformer import CausalSelfAttention, LSHSelfAttention
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.training.fit import fit
from pixace_tf.training.loop import compile_model
from pixace_tf.training.schedule import micro_batch_size


def sample(
    preset: str,
    decoder: str,
    head: str,
    size: int,
    batch_size: int,
    seconds: float,
) -> dict:
    """Complete the second half of pictures; pixels per second."""
    sampler = Sampler(_model(preset, decoder, head, size))
    half = size * size // 2
    token_ids = _pictures(batch_size, size)
    return timing.rates(
        lambda: sampler.complete(token_ids, half, np.arange(batch_size)),
        batch_size * (size * size - half),
        seconds,
    )


def train(
    preset: str,
    decoder: str,
    head: str,
    size: int,
    batch_size: int,
    seconds: float,
) -> dict:
    """Train with `model.fit` as `pixace-tf fit` does; pixels per second."""
    model = _model(preset, decoder, head, size)
    compile_model(model, 1e-3, True)
    batches = token_dataset.training_batches(
        _pictures(4 * batch_size, size), (size, size), batch_size, 0, True, 0, 0
    )
    ends = _Ends(seconds)
    begin = time.perf_counter()
    model.fit(batches, steps_per_epoch=10**6, callbacks=[ends], verbose=0)
    pixels = batch_size * size * size
    return {
        "first_seconds": ends.times[0] - begin,
        "per_second": [
            pixels / (b - a)
            for a, b in zip(ends.times[:-1], ends.times[1:], strict=True)
        ],
    }


def learn(
    folder: str, runs_dir: str, preset: str, size: int, minutes: float
) -> dict:
    """Train with the defaults; validation bits per pixel against seconds."""
    run = fit(
        folder,
        name="learned",
        runs_dir=runs_dir,
        preset=preset,
        image_size=(size, size),
        max_minutes=minutes,
    )
    with open(run.file("history.json")) as file:
        history = json.load(file)
    return {
        "curve": [
            [entry["seconds"], entry["val_bits_per_pixel"]] for entry in history
        ],
        "parameters": run.model.count_params(),
    }


def train_memory(preset: str, decoder: str, size: int, batch_size: int) -> dict:
    """Train two batches; the peak of the memory, in bytes."""
    model = _model(preset, decoder, "chain", size)
    micro = micro_batch_size(batch_size, size * size)
    compile_model(model, 1e-3, True, batch_size // micro)
    token_ids = _pictures(micro, size)
    for _ in range(2 * batch_size // micro):
        model.train_on_batch(token_ids, token_ids)
    return {"peak_bytes": timing.peak_bytes()}


def attend(preset: str, num_hashes: int, length: int, seconds: float) -> dict:
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

    return timing.rates(lambda: both_ways(x).numpy(), length, seconds)


def load_images(
    folder: str, size: int, num_pictures: int, seconds: float
) -> dict:
    """Scan a folder and turn it into tokens; pictures per second."""
    tokenizer = PixelTokenizer((size, size))
    return timing.rates(
        lambda: token_dataset.load(folder, tokenizer), num_pictures, seconds
    )


class _Ends(keras.callbacks.Callback):
    """Notes when batches end, and stops after some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.times.append(time.perf_counter())
        steps = len(self.times) - 1
        if steps >= 3 and self.times[-1] - self.times[0] > self.seconds:
            self.model.stop_training = True


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
    return PixelTokenizer((size, size)).tokenize(noise).numpy()


if __name__ == "__main__":
    timing.main(sample, train, learn, train_memory, attend, load_images)

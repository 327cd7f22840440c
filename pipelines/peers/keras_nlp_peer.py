"""Stock keras_nlp layers and sampler over the weights of this program.

The same model with the packed head, since the sampler wants one softmax, and
stock `TransformerDecoder` layers with the same weights.
"""

from typing import Any

import keras
import keras_nlp
import numpy as np
import tensorflow as tf
import timing
from keras import ops

from pixace_tf.causal_lm import PixaceCausalLM
from pixace_tf.pixel_inputs import NEIGHBORS, neighbor_tokens
from pixace_tf.presets import decoder_config
from pixace_tf.training import compile_model


def sample(preset: str, size: int, batch_size: int, seconds: float) -> dict:
    """Sample behind the first half of pictures; pixels per second.

    As many pixels as fit into the seconds are drawn; each costs the same,
    since a step attends to the whole cache.
    """
    model, layers = _models(preset, size)
    length, half = size * size, size * size // 2
    heads = model.decoder.stack.num_heads
    width = model.decoder.stack.hidden_dim
    sampler = keras_nlp.samplers.RandomSampler()

    def next_logits(prompt: Any, cache: Any, index: Any) -> Any:
        around = neighbor_tokens(
            prompt, index, (size, size), model.start_token_id
        )
        features = len(NEIGHBORS) * model.embed.embedding_dim
        x = ops.reshape(model.embed(around), (-1, 1, features))
        x = model.decoder.project(x) + model.decoder.positions.at(index)
        filled = []
        for i, layer in enumerate(layers):
            x, layer_cache = layer(
                x,
                self_attention_cache=cache[:, i],
                self_attention_cache_update_index=index,
            )
            filled.append(layer_cache)
        return model.head(x, None)[:, 0], x, ops.stack(filled, axis=1)

    @tf.function
    def draw(
        prompt: tf.Tensor, cache: tf.Tensor, begin: tf.Tensor
    ) -> tf.Tensor:
        return sampler(next_logits, prompt, cache, begin)

    shape = (batch_size, len(layers), 2, length, heads, width // heads)
    cache = tf.random.normal(shape)

    def work(steps: int) -> None:
        prompt = tf.zeros((batch_size, length), tf.int32)
        draw(prompt, cache, tf.constant(length - steps)).numpy()

    return timing.some_rates(work, length - half, batch_size, seconds)


def train_memory(
    preset: str, size: int, batch_size: int, precision: str
) -> dict:
    """Train three steps with stock layers; the peak of the memory."""
    keras.config.set_dtype_policy(precision)
    model, layers = _models(preset, size, dtype=precision)
    model.decoder.stack.blocks = layers
    compile_model(model, 1e-3, True)
    token_ids = np.zeros((batch_size, size * size), np.int32)
    for _ in range(3):
        model.train_on_batch(token_ids, token_ids)
    return {"peak_bytes": timing.peak_bytes()}


def _models(preset: str, size: int, **options: Any) -> tuple[Any, list[Any]]:
    keras.utils.set_random_seed(0)
    model = PixaceCausalLM(
        (size, size),
        (5, 4, 4),
        "hsv",
        "transformer",
        decoder_config(preset, "transformer"),
        "packed",
        **options,
    )
    sizes = decoder_config(preset, "transformer")
    layers = []
    for block in model.decoder.stack.blocks:
        layer = keras_nlp.layers.TransformerDecoder(
            sizes["intermediate_dim"],
            sizes["num_heads"],
            activation="gelu",
            normalize_first=True,
            decoder_sequence_shape=(None, None, sizes["hidden_dim"]),
            **options,
        )
        layer.set_weights(block.get_weights())
        layers.append(layer)
    return model, layers


if __name__ == "__main__":
    timing.main(sample, train_memory)

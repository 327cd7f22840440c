"""Stock keras_hub layers and sampler in the place of ours.

The model of this program with stock `TransformerDecoder` layers, which have
the same weights, and with the packed head, since the sampler wants one
softmax.
"""

from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf
import timing
from keras import ops

from pixace_tf.model import transformer_stack
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.pixel_inputs import NEIGHBORS, neighbor_tokens
from pixace_tf.model.presets import decoder_config
from pixace_tf.training.compile import compile_model


def sample(
    preset: str, size: int, batch_size: int, jit_compile: bool, seconds: float
) -> None:
    """Sample behind the first half of pictures; pixels per second.

    As many pixels as fit into the seconds are drawn; each costs the same,
    since a step attends to the whole cache.
    """
    model = _model(preset, size)
    length, half = size * size, size * size // 2
    stack = model.decoder.stack
    sampler = keras_hub.samplers.RandomSampler()

    def next_logits(prompt: Any, cache: Any, index: Any) -> Any:
        around = neighbor_tokens(
            prompt, index, (size, size), model.palette.start_token_id
        )
        features = len(NEIGHBORS) * model.embed.embedding_dim
        x = ops.reshape(model.embed(around), (-1, 1, features))
        x = model.decoder.project_neighbors(x) + model.decoder.positions.at(
            index
        )
        filled = []
        for i, layer in enumerate(stack.blocks):
            x, layer_cache = layer(
                x,
                self_attention_cache=cache[:, i],
                self_attention_cache_update_index=index,
            )
            filled.append(layer_cache)
        return model.head(x, None)[:, 0], x, ops.stack(filled, axis=1)

    @tf.function(jit_compile=jit_compile)
    def draw(
        prompt: tf.Tensor, cache: tf.Tensor, begin: tf.Tensor
    ) -> tf.Tensor:
        return sampler(next_logits, prompt, cache, begin)

    head_dim = stack.hidden_dim // stack.num_heads
    cache = tf.random.normal(
        (batch_size, len(stack.blocks), 2, length, stack.num_heads, head_dim)
    )

    def work(steps: int) -> None:
        prompt = tf.zeros((batch_size, length), tf.int32)
        draw(prompt, cache, tf.constant(length - steps)).numpy()

    timing.extrapolated_rates(work, length - half, batch_size, seconds)


def train_memory(preset: str, size: int, batch_size: int) -> dict:
    """Train two steps with stock layers; the peak of the memory."""
    model = _model(preset, size)
    compile_model(model, 1e-3, True)
    token_ids = np.zeros((batch_size, size * size), np.int32)
    for _ in range(2):
        model.train_on_batch(token_ids, token_ids)
    return {"peak_bytes": timing.peak_bytes()}


class _StockLayer(keras_hub.layers.TransformerDecoder):
    """The layer of keras_hub, for the arguments of ours."""

    def __init__(
        self,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            intermediate_dim,
            num_heads,
            dropout,
            activation="gelu",
            normalize_first=True,
            **kwargs,
        )


def _model(preset: str, size: int) -> PixaceCausalLM:
    keras.utils.set_random_seed(0)
    setattr(transformer_stack, "CausalDecoderLayer", _StockLayer)  # noqa: B010
    return PixaceCausalLM(
        (size, size),
        "hsv 5,4,4",
        "transformer",
        decoder_config(preset, "transformer"),
        "packed",
    )


if __name__ == "__main__":
    timing.main(sample, train_memory)

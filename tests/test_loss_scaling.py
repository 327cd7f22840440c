"""Loss scaling while the gradients of a batch are added up in parts."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.training.compile import compile_model
from pixace_tf.training.loss_scaling import CountingLossScaleOptimizer

PARTS = 3
INFINITE = np.array([np.inf, 0], "float32")


def optimizer_of(weight):
    inner = keras.optimizers.SGD(1.0, gradient_accumulation_steps=PARTS)
    optimizer = CountingLossScaleOptimizer(inner, initial_scale=8.0)
    optimizer.build([weight])
    return optimizer


def gradient(value):
    """Return a gradient of the loss times the scale of that time."""
    return np.array([value, 2 * value], "float32")


def test_a_skipped_step_counts_as_a_part_of_its_batch():
    weight = keras.Variable([0.0, 0.0])
    optimizer = optimizer_of(weight)
    apply = tf.function(lambda g: optimizer.apply([g], [weight]))
    apply(gradient(8 * 3.0))
    apply(INFINITE)
    assert float(optimizer.dynamic_scale) == 4
    np.testing.assert_array_equal(weight, [0, 0])
    apply(gradient(4 * 6.0))  # The batch ends here, and not a step later.
    np.testing.assert_array_equal(weight, [-3, -6])
    for _ in range(PARTS):
        apply(gradient(4 * 1.0))
    np.testing.assert_array_equal(weight, [-4, -8])
    assert int(optimizer.iterations) == 2


JAX = """
import keras, numpy as np
from pixace_tf.training.loss_scaling import CountingLossScaleOptimizer
weight = keras.Variable([0.0, 0.0])
inner = keras.optimizers.SGD(1.0, gradient_accumulation_steps=3)
optimizer = CountingLossScaleOptimizer(inner, initial_scale=8.0)
optimizer.build([weight])
state, weights = [v.value for v in optimizer.variables], [weight.value]
for gradient in ([24.0, 48.0], [np.inf, 0.0], [24.0, 48.0]):
    weights, state = optimizer.stateless_apply(
        state, [np.array(gradient, "float32")], weights)
paths = [v.path.split("/")[-1] for v in optimizer.variables]
print(weights[0].tolist(), float(state[paths.index("dynamic_scale")]))
"""


def test_it_counts_on_jax_too():
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-c", JAX],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    # 24 / 8 of the first part and 24 / 4 of the last, over three.
    assert done.stdout.strip() == "[-3.0, -6.0] 4.0", done.stderr


def test_a_skipped_batch_without_parts_is_left_to_keras():
    for parts, kind in ((1, keras.optimizers.LossScaleOptimizer), (2, None)):
        model = PixaceCausalLM(
            (4, 4),
            "hsv 5,4,4",
            "transformer",
            decoder_config("pico", "transformer"),
            dtype="mixed_float16",
        )
        compile_model(model, 1e-3, False, parts)
        expected = kind or CountingLossScaleOptimizer
        assert type(model.optimizer) is expected
        names = [v.path for v in model.optimizer.variables]
        assert "loss_scale_optimizer/dynamic_scale" in names

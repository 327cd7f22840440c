import keras
import numpy as np
import pytest
from conftest import DECODERS, stir

from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.training import sharded_step
from pixace_tf.training.compile import compile_model
from pixace_tf.training.sharded_step import ShardedStep

SIZE = (4, 8)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(sharded_step, "num_cores", lambda: 2)


def build(decoder="multiscale", **options):
    keras.utils.set_random_seed(5)
    return PixaceCausalLM(
        SIZE,
        "hsv 5,4,4",
        decoder,
        decoder_config("pico", decoder, SIZE[1]),
        **options,
    )


def train(jit_compile, parts, batch_size=4):
    """Take four steps; return the losses and the weights."""
    model = build()
    compile_model(model, 1e-3, jit_compile, parts)
    assert isinstance(model.train_step, ShardedStep) == jit_compile
    tokens = np.random.default_rng(1).integers(
        0, 8192, (4 * batch_size, model.sequence_length), dtype=np.int32
    )
    losses = [
        model.train_on_batch(batch, batch) for batch in np.split(tokens, 4)
    ]
    return losses, model.get_weights()


def assert_same_training(*arguments):
    losses, weights = train(True, *arguments)
    expected, expected_weights = train(False, *arguments)
    # `train_on_batch` gives the mean since the beginning.
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[-1] < losses[0]
    for found, wanted in zip(weights, expected_weights, strict=True):
        # Adam divides by the size of a gradient, rounding too.
        np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.soak
def test_shards_update_the_weights_as_the_whole_batch():
    assert_same_training(1, 4)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("parts", "batch_size"),
    [(2, 4), (1, 3)],
    ids=["two shards, accumulated", "one shard"],
)
def test_so_do_accumulated_ones_and_a_single_one(parts, batch_size):
    assert_same_training(parts, batch_size)


def test_a_model_that_cannot_be_sharded_keeps_the_step_of_keras():
    model = build(dtype="mixed_float16")
    compile_model(model, 1e-3, jit_compile=True)
    assert not isinstance(model.train_step, ShardedStep)
    assert model.jit_compile


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("decoder", DECODERS)
def test_each_shard_drops_out_what_it_draws_itself(decoder):
    model = stir(build(decoder, dropout=0.3))
    compile_model(model, 1e-3, jit_compile=True)
    step = model.train_step
    assert isinstance(step, ShardedStep)
    tokens = np.tile(np.arange(model.sequence_length, dtype=np.int32), (2, 1))
    before = [v.numpy() for v in model.non_trainable_variables]
    assert before
    first, second = step._draw(2)
    losses = [
        float(step._gradients(seeds, tokens[:1], tokens[:1])[0])
        for seeds in (first, second, first)
    ]
    assert losses[0] == losses[2] != losses[1]
    for seed, value in zip(model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(seed.numpy(), np.add(value, [0, 2]))
    model.train_on_batch(tokens, tokens)
    for seed, value in zip(model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(seed.numpy(), np.add(value, [0, 4]))

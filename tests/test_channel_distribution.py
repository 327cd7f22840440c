import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from pixace_tf.data.palette import Palette
from pixace_tf.model.channel_distribution import LogisticMixture
from pixace_tf.model.color_head import ChainHead
from pixace_tf.model.presets import default_head, mixture_channels


def random_parameters(rows, scale, seed=0):
    """Weights, means from beyond to beyond the levels, and log scales."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [
            rng.normal(size=(rows, 5)),
            rng.uniform(-1.5, 1.5, (rows, 5)),
            rng.uniform(*scale, (rows, 5)),
        ],
        axis=1,
    ).astype("float32")


def masses(levels, parameters):
    """The oracle: differences of the cumulative function, in long doubles."""
    weights, means, scales = np.split(parameters.astype("g"), 3, axis=1)
    weights = np.exp(weights) / np.exp(weights).sum(axis=1, keepdims=True)
    edges = (2 * np.arange(levels + 1, dtype="g") - 1) / (levels - 1) - 1
    edges[0], edges[-1] = -np.inf, np.inf
    at = (edges[:, None, None] - means) / np.exp(scales)
    below = np.where(at < 0, np.exp(np.minimum(at, 0)), 1)
    below = below / (1 + np.exp(-np.abs(at)))
    return (np.diff(below, axis=0) * weights).sum(axis=-1).T


@pytest.mark.parametrize("levels", [2, 64, 256])
@pytest.mark.parametrize("scale", [(-5.0, -3.0), (-2.0, 3.0)])
def test_a_mixture_gives_each_level_its_share_of_the_mass(levels, scale):
    mixture = LogisticMixture(levels, num_known=0)
    parameters = random_parameters(20, scale)
    chances = np.exp(mixture.logits(parameters).numpy().astype("g"))
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-4)
    expected = masses(levels, parameters)
    is_large = expected > 1e-6
    np.testing.assert_allclose(
        chances[is_large], expected[is_large].astype("f8"), rtol=2e-3
    )


def test_a_level_costs_what_its_logit_says():
    mixture = LogisticMixture(256, num_known=0)
    parameters = random_parameters(256, (-7.0, 0.0))
    level = np.arange(256, dtype=np.int32)
    nats = mixture.nats(level, parameters).numpy()
    logits = mixture.logits(parameters).numpy()
    # Sampling tells no chances below 1e-30 apart.
    expected = np.minimum(nats, -np.log(np.float32(1e-30)))
    np.testing.assert_allclose(-logits[level, level], expected, rtol=1e-4)
    assert nats.max() > expected.max()
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("outputs", [-1e3, -30.0, 0.0, 30.0, 1e3])
def test_gradients_stay_finite(outputs):
    mixture = LogisticMixture(256, num_known=1)
    outputs = tf.fill([3, mixture.num_outputs], outputs)
    level = np.array([0, 100, 255], np.int32)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        known = [tf.constant([-1.0, 0.3, 1.0])]
        nats = mixture.nats(level, mixture.parameters(outputs, known))
    assert np.isfinite(nats).all()
    assert np.isfinite(tape.gradient(nats, outputs)).all()


def test_known_channels_move_the_means():
    mixture = LogisticMixture(64, num_known=2)
    outputs = np.zeros((1, mixture.num_outputs), "float32")
    outputs[0, -2:] = 2.0, -4.0
    known = [tf.constant([0.5]), tf.constant([1.0])]
    means = mixture.parameters(outputs, known).numpy()[0, 5:10]
    np.testing.assert_allclose(means, (2 * 0.5 - 4) / 8)


def test_a_new_mixture_covers_all_levels():
    mixture = LogisticMixture(256, num_known=0)
    bias = mixture.bias_initializer()((mixture.num_outputs,), "float32")
    chances = keras.ops.softmax(mixture.logits(mixture.parameters(bias, [])))
    inner = 256 * chances.numpy()[1:-1]
    assert 0.4 < inner.min() < inner.max() < 2


@pytest.mark.parametrize(
    ("color_space", "widths", "channels"),
    [
        ("hsv", (5, 4, 4), ()),
        ("rgb", (8, 8, 8), (0, 1, 2)),
        ("hsv", (8, 8, 8), (1, 2)),
        ("hsv", (8, 5, 5), ()),
        ("rgb", (5, 6, 5), (1,)),
    ],
)
def test_channels_of_many_levels_are_mixtures_but_no_hue(
    color_space, widths, channels
):
    palette = Palette(color_space, widths)
    assert mixture_channels(palette) == channels
    assert default_head(palette) == ("mixture" if channels else "chain")
    layer = ChainHead(palette, 8, use_mixtures=True)
    is_mixture = {
        c: isinstance(d, LogisticMixture)
        for c, d in zip(layer.order, layer.distributions, strict=True)
    }
    assert is_mixture == {c: c in channels for c in range(3)}


def test_what_is_sampled_has_the_frequencies_of_the_logits():
    """`sample` sees the logits of the channels that it chose before."""
    palette = Palette("rgb", (1, 6, 1))
    layer = ChainHead(palette, 8, use_mixtures=True)
    layer.build((None, None, 8))
    hidden = np.random.default_rng(0).normal(size=(1, 8)).astype("float32")
    for choices in itertools.product((3, 60), (0, 1), (0, 1)):
        seen = []

        def choose(
            logits, draw, known, is_free, may_draw, choices=choices, seen=seen
        ):
            chosen = np.array([choices[draw]], np.int32)
            seen.append(-keras.ops.log_softmax(logits)[0, choices[draw]])
            return chosen, None

        token, _ = layer.sample(hidden, *np.zeros((2, 1), np.int32), choose)
        nats = layer.channel_nats(
            token[:, None], layer(hidden[None], token[:, None])
        )
        np.testing.assert_allclose(nats[0, 0], seen, rtol=1e-4, atol=1e-5)

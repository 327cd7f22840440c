"""Sampling that is limited to some colors."""

import functools

import keras
import numpy as np
import pytest
from conftest import stir

from pixace_tf.data.palette import Palette
from pixace_tf.data.quantization import dequantize
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.sampling import converter
from pixace_tf.sampling.engine import ModelFacts
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.lite_engine import LiteEngine, open_interpreter
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.sampling.sampling_config import SamplingConfig

pytestmark = pytest.mark.slow
HEADS = {
    "chain": "hsv 3,2,2",
    "mixture": "rgb 6,6,6 alpha 1",
    "packed": "hsv 3,2,2 alpha 2",
}


def some_codes(palette, count, seed=0):
    """Random canonical codes and 0, which is transparent or black."""
    palette = Palette.get(palette)
    codes = np.arange(palette.vocabulary_size)
    codes = codes[palette.is_canonical(codes)][1:]
    chosen = np.random.default_rng(seed).choice(codes, count - 1, replace=False)
    return np.append(chosen, 0)


def make_model(head, size=(8, 8), decoder="multiscale"):
    keras.utils.set_random_seed(1)
    return stir(
        PixaceCausalLM(
            size,
            HEADS[head],
            decoder,
            decoder_config("pico", decoder, size[1], 0),
            head=head,
            labels=["cat", "dog"],
            name="pixace",
        ),
        stddev=0.3,
    )


@pytest.fixture(scope="module", params=HEADS)
def model(request):
    return make_model(request.param)


@pytest.fixture(scope="module")
def graph(model):
    return Sampler(GraphEngine(model, jit_compile=False))


@pytest.fixture(scope="module")
def lite(model):
    content, _ = converter.convert(model)
    opened = functools.partial(open_interpreter, content)
    return Sampler(LiteEngine(ModelFacts.of(model), opened))


def test_no_pixel_is_of_another_color(model, graph, lite):
    every = {
        "labels": [0, 1, 2] * 100,
        "guidance": [1.0, 3.0, 100.0] * 100,
        "config": SamplingConfig(
            [0.1, 1.0, 20.0] * 100, [0, 1, 5, 300] * 75, 0.9, 0.1
        ),
    }
    for count in (1, 2, 9):
        codes = some_codes(model.palette, count)
        for options in ({}, every):
            drawn = lite.generate(np.arange(300), only_codes=codes, **options)
            assert np.isin(drawn, codes).all()
        few = {"labels": [0, 1, 2], "guidance": [1.0, 1.5, 3.0]}
        for options in ({}, few):
            drawn = lite.generate(np.arange(3), only_codes=codes, **options)
            expected = graph.generate(np.arange(3), only_codes=codes, **options)
            np.testing.assert_array_equal(drawn, expected)


def test_known_pixels_may_have_other_colors(model, graph, lite):
    codes = some_codes(model.palette, 4)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:6] = True
    mask = mask.reshape(1, -1)
    known = graph.generate([7])
    assert not np.isin(known[~mask], codes).all()
    for sampler in (graph, lite):
        drawn = sampler.fill(
            known, mask, [5], num_particles=8, only_codes=codes
        )
        assert np.isin(drawn[mask], codes).all()
        np.testing.assert_array_equal(drawn[~mask], known[~mask])


def test_all_colors_are_no_limit():
    """With the chain of plain draws, to the bit."""
    model = make_model("chain")
    graph = Sampler(GraphEngine(model, jit_compile=False))
    codes = np.arange(128)
    codes = codes[model.palette.is_canonical(codes)]
    np.testing.assert_array_equal(
        graph.generate([1, 2], only_codes=codes), graph.generate([1, 2])
    )


def test_codes_are_checked(graph):
    for bad in ([-(2**40)], [0.5], [2**33], np.arange(258), "red"):
        with pytest.raises(UserError, match="only_codes"):
            graph.generate([1], only_codes=bad)


def probabilities(model, first):
    """Return the probability of every code at one of two pixels.

    It is that of the first pixel, or of the second one after `first`.
    """
    codes = np.arange(model.palette.vocabulary_size, dtype=np.int32)
    codes = codes[model.palette.is_canonical(codes)]
    pairs = np.zeros((len(codes), 2), np.int32)
    pairs[:, 0] = codes if first is None else first
    pairs[:, 1] = 0 if first is None else codes
    nats = model.pixel_nats(pairs, model(pairs, training=False)).numpy()
    return codes, np.exp(-nats[:, int(first is not None)])


def mass(model, allowed, first):
    """Give each color the probability of those that are nearest to it."""
    codes, probability = probabilities(model, first)
    rgb, own = (
        dequantize(model.palette.unpack(np.asarray(c)), model.palette)
        for c in (codes, allowed)
    )
    distance = ((rgb[:, None] - own) ** 2 * [2, 4, 3]).sum(axis=-1)
    return np.bincount(
        distance.argmin(axis=1), probability, minlength=len(allowed)
    )


def test_a_color_has_the_probability_of_those_near_it():
    model = make_model("chain", (1, 2), "transformer")
    codes = np.sort(some_codes(model.palette, 5, seed=3))
    rows = [mass(model, codes, code) for code in codes]
    expected = mass(model, codes, None)[:, None] * np.array(rows)
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-5)
    sampler = Sampler(GraphEngine(model, rows=1000, jit_compile=False))
    count = 20_000
    drawn = sampler.generate(np.arange(count), only_codes=codes)
    places = np.searchsorted(codes, drawn)
    found = np.bincount(5 * places[:, 0] + places[:, 1], minlength=25)
    expected = expected.ravel() * count
    # Chi-squared with at most 24 degrees of freedom: 51 is 1 in 1,000.
    big = expected >= 5
    statistic = (found - expected)[big] ** 2 / expected[big]
    assert statistic.sum() < 51
    assert big.sum() > 5

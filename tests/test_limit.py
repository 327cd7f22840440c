"""Sampling that is limited to some colors."""

import functools
import itertools

import keras
import numpy as np
import pytest
from conftest import stir

from pixace_tf.data.palette import Palette
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


def masked_probability(model, tokens, codes):
    """The product of the probabilities of the draws, each of them scaled.

    By hand: the levels of a channel that lead to an allowed color share the
    probability of all of them.
    """
    palette = model.palette
    logits = model(np.array([tokens], np.int32), training=False).numpy()[0]
    sizes = [palette.channel_sizes[c] for c in palette.chain_order]
    total = 1.0
    for token, row in zip(tokens, logits, strict=True):
        allowed = list(codes)
        parts = np.split(row, np.cumsum(sizes)[:-1])
        for c, part in zip(palette.chain_order, parts, strict=True):
            levels = {int(palette.unpack(code)[c]) for code in allowed}
            weights = np.exp(part - part.max())
            mass = sum(weights[level] for level in levels)
            own = int(palette.unpack(token)[c])
            if len(levels) > 1:
                total *= weights[own] / mass
            allowed = [k for k in allowed if int(palette.unpack(k)[c]) == own]
    return total


def test_limited_draws_have_the_scaled_probabilities():
    model = make_model("chain", (1, 2), "transformer")
    codes = [int(code) for code in some_codes(model.palette, 5, seed=3)]
    pairs = list(itertools.product(codes, repeat=2))
    expected = np.array([masked_probability(model, p, codes) for p in pairs])
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-5)
    sampler = Sampler(GraphEngine(model, rows=1000, jit_compile=False))
    count = 20_000
    drawn = sampler.generate(np.arange(count), only_codes=codes)
    places = {pair: i for i, pair in enumerate(pairs)}
    found = np.bincount(
        [places[tuple(pair)] for pair in drawn.tolist()], minlength=25
    )
    # Chi-squared with at most 24 degrees of freedom: 51 is 1 in 1,000.
    big = expected * count >= 5
    statistic = ((found - expected * count) ** 2 / (expected * count))[
        big
    ].sum()
    assert statistic < 51
    assert big.sum() > 5

"""Under XLA, as it ships, the sampler draws what the plain graph draws."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import stir

from pixace_tf.data.palette import Palette
from pixace_tf.data.raster_orders import vector_rows
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.painting import masks
from pixace_tf.sampling import draws
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.sampler import Sampler

SIZE = (8, 8)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    sizes = decoder_config("pico", "multiscale")
    orders = vector_rows(SIZE, False, True)
    return stir(
        PixaceCausalLM(
            SIZE,
            "hsv 5,4,4",
            "multiscale",
            sizes,
            orders=orders,
            labels=("cat", "dog"),
        ),
        stddev=0.3,
    )


@pytest.fixture(scope="module")
def plain(model):
    return Sampler(GraphEngine(model, jit_compile=False))


@pytest.fixture(scope="module")
def compiled(model):
    return Sampler(GraphEngine(model, jit_compile=True))


@pytest.fixture(scope="module")
def images(plain):
    return plain.generate([1, 2])


def fill_both(samplers, images, covers, **options):
    hidden = np.stack([masks.cover(c, *SIZE).reshape(-1) for c in covers])
    first, second = (
        sampler.fill(images, hidden, np.arange(len(images)), **options)
        for sampler in samplers
    )
    np.testing.assert_array_equal(first, second)
    return first


def test_completions(plain, compiled, images):
    for lengths in ([0, 5], [33, 64]):
        np.testing.assert_array_equal(
            compiled.complete(images, lengths, [7, 8]),
            plain.complete(images, lengths, [7, 8]),
        )


def test_orders(plain, compiled, images):
    covers = ("top", "left")
    filled = fill_both((plain, compiled), images, covers)
    assert np.all(np.any(filled != images, axis=1))


def test_particles(plain, compiled, images):
    covers = ("center", "center:0.1")
    fill_both((plain, compiled), images, covers, num_particles=4)


def test_guidance(plain, compiled, images):
    covers, options = ("bottom", "right"), {"labels": [1, 2]}
    free = fill_both((plain, compiled), images, covers, **options)
    options["guidance"] = 3
    guided = fill_both((plain, compiled), images, covers, **options)
    assert np.any(guided != free)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_only_possible_choices_are_drawn(jit_compile):
    palette = Palette("hsv", (4, 4, 3))
    codes = np.arange(palette.vocabulary_size, dtype=np.int32)
    is_canonical = np.asarray(palette.is_canonical(codes))
    logits = np.random.default_rng(0).normal(0, 3, len(codes))
    logits = np.where(is_canonical, logits, -np.inf).astype(np.float32)
    in_graph = functools.partial(
        tf.function, autograph=False, jit_compile=jit_compile
    )
    # At all edges between two choices, as this machine adds them up.
    sums = in_graph(tf.cumsum)(np.exp(logits - logits.max())).numpy()
    edges = np.concatenate([np.float32([0]), sums / sums[-1]])
    beside = [np.nextafter(edges, np.float32(end)) for end in (-1, 2)]
    middles = (edges[1:] + edges[:-1]) / 2
    uniform = np.concatenate([edges, *beside, middles])
    uniform = np.unique(np.clip(uniform, 0, np.float32(1 - 2**-24)))
    drawn = in_graph(draws.inverse_transform)(
        np.tile(logits, (len(uniform), 1)), uniform
    ).numpy()
    assert is_canonical[drawn].all()
    # The middle of each choice draws it, if its weight is not too small.
    likely = np.flatnonzero(np.exp(logits - logits.max()) > 1e-5 * sums[-1])
    assert set(likely) <= set(drawn)


def test_sums_that_sink_cross_at_no_impossible_choice(monkeypatch):
    """As under XLA, which adds long rows in several parts."""
    sums = np.array([[0, 1, 1, 1 - 2**-24, 1 - 2**-24, 2]], np.float32)
    monkeypatch.setattr(tf, "cumsum", lambda x, axis: tf.constant(sums))
    logits = np.array([[-np.inf, 0, -np.inf, -np.inf, -np.inf, 0]], np.float32)
    for uniform in np.nextafter(np.float32(0.5), np.float32([0, 0.5, 1])):
        (drawn,) = draws.inverse_transform(logits, np.array([uniform]))
        assert drawn in (1, 5)

"""Pixels of which only some channels are known."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.painting.local import complete
from pixace_tf.painting.request import Request
from pixace_tf.runs import catalog
from pixace_tf.runs.run_folder import load_run
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.sampling.sampling_config import SamplingConfig

SIZE = 2, 3
HIDDEN = np.array([False, True, False, True, False, False])


def build(head, palette):
    """Return a model whose distributions are far from even."""
    config = decoder_config("pico", "multiscale", SIZE[1])
    tf.keras.utils.set_random_seed(0)
    model = PixaceCausalLM(SIZE, palette, "multiscale", config, head)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(size=variable.shape, scale=0.15))
    return model


def image(palette, seed=3):
    """Draw the canonical tokens of one image."""
    rng = np.random.default_rng(seed)
    codes = np.arange(palette.vocabulary_size)
    codes = codes[palette.is_canonical(codes)]
    return rng.choice(codes[1:], SIZE[0] * SIZE[1]).astype(np.int32)


def posterior(model, tokens, given):
    """Return all images that agree with what is known, and their shares."""
    palette = model.palette
    kept = [
        c
        for c, name in zip(
            palette.chain_order, palette.channel_names, strict=True
        )
        if name in given
    ]
    codes = np.arange(palette.vocabulary_size)
    codes = codes[palette.is_canonical(codes)]
    levels = palette.unpack(codes)
    options = []
    for t in np.flatnonzero(HIDDEN):
        asked = palette.unpack(tokens[t])
        agrees = np.all([levels[c] == asked[c] for c in kept], axis=0)
        options.append(codes[agrees])
    every = np.array([*itertools.product(*options)])
    many = np.tile(tokens, (len(every), 1))
    many[:, HIDDEN] = every
    nats = np.asarray(model.pixel_nats(many, model(many)), np.float64)
    shares = np.exp(-nats.sum(axis=1))
    return many, shares / shares.sum()


def distances(head, text, given, counts, num_draws):
    """Return how far draws are from the posterior, and exact draws usually."""
    palette = Palette.parse(text)
    model, tokens = build(head, palette), image(palette)
    many, shares = posterior(model, tokens, given)
    sampler = Sampler(GraphEngine(model, rows=100, jit_compile=False))
    index = {row.tobytes(): i for i, row in enumerate(many)}

    def distance(num_particles):
        found = sampler.fill(
            np.tile(tokens, (num_draws, 1)),
            np.tile(HIDDEN, (num_draws, 1)),
            np.arange(num_draws),
            num_particles=num_particles,
            given=given,
        )
        rows = [index[row.tobytes()] for row in found]
        observed = np.bincount(rows, minlength=len(many)) / num_draws
        return np.abs(observed - shares).sum() / 2

    rng = np.random.default_rng(0)
    exact = rng.multinomial(num_draws, shares, 200) / num_draws
    usual = np.abs(exact - shares).sum(axis=1) / 2
    return [distance(count) for count in counts], usual


CASES = [
    ("chain", "rgb 2,2,0", ("green",)),
    ("chain", "rgb 2,2,0", ("red",)),
    ("chain", "hsv 2,1,1", ("saturation",)),
    ("chain", "hsv 2,1,1 alpha 1", ("hue",)),
    ("mixture", "rgb 2,6,0", ("green",)),
    ("packed", "rgb 2,2,0", ("red",)),
    ("packed", "hsv 2,1,1", ("saturation",)),
    ("copy", "rgb 2,2,0", ("green",)),
    ("copy", "rgb 2,2,0 alpha 1", ("red",)),
    ("copy", "rgb 1,1,0 alpha 1", ("alpha",)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("head", "palette", "given"), CASES)
def test_many_particles_draw_channels_given_the_others(head, palette, given):
    (found,), usual = distances(head, palette, given, [64], 400)
    assert found < usual.mean() + 4 * usual.std() + 0.02


def test_a_channel_of_another_palette_is_told():
    palette = Palette("rgb", (2, 2, 0))
    sampler = Sampler(GraphEngine(build("chain", palette), jit_compile=False))
    tokens = image(palette)[None]
    with pytest.raises(UserError, match="are green, red, blue"):
        sampler.fill(tokens, HIDDEN[None], [0], given=["value"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": [], "given": "value"}, "needs images"),
        ({"given": "value", "only_colors": "a.hex"}, "either"),
    ],
)
def test_what_known_channels_cannot_do_is_told(options, words):
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UserError, match=words):
        Request(**{"images": [picture], **options})


@pytest.mark.slow
def test_values_stay_and_hues_differ():
    run = load_run(catalog.locate("animals"), say=lambda line: None)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    done = complete(run, [picture], given="value", samples=2, particles=2)
    tokens = [
        run.tokenizer.tokenize(image) for image in (picture, *done.images[0, 0])
    ]
    palette = run.tokenizer.palette
    (_, _, value), (hue, _, first), (other, _, second) = map(
        palette.unpack, tokens
    )
    np.testing.assert_array_equal(first, value)
    np.testing.assert_array_equal(second, value)
    assert np.mean(hue != other) > 0.3
    kept = done.kept[0].astype(int)
    assert np.ptp(kept, axis=-1).max() == 0  # Gray.


@pytest.mark.parametrize("given", [(), ("value",)])
def test_filters_that_keep_everything_change_nothing(given):
    palette = Palette("hsv", (2, 1, 1))
    sampler = Sampler(GraphEngine(build("chain", palette), jit_compile=False))
    tokens = image(palette)[None]
    found = [
        sampler.fill(
            tokens,
            HIDDEN[None],
            [5],
            SamplingConfig(top_k=top_k),
            num_particles=16,
            given=given,
        )
        for top_k in (0, 99)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("token", "options", "words"),
    [
        (1 << 20, {}, "integers from 0 to 15"),
        (5, {"only_codes": [1, 2]}, "would change"),
    ],
)
def test_known_channels_are_neither_repaired_nor_changed(token, options, words):
    palette = Palette("rgb", (2, 2, 0))
    sampler = Sampler(GraphEngine(build("chain", palette), jit_compile=False))
    tokens = np.full((1, 6), token)
    with pytest.raises(UserError, match=words):
        sampler.fill(tokens, HIDDEN[None], [0], given=["green"], **options)

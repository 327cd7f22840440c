"""The head that copies colors, against plain Python over single pixels."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.model import color_sources, copy_head
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.copy_head import CopyHead
from pixace_tf.model.pixel_inputs import NEIGHBORS
from pixace_tf.model.presets import decoder_config
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.sampler import Sampler

SIZE = 5, 7
ALPHA = Palette("rgb", (2, 2, 2), alpha_bits=2)


@pytest.fixture(params=[3, 64])
def num_colors(request, monkeypatch):
    """Images of 35 pixels have more colors than 3, but not than 64."""
    monkeypatch.setattr(copy_head, "NUM_COLORS", request.param)
    return request.param


def build(palette=ALPHA, size=SIZE, **options):
    config = decoder_config("pico", "multiscale", size[1])
    tf.keras.utils.set_random_seed(0)
    model = PixaceCausalLM(
        size, palette, "multiscale", config, "copy", **options
    )
    rng = np.random.default_rng(0)
    for variable in model.head.trainable_variables:
        variable.assign_add(rng.normal(size=variable.shape, scale=0.3))
    return model


def images(palette=ALPHA, count=3, size=SIZE, seed=0):
    """Draw canonical tokens; colors repeat, and some pixels are clear."""
    rng = np.random.default_rng(seed)
    shape = count, size[0] * size[1]
    channels = [rng.integers(0, n, shape) for n in palette.channel_sizes]
    if palette.has_alpha:
        channels = [np.where(channels[3] > 0, c, 0) for c in channels]
    return np.asarray(palette.pack(channels), np.int32)


def sources(tokens, palette, num_colors, size=SIZE):
    """List what each pixel of one image can copy, neighbors first."""
    colors, alpha = palette.split_alpha(tokens)
    colors = np.where(alpha > 0, colors, -1)
    grid = colors.reshape(size)
    found, order = [], []
    for t, color in enumerate(colors):
        y, x = divmod(t, size[1])
        around = [
            grid[y + dy, x + dx]
            if y + dy >= 0 and 0 <= x + dx < size[1]
            else -1
            for dy, dx in NEIGHBORS
        ]
        found.append((around, order[-num_colors:]))
        if color >= 0 and color not in order:
            order.append(color)
    return found


def test_pixels_can_copy_their_neighbors_and_the_last_colors(num_colors):
    head = CopyHead(ALPHA, 8, SIZE)
    tokens = images(count=4)
    colors, _ = head._split(tokens)
    found = np.asarray(head._sources_of(colors)[0])
    n = len(NEIGHBORS)
    for image, row in zip(tokens, found, strict=True):
        for t, (around, recent) in enumerate(sources(image, ALPHA, num_colors)):
            np.testing.assert_array_equal(row[t, :n], around)
            there = row[t, n:][row[t, n:] >= 0]
            np.testing.assert_array_equal(there, recent)


def test_routes_know_how_many_colors_there_are(monkeypatch):
    monkeypatch.setattr(color_sources, "LAST_PIXELS", 9)
    head = CopyHead(ALPHA, 8, SIZE)
    tokens = images(count=4)
    colors, _ = head._split(tokens)
    found = np.asarray(head._sources_of(colors).numbers)
    for image, pixels, row in zip(tokens, colors, found, strict=True):
        pixels = np.asarray(pixels)
        around = [some for some, _ in sources(image, ALPHA, 64)]
        first = [
            t
            for t, color in enumerate(pixels)
            if color >= 0 and color not in pixels[:t]
        ]
        for t in range(len(pixels)):
            visible = [u for u in range(t) if pixels[u] >= 0]
            expected = [
                sum(u < t for u in first),
                len(visible),
                sum(pixels[u] in around[u] for u in visible),
                sum(t - 9 <= u < t for u in first),
            ]
            np.testing.assert_array_equal(row[t], expected)


@pytest.mark.parametrize("palette", [ALPHA, Palette("hsv", (1, 2, 1))])
def test_the_probabilities_of_all_colors_sum_to_one(palette, num_colors):
    model = build(palette)
    tokens = images(palette, count=1)
    if not palette.has_alpha:
        codes = np.arange(palette.vocabulary_size)
        tokens = codes[palette.is_canonical(codes)][tokens % 8]
    codes = np.arange(palette.vocabulary_size, dtype=np.int32)
    codes = codes[palette.is_canonical(codes)]
    for t in (0, 3, 20, 34):
        many = np.repeat(tokens, len(codes), axis=0).astype(np.int32)
        many[:, t] = codes
        nats = model.pixel_nats(many, model(many))[:, t]
        np.testing.assert_allclose(np.exp(-nats).sum(), 1, rtol=1e-5)


def test_the_channels_of_a_pixel_add_up(num_colors):
    model, tokens = build(), images()
    logits = model(tokens)
    channels = model.channel_nats(tokens, logits)
    np.testing.assert_allclose(
        np.sum(channels, axis=-1), model.pixel_nats(tokens, logits), rtol=1e-4
    )


def test_the_cost_of_a_channel_sums_over_all_colors_that_share_it(num_colors):
    model, tokens, t = build(), images(count=1), 20
    codes = np.arange(ALPHA.vocabulary_size, dtype=np.int32)
    codes = codes[ALPHA.is_canonical(codes)]
    many = np.repeat(tokens, len(codes), axis=0)
    many[:, t] = codes
    logits = model(many)
    nats = np.asarray(model.pixel_nats(many, logits), np.float64)
    shares = np.exp(-nats[:, t])
    channels = np.asarray(model.channel_nats(many, logits))[:, t]
    levels = np.stack(ALPHA.unpack(codes), axis=-1)[:, ALPHA.chain_order]
    for i in range(4):
        for row in (5, 77, 150):
            share = shares[np.all(levels[:, :i] == levels[row, :i], 1)].sum()
            both = np.all(levels[:, : i + 1] == levels[row, : i + 1], 1)
            if levels[row, 0] > 0:
                np.testing.assert_allclose(
                    channels[row, i],
                    -np.log(shares[both].sum() / share),
                    rtol=1e-3,
                    atol=1e-4,
                )


def test_a_pixel_changes_no_earlier_cost(num_colors):
    model, tokens = build(), images(count=2)
    for t in (0, 9, 31):
        changed = tokens.copy()
        changed[:, t] = images(count=2, seed=1)[:, t]
        before, after = (
            model.pixel_nats(x, model(x))[:, :t] for x in (tokens, changed)
        )
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("start", [0, 7, 21])
def test_decoding_costs_what_scoring_says(start, num_colors, monkeypatch):
    """The loop keeps its colors one by one, and scoring all at once."""
    monkeypatch.setattr(color_sources, "LAST_PIXELS", 9)
    model, tokens = build(), images(count=2)
    head, length = model.head, tokens.shape[1]
    expected = model.pixel_nats(tokens, model(tokens))
    state = model.prefill(tokens, -(-length // model.decoder.patch_length))
    seen = head.begin(tokens, start)

    def choose(logits, draw, choice, is_free, may_draw=None):
        assert not np.any(is_free) or draw == head.num_alpha
        spent = -tf.gather(tf.nn.log_softmax(logits), choice, batch_dims=1)
        return choice, spent

    choose.weighs = True
    nothing = tf.zeros(2, tf.int32)

    for t in range(start, length):
        patch = t // model.decoder.patch_length
        state = model.begin_patch(state, tokens, patch)
        for u in range(patch * model.decoder.patch_length, t + 1):
            hidden, state = model.step(state, tokens, u)
        token, costs = head.sample(
            hidden, tokens[:, t], nothing, choose, seen, t
        )
        np.testing.assert_array_equal(token, tokens[:, t])
        np.testing.assert_allclose(
            sum(costs), expected[:, t], rtol=1e-4, atol=1e-4
        )
        seen = head.remember(seen, tokens[:, t], t)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_samples_follow_the_probabilities_of_the_model(jit_compile):
    """Two pixels are hidden; the others are known."""
    palette = Palette("rgb", (1, 1, 1), alpha_bits=1)
    size = 2, 4
    model = build(palette, size)
    sampler = Sampler(GraphEngine(model, 256, jit_compile))
    tokens = images(palette, 1, size)
    codes = np.arange(palette.vocabulary_size, dtype=np.int32)
    codes = codes[palette.is_canonical(codes)]
    pairs = np.stack(np.meshgrid(codes, codes, indexing="ij"), -1)
    many = np.repeat(tokens, len(codes) ** 2, axis=0)
    many[:, -2:] = pairs.reshape(-1, 2)
    nats = model.pixel_nats(many, model(many))
    expected = np.exp(-np.asarray(nats)[:, -2:].sum(1))
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-4)
    count = 4096
    mask = np.arange(8) >= 6
    drawn = sampler.fill(
        np.repeat(tokens, count, axis=0),
        np.tile(mask, (count, 1)),
        np.arange(count),
    )
    index = np.searchsorted(codes, drawn[:, -2:])
    observed = np.bincount(
        index[:, 0] * len(codes) + index[:, 1], minlength=len(codes) ** 2
    )
    distance = 0.5 * np.abs(observed / count - expected).sum()
    # So far are as many exact draws from it, on average.
    rng = np.random.default_rng(0)
    exact = rng.multinomial(count, expected / expected.sum(), 100) / count
    usual = 0.5 * np.abs(exact - expected).sum(1)
    assert distance < usual.mean() + 4 * usual.std()


@pytest.mark.parametrize("most", [1, 2])
def test_no_picture_gets_more_colors_than_asked_for(most):
    model = build()
    for weight in model.head.trainable_variables:
        weight.assign(weight / 10)  # So that all routes are likely.
    sampler = Sampler(GraphEngine(model, rows=8, jit_compile=False))
    drawn = sampler.generate(np.arange(8), max_colors=most)
    free = sampler.generate(np.arange(8))

    def colors(tokens):
        color, alpha = ALPHA.split_alpha(tokens)
        return len(set(color[alpha > 0]))

    assert max(map(colors, drawn)) == most < max(map(colors, free))


def test_other_heads_cannot_limit_the_number_of_colors():
    config = decoder_config("pico", "multiscale", 4)
    model = PixaceCausalLM((4, 4), ALPHA, "multiscale", config)
    sampler = Sampler(GraphEngine(model, jit_compile=False))
    with pytest.raises(UserError, match="copies colors"):
        sampler.generate([0], max_colors=3)


# Prints the costs of pixels, with weights and inputs that NumPy draws.
SCRIPT = """
import numpy as np
from keras import ops
from pixace_tf.data.palette import Palette
from pixace_tf.model.copy_head import CopyHead

palette = Palette("rgb", (8, 8, 8), alpha_bits=8)
head = CopyHead(palette, 8, (5, 7))
head.build((None, 35, 8))
rng = np.random.default_rng(0)
for weight in head.trainable_variables:
    weight.assign(rng.normal(size=weight.shape))
hidden = rng.normal(size=(2, 35, 8)).astype("float32")
color = rng.integers(0, 9, (3, 2, 35)) * 31
alpha = rng.integers(0, 2, (2, 35)) * 255
tokens = palette.pack([*(color * (alpha > 0)), alpha]).astype("int32")
nats = head.nats(tokens, head(hidden, tokens))
print(*ops.convert_to_numpy(nats).ravel().tolist())
"""


@pytest.mark.slow
def test_costs_on_jax_are_those_on_tensorflow():
    pytest.importorskip("jax")
    costs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "KERAS_BACKEND": backend},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for backend in ("tensorflow", "jax")
    ]
    expected, found = np.array(costs, float)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

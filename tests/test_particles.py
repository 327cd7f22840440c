"""Hidden pixels given known ones: against the model itself."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import DECODERS, stir

from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.sampling import noise, particles
from pixace_tf.sampling.block import ALL_CHANNELS, Carry, Drawing
from pixace_tf.sampling.decode_loop import DecodeLoop
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.sampler import Sampler

SIZE = (8, 12)
LENGTH = SIZE[0] * SIZE[1]


def build(decoder="multiscale", size=SIZE, palette="hsv 5,4,4", **options):
    keras.utils.set_random_seed(1)
    return stir(
        PixaceCausalLM(
            size, palette, decoder, decoder_config("pico", decoder), **options
        ),
        stddev=0.3,
    )


def nats(model, tokens):
    tokens = tf.constant(tokens, tf.int32)
    return model.pixel_nats(tokens, model(tokens)).numpy()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def sampler(model):
    return Sampler(GraphEngine(model, jit_compile=False))


@pytest.fixture(scope="module")
def images(sampler):
    return sampler.generate(np.arange(50, 53))


def hole(top, bottom, left, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask.reshape(-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "head"),
    [
        *((decoder, "chain") for decoder in DECODERS),
        ("multiscale", "packed"),
        ("multiscale", "copy"),
    ],
)
def test_known_pixels_cost_what_the_model_says(decoder, head):
    model = build(decoder, head=head)
    images = Sampler(GraphEngine(model, jit_compile=False)).generate([1, 2])
    images[1, 1:] = images[0, 1:]
    # Black and gray have channels that cost nothing.
    images[:, 5], images[:, 6] = 0, 7 << 9
    loop = DecodeLoop(model, 2, jit_compile=False)
    num_draws = model.head.num_draws
    is_hidden = np.tile(np.arange(LENGTH) == 0, (2, 1))
    carry = Carry(model.empty_state(2), tf.constant(images), tf.zeros(2))
    config = {
        "temperature": np.full(2, 0.5, "float32"),
        "top_k": np.zeros(2, "int32"),
        "top_p": np.ones(2, "float32"),
        "min_p": np.zeros(2, "float32"),
        "guidance": np.ones(2, "float32"),
        "max_colors": np.zeros(2, "int32"),
    }
    drawing = Drawing(
        tf.where(is_hidden, ALL_CHANNELS, 0),
        noise.uniform_noise(np.array([3, 4]), LENGTH, num_draws),
        config,
    )
    for start in range(0, LENGTH, loop.span_length):
        stop = min(start + loop.span_length, LENGTH)
        carry = loop.advance("full", carry, start, stop, drawing)
    # The temperature acts on sampled pixels, not on known ones.
    expected = nats(model, carry.token_ids)[:, 1:].sum(axis=1)
    np.testing.assert_allclose(carry.nats, expected, rtol=1e-4)
    np.testing.assert_array_equal(carry.token_ids[:, 1:], images[:, 1:])


@pytest.mark.soak
def test_many_particles_sample_the_hidden_pixels_given_all_others():
    model = build(size=(2, 3), palette="rgb 1,1,0")
    sampler = Sampler(GraphEngine(model, rows=100, jit_compile=False))
    image = np.array([1, 0, 0, 3, 2, 1])
    is_hidden = np.array([False, True, True, False, False, False])
    pairs = np.array([*itertools.product(range(4), repeat=2)])
    every = np.tile(image, (16, 1))
    every[:, 1:3] = pairs
    weights = np.exp(-nats(model, every).sum(axis=1).astype(np.float64))
    exact = weights / weights.sum()
    count = 400

    def distance(num_particles):
        """Return how far the draws of each hidden pixel are from exact."""
        found = sampler.fill(
            np.tile(image, (count, 1)),
            np.tile(is_hidden, (count, 1)),
            np.arange(count),
            num_particles=num_particles,
        )
        assert np.all(found[:, 3:] == image[3:])
        differences = [
            np.bincount(found[:, 1 + i], minlength=4) / count
            - np.bincount(pairs[:, i], weights=exact, minlength=4)
            for i in range(2)
        ]
        return np.abs(differences).sum(axis=1).max() / 2

    # In total variation, of which chance alone makes some 0.03.
    assert distance(1) > 0.15
    assert distance(32) < 0.08


def test_a_prefix_is_filled_as_it_is_completed(sampler, images):
    lengths = np.array([0, 31, 96])
    is_hidden = np.arange(LENGTH) >= lengths[:, None]
    filled = sampler.fill(images, is_hidden, [5, 6, 7])
    completed = sampler.complete(images, lengths, [5, 6, 7])
    np.testing.assert_array_equal(filled, completed)


@pytest.mark.slow
def test_a_seed_fills_a_hole_alike_alone_and_among_others(sampler, images):
    rng = np.random.default_rng(0)
    masks = np.stack(
        [hole(2, 5, 3, 9), rng.random(LENGTH) < 0.4, np.arange(LENGTH) >= 50]
    )
    options = {"num_particles": 5}
    together = sampler.fill(images, masks, [1, 2, 3], **options)
    for row in range(3):
        alone = sampler.fill(
            images[row : row + 1], masks[row : row + 1], [row + 1], **options
        )
        np.testing.assert_array_equal(alone[0], together[row])
        kept = ~masks[row]
        np.testing.assert_array_equal(together[row, kept], images[row, kept])
        assert np.any(together[row] != images[row])
    # Only the particles depend on the pixels behind the hole.
    other = images.copy()
    other[:, 60:] = images[::-1, 60:]
    for count, is_same in ((1, True), (5, False)):
        first, second = (
            sampler.fill(x[:1], masks[:1], [1], num_particles=count)[0]
            for x in (images, other)
        )
        inside = masks[0]
        assert np.array_equal(first[inside], second[inside]) == is_same


@pytest.mark.slow
def test_more_particles_fit_better_to_what_is_known(model, sampler, images):
    mask = hole(2, 5, 2, 10)
    behind = ~mask & (np.arange(LENGTH) > 26)
    count = 24

    def surprise(num_particles):
        """Return the mean nats of a known pixel behind the hole."""
        filled = sampler.fill(
            np.repeat(images[:1], count, axis=0),
            np.tile(mask, (count, 1)),
            np.arange(count),
            num_particles=num_particles,
        )
        return nats(model, filled)[:, behind].mean()

    assert surprise(32) < surprise(1) - 0.02


def test_the_watch_sees_rows_grow(sampler, images):
    mask = hole(2, 4, 3, 9)
    seen, reports = [], []
    filled = sampler.fill(
        images[:1],
        mask[None],
        [1],
        num_particles=3,
        progress=lambda *counts: reports.append(counts),
        watch=lambda tokens, missing: seen.append(
            (tokens.copy(), missing.sum())
        ),
    )
    places = [count for _, count in seen]
    assert places == sorted(places, reverse=True)
    assert len(places) > 3
    assert places[-1] == 0
    assert reports[-1][0] == reports[-1][1] > 0
    np.testing.assert_array_equal(seen[-1][0], filled)


def test_nothing_hidden_changes_nothing(sampler, images):
    filled = sampler.fill(images, np.zeros_like(images, bool), [1, 2, 3])
    np.testing.assert_array_equal(filled, images)
    none = sampler.fill(images[:0], np.zeros((0, LENGTH), bool), [])
    assert none.shape == (0, LENGTH)


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.zeros((3, 5), bool), {}, "mask must have the shape"),
        (np.zeros((3, LENGTH), bool), {"num_particles": 0}, "num_particles"),
    ],
)
def test_bad_masks_are_refused(sampler, images, mask, options, message):
    with pytest.raises(UserError, match=message):
        sampler.fill(images, mask, [1, 2, 3], **options)


@pytest.fixture(params=["numpy", "tensorflow"])
def xp(request):
    is_numpy = request.param == "numpy"
    return np if is_numpy else tf.experimental.numpy


def as_costs(xp, *costs):
    costs = np.array(costs, "float32")
    return costs if xp is np else tf.constant(costs)


def test_resampling_copies_the_heavy(xp):
    # Two particles share the weight, 0.7 and 0.3.
    nats = as_costs(xp, *-np.log([1e-9, 0.7, 1e-9, 0.3]))
    is_needed, index = particles.copies(nats, 0.5, xp=xp)
    assert is_needed
    np.testing.assert_array_equal(index, [1, 1, 1, 3])


def test_copies_take_their_rows_of_each_part_of_the_state(model):
    loop = DecodeLoop(model, 4, jit_compile=False)
    state = model.empty_state(4)
    numbered = tf.nest.map_structure(
        lambda x: (
            x + tf.reshape(tf.range(x.shape[0], dtype=x.dtype), (-1, 1, 1))
        ),
        state,
    )
    tokens = tf.repeat(tf.range(4)[:, None], LENGTH, axis=1)
    carry = Carry(numbered, tokens, tf.ones(4))
    moved = loop.take(carry, np.int32([1, 1, 1, 3]))
    np.testing.assert_array_equal(moved.token_ids[:, 0], [1, 1, 1, 3])
    np.testing.assert_array_equal(moved.nats, 0)
    for part in tf.nest.flatten(moved.state):
        each = part.shape[0] // 4
        rows = np.add.outer(each * np.array([1, 1, 1, 3]), np.arange(each))
        np.testing.assert_array_equal(part[:, 0, 0], rows.ravel())


def test_rows_behind_the_particles_do_not_count(xp):
    nats = as_costs(xp, 9, 1, 9, 0)
    _, index = particles.copies(nats, 0.5, 3, xp)
    np.testing.assert_array_equal(index[:3], [1, 1, 1])
    for uniform in (0.0, 0.5, 0.999):
        assert particles.choose(nats, uniform, 3, xp) < 3


def test_resampling_waits_while_enough_carry_the_weight(xp):
    is_needed, _ = particles.copies(as_costs(xp, 1, 1.2, 1.1, 5), 0.1, xp=xp)
    assert not is_needed


def test_particles_that_are_all_impossible_share_the_weight(xp):
    nats = as_costs(xp, *[np.inf] * 4)
    is_needed, _ = particles.copies(nats, 0.5, xp=xp)
    assert not is_needed
    assert particles.choose(nats, 0.5, xp=xp) == 2


def test_particles_have_noise_of_their_own():
    seeds = noise.particle_seeds(7, 5)
    assert seeds[0] == 7
    assert len({*seeds, *noise.particle_seeds(8, 5)}) == 10
    assert noise.particle_seeds(7, 1) == [7]
    uniform = noise.uniform(7, noise.CHOICES, 97)
    assert uniform.min() >= 0
    assert uniform.max() < 1

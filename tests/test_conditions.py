"""Raster orders, labels and guidance: model and sampling."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import DECODERS, stir

from pixace_tf.data.raster_orders import vector_rows
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.painting import masks
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.sampler import Sampler

SIZE = (8, 8)
LABELS = ("cat", "dog", "owl")
ORDERS = vector_rows(SIZE, True, True)


def build(decoder="multiscale", size=SIZE, palette="hsv 5,4,4", **options):
    keras.utils.set_random_seed(2)
    return stir(
        PixaceCausalLM(
            size,
            palette,
            decoder,
            decoder_config("pico", decoder),
            **{"orders": ORDERS, "labels": LABELS, **options},
        ),
        stddev=0.3,
    )


@pytest.fixture(scope="module")
def sampler():
    return Sampler(GraphEngine(build(), jit_compile=False))


@pytest.fixture(scope="module")
def images(sampler):
    return sampler.generate(np.arange(30, 36))


def test_without_a_condition_it_is_the_first_order_and_no_label(images):
    model = build()
    plain = model(images).numpy()
    zeros = np.zeros((len(images), 2), np.int32)
    np.testing.assert_array_equal(model((images, zeros)), plain)
    for column in (0, 1):
        other = zeros.copy()
        other[:, column] = 1
        assert np.all(np.any(model((images, other)) != plain, axis=(1, 2)))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("start", [0, 32])
def test_the_condition_travels_in_the_state(decoder, start, images):
    model = build(decoder)
    tokens = tf.constant(images[:2])
    condition = tf.constant([[1, 2], [3, 0]])
    whole = model.decoder(model._inputs(tokens, condition)).numpy()
    length = model.decoder.patch_length
    state = model.empty_state(2, condition)
    if start:
        state = model.prefill(tokens, start // length, condition)
    for t in range(start, start + 20):
        if t % length == 0:
            state = model.begin_patch(state, tokens, t // length)
        hidden, state = model.step(state, tokens, t)
        np.testing.assert_allclose(hidden, whole[:, t], rtol=1e-4, atol=1e-4)


def test_a_covered_top_is_sampled_in_the_order_that_ends_there():
    size, palette = (2, 2), "rgb 1,1,0"
    orders = vector_rows(size, True, True)
    model = build(size=size, palette=palette, orders=orders)
    image, count = np.array([0, 0, 3, 1]), 400
    mask = masks.cover("top", *size).reshape(-1)
    found = Sampler(GraphEngine(model, rows=100, jit_compile=False)).fill(
        np.tile(image, (count, 1)), np.tile(mask, (count, 1)), np.arange(count)
    )
    np.testing.assert_array_equal(found[:, 2:], np.tile(image[2:], (count, 1)))
    # Upside down, the known row comes first.
    pairs = np.array([*itertools.product(range(4), repeat=2)])
    every = np.array([[3, 1, *pair] for pair in pairs], np.int32)
    condition = np.tile([orders[2], 0], (16, 1)).astype(np.int32)
    logits = model((every, condition))
    weights = np.exp(-model.pixel_nats(every, logits).numpy().sum(axis=1))
    seen = np.bincount(found[:, 0] * 4 + found[:, 1], minlength=16) / count
    assert np.abs(seen - weights / weights.sum()).sum() / 2 < 0.12


def test_a_row_does_not_depend_on_the_others(sampler, images):
    covers = ("bottom", "top", "left", "right", "center", "top:0.3")
    is_hidden = np.stack([masks.cover(c, *SIZE).reshape(-1) for c in covers])
    labels = np.array([0, 1, 2, 3, 1, 2])
    guidance = np.array([1, 1, 2, 1, 3, 1.5])
    seeds = np.arange(6)
    together = sampler.fill(
        images,
        is_hidden,
        seeds,
        num_particles=3,
        labels=labels,
        guidance=guidance,
    )
    np.testing.assert_array_equal(together[~is_hidden], images[~is_hidden])
    for row in range(6):
        one = slice(row, row + 1)
        alone = sampler.fill(
            images[one],
            is_hidden[one],
            seeds[one],
            num_particles=3,
            labels=labels[one],
            guidance=guidance[one],
        )
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_label_changes_what_is_painted_and_none_does_not(decoder):
    sampler = Sampler(GraphEngine(build(decoder), jit_compile=False))
    seeds = np.zeros(4, int)
    drawn = sampler.generate(seeds, labels=[0, 1, 1, 2])
    np.testing.assert_array_equal(drawn[1], drawn[2])
    assert len({row.tobytes() for row in drawn}) == 3
    guided = sampler.generate(seeds, labels=[0, 1, 1, 2], guidance=[3, 1, 3, 3])
    np.testing.assert_array_equal(guided[:2], drawn[:2])
    assert np.all(np.any(guided[2:] != drawn[2:], axis=1))


def test_guidance_raises_the_ratio_of_label_to_null():
    model = build(size=(1, 2), palette="rgb 1,1,0", orders=(0,), head="packed")
    count, guidance = 600, 6.0
    drawn = Sampler(GraphEngine(model, rows=100, jit_compile=False)).generate(
        np.arange(count), labels=2, guidance=guidance
    )
    tokens = np.zeros((2, 2), np.int32)
    logits = model((tokens, np.array([[0, 2], [0, 0]], np.int32)))[:, 0]
    given, null = tf.nn.log_softmax(logits).numpy()
    weights = np.exp(guidance * given + (1 - guidance) * null)
    weights[np.exp(given) < 0.01 * np.exp(given.max())] = 0
    seen = np.bincount(drawn[:, 0], minlength=4) / count
    assert np.abs(seen - weights / weights.sum()).sum() / 2 < 0.06
    assert np.abs(seen - np.exp(given)).sum() / 2 > 0.06


def test_what_is_shown_grows_in_the_order_of_the_image(sampler, images):
    is_hidden = masks.cover("right", *SIZE).reshape(1, -1)
    shown = []
    done = sampler.fill(
        images[:1],
        is_hidden,
        [4],
        watch=lambda tokens, missing: shown.append(
            (tokens.copy(), missing.copy())
        ),
    )
    counts = [missing.sum() for _, missing in shown]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0 < counts[0] < 32
    for tokens, missing in shown:
        assert not np.any(missing & ~is_hidden)
        np.testing.assert_array_equal(tokens[~missing], done[~missing])
    # By columns, from the known side on.
    columns = shown[0][1].reshape(SIZE).all(axis=0)
    assert columns[-1]
    assert not columns[4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 4}, "labels must be an integer from 0 to 3"),
        ({"labels": [-1]}, "labels must be an integer from 0 to 3"),
        ({"labels": [1.5]}, "labels must be an integer from 0 to 3"),
        ({"labels": [1, 2]}, "labels must be one value, or one for each"),
        ({"guidance": 0.5}, "guidance must be from 1 to 100"),
        ({"guidance": np.nan}, "guidance must be from 1 to 100"),
    ],
)
def test_wrong_labels_and_guidance_are_refused(sampler, options, message):
    with pytest.raises(UserError, match=message):
        sampler.generate([1], **options)

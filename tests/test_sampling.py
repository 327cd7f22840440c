import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import DECODERS, stir

from pixace_tf.data.palette import Palette
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.sampling import draws
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.sampling.sampling_config import SamplingConfig

SIZE = (8, 12)


@pytest.fixture(scope="module", params=DECODERS)
def model(request):
    keras.utils.set_random_seed(1)
    return stir(
        PixaceCausalLM(
            SIZE,
            "hsv 5,4,4",
            request.param,
            decoder_config("pico", request.param),
            name="pixace",
        )
    )


@pytest.fixture(scope="module")
def sampler(model):
    return Sampler(GraphEngine(model, jit_compile=False))


def test_a_seed_gives_one_picture_alone_and_in_a_batch(sampler):
    together = sampler.generate(np.arange(10))
    for seed in (0, 4, 9):
        np.testing.assert_array_equal(
            sampler.generate([seed])[0], together[seed]
        )
    assert len({row.tobytes() for row in together}) == 10


@pytest.mark.soak
@pytest.mark.parametrize(
    ("model", "is_compiled"),
    [("multiscale", True), ("transformer", False), ("reformer", True)],
    indirect=["model"],
)
def test_blocks_of_images_sample_what_single_images_sample(
    model, sampler, is_compiled
):
    """As on a GPU; without XLA as in a server, with it as on a CPU."""
    blocks = Sampler(GraphEngine(model, rows=4, jit_compile=is_compiled))
    given = sampler.generate(np.arange(10))
    lengths = np.array([0, 5, 24, 25, 40, 48, 60, 72, 95, 96])
    together = blocks.complete(given, lengths, np.arange(20, 30))
    single = sampler.complete(given, lengths, np.arange(20, 30))
    # Another rounding flips a draw in one of many thousand such images.
    assert np.all(together == single, axis=1).sum() >= 9
    for row in (0, 3, 6, 9):
        alone = blocks.complete(given[row][None], lengths[row], [20 + row])
        np.testing.assert_array_equal(alone[0], together[row])


def test_each_row_keeps_its_own_prefix(sampler):
    given = sampler.generate(np.arange(100, 105))
    lengths = np.array([0, 1, 37, 95, 96])
    drawn = sampler.complete(given, lengths, np.arange(5))
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(drawn[row, :length], given[row, :length])
        alone = sampler.complete(given[row : row + 1], length, [row])
        np.testing.assert_array_equal(alone[0], drawn[row])
    assert np.any(drawn[2, 37:] != given[2, 37:])


def test_completing_a_sample_with_its_seed_gives_the_sample(sampler):
    drawn = sampler.generate([5, 6, 7])
    again = sampler.complete(drawn, [10, 50, 90], [5, 6, 7])
    np.testing.assert_array_equal(drawn, again)


def test_drawn_codes_are_canonical(sampler):
    drawn = sampler.generate(np.arange(16))
    assert np.all(Palette().is_canonical(drawn))


@pytest.mark.slow
def test_settings_do_not_retrace(sampler):
    for count, filters in (
        (1, SamplingConfig(0.5)),
        (3, SamplingConfig(1.2, top_k=4)),
        (2, SamplingConfig(1.2)),
        (16, SamplingConfig(top_p=0.9, min_p=0.1)),
    ):
        sampler.generate(np.arange(count), filters)
    for codes in ([0], [0, 512, 1024]):
        sampler.generate([1], only_codes=codes)
    nothing = np.zeros((1, sampler.facts.sequence_length), int)
    sampler.fill(nothing, nothing == 0, [1], num_particles=1, given=["value"])
    loop = sampler._engine._loop(1)
    for program in loop._programs.values():
        assert program.experimental_get_tracing_count() == 1


def test_a_filter_of_one_picture_leaves_the_others(sampler):
    plain = sampler.generate([3, 4])
    mixed = sampler.generate([3, 4], SamplingConfig(top_k=[0, 1]))
    np.testing.assert_array_equal(mixed[0], plain[0])
    assert np.any(mixed[1] != plain[1])


def test_top_k_of_one_is_the_likeliest_pixel(model, sampler):
    drawn = sampler.generate([1, 2], SamplingConfig(top_k=1))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    logits = model(drawn[:1]).numpy()[0]
    value = logits[:, :16].argmax(axis=-1)
    np.testing.assert_array_equal(drawn[0] >> 9, value)


def test_draws_follow_the_model_distribution():
    logits = np.log([[0.5, 0.3, 0.15, 0.05]]).astype("float32")
    count = 20_000
    uniform = draws.uniform_noise(tf.constant([7], tf.int64), count, 1)
    drawn = draws.inverse_transform(
        tf.repeat(logits, count, axis=0), uniform[0, :, 0]
    )
    shares = np.bincount(drawn, minlength=4) / count
    # Three standard errors of the largest share.
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.011)


def test_the_largest_noise_draws_the_last_possible_choice():
    logits = np.array([[0.0, 1.0, -np.inf]], "float32")
    largest = np.array([1 - 2**-23], "float32")
    assert draws.inverse_transform(logits, largest) == [1]
    assert draws.inverse_transform(logits, largest * 0) == [0]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [1, 1, 1, 1]),
        ({"top_k": 2}, [1, 0, 1, 0]),
        ({"top_p": 0.45}, [1, 0, 0, 0]),
        ({"top_p": 0.55}, [1, 0, 1, 0]),
        ({"min_p": 0.25}, [1, 0, 1, 1]),
        ({"top_k": 3, "top_p": 0.99}, [1, 0, 1, 1]),
        ({"top_k": 1, "top_p": 0.01, "min_p": 1.0}, [1, 0, 0, 0]),
    ],
)
def test_filters_keep_what_they_say(settings, kept):
    logits = np.log([[0.5, 0.05, 0.3, 0.15]]).astype("float32")
    filtered = draws.filter_logits(logits, SamplingConfig(**settings).arrays(1))
    np.testing.assert_array_equal(np.isfinite(filtered)[0], np.array(kept) > 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 1e-50},
        {"top_k": 2.5},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": -0.1},
    ],
)
def test_a_setting_out_of_range_is_an_error(sampler, settings):
    with pytest.raises(ValueError, match="Received"):
        sampler.generate([0], SamplingConfig(**settings))


@pytest.mark.parametrize("prefix_length", [-1, 97])
def test_a_prefix_out_of_range_is_an_error(sampler, prefix_length):
    with pytest.raises(ValueError, match="prefix_length"):
        sampler.complete(np.zeros((1, 96), int), prefix_length, [0])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (9, 15)])
@pytest.mark.parametrize("decoder", DECODERS)
def test_sizes_that_patches_do_not_divide(decoder, size):
    keras.utils.set_random_seed(1)
    config = decoder_config("pico", decoder)
    model = stir(PixaceCausalLM(size, "hsv 5,4,4", decoder, config))
    sampler = Sampler(GraphEngine(model, jit_compile=False))
    length = size[0] * size[1]
    drawn = sampler.generate([5])
    lengths = sorted({0, 1, length // 2, length - 1, length})
    again = sampler.complete(
        drawn.repeat(len(lengths), axis=0), lengths, [5] * len(lengths)
    )
    np.testing.assert_array_equal(again, drawn.repeat(len(lengths), axis=0))


def test_seeds_must_be_as_many_as_pictures(sampler):
    with pytest.raises(ValueError, match="seeds must have"):
        sampler.complete(np.zeros((3, 96), int), 0, [1, 2])


@pytest.mark.parametrize("token", [-1, 1 << 13])
def test_an_impossible_prefix_is_an_error(sampler, token):
    with pytest.raises(ValueError, match="where they are kept"):
        sampler.complete(np.full((1, 96), token), 5, [0])


def test_what_progress_raises_ends_the_drawing(sampler):
    def refuse(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.generate(np.arange(20), progress=refuse)
    assert len(sampler.generate([1])) == 1


def test_progress_reaches_its_end(sampler):
    told = []
    sampler.generate(np.arange(20), progress=lambda *a: told.append(a))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_guidance_may_keep_rare_choices_as_likely_as_the_label_makes_them():
    given = np.log(np.array([[0.9, 0.095, 0.005]], np.float32))
    null = np.log(np.array([[0.6, 0.395, 0.005]], np.float32))
    two = np.array([2.0], np.float32)
    removed = np.exp(draws.guide(given, null, two)[0])
    assert removed[2] == 0
    kept = np.exp(draws.guide(given, null, two, keeps_rare=True)[0])
    np.testing.assert_allclose(kept[:2], removed[:2], rtol=1e-5)
    # Compared to the likeliest choice.
    np.testing.assert_allclose(kept[2] / kept[0], 0.005 / 0.9, rtol=1e-4)

"""Whatever comes in: a UserError, or a request that holds what was given."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixace_tf.errors import UserError
from pixace_tf.painting.request import MAX_SEED, Request, generation
from pixace_tf.sampling.sampling_config import SamplingConfig

quickly = settings(max_examples=200, deadline=None)
NUMPY = (
    *(np.int8(3), np.uint64(2**63), np.float32(0.5), np.bool_(True)),
    *(np.array(1), np.array([0.5, 1]), np.array(["1"]), np.float64("nan")),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 3),
    st.floats(),
    st.floats(0, 2),
    st.text(max_size=3),
    st.sampled_from(["top", "left:0.3", "center:nan", b"top", {}, 1j]),
    st.sampled_from(NUMPY),
)
ANYTHING = SCALARS | st.lists(SCALARS, max_size=3)
FIELDS = (
    *("images", "keep", "prefix_length", "cover", "mask", "particles"),
    *("samples", "best", "label", "guidance", "temperatures", "seed"),
    *("top_k", "top_p", "min_p", "vary", "symmetric", "seamless"),
)


def some(names):
    return st.dictionaries(st.sampled_from(names), ANYTHING, max_size=3)


def is_number(value, kinds):
    return np.asarray(value).dtype.kind in kinds


@quickly
@given(some(FIELDS))
def test_a_request_is_refused_or_holds_what_was_given(options):
    try:
        request = Request(**options)
        is_hidden = request.hidden_in(4, 6)
        request.label_number(["cat", "0"])
    except UserError:
        return
    assert is_hidden.shape == (4, 6)
    for name in {"samples", "best", "seed", "top_k"} & set(options):
        assert is_number(options[name], "iu")
        assert getattr(request, name) == options[name]
    if request.columns <= 1000:
        seeds = request.seeds(np.zeros((1, 6), int)).tolist()
        assert seeds[0] + request.samples * request.best - 1 == seeds[-1]
        arrays = request.sampling_config(1).arrays(request.columns)
        given = np.asarray(request.temperatures).astype(np.float32)
        assert set(arrays["temperature"]) == set(given)


@quickly
@given(some(("temperature", "top_k", "top_p", "min_p")))
def test_a_setting_is_refused_or_kept(options):
    try:
        arrays = SamplingConfig(**options).arrays(2)
    except UserError:
        return
    for name, value in options.items():
        assert is_number(value, "iu" if name == "top_k" else "iuf")
        assert arrays[name].shape == (2,)
        np.testing.assert_array_equal(
            arrays[name], np.asarray(value).astype(arrays[name].dtype)
        )


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 2**63},
        {"seed": True},
        {"seed": 1.0},
        {"seed": "1"},
        {"temperatures": 0.9},
        {"temperatures": "0.9"},
        {"temperatures": [True, 0.5]},
        {"temperatures": [float("nan")]},
        {"samples": 1.5},
        {"best": 10**30},
        {"keep": True},
        {"keep": float("nan")},
        {"top_k": 2**40},
        {"top_p": "0.5"},
        {"label": 3},
        {"cover": 3},
        {"images": 3},
        {"images": [3]},
    ],
)
def test_values_of_another_kind_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))[:5]):
        Request(**options)


def test_numpy_numbers_and_negative_seeds_are_fine():
    request = Request(
        keep=np.float32(0.5),
        samples=np.int8(100),
        best=np.int8(100),
        seed=np.int64(-5),
        temperatures=np.array([0.5, 1]),
    )
    assert request.columns == 20_000
    assert request.seeds()[:2].tolist() == [-5, -4]
    assert generation(3, seed=-MAX_SEED).seeds()[0] == -(2**62)
    largest = Request(seed=MAX_SEED).seeds(np.zeros((1, 4), int))
    assert largest > MAX_SEED


@pytest.mark.parametrize("count", [0, -1, 1.0, True, "3", 2**63, None])
def test_a_count_of_another_kind_is_refused(count):
    with pytest.raises(UserError, match="count must be an integer"):
        generation(count)

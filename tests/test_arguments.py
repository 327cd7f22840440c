"""Arguments of a training: their types, what was given, and what is settled."""

import contextlib
import dataclasses
import glob
import json
import math
import os
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixace_tf.errors import UserError
from pixace_tf.runs import run_config
from pixace_tf.runs.catalog import BOX_DIR
from pixace_tf.training.training_arguments import TrainingArguments

KINDS = {
    field.name: type(value)
    for field, value in zip(
        dataclasses.fields(TrainingArguments),
        dataclasses.astuple(
            TrainingArguments(
                num_layers=1,
                hidden_dim=64,
                head="chain",
                epochs=1,
                batch_size=1,
                learning_rate=1e-3,
                labels=True,
                alpha=1,
                tiles=(8, 8),
            )
        ),
        strict=True,
    )
} | {"max_minutes": float}
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from([10**400, True, np.int64(4), np.float32(0.5), np.True_]),
)
STRINGS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["auto", "nano", "small", "reformer", "rgb", "pad", "all"]),
)
PLAIN = st.one_of(st.none(), NUMBERS, STRINGS)
VALUES = st.one_of(
    PLAIN,
    st.lists(NUMBERS, max_size=4),
    st.lists(st.integers(0, 40), min_size=2, max_size=3).map(tuple),
    st.dictionaries(STRINGS, PLAIN, max_size=1),
    st.just(np.array([8, 8])),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(list(KINDS)), VALUES, max_size=3))
def test_any_values_are_a_user_error_or_valid_arguments(values):
    try:
        arguments = TrainingArguments(**values)
    except UserError:
        return
    for name, kind in KINDS.items():
        value = getattr(arguments, name)
        assert value is None or type(value) is kind
        if kind is float and value is not None:
            assert math.isfinite(value)
    assert len(arguments.image_size) == 2
    assert all(type(n) is int and n > 0 for n in arguments.image_size)
    assert len(arguments.bit_widths) == 3
    assert 1 <= sum(arguments.bit_widths) <= 24
    assert not math.isnan(arguments.dropout)
    again = TrainingArguments(**json.loads(json.dumps(arguments.given)))
    assert again == arguments


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_minutes": "5"}, "max_minutes must be a finite number above 0"),
        ({"epochs": 1.5}, "epochs must be a whole number at least 1"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"flip": 1}, "flip must be True or False"),
        ({"dropout": math.nan}, "dropout must be a finite number"),
        ({"image_size": (8, 8, 3)}, "image_size must be a tuple of 2"),
        ({"image_size": (8, 0)}, "image_size must be two positive"),
        ({"bit_widths": (5, 4)}, "bit_widths must be a tuple of 3"),
        ({"seed": 2**31}, "at most 2147483646"),
        ({"devices": "0"}, "devices must be"),
    ],
)
def test_a_value_of_another_kind_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        TrainingArguments(**values)


def test_given_is_what_was_given_even_if_it_is_a_default():
    arguments = TrainingArguments(seed=np.int64(0), preset="auto", epochs=None)
    assert arguments.given == {"seed": 0}
    assert arguments == TrainingArguments()
    longer = arguments.replaced(epochs=2)
    assert longer.given == {"seed": 0, "epochs": 2}


def test_what_is_not_given_stays_as_it_was():
    begun = TrainingArguments(seed=3, image_size=(8, 12), max_minutes=5)
    now = TrainingArguments(seed=3, epochs=9, jit_compile=False)
    settled = now.settled(begun, "It", "Leave that out.")
    assert settled.image_size == (8, 12)
    assert (settled.seed, settled.epochs, settled.max_minutes) == (3, 9, None)
    assert not settled.jit_compile
    again = TrainingArguments().settled(begun, "It", "Leave that out.")
    assert again.max_minutes == 5


@pytest.mark.parametrize("name", ["seed", "image_size"])
def test_a_default_that_is_given_must_be_what_it_was(name):
    begun = TrainingArguments(seed=3, image_size=(8, 12))
    now = TrainingArguments(**{name: getattr(TrainingArguments(), name)})
    with pytest.raises(UserError, match=rf"{name} was .*, now .* Leave"):
        now.settled(begun, "It", "Leave that out.")


def test_the_devices_of_another_machine_are_not_taken_over():
    begun = TrainingArguments(devices="all-hosts", seed=1)
    assert TrainingArguments().settled(begun, "It", "").devices == "1"


@pytest.mark.parametrize("name", ["animals", "emoji"])
def test_a_run_from_before_all_arguments_were_kept_can_go_on(name):
    """These keep some arguments in tokenizer and model only."""
    path = os.path.join(BOX_DIR, name)
    config = run_config.read_config(path)
    assert "dropout" not in config["arguments"]
    arguments = TrainingArguments.of_run(config)
    written = json.loads(pathlib.Path(path, "run.json").read_text())
    assert list(arguments.image_size) == written["tokenizer"]["image_size"]
    assert arguments.dropout == written["model"]["dropout"]
    assert arguments.decoder_config() == written["model"]["decoder_config"]
    assert arguments.orders
    assert arguments.labels
    assert arguments.given["learning_rate"] == 0.006
    assert arguments.recipe == "plain"
    assert (arguments.weight_decay, arguments.input_noise) == (0.05, 0)
    assert (arguments.hue_turns, arguments.shifts) == (0, 0)


def test_damaged_arguments_are_a_user_error():
    path = next(iter(sorted(glob.glob(os.path.join(BOX_DIR, "*/")))))
    for section in ("tokenizer", "model", "arguments"):
        config = run_config.read_config(path)
        for name in config[section]:
            broken = {**config, section: {**config[section], name: object()}}
            with contextlib.suppress(UserError):
                TrainingArguments.of_run(broken)


def test_fit_takes_arguments_as_an_object_or_as_keywords(monkeypatch, tmp_path):
    from pixace_tf.training import fit as module

    def record(source, arguments, *_):
        seen.append(arguments)

    seen = []
    monkeypatch.setattr(module, "_fit", record)
    given = {"max_minutes": 3, "image_size": (8, 8)}
    module.fit("cats", TrainingArguments(**given), runs_dir=tmp_path)
    module.fit("cats", runs_dir=tmp_path, **given)
    assert seen[0] == seen[1]
    assert seen[0].given == seen[1].given == given

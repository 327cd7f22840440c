import dataclasses
import json
import os
import pickle
import shutil
import types

import numpy as np
import pytest

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.runs import model_weights, run_config
from pixace_tf.runs.run_folder import load_run
from pixace_tf.training import fit
from pixace_tf.training.training_arguments import TrainingArguments


@pytest.fixture
def run_copy(trained_run, tmp_path):
    return shutil.copytree(trained_run.path, tmp_path / "run")


def test_a_reloaded_run_draws_the_same_picture(trained_run):
    again = load_run(trained_run.path, jit_compile=False)
    np.testing.assert_array_equal(
        trained_run.sampler.generate([3]),
        again.sampler.generate([3]),
    )
    assert again.tokenizer.get_config() == trained_run.tokenizer.get_config()


def test_a_run_keeps_what_was_given_and_what_is_in_force(trained_run):
    config = run_config.read_config(trained_run.path)
    assert config["given"] == {
        "preset": "pico",
        "image_size": [8, 12],
        "epochs": 3,
        "batch_size": 8,
        "jit_compile": False,
        "labels": True,
    }
    in_force = TrainingArguments.of_run(config)
    # Epochs were given, and the pictures are whole and no pairs.
    still_open = {"max_minutes", "tiles", "pairs"}
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert fields - in_force.given.keys() == still_open
    assert (in_force.head, in_force.learning_rate) == ("chain", 3e-3)
    assert (in_force.num_layers, in_force.precision) == (2, "float32")
    kept = {"preset", "batch_size", "learning_rate", "flip", "seed"}
    for name in fields - kept - {"precision"}:  # As older runs are.
        config["arguments"].pop(name)
    before = TrainingArguments.of_run(config)
    before.settled(in_force, "It", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"pixel_art": True},
        {"anchor": "top"},
        {"tiles": (4, 4)},
        {"frames": True},
    ],
)
def test_a_run_resumes_with_its_way_of_cutting_only(run_copy, changes):
    config = run_config.read_config(run_copy)
    # Older runs do not record it.
    for name in ("pixel_art", "anchor", "tiles", "frames"):
        config["arguments"].pop(name, None)
    edit(run_copy / "run.json", arguments=config["arguments"])
    given = TrainingArguments(**changes)
    (name,) = changes
    with pytest.raises(UserError, match=f"other arguments: {name} was"):
        fit._settled_by_run(given, str(run_copy), None, print)


def test_a_label_in_another_unicode_form_is_the_same_label(run_copy):
    config = run_config.read_config(run_copy)
    digest = config["arguments"]["images"]
    data = types.SimpleNamespace(
        digest=lambda: digest, label_names=["caf\u00e9"]
    )
    model = {**config["model"], "labels": ["cafe\u0301"]}
    edit(run_copy / "run.json", model=model)
    fit._check_images(str(run_copy), data)
    data.label_names = ["cafe"]
    with pytest.raises(UserError, match="no longer contain the labels caf"):
        fit._check_images(str(run_copy), data)


def edit(path, **changes):
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="There is no run folder"):
        load_run(tmp_path / "none", jit_compile=False)
    with pytest.raises(ValueError, match=r"it has no run\.json"):
        load_run(tmp_path)


def test_a_newer_format_asks_for_an_upgrade(run_copy):
    edit(run_copy / "run.json", format=99)
    with pytest.raises(ValueError, match=r"newer pixace-tf.*upgrade"):
        load_run(run_copy, jit_compile=False)


def test_an_older_format_asks_to_train_anew(run_copy):
    edit(run_copy / "run.json", format=1)
    with pytest.raises(ValueError, match=r"older pixace-tf.*train it anew"):
        load_run(run_copy, jit_compile=False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}'])
def test_a_damaged_description_is_named(run_copy, content):
    (run_copy / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json"):
        load_run(run_copy, jit_compile=False)


def test_an_unknown_architecture_is_an_error(run_copy):
    model = json.loads((run_copy / "run.json").read_text())["model"]
    edit(run_copy / "run.json", model={**model, "decoder": "os.system"})
    with pytest.raises(ValueError, match="damaged"):
        load_run(run_copy, jit_compile=False)


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_truncated_weights_are_named(run_copy, size):
    weights = run_copy / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"weights\.npz is damaged"):
        load_run(run_copy, jit_compile=False)


def test_a_flipped_bit_in_the_weights_is_found(run_copy):
    weights = run_copy / "weights.npz"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_run(run_copy, jit_compile=False)


def test_weights_of_another_model_are_refused(run_copy):
    model = json.loads((run_copy / "run.json").read_text())["model"]
    model["decoder_config"]["hidden_dim"] = 32
    edit(run_copy / "run.json", model=model)
    with pytest.raises(ValueError, match="does not fit this model"):
        load_run(run_copy, jit_compile=False)


def test_without_best_weights_the_latest_are_used(run_copy):
    latest, _ = storage.read_npz(run_copy / "checkpoint.npz")
    name = next(n for n in latest if n.endswith("embed/table"))
    latest[name] = latest[name] + 1
    storage.write_npz(run_copy / "checkpoint.npz", latest, {})

    def table():
        model = load_run(run_copy, jit_compile=False).model
        return np.asarray(model.embed.table)

    assert not np.array_equal(table(), latest[name])
    os.remove(run_copy / "weights.npz")
    np.testing.assert_array_equal(table(), latest[name])
    os.remove(run_copy / "checkpoint.npz")
    with pytest.raises(ValueError, match="no weights yet"):
        load_run(run_copy, jit_compile=False)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_loading_runs_no_code_from_the_file(run_copy, monkeypatch):
    monkeypatch.chdir(run_copy)
    evil = np.array([Evil()], dtype=object)
    np.savez("weights.npz", meta=evil, x=evil)
    with pytest.raises(ValueError, match="damaged"):
        load_run(run_copy, jit_compile=False)
    (run_copy / "weights.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="damaged"):
        load_run(run_copy, jit_compile=False)
    assert not os.path.exists("evil")


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    storage.write_npz(str(path), {"x": np.arange(3)}, {"n": 1})

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        storage.write_npz(str(path), {"x": np.arange(4)}, {"n": 2})
    arrays, meta = storage.read_npz(str(path))
    assert len(arrays["x"]) == 3
    assert meta == {"n": 1}
    assert os.listdir(tmp_path) == ["a.npz"]


def test_shapes_are_compared_before_weights_are_read(tmp_path, monkeypatch):
    path = str(tmp_path / "weights.npz")
    storage.write_npz(path, {"a": np.zeros(3), "b": np.zeros(2)}, {})
    weights = [types.SimpleNamespace(path=name, shape=(3,)) for name in "ab"]
    model = types.SimpleNamespace(weights=weights)
    names, read = [], storage.Npz.read

    def note(file, name):
        names.append(name)
        return read(file, name)

    monkeypatch.setattr(storage.Npz, "read", note)
    with pytest.raises(UserError, match=r"b should have the shape \(3,\)"):
        model_weights.load(model, path)
    assert names == ["meta"]

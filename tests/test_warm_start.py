"""Runs that begin with the weights of another one, and labels of runs."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from pixace_tf import storage
from pixace_tf.data import cartoons, labels
from pixace_tf.errors import UserError
from pixace_tf.runs import run_config
from pixace_tf.runs.model_weights import get_weights
from pixace_tf.runs.run_folder import load_run
from pixace_tf.training import fit as fit_module
from pixace_tf.training import warm_start
from pixace_tf.training.previews import Previews
from pixace_tf.training.training_arguments import TrainingArguments

OPTIONS = {
    "preset": "pico",
    "image_size": (8, 8),
    "epochs": 1,
    "batch_size": 8,
    "jit_compile": False,
}


def fit(source, start_from, runs_dir, say=lambda line: None, **options):
    given = {k: v for k, v in {**OPTIONS, **options}.items() if v is not None}
    return fit_module.fit(
        source,
        TrainingArguments(**given),
        start_from=start_from,
        runs_dir=runs_dir,
        say=say,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders with classes, of which one is in both."""
    root = tmp_path_factory.mktemp("classes")
    cartoons.draw_folder(str(root / "all"), 176)
    for name, species in {"old": ("cat", "dog"), "new": ("dog", "fox")}.items():
        for kind in species:
            shutil.copytree(root / "all" / kind, root / name / "train" / kind)
    return root


@contextlib.contextmanager
def nothing_traced():
    """Trace nothing: that would take longer than the few steps themselves."""
    tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Previews, "update", lambda *_, **__: None)
        yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def old_run(folders, tmp_path_factory):
    with nothing_traced():
        return fit(folders / "old", None, tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_a_run_starts_with_the_weights_of_another(
    folders, old_run, tmp_path, monkeypatch
):
    begun = []

    def stop(run, *arguments):
        begun.append(get_weights(run.model))
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "train", stop)
    undecided = {"preset": "auto", "image_size": None}
    # Killed before its first checkpoint, it begins with them again.
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(folders / "new", old_run.path, tmp_path, **undecided)
    given = get_weights(old_run.model)
    for weights in begun:
        assert weights.keys() == given.keys()
        same = {
            name for name in given if np.array_equal(weights[name], given[name])
        }
        (differs,) = given.keys() - same
        assert differs.endswith("condition/labels")
        # Null, dog and fox from null, cat and dog.
        np.testing.assert_array_equal(
            weights[differs][:2], given[differs][[0, 2]]
        )
    config = run_config.read_config(tmp_path / "new")
    assert config["model"]["labels"] == ["dog", "fox"]
    assert config["arguments"]["preset"] == "pico"


@pytest.mark.slow
def test_a_run_with_a_checkpoint_needs_its_start_no_more(old_run):
    before = get_weights(old_run.model)
    old_run.arguments["start_from"] = "gone"
    warm_start.load_unless_begun(old_run)
    del old_run.arguments["start_from"]
    after = get_weights(old_run.model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"image_size": (8, 12)}, r"image_size was \(8, 8\), now \(8, 12\)"),
        ({"bit_widths": (4, 4, 4)}, r"bit_widths was \(5, 4, 4\), now"),
        ({"decoder": "transformer"}, "decoder was 'multiscale', now"),
        ({"preset": "micro"}, "preset was 'pico', now"),
        ({"num_layers": 9}, r"num_layers was \d+, now 9"),
    ],
)
def test_a_run_of_other_settings_is_no_start(
    folders, old_run, tmp_path, change, advice
):
    with pytest.raises(UserError, match=advice):
        fit(folders / "new", old_run.path, tmp_path, **change)
    assert not os.path.exists(tmp_path / "new")


@pytest.mark.soak
def test_a_run_goes_on_when_its_start_is_gone(folders, old_run, tmp_path):
    start = shutil.copytree(old_run.path, tmp_path / "start")
    said = []
    with nothing_traced():
        fit(folders / "new", start, tmp_path)
        shutil.rmtree(start)
        run = fit(folders / "new", start, tmp_path, said.append, epochs=2)
    assert f"already started from {start}." in said[0]
    assert run_config.best_entry(run.path) is not None
    with pytest.raises(UserError, match="did not start from another run"):
        fit(folders / "old", run.path, os.path.dirname(old_run.path))


def test_a_missing_start_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="There is no run folder"):
        fit(folders / "new", tmp_path / "no", tmp_path)


@pytest.mark.slow
def test_a_run_from_before_orders_and_labels_still_loads(trained_run, tmp_path):
    path = tmp_path / "before"
    shutil.copytree(trained_run.path, path)
    config = json.loads((path / "run.json").read_text())
    for name in ("orders", "labels", "head_hidden_dim"):
        del config["model"][name]
    (path / "run.json").write_text(json.dumps(config))
    weights, meta = storage.read_npz(path / "weights.npz")
    plain = {k: v for k, v in weights.items() if "condition" not in k}
    assert len(plain) == len(weights) - 1
    storage.write_npz(path / "weights.npz", plain, meta)
    again = load_run(path, jit_compile=False)
    # Its images were mirrored at random.
    assert again.model.orders == (0, 0)
    assert again.model.labels == ()
    assert again.sampler.generate([3]).shape == (1, 96)


def test_classes_with_enough_images_become_labels():
    names = ["", "a", "b", "c\udcff", "few"]
    classes = np.repeat(np.arange(5), [30, 20, 25, 40, 19])
    counts = dict(zip(names, np.bincount(classes).tolist(), strict=True))
    chosen = labels.choose(counts, None)
    assert chosen == ["a", "b", "c\udcff"]
    numbers = labels.numbers(chosen, names, classes)
    np.testing.assert_array_equal(
        numbers, np.repeat([0, 1, 2, 3, 0], [30, 20, 25, 40, 19])
    )
    assert labels.choose(counts, False) == []


@pytest.mark.parametrize("counts", [[50, 19], [100], [20] * 1001])
def test_without_two_to_a_thousand_classes_there_are_no_labels(counts):
    by_name = {f"class {i}": count for i, count in enumerate(counts)}
    assert labels.choose(by_name, None) == []
    with pytest.raises(UserError, match="Labels need 2 to 1,000 classes"):
        labels.choose(by_name, True)

"""Training on Keras's JAX backend: the same run folder, the same losses."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pixace_tf.runs.run_folder import load_run
from pixace_tf.storage import read_npz
from pixace_tf.training.fit import fit
from pixace_tf.training.previews import Previews
from pixace_tf.training.training_arguments import TrainingArguments

pytestmark = pytest.mark.soak
# `test_pipelines` compares the multiscale decoder, whose programs JAX compiles
# for minutes here.
ARGUMENTS = {
    **{"decoder": "transformer", "head": "packed", "preset": "pico"},
    **{"image_size": (8, 8), "batch_size": 8, "jit_compile": False},
    "checkpoint_seconds": 0.0,
    **{"hue_turns": 0.5, "shifts": 0.5, "input_noise": 0.1},
}
SCRIPT = f"""
import sys
from pixace_tf.training.fit import fit
from pixace_tf.training.training_arguments import TrainingArguments
folder, runs_dir, name = sys.argv[1:]
arguments = TrainingArguments(epochs=3, **{ARGUMENTS})
fit(folder, arguments, runs_dir=runs_dir, name=name)
"""


def start_jax(folder, runs_dir, name):
    """Start a training of three epochs with JAX."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(runs_dir), name]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    return subprocess.Popen(command, env=environment)


def history_of(path):
    return json.loads(pathlib.Path(path, "history.json").read_text())


def test_jax_resumes_as_tensorflow_does(cartoon_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Previews, "update", lambda *_, **__: None)

    def fit_a(epochs):
        arguments = TrainingArguments(epochs=epochs, **ARGUMENTS)
        fit(str(cartoon_folder), arguments, runs_dir=tmp_path, name="a")

    fit_a(1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    process = start_jax(cartoon_folder, tmp_path, "b")
    fit_a(3)
    assert process.wait() == 0
    here, there = history_of(tmp_path / "a"), history_of(tmp_path / "b")
    for name in ("bits_per_pixel", "val_bits_per_pixel"):
        np.testing.assert_allclose(
            [entry[name] for entry in here],
            [entry[name] for entry in there],
            rtol=1e-5,
        )
    # TensorFlow paints with what JAX has learned.
    run = load_run(tmp_path / "b", jit_compile=False)
    assert run.sampler.generate([0]).shape == (1, 64)


def test_a_killed_jax_training_resumes_exactly(cartoon_folder, tmp_path):
    whole = start_jax(cartoon_folder, tmp_path, "whole")
    killed = start_jax(cartoon_folder, tmp_path, "killed")
    while not (tmp_path / "killed" / "checkpoint.npz").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = start_jax(cartoon_folder, tmp_path, "killed")
    assert again.wait() == whole.wait() == 0
    one, two = (
        read_npz(tmp_path / name / "checkpoint.npz")[0]
        for name in ("whole", "killed")
    )
    assert set(one) == set(two)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])

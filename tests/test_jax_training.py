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

pytestmark = pytest.mark.soak
SCRIPT = """
import sys
from pixace_tf.training.fit import fit
from pixace_tf.training.previews import Previews
Previews.update = lambda *_, **__: None
from pixace_tf.training.training_arguments import TrainingArguments
folder, runs_dir, name, epochs, decoder, head = sys.argv[1:]
arguments = TrainingArguments(
    epochs=int(epochs), decoder=decoder, head=head, preset="pico",
    image_size=(8, 8), batch_size=8, checkpoint_seconds=0, jit_compile=False)
fit(folder, arguments, runs_dir=runs_dir, name=name)
"""


def start(backend, folder, runs_dir, name, epochs, decoder, head):
    command = [sys.executable, "-c", SCRIPT, str(folder), str(runs_dir), name]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    return subprocess.Popen(
        [*command, str(epochs), decoder, head], env=environment
    )


def history_of(path):
    return json.loads(pathlib.Path(path, "history.json").read_text())


# `test_pipelines` compares the multiscale decoder, whose programs JAX compiles
# for minutes here.
def test_jax_goes_on_as_tensorflow_does(cartoon_folder, tmp_path):
    options = "transformer", "packed"
    begun = start("tensorflow", cartoon_folder, tmp_path, "a", 1, *options)
    assert begun.wait() == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for backend, name in (("tensorflow", "a"), ("jax", "b")):
        process = start(backend, cartoon_folder, tmp_path, name, 3, *options)
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


def test_a_killed_training_goes_on_as_if_nothing_had_been(
    cartoon_folder, tmp_path
):
    options = "transformer", "packed"
    whole = start("jax", cartoon_folder, tmp_path, "whole", 3, *options)
    assert whole.wait() == 0
    killed = start("jax", cartoon_folder, tmp_path, "killed", 3, *options)
    begin = time.monotonic()
    while not (tmp_path / "killed" / "checkpoint.npz").exists():
        assert killed.poll() is None
        assert time.monotonic() - begin < 120
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = start("jax", cartoon_folder, tmp_path, "killed", 3, *options)
    assert again.wait() == 0
    one, two = (
        read_npz(tmp_path / name / "checkpoint.npz")[0]
        for name in ("whole", "killed")
    )
    assert set(one) == set(two)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])

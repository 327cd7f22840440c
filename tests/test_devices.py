"""Several devices that share each batch: here, two logical CPUs."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pixace_tf.errors import UserError
from pixace_tf.storage import read_npz
from pixace_tf.training import devices
from pixace_tf.training import fit as fit_module
from pixace_tf.training.fit import fit
from pixace_tf.training.training_arguments import TrainingArguments

SCRIPT = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from pixace_tf.training.fit import fit
from pixace_tf.training.previews import Previews
Previews.update = lambda *_, **__: None
from pixace_tf.training.training_arguments import TrainingArguments
folder, runs_dir, devices, *precisions = sys.argv[1:]
for precision in precisions:
    arguments = TrainingArguments(
        devices=devices, preset="pico", precision=precision, image_size=(8, 8),
        batch_size=8, epochs=4, decoder="transformer", head="packed",
        checkpoint_seconds=0, jit_compile=False)
    fit(folder, arguments, runs_dir=runs_dir, name=precision)
"""


def start(folder, runs_dir, devices, *precisions):
    command = [sys.executable, "-c", SCRIPT, str(folder), str(runs_dir)]
    return subprocess.Popen([*command, devices, *precisions])


def trained(folder, runs_dir, devices, *precisions):
    """Train a run for each precision; return the checkpoints."""
    assert start(folder, runs_dir, devices, *precisions).wait() == 0
    return [read_npz(runs_dir / name / "checkpoint.npz") for name in precisions]


@pytest.fixture(scope="module")
def of_two(cartoon_folder, tmp_path_factory):
    """Checkpoints of two devices, in float32 and in mixed precision."""
    precisions = "float32", "mixed_float16"
    runs_dir = tmp_path_factory.mktemp("runs")
    return trained(cartoon_folder, runs_dir, "all", *precisions)


@pytest.mark.slow
def test_two_devices_learn_what_one_learns(cartoon_folder, tmp_path, of_two):
    ((one, _),) = trained(cartoon_folder, tmp_path, "1", "float32")
    two, meta = of_two[0]
    assert meta["epoch"] == 4
    losses = [entry["bits_per_pixel"] for entry in meta["history"]]
    assert losses[-1] < losses[0] - 0.5
    assert set(one) == set(two)
    for name, array in one.items():
        if "optimizer" not in name:
            np.testing.assert_allclose(two[name], array, atol=1e-6)


@pytest.mark.soak
def test_two_devices_go_on_after_a_kill(cartoon_folder, tmp_path, of_two):
    process = start(cartoon_folder, tmp_path, "2", "float32")
    while not (tmp_path / "float32" / "checkpoint.npz").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ((again, _),) = trained(cartoon_folder, tmp_path, "2", "float32")
    for name, array in of_two[0][0].items():
        np.testing.assert_allclose(again[name], array, atol=1e-6)


@pytest.mark.slow
def test_two_devices_train_in_mixed_precision(of_two):
    arrays, meta = of_two[1]
    losses = [entry["bits_per_pixel"] for entry in meta["history"]]
    assert losses[-1] < losses[0]
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_three_devices_share_a_batch_evenly(monkeypatch):
    monkeypatch.setattr(devices, "count", lambda: 3)
    for size, expected in (((8, 8), 63), ((64, 64), 3)):
        options = TrainingArguments(image_size=size)
        assert fit_module._default_batch_size(options, 1000) == expected
    devices.check_batch_size(6)
    with pytest.raises(UserError, match="a multiple of the 3 devices"):
        devices.check_batch_size(8)


def test_more_devices_than_there_are_is_one_clear_line(
    cartoon_folder, tmp_path
):
    two = TrainingArguments(devices="2", image_size=(8, 8))
    with pytest.raises(UserError, match="devices must be at most 1"):
        fit(cartoon_folder, two, runs_dir=tmp_path, say=lambda line: None)
    with pytest.raises(UserError, match="positive number, all or all-hosts"):
        TrainingArguments(devices="some")

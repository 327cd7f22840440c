"""Two processes on loopback that train one model with JAX."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from pixace_tf.errors import UserError
from pixace_tf.storage import read_npz
from pixace_tf.training import hosts
from pixace_tf.training.training_arguments import TrainingArguments

OPTIONS = (
    *("--preset", "pico", "--image-size", "8", "--batch-size", "8"),
    *("--decoder", "transformer", "--head", "packed"),
    *("--checkpoint-seconds", "0"),
)


def free_port():
    """Return a port that the system gives to nobody by itself."""
    for port in itertools.count(20_000 + os.getpid() % 10_000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def start(folder, runs_dir, name, epochs, count=1):
    """Start the processes of one training."""
    command = [sys.executable, "-m", "pixace_tf", "fit", str(folder)]
    command += ["--runs-dir", str(runs_dir), "--name", name, *OPTIONS]
    command += ["--epochs", str(epochs)]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    if count > 1:
        command += ["--devices", "all-hosts"]
        address = f"127.0.0.1:{free_port()}"
        environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = address
        environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(count)
    return [
        subprocess.Popen(
            command,
            env={**environment, "KERAS_DISTRIBUTION_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def finish(processes):
    """Wait; return the exit codes and what each one said."""
    said = [process.communicate() for process in processes]
    return [process.returncode for process in processes], said


def wait_for_newer(path, before, processes):
    while not path.exists() or path.stat().st_mtime_ns == before:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def weights(path):
    return read_npz(path / "checkpoint.npz")[0]


@pytest.fixture(scope="module")
def of_two(cartoon_folder, tmp_path_factory):
    """The weights that two processes learned."""
    runs_dir = tmp_path_factory.mktemp("runs")
    codes, said = finish(start(cartoon_folder, runs_dir, "two", 6, count=2))
    assert codes == [0, 0], said
    # Only the first one prints, and only its folder remains.
    assert "Now try: pixace-tf generate" in said[0][0]
    assert "epoch" not in said[1][0]
    return weights(runs_dir / "two")


@pytest.mark.soak
def test_two_processes_learn_what_one_learns(cartoon_folder, tmp_path, of_two):
    codes, said = finish(start(cartoon_folder, tmp_path, "one", 6))
    assert codes == [0], said
    one, two = weights(tmp_path / "one"), of_two
    assert set(one) == set(two)
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=1e-6, err_msg=name)


@pytest.mark.soak
def test_if_one_is_killed_the_other_ends_and_all_resume(
    cartoon_folder, tmp_path, of_two
):
    path = tmp_path / "killed" / "checkpoint.npz"
    for victim in (0, 1):
        before = path.stat().st_mtime_ns if victim else 0
        processes = start(cartoon_folder, tmp_path, "killed", 6, count=2)
        wait_for_newer(path, before, processes)
        processes[victim].send_signal(signal.SIGKILL)
        _, said = finish(processes)
        survivor = said[1 - victim][1]
        assert "Another process of this training has ended" in survivor
        assert "Traceback" not in survivor
    codes, said = finish(start(cartoon_folder, tmp_path, "killed", 6, count=2))
    assert codes == [0, 0], said
    killed = weights(tmp_path / "killed")
    for name, array in of_two.items():
        np.testing.assert_array_equal(killed[name], array, err_msg=name)


ALIKE = """
import os, sys
import jax
from pixace_tf.errors import UserError
from pixace_tf.training import hosts
address, index, path = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
hosts.check_alike("seed", "the same")
try:
    with hosts.own_folder(path):
        print("in")
except UserError as error:
    print(error)
"""


def test_hosts_without_a_shared_folder_do_not_resume_apart(tmp_path):
    pytest.importorskip("jax")
    for index in range(2):
        os.mkdir(tmp_path / str(index))
        (tmp_path / str(index) / "run.json").write_text("{}")
    (tmp_path / "0" / "checkpoint.npz").write_bytes(b"step 7")
    (tmp_path / "1" / "checkpoint.npz").write_bytes(b"step 5")
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", ALIKE, address, str(index)),
                tmp_path / str(index),
            ],
            env={**os.environ, "KERAS_BACKEND": "jax"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    codes, said = finish(processes)
    assert codes == [0, 0], said
    for output, _ in said:
        line = output.splitlines()[-1]  # Gloo says more.
        assert line.startswith("The hosts do not have the same state of the")
        assert "processes 0 and 1 differ" in line


def test_several_hosts_need_jax(monkeypatch):
    options = TrainingArguments(devices="all-hosts", epochs=1, preset="pico")
    with pytest.raises(UserError, match="set KERAS_BACKEND=jax"):
        hosts.join(options)
    hosts.join(TrainingArguments())


def test_one_process_works_in_the_run_folder(tmp_path):
    with hosts.own_folder(str(tmp_path)) as folder:
        assert folder == str(tmp_path)
    assert tmp_path.is_dir()

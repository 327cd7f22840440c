import gc
import hashlib
import itertools
import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import types
import weakref

import numpy as np
import psutil
import pytest
from conftest import DECODERS
from tensorflow.python.framework.func_graph import FuncGraph

from pixace_tf import storage
from pixace_tf.data import tokenizing
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.demo import run_demo
from pixace_tf.model import presets
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.runs import run_config, run_folder
from pixace_tf.runs.model_weights import get_weights
from pixace_tf.runs.run_folder import load_run
from pixace_tf.sampling.likelihood import Scorer
from pixace_tf.training import callbacks, devices, loop, recipe, schedule
from pixace_tf.training import fit as training
from pixace_tf.training.callbacks import BudgetSchedule, StepCallbacks
from pixace_tf.training.checkpoint import Checkpoint
from pixace_tf.training.compile import compile_model
from pixace_tf.training.interruption import InterruptedTraining, StopRequest
from pixace_tf.training.losses import Losses
from pixace_tf.training.previews import Previews
from pixace_tf.training.schedule import (
    Budget,
    Training,
    TrainingState,
    learning_rate_share,
    micro_batch_size,
)
from pixace_tf.training.training_arguments import TrainingArguments

pytestmark = pytest.mark.slow  # Nearly all of it.
SETTINGS = {
    "preset": "pico",
    "decoder": "transformer",
    "num_layers": 1,
    "image_size": (8, 8),
    "batch_size": 16,  # Two steps an epoch.
    "dropout": 0.1,
    "seed": 7,
    "jit_compile": False,
}
CHANGES = {"hue_turns": 0.5, "shifts": 0.5, "input_noise": 0.1}


@pytest.fixture(autouse=True)
def no_previews(monkeypatch):
    """Tracing the sampler takes most of the time of a tiny training."""
    monkeypatch.setattr(Previews, "update", lambda *_, **__: None)


def fit(folder, runs_dir, name=None, **options):
    lines = []
    run = training.fit(
        str(folder),
        TrainingArguments(**{**SETTINGS, **options}),
        name=name,
        runs_dir=str(runs_dir),
        say=lines.append,
    )
    return run, lines


def checkpoint_of(runs_dir, name="animals"):
    path = os.path.join(runs_dir, name, run_config.CHECKPOINT_FILE)
    return storage.read_npz(path)


def history_of(run):
    with open(run.file("history.json")) as file:
        return json.load(file)


def assert_same_state(first, second):
    arrays, progress = first
    other_arrays, other_progress = second
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name], name)
    for entry, other in zip(
        progress["history"], other_progress["history"], strict=True
    ):
        for key in ("epoch", "val_bits_per_pixel"):
            assert entry[key] == other[key]
        # A sum of float32 means, taken apart at the interruption.
        assert entry["bits_per_pixel"] == pytest.approx(
            other["bits_per_pixel"], rel=1e-6
        )


def test_a_run_folder_holds_what_people_look_at(trained_run):
    files = set(os.listdir(trained_run.path))
    assert files >= {
        "run.json",
        "weights.npz",
        "checkpoint.npz",
        "tokens.npz",
        "history.json",
        "learning_curve.png",
        "pictures",
        "tensorboard",
    }
    history = history_of(trained_run)
    assert [e["epoch"] for e in history] == [1, 2, 3]
    assert all(e["val_bits_per_pixel"] > 0 for e in history)
    pictures = os.listdir(trained_run.file("pictures"))
    assert "epoch-00003.00-new.png" in pictures
    assert "epoch-00003.00-completed.png" in pictures


def test_a_loaded_run_scores_as_it_did_in_training(trained_run):
    history = history_of(trained_run)
    best = min(e["val_bits_per_pixel"] for e in history)
    tokens, _ = storage.read_npz(trained_run.file("tokens.npz"))
    model = load_run(trained_run.path, jit_compile=False).model
    again = Scorer(model, jit_compile=False).bits(tokens["validation"])
    assert again.mean() == pytest.approx(best, rel=1e-5)


def test_a_kill_does_not_forget_the_best_weights(trained_run, tmp_path):
    """Weights are kept at once, the checkpoint only now and then."""
    path = tmp_path / "run"
    shutil.copytree(trained_run.path, path)
    arrays, entry = storage.read_npz(path / "weights.npz")
    entry["val_bits_per_pixel"] -= 1
    storage.write_npz(path / "weights.npz", arrays, entry)
    state = TrainingState()
    run = run_folder.open_run(path, jit_compile=False)
    compile_model(run.model, 1e-3, False)
    losses = Losses(state, run.path, 1)
    progress = Training(run, Budget(1, None, 1), state, StopRequest())
    Checkpoint(progress, losses, 60).restore()
    assert state.best == entry["val_bits_per_pixel"]


class StopAt:
    """Asks to stop, by a real signal, when a number of steps is done."""

    def __init__(self, monkeypatch, step, signum=signal.SIGTERM):
        self.steps, original = 0, BudgetSchedule.on_train_batch_end

        def count(schedule, batch, logs=None):
            self.steps += 1
            if self.steps == step:
                signal.raise_signal(signum)
            original(schedule, batch, logs)

        monkeypatch.setattr(BudgetSchedule, "on_train_batch_end", count)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("stop_at", "micro_batch_pixels", "options"),
    [
        # The very first step.
        (1, 8192, {"epochs": 1, "decoder": "multiscale"}),
        # Within a later epoch.
        (3, 8192, {"epochs": 2, "decoder": "reformer", "num_hashes": 2}),
        # In the last validation.
        (4, 8192, {"epochs": 2}),
        # Between the parts of a batch.
        (6, 256, {"epochs": 1}),
        # The same with changed images.
        (11, 256, {"epochs": 2, "orders": True, "recipe": "few", **CHANGES}),
    ],
)
def test_an_interrupted_run_equals_one_that_was_not(
    cartoon_folder,
    tmp_path,
    monkeypatch,
    stop_at,
    micro_batch_pixels,
    options,
):
    monkeypatch.setattr(schedule, "CPU_MICRO_BATCH_PIXELS", micro_batch_pixels)
    fit(cartoon_folder, tmp_path / "straight", **options)
    with monkeypatch.context() as patch:
        StopAt(patch, stop_at, signal.SIGINT)
        with pytest.raises(InterruptedTraining):
            fit(cartoon_folder, tmp_path / "stopped", **options)
    assert load_run(tmp_path / "stopped" / "animals", False).path
    fit(cartoon_folder, tmp_path / "stopped", **options)
    assert_same_state(
        checkpoint_of(tmp_path / "straight"),
        checkpoint_of(tmp_path / "stopped"),
    )
    weights, other = (
        storage.read_npz(str(tmp_path / name / "animals" / "weights.npz"))[0]
        for name in ("straight", "stopped")
    )
    for name, array in weights.items():
        np.testing.assert_array_equal(array, other[name])


def snapshots_of_training(folder, runs_dir, monkeypatch, **options):
    """Train, and copy the run before and after each file is put in place.

    A kill at any moment leaves one of these states, perhaps with unfinished
    files, which are copied too.
    """
    replace, copies = os.replace, []

    def copy():
        copies.append(f"{runs_dir}-{len(copies):03d}")
        shutil.copytree(runs_dir, copies[-1])

    def replace_and_copy(source, target):
        copy()
        replace(source, target)
        copy()

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_and_copy)
        fit(folder, runs_dir, **options)
    return copies


@pytest.mark.soak
@pytest.mark.usefixtures("eager")
def test_a_kill_at_any_write_changes_nothing(
    cartoon_folder, tmp_path, monkeypatch
):
    options = {
        "image_size": (4, 4),
        "epochs": 2,
        "batch_size": 24,
        "checkpoint_seconds": 0.0,
    }
    copies = snapshots_of_training(
        cartoon_folder, tmp_path / "runs", monkeypatch, **options
    )
    straight = checkpoint_of(tmp_path / "runs")
    states = {}
    for copy in copies:  # Keep one for each state that a training reads.
        files = sorted(pathlib.Path(copy, "animals").glob("*.*[nz]"))
        content = b"".join(path.read_bytes() for path in files)
        states[hashlib.sha256(content).hexdigest()] = copy
    assert len(states) >= 5
    for copy in states.values():
        fit(cartoon_folder, copy, **options)
        assert_same_state(straight, checkpoint_of(copy))
        assert not list(pathlib.Path(copy, "animals").glob(".*.unfinished"))


def command_of(folder, runs_dir, *options):
    return [
        *(sys.executable, "-m", "pixace_tf", "fit", str(folder)),
        *("--runs-dir", str(runs_dir), "--preset", "pico"),
        *("--decoder", "transformer"),
        *("--image-size", "8", "--batch-size", "8", "--dropout", "0.1"),
        *("--seed", "7", "--no-jit-compile", "--num-layers", "1"),
        *options,
    ]


def kill_after_a_checkpoint(command, checkpoint, signum, wait_s):
    """Begin a training and kill it some time after its next checkpoint.

    Returns:
        Whether it was still running.
    """

    def saved_at():
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    before = saved_at()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while saved_at() == before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(wait_s)
    process.send_signal(signum)
    _, errors = process.communicate()
    assert b"Traceback" not in errors, errors.decode()
    return process.returncode != 0


@pytest.mark.soak
def test_many_kills_at_random_moments_change_nothing(cartoon_folder, tmp_path):
    rng = random.Random(0)
    killed, kills = tmp_path / "killed", 0
    checkpoint = killed / "animals" / "checkpoint.npz"
    command = command_of(cartoon_folder, killed, "--epochs", "60")
    command += ["--checkpoint-seconds", "0.2"]
    for attempt in range(4):
        signum = signal.SIGKILL if attempt % 2 else signal.SIGTERM
        wait_s = rng.uniform(0, 1)
        kills += kill_after_a_checkpoint(command, checkpoint, signum, wait_s)
    assert kills >= 2  # On a fast machine it may end before.
    for runs_dir in (killed, tmp_path / "straight"):
        fit(cartoon_folder, runs_dir, epochs=60, batch_size=8)
    assert not list((killed / "animals").glob(".*.unfinished"))
    assert_same_state(
        checkpoint_of(tmp_path / "straight"), checkpoint_of(killed)
    )


@pytest.mark.usefixtures("eager")
def test_more_epochs_extend_a_finished_run(cartoon_folder, tmp_path):
    fit(cartoon_folder, tmp_path, epochs=1)
    _, lines = fit(cartoon_folder, tmp_path, epochs=1)
    assert any("finished" in line for line in lines)
    fit(cartoon_folder, tmp_path, epochs=2)
    assert checkpoint_of(tmp_path)[1]["epoch"] == 2


@pytest.mark.usefixtures("eager")
def test_a_run_keeps_the_recipe_that_its_passes_chose(
    cartoon_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(recipe, "MAX_PLAIN_PASSES", 1)
    # These pictures are scaled, unlike pixel art, for which it is meant.
    monkeypatch.setattr(recipe, "NATIVE", "crop")
    run, lines = fit(cartoon_folder, tmp_path, epochs=2)
    assert any(line.startswith("Recipe for few images") for line in lines)
    kept = run_config.read_config(run.path)["arguments"]
    assert (kept["recipe"], kept["hue_turns"]) == ("few", 0.5)
    assert kept["weight_decay"] == recipe.FEW_IMAGES["weight_decay"]
    monkeypatch.setattr(recipe, "MAX_PLAIN_PASSES", 9)
    run, lines = fit(cartoon_folder, tmp_path, epochs=3, recipe="auto")
    assert not any(line.startswith("Recipe") for line in lines)
    assert float(run.model.optimizer.weight_decay) == kept["weight_decay"]
    with pytest.raises(ValueError, match="recipe was 'few', now 'plain'"):
        fit(cartoon_folder, tmp_path, epochs=3, recipe="plain")


@pytest.mark.usefixtures("eager")
def test_a_run_that_is_told_of_changes_starts_from_one_that_is_not(
    cartoon_folder, tmp_path
):
    first, _ = fit(cartoon_folder, tmp_path, epochs=1)
    second = training.fit(
        str(cartoon_folder),
        TrainingArguments(epochs=1, jit_compile=False, **CHANGES),
        start_from=first.path,
        name="second",
        runs_dir=str(tmp_path),
        say=lambda line: None,
    )
    tokens = second.sampler.generate([1, 2])
    again = load_run(second.path, jit_compile=False)
    np.testing.assert_array_equal(again.sampler.generate([1, 2]), tokens)


@pytest.mark.usefixtures("eager")
def test_other_arguments_are_refused_by_name(cartoon_folder, tmp_path):
    fit(cartoon_folder, tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"seed was 7, now 8.*--name") as e:
        fit(cartoon_folder, tmp_path, epochs=2, seed=8, bit_widths=(4, 3, 3))
    assert "bit_widths was (5, 4, 4), now (4, 3, 3)" in str(e.value)
    # Refused before anything is touched.
    fit(cartoon_folder, tmp_path, epochs=2)


@pytest.mark.usefixtures("eager")
def test_changed_pictures_are_refused(cartoon_folder, tmp_path):
    folder = tmp_path / "animals"
    shutil.copytree(cartoon_folder, folder)
    fit(folder, tmp_path / "runs", epochs=1)
    moved = shutil.copytree(folder, tmp_path / "moved" / "animals")
    fit(moved, tmp_path / "runs", epochs=2)
    shutil.copy(folder / "cat" / "cat-00000.png", folder / "dog" / "new.png")
    with pytest.raises(
        ValueError, match=r"other images: 1 image was added\. Start .*--from"
    ):
        fit(folder, tmp_path / "runs", epochs=3)


@pytest.mark.usefixtures("eager")
def test_minutes_end_a_run_with_useful_weights(
    cartoon_folder, tmp_path, monkeypatch
):
    # Each look advances this clock: a slow machine takes as many steps.
    seconds = itertools.count(0, 0.2)
    clock = types.SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(callbacks, "time", clock)
    fit(cartoon_folder, tmp_path, max_minutes=0.1)
    _, state = checkpoint_of(tmp_path)
    # The first step beyond the time is the last.
    assert 6 <= state["seconds"] < 7
    assert state["history"][-1]["val_bits_per_pixel"] < 13
    assert load_run(tmp_path / "animals", jit_compile=False)


@pytest.mark.usefixtures("eager")
def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(
    cartoon_folder, tmp_path, monkeypatch
):
    run, _ = fit(cartoon_folder, tmp_path, epochs=1)
    before = get_weights(run.model)

    def explode(schedule, batch, logs=None):
        schedule.model.optimizer.learning_rate.assign(1e30)

    monkeypatch.setattr(BudgetSchedule, "on_train_batch_begin", explode)
    with pytest.raises(ValueError, match="not a number") as error:
        fit(cartoon_folder, tmp_path, epochs=3)
    assert "\n" not in str(error.value)
    after = get_weights(load_run(tmp_path / "animals", False).model)
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


@pytest.mark.usefixtures("eager")
def test_a_full_disk_leaves_the_last_checkpoint(
    cartoon_folder, tmp_path, monkeypatch
):
    fit(cartoon_folder, tmp_path, epochs=1)
    before = checkpoint_of(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage.np, "savez", full)
        with pytest.raises(OSError, match="No space left"):
            fit(cartoon_folder, tmp_path, epochs=2)
    assert_same_state(before, checkpoint_of(tmp_path))
    leftovers = [
        name
        for name in os.listdir(tmp_path / "animals")
        if name.endswith(".unfinished")
    ]
    assert not leftovers
    fit(cartoon_folder, tmp_path, epochs=2)
    assert checkpoint_of(tmp_path)[1]["epoch"] == 2


@pytest.mark.parametrize(
    ("precision", "jit_compile", "decoder"),
    [
        ("mixed_float16", False, "transformer"),
        # Compiling takes most of a minute.
        pytest.param(
            *("mixed_float16", True, "transformer"), marks=pytest.mark.soak
        ),
        ("mixed_bfloat16", False, "multiscale"),
    ],
)
def test_mixed_precision_trains_and_resumes(
    cartoon_folder, tmp_path, precision, jit_compile, decoder
):
    settings = {
        "precision": precision,
        "jit_compile": jit_compile,
        "decoder": decoder,
        "image_size": (9, 9),  # More than one block of attention.
        "batch_size": 8,
    }
    fit(cartoon_folder, tmp_path, epochs=2, **settings)
    settings["jit_compile"] = False
    run, _ = fit(cartoon_folder, tmp_path, epochs=3, **settings)
    arrays, progress = checkpoint_of(tmp_path)
    assert progress["history"][-1]["bits_per_pixel"] < 12.4
    assert all(np.isfinite(a).all() for a in arrays.values())
    assert run.model.dtype_policy.name == "float32"


def test_two_trainings_cannot_share_a_run(cartoon_folder, tmp_path):
    os.makedirs(tmp_path / "animals")
    with (
        storage.lock(tmp_path / "animals", "Somebody is here."),
        pytest.raises(ValueError, match="Another training"),
    ):
        fit(cartoon_folder, tmp_path, epochs=1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": 0},
        {"max_minutes": -1.0},
        {"epochs": 1, "max_minutes": 1.0},
        {"dropout": 1.0, "epochs": 1},
        {"precision": "float8", "epochs": 1},
        {"batch_size": 500, "epochs": 1},
        {"learning_rate": 0.0, "epochs": 1},
    ],
)
def test_a_bad_argument_leaves_no_run(cartoon_folder, tmp_path, arguments):
    with pytest.raises(ValueError, match=r"Received|not both"):
        fit(cartoon_folder, tmp_path, **arguments)
    assert not os.path.exists(tmp_path / "animals")


def test_keywords_override_arguments(tmp_path):
    with pytest.raises(ValueError, match="epochs or max_minutes, not both"):
        training.fit(
            tmp_path / "none", TrainingArguments(epochs=1), max_minutes=1.0
        )


def test_the_learning_rate_warms_up_and_falls():
    budget = Budget(10, None, 100)
    rates = [
        learning_rate_share(
            budget.share(TrainingState(step // 100, step % 100)), step
        )
        for step in range(1000)
    ]
    assert rates[0] < 0.11
    assert 0.9 < max(rates) <= 1
    assert rates.index(max(rates)) < 60
    assert rates[-1] < 0.03
    assert rates[100:] == sorted(rates[100:], reverse=True)


@pytest.mark.parametrize(
    ("batch_size", "length", "pixels", "expected"),
    [
        *((4, 1024, 8192, 4), (32, 1024, 8192, 8), (30, 1024, 8192, 6)),
        *((61, 1024, 8192, 8), (7, 4096, 8192, 2), (3, 10**6, 8192, 1)),
        *((64, 1024, 65540, 64), (61, 1024, 65540, 61)),
    ],
)
def test_batches_are_cut_into_few_micro_batches(
    batch_size, length, pixels, expected
):
    assert micro_batch_size(batch_size, length, pixels) == expected


def test_no_batch_is_cut_into_many_more_parts_than_needed():
    for batch_size, most in itertools.product(range(1, 130), range(1, 20)):
        size = micro_batch_size(batch_size, 1, most)
        parts = math.ceil(batch_size / size)
        assert size <= most
        assert parts <= 2 * math.ceil(batch_size / most)
        assert (parts - 1) * size < batch_size  # No part is only filling.


def test_a_gpu_computes_whole_batches(monkeypatch):
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "_gpu_gigabytes", lambda: 10.0)
    for batch_size in (61, 64):
        pixels = devices.micro_batch_pixels("mixed_float16")
        assert micro_batch_size(batch_size, 1024, pixels) == batch_size
    assert devices.micro_batch_pixels("float32") == 32770
    assert devices.steps_between_looks() > 1


def test_the_memory_of_a_gpu_is_asked_of_its_driver(monkeypatch):
    def tell(command, **_):
        assert command[0] == "nvidia-smi"
        return types.SimpleNamespace(stdout="81559\n24576\n")

    monkeypatch.setattr(subprocess, "run", tell)
    assert devices._gpu_gigabytes() == pytest.approx(25.8, abs=0.1)

    def fail(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", fail)
    assert devices._gpu_gigabytes() == 10


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("batch_size", "pixels", "parts"),
    [(20, 320, 4), (19, 320, 4)],
    ids=["even", "filled up"],
)
def test_accumulated_gradients_are_those_of_the_batch(
    cartoon_folder, tmp_path, monkeypatch, batch_size, pixels, parts
):
    found = {}
    options = {"epochs": 2, "dropout": 0.0, "batch_size": batch_size}
    for name, limit in (("whole", 8192), ("cut", pixels)):
        monkeypatch.setattr(schedule, "CPU_MICRO_BATCH_PIXELS", limit)
        run, _ = fit(cartoon_folder, tmp_path, name=name, **options)
        _, state = checkpoint_of(tmp_path, name)
        assert state["parts"] == (parts if name == "cut" else 1)
        losses = [
            entry[key]
            for entry in history_of(run)
            for key in ("bits_per_pixel", "val_bits_per_pixel")
        ]
        found[name] = losses, int(run.model.optimizer.iterations)
    assert found["cut"][1] == found["whole"][1] > 0
    assert found["cut"][0] == pytest.approx(found["whole"][0], rel=1e-3)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("begun", "ended"), [(8192, 256), (256, 8192)])
def test_a_run_goes_on_where_batches_are_cut_otherwise(
    cartoon_folder, tmp_path, monkeypatch, begun, ended
):
    options = {"epochs": 2, "dropout": 0.0}
    straight, _ = fit(cartoon_folder, tmp_path / "straight", **options)
    monkeypatch.setattr(schedule, "CPU_MICRO_BATCH_PIXELS", begun)
    # After the first batch of the second epoch, or within the first batch.
    with monkeypatch.context() as patch:
        StopAt(patch, 3)
        with pytest.raises(InterruptedTraining):
            fit(cartoon_folder, tmp_path / "moved", **options)
    monkeypatch.setattr(schedule, "CPU_MICRO_BATCH_PIXELS", ended)
    moved, _ = fit(cartoon_folder, tmp_path / "moved", **options)
    assert int(moved.model.optimizer.iterations) == int(
        straight.model.optimizer.iterations
    )
    for ours, theirs in zip(
        history_of(moved), history_of(straight), strict=True
    ):
        for key in ("epoch", "bits_per_pixel", "val_bits_per_pixel"):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-3), key


def graphs_of_steps():
    """Return the graphs of training steps that are alive, by their ids."""
    gc.collect()
    graphs = [o for o in gc.get_objects() if isinstance(o, FuncGraph)]
    return {id(g) for g in graphs if g.name == "one_step_on_data"}


def test_nothing_keeps_the_graph_of_a_finished_training():
    before = graphs_of_steps()  # Fixtures keep theirs.
    sizes = presets.decoder_config("pico", "transformer")
    with loop._forgetting_gradients():
        model = PixaceCausalLM((4, 4), "hsv 5,4,4", "transformer", sizes)
        compile_model(model, 1e-3, jit_compile=False)
        tokens = np.zeros((2, 16), np.int32)
        model.fit(tokens, tokens, verbose=0)
        assert graphs_of_steps() - before
    gone = weakref.ref(model)
    del model
    assert not graphs_of_steps() - before
    assert gone() is None


@pytest.mark.soak
@pytest.mark.usefixtures("eager")
def test_trainings_in_one_process_do_not_add_up(cartoon_folder, tmp_path):
    """With XLA, TensorFlow keeps each compiled program: some 200 MB here."""
    sizes = []
    for i in range(6):
        fit(cartoon_folder, tmp_path, name=f"run-{i}", epochs=1, seed=i)
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss)
    assert max(sizes[2:]) < 1.1 * sizes[1], sizes


def test_only_matrices_of_products_decay():
    sizes = presets.decoder_config("pico", "multiscale")
    model = PixaceCausalLM(
        (4, 4), "hsv 5,4,4", "multiscale", sizes, orders=(0, 1)
    )
    compile_model(model, 1e-3, jit_compile=False)
    before = get_weights(model)
    variables = model.trainable_variables
    # Without gradients only the decay moves a weight.
    zeros = [np.zeros(v.shape, "float32") for v in variables]
    model.optimizer.apply(zeros, variables)
    for path, array in get_weights(model).items():
        factor = 1 - 1e-3 * 0.05 if path.endswith("/kernel") else 1
        np.testing.assert_allclose(array, factor * before[path], rtol=1e-6)


class Told:
    """A loss that knows how often it was asked for its number."""

    asked = 0

    def __float__(self):
        Told.asked += 1
        return 2.0


def test_a_gpu_is_waited_for_every_few_steps(monkeypatch):
    monkeypatch.setattr(Told, "asked", 0)
    state = TrainingState()
    losses = Losses(state, "run", 20)
    callbacks = StepCallbacks([losses])
    callbacks.on_epoch_begin(0)
    for batch in range(50):
        state.step += 1
        callbacks.on_train_batch_end(batch, {"loss": Told()})
        assert losses.is_fresh == (state.step % 20 == 0)
    assert Told.asked == 2
    losses.read()
    losses.read()
    assert Told.asked == 3
    assert state.loss_sum == 100


@pytest.mark.usefixtures("eager")
def test_a_run_may_lie_among_its_pictures(cartoon_folder, tmp_path):
    folder = shutil.copytree(cartoon_folder, tmp_path / "animals")
    fit(folder, folder / "saved_models", epochs=1)
    fit(folder, folder / "saved_models", epochs=2)
    assert checkpoint_of(folder / "saved_models")[1]["epoch"] == 2


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_picture_smaller_than_a_patch_works(
    cartoon_folder, tmp_path, decoder
):
    run, _ = fit(
        cartoon_folder, tmp_path, epochs=1, image_size=(3, 3), decoder=decoder
    )
    assert run.sampler.generate([0]).shape == (1, 9)


@pytest.mark.slow
def test_the_demo_leaves_two_sheets(tmp_path):
    lines = []
    arguments = TrainingArguments(
        preset="pico", image_size=(8, 8), max_minutes=0.05, jit_compile=False
    )
    run_demo(str(tmp_path), arguments, 16, lines.append)
    for name in ("completed.png", "new.png"):
        assert (tmp_path / name).stat().st_size > 10_000
        assert any(name in line for line in lines)


@pytest.mark.usefixtures("eager")
def test_the_optimizer_of_another_model_is_refused_by_name(
    cartoon_folder, tmp_path
):
    fit(cartoon_folder, tmp_path, epochs=1)
    path = tmp_path / "animals" / "checkpoint.npz"
    arrays, meta = storage.read_npz(path)
    (name,) = [n for n in arrays if n.endswith("embed_table_momentum")]
    arrays[name.replace("table", "desk")] = arrays.pop(name)
    storage.write_npz(path, arrays, meta)
    with pytest.raises(ValueError, match=r"does not fit.*embed_table_momentum"):
        fit(cartoon_folder, tmp_path, epochs=2)


@pytest.mark.soak
def test_a_clock_ends_a_training_with_xla(
    cartoon_folder, tmp_path, monkeypatch
):
    seconds = itertools.count(0, 0.5)
    clock = types.SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(callbacks, "time", clock)
    options = {"image_size": (4, 4), "dropout": 0.0, "jit_compile": True}
    options["head"] = "packed"  # It compiles in less time.
    fit(cartoon_folder, tmp_path, max_minutes=0.1, **options)
    _, state = checkpoint_of(tmp_path)
    assert state["seconds"] >= 6
    assert np.isfinite(state["history"][-1]["val_bits_per_pixel"])


@pytest.mark.soak
def test_a_run_resumes_with_xla_as_if_it_had_not_stopped(
    cartoon_folder, tmp_path, monkeypatch
):
    """Each batch is cut into two parts, filled up, and each part in shards."""
    monkeypatch.setattr(schedule, "CPU_MICRO_BATCH_PIXELS", 64)
    options = {"image_size": (4, 4), "epochs": 2, "dropout": 0.0}
    options |= {"jit_compile": True, "batch_size": 7}
    with monkeypatch.context() as patch:
        StopAt(patch, 5)
        with pytest.raises(InterruptedTraining):
            fit(cartoon_folder, tmp_path / "stopped", **options)
    for runs_dir in (tmp_path / "stopped", tmp_path / "straight"):
        fit(cartoon_folder, runs_dir, **options)
    assert_same_state(
        checkpoint_of(tmp_path / "straight"),
        checkpoint_of(tmp_path / "stopped"),
    )


@pytest.mark.soak
def test_shards_train_with_xla_what_their_images_do(cartoon_folder, tmp_path):
    shards = tmp_path / "shards"
    tokenizing.tokenize(
        str(cartoon_folder), str(shards), PixelTokenizer((4, 4))
    )
    options = {"image_size": (4, 4), "epochs": 1, "dropout": 0.0}
    bits = []
    for source in (shards, cartoon_folder):
        run, _ = fit(source, tmp_path / "runs", jit_compile=True, **options)
        (entry,) = history_of(run)
        bits.append(entry["val_bits_per_pixel"])
    assert bits[0] == bits[1]

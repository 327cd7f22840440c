"""Sweeps: what is tried, what is recorded, and what dies in between."""

import contextlib
import functools
import itertools
import json
import math
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import keras_tuner
import numpy as np
import psutil
import pytest
from packaging.specifiers import SpecifierSet
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)
from tiny_zoo import TinyZoo

from pixace_tf.cli import main
from pixace_tf.data import cartoons
from pixace_tf.errors import UserError
from pixace_tf.evaluation.evidence import gather
from pixace_tf.model import presets
from pixace_tf.runs.run_config import TOKENS_FILE
from pixace_tf.runs.run_folder import load_run
from pixace_tf.sampling.likelihood import Scorer, bits_per_dim
from pixace_tf.storage import read_npz
from pixace_tf.tuning import palettes, processes, results
from pixace_tf.tuning import tuner as oracle
from pixace_tf.tuning.role import Silence
from pixace_tf.tuning.space import (
    RUNS,
    TUNER,
    PixaceHyperModel,
    Sweep,
    load_sweep,
    trial_arguments,
)
from pixace_tf.tuning.sweep import tune

WIDTHS = [(4, 3, 4), (4, 4, 4), (5, 4, 4)]
DEFAULTS = {"preset": "pico", "decoder": "multiscale", "epochs": 1}


def make_sweep(tuner="grid", max_trials=None, **space):
    space = {"palette": ["hsv 5,4,4"], "image_size": ["8x8"], **space}
    return Sweep(
        source="pictures",
        space=space,
        fixed=dict(DEFAULTS),
        tuner=tuner,
        objective="bits_per_pixel",
        max_trials=max_trials,
        seed=0,
        min_psnr=0.0,
    )


def make_oracle(folder, sweep):
    made = oracle.make_oracle(sweep)
    made._set_project_dir(str(folder), TUNER)
    space = made.get_space()
    PixaceHyperModel(sweep).declare_hyperparameters(space)
    made.update_space(space)
    if os.path.exists(folder / TUNER / "oracle.json"):
        made.reload()
    return made


def finish(made, trial, bits=None):
    values = trial.hyperparameters.values
    bits = bits or len(str(values)) + float(values["learning_rate"])
    made.update_trial(trial.trial_id, {"bits_per_pixel": bits})
    trial.status = oracle.COMPLETED
    made.end_trial(trial)


GRID = {"num_layers": [1, 2, 3], "learning_rate": [0.1, 0.2, 0.3, 0.4]}


def combinations(made, space=GRID):
    return [
        tuple(made.trials[t].hyperparameters.values[k] for k in space)
        for t in made.end_order
    ]


@pytest.mark.parametrize("tuner", ["grid", "random"])
def test_an_oracle_killed_anywhere_tries_what_it_would_have_tried(
    tmp_path, tuner
):
    sweep = make_sweep(tuner, 12, **GRID)
    calm = make_oracle(tmp_path / "calm", sweep)
    while (trial := calm.create_trial("tuner0")).status != oracle.STOPPED:
        finish(calm, trial)
    chance = random.Random(0)
    killed = make_oracle(tmp_path / "killed", sweep)
    while (trial := killed.create_trial("tuner0")).status != oracle.STOPPED:
        if chance.random() < 0.5:  # While the trial runs: it comes again.
            killed = make_oracle(tmp_path / "killed", sweep)
            again = killed.create_trial("tuner0")
            assert again.trial_id == trial.trial_id
            trial = again
        finish(killed, trial)
        if chance.random() < 0.5:
            killed = make_oracle(tmp_path / "killed", sweep)
    assert set(combinations(killed)) == set(combinations(calm))
    assert len(killed.end_order) == len(calm.end_order) >= 8
    if tuner == "grid":
        expected = itertools.product(*GRID.values())
        assert set(combinations(calm)) == set(expected)
    best = killed.get_best_trials()[0].hyperparameters.values
    assert best == calm.get_best_trials()[0].hyperparameters.values


class CrashError(BaseException):
    """What a kill looks like from within."""


def search_until_the_end(made):
    while (trial := made.create_trial("tuner0")).status != oracle.STOPPED:
        finish(made, trial)
    return made


@pytest.mark.parametrize("tuner", ["grid", "random"])
def test_an_oracle_crashed_at_any_write_tries_what_it_would_have_tried(
    tmp_path, monkeypatch, tuner
):
    """At each sync and each rename of the whole sweep, one after the other."""
    space = {"num_layers": [1, 2], "learning_rate": [0.1, 0.2]}
    sweep = make_sweep(tuner, 4, **space)
    replace, sync = os.replace, lambda handle: None
    monkeypatch.setattr(os, "fsync", sync)  # A slow disk proves nothing here.
    calm = search_until_the_end(make_oracle(tmp_path / "calm", sweep))
    for crash_at in itertools.count():
        calls = itertools.count()

        def crash(original, *arguments, at=crash_at, calls=calls):
            if next(calls) == at:
                raise CrashError
            return original(*arguments)

        folder = tmp_path / str(crash_at)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", functools.partial(crash, replace))
            patch.setattr(os, "fsync", functools.partial(crash, sync))
            try:
                search_until_the_end(make_oracle(folder, sweep))
                break
            except CrashError:
                pass
        again = search_until_the_end(make_oracle(folder, sweep))
        assert len(again.end_order) == len(calm.end_order)
        assert set(combinations(again, space)) == set(combinations(calm, space))
    assert crash_at > 30


@pytest.mark.parametrize("tuner", ["bayesian", "hyperband"])
def test_the_other_oracles_end_in_spite_of_kills(tmp_path, tuner):
    sweep = make_sweep(tuner, 8, **GRID)
    sweep.fixed["epochs"] = 3
    made = make_oracle(tmp_path, sweep)
    while (trial := made.create_trial("tuner0")).status != oracle.STOPPED:
        made = make_oracle(tmp_path, sweep)
        trial = made.create_trial("tuner0")
        finish(made, trial)
    assert made.is_exhausted
    assert len(made.end_order) == len(made.trials) >= 6
    assert all(t.status == oracle.COMPLETED for t in made.trials.values())


def test_a_trial_written_but_not_handed_out_is_made_again(tmp_path):
    """Killed between the files of the trial and of the oracle."""
    made = make_oracle(tmp_path, make_sweep(**GRID))
    finish(made, made.create_trial("tuner0"))
    state = (tmp_path / TUNER / "oracle.json").read_text()
    trial = made.create_trial("tuner0")
    (tmp_path / TUNER / "oracle.json").write_text(state)
    made = make_oracle(tmp_path, make_sweep(**GRID))
    again = made.create_trial("tuner0")
    assert again.trial_id == trial.trial_id
    assert len(made.start_order) == 2


def test_a_report_is_recorded_once_whoever_brings_it(tmp_path):
    made = make_oracle(tmp_path, make_sweep(**GRID))
    trial = made.create_trial("lost")
    made.release("lost")
    assert made.create_trial("other").trial_id == trial.trial_id
    made.release("other")
    finish(made, trial)  # The lost one was only slow.
    finish(made, trial, bits=1.0)
    assert made.end_order == [trial.trial_id]
    assert made.create_trial("other").trial_id != trial.trial_id


def test_idle_workers_wait_for_trials_that_may_come_back(tmp_path):
    made = make_oracle(tmp_path, make_sweep(max_trials=1, **GRID))
    trial = made.create_trial("first")
    assert made.create_trial("second").status == oracle.IDLE
    assert not made.is_exhausted
    made.release("first")
    assert made.create_trial("second").trial_id == trial.trial_id
    finish(made, trial)
    assert made.create_trial("first").status == oracle.STOPPED
    assert made.is_exhausted


def test_a_grid_keeps_all_workers_busy(tmp_path):
    made = make_oracle(tmp_path, make_sweep(**GRID))
    trials = [made.create_trial(f"worker-{i}") for i in range(12)]
    assert [t.status for t in trials] == [oracle.RUNNING] * 12
    assert len({str(t.hyperparameters.values) for t in trials}) == 12
    assert made.create_trial("worker-12").status == oracle.IDLE
    for each in reversed(trials):
        finish(made, each)
    assert made.create_trial("worker-12").status == oracle.STOPPED


@pytest.mark.parametrize(("epochs", "expected"), [(9, 9), (20, 20)])
def test_hyperband_reaches_its_longest_trials(tmp_path, epochs, expected):
    """In a space smaller than its rounds, where keras-tuner gives up."""
    sweep = make_sweep("hyperband", learning_rate=[0.1, 0.2, 0.3, 0.4])
    sweep.fixed["epochs"] = epochs
    made = make_oracle(tmp_path, sweep)
    lengths = []
    while (trial := made.create_trial("tuner0")).status != oracle.STOPPED:
        values = trial.hyperparameters.values
        lengths.append(values["tuner/epochs"])
        if values.get("tuner/trial_id"):
            before = made.trials[values["tuner/trial_id"]]
            rate = before.hyperparameters.values["learning_rate"]
            assert rate == values["learning_rate"]
        finish(made, trial)
    assert max(lengths) == expected
    assert lengths[:4] == [min(lengths)] * 4


def test_asking_in_vain_is_no_death(tmp_path):
    made = make_oracle(tmp_path, make_sweep(max_trials=2, **GRID))
    first = made.create_trial("busy")
    made.create_trial("other")
    for _ in range(2 * oracle.MAX_RUNS):
        assert made.create_trial("waiting").status == oracle.IDLE
    made.release("busy")
    assert made.create_trial("waiting").trial_id == first.trial_id
    assert made.create_trial("waiting").trial_id == first.trial_id


def test_a_success_counts_more_than_a_failure_of_the_same_trial(tmp_path):
    """Of a worker that slept past its limit, and of the one in its place."""
    made = make_oracle(tmp_path, make_sweep(**GRID))
    trial = made.create_trial("asleep")
    made.release("asleep")
    made.create_trial("other")
    trial.status, trial.message = oracle.FAILED, "It took too long."
    made.end_trial(trial)
    finish(made, trial, bits=3.0)
    assert made.end_order == [trial.trial_id]
    assert made.trials[trial.trial_id].status == oracle.COMPLETED
    trial.status = oracle.FAILED
    made.end_trial(keras_tuner.engine.trial.Trial.from_state(trial.get_state()))
    assert made.end_order == [trial.trial_id]


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path):
    made = make_oracle(tmp_path, make_sweep(**GRID))
    first = made.create_trial("tuner0").trial_id
    handed_out = [
        made.create_trial("tuner0").trial_id for _ in range(oracle.MAX_RUNS)
    ]
    assert handed_out[:-1] == [first] * (oracle.MAX_RUNS - 1)
    assert handed_out[-1] != first
    assert made.trials[first].status == oracle.FAILED
    assert "died" in made.trials[first].message


def test_silence_is_told_by_ones_own_clock(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    silence = Silence(str(tmp_path))
    silence.seconds("a")
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", (10**9, 10**9))  # Another machine's clock.
    assert silence.seconds("a") == 0
    now = 130.0
    assert silence.seconds("a") == 30
    (tmp_path / "a").touch()
    assert silence.seconds("a") == 0


def sleeper(setup, tmp_path):
    """A process of the standard library, begun as a trial is."""
    return processes.start(
        "timeit",
        ["-n1", "-r1", "-s", setup, "import time; time.sleep(60)"],
        str(tmp_path / "log"),
    )


@pytest.mark.parametrize(
    ("setup", "limits", "message"),
    [
        ("pass", (1.0, None), "0.01667 minutes"),
        ("x = bytearray(3 * 10**8)", (30.0, 2 * 10**8), "0.2 GB"),
    ],
)
def test_a_process_beyond_its_limits_is_ended(tmp_path, setup, limits, message):
    process = sleeper(setup, tmp_path)
    with pytest.raises(processes.LimitExceededError, match=message):
        processes.wait_within(process, *limits)
    assert not psutil.pid_exists(process.pid)


def test_a_process_ends_when_its_parent_is_killed(tmp_path):
    code = (
        "import time; from pixace_tf.tuning import processes;"
        "p = processes.start('timeit', ['-n1', '-r1',"
        " 'import time; time.sleep(60)'], 'log');"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.kill()
    parent.wait()
    child.wait(timeout=120)  # It is asked first, then killed.


def test_the_reason_is_the_last_line_or_the_signal(tmp_path):
    log = tmp_path / "log"
    log.write_text("much\nbatch_size must be smaller.\n\n")
    assert processes.reason(2, str(log)) == "batch_size must be smaller."
    assert "SIGKILL" in processes.reason(-9, str(log))
    assert "signal 35" in processes.reason(-35, str(log))


def test_the_hypermodel_builds_what_a_trial_trains():
    sweep = make_sweep(
        palette=["hsv 5,4,4", "rgb 4,5,4"], hidden_dim=[64, 96], num_layers=[3]
    )
    hp = keras_tuner.HyperParameters()
    hp.values = {"palette": "rgb 4,5,4", "hidden_dim": 96}
    model = PixaceHyperModel(sweep).build(hp)
    config = model.get_config()
    assert config["palette"] == "rgb 4,5,4"
    assert config["decoder_config"]["hidden_dim"] == 96
    assert config["decoder_config"]["num_heads"] == 3
    tokens = np.zeros((2, 64), np.int32)
    assert model(tokens).shape == (2, 64, 16 + 32 + 16)
    assert model.optimizer is not None
    arguments = trial_arguments(sweep, {**hp.values, "tuner/epochs": 3})
    assert arguments == {
        **DEFAULTS,
        "color_space": "rgb",
        "bit_widths": (4, 5, 4),
        "image_size": (8, 8),
        "hidden_dim": 96,
        "num_layers": 3,
    }


@pytest.mark.parametrize("sizes", [{"num_layers": 0}, {"hidden_dim": 100}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="positive"):
        presets.decoder_config("nano", "multiscale", **sizes)


def trial(trial_id, psnr, bits, palette="hsv 5,4,4", image_size="8x8"):
    values = {"palette": palette, "image_size": image_size}
    figures = {
        "bits_per_pixel": bits,
        "bits_per_dim": bits / 3,
        "parameters": 10,
        "tokens_per_second": 1.0,
    }
    return results.Trial(
        str(trial_id), oracle.COMPLETED, values, palette, "", psnr, figures
    )


def test_the_front_is_what_no_other_trial_beats():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 6, (40, 2)).astype(float)
    trials = [trial(i, *point) for i, point in enumerate(points)]
    front = {t.trial_id for t in results.pareto_front(trials)}
    expected = {
        str(i)
        for i, (x, y) in enumerate(points)
        if not any(a >= x and b <= y and (a, b) != (x, y) for a, b in points)
    }
    assert front == expected


def test_sizes_have_fronts_and_winners_of_their_own(tmp_path):
    trials = [
        trial(0, 30.0, 3.0),
        trial(1, 29.0, 3.5),
        trial(2, 31.0, 1.0, image_size="16x16"),
        trial(3, math.inf, 2.0, image_size="16x16"),
    ]
    front = [t.trial_id for t in results.pareto_front(trials)]
    assert sorted(front) == ["0", "2", "3"]
    best = results.best_trials(trials, "bits_per_pixel")
    assert [t.trial_id for t in best] == ["0", "2"]
    results.plot_pareto(trials, best, str(tmp_path / "pareto.png"))
    assert (tmp_path / "pareto.png").stat().st_size > 10_000


def test_the_winners_command_is_understood_by_fit(tmp_path):
    sweep = make_sweep(learning_rate=[1e-3, 2e-3])
    sweep.fixed.update(flip=False, epochs=None, max_minutes=3.0, download=False)
    chosen = trial(0, 30.0, 2.0, "rgb 4,5,4")
    chosen.values["learning_rate"] = 2e-3
    line = results.winner_command(sweep, chosen, "pictures-0000")
    program, command, *words = line.split()
    assert (program, command) == ("pixace-tf", "fit")
    context = main.commands["fit"].make_context("fit", words)
    given = context.params
    assert given["bit_widths"] == (4, 5, 4)
    assert given["color_space"] == "rgb"
    assert given["image_size"] == (8, 8)
    assert given["learning_rate"] == 2e-3
    assert given["preset"] == "pico"
    assert given["flip"] is False
    assert given["max_minutes"] == 12
    assert given["name"] == "pictures-0000"


def test_palettes_are_judged_without_training():
    faces = [np.asarray(cartoons.draw("fox", str(i))) for i in range(5)]
    sizes = {"96x96": np.stack(faces), "48x96": np.stack(faces)[:, ::2]}
    rows = palettes.measure_palettes(
        sizes, ["hsv 2,1,1", "hsv 5,4,4", "rgb 8,8,8"], 30.0
    )
    verdicts = {(r["palette"], r["is_excluded"]) for r in rows}
    assert verdicts == {
        ("hsv 2,1,1", True),
        ("hsv 5,4,4", False),
        ("rgb 8,8,8", False),
    }
    assert [r["psnr"] for r in rows if r["palette"] == "rgb 8,8,8"] == [
        None
    ] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tuner": "random"}, "random needs max_trials"),
        ({"tuner": "hyperband"}, "hyperband needs epochs"),
        ({"epochs": 1, "max_minutes": 1.0}, "not both"),
        ({"min_psnr": 90.0, "bit_widths": WIDTHS}, "No palette reaches"),
        ({"workers": 0}, "workers must be positive"),
        ({"hidden_dim": [33]}, "multiple of"),
        ({"objective": "loss"}, "objective must be one of"),
        ({"tuner": "hyperband", "epochs": 2}, "at least 3"),
        (
            {"tuner": "hyperband", "epochs": 9, "max_trials": 2},
            "the number of trials itself",
        ),
        ({"learning_rate": [math.nan]}, "finite and above 0"),
        ({"memory_limit": math.inf}, "finite and above 0"),
        ({"min_psnr": math.nan}, "must be finite"),
        ({"max_minutes": 5.0, "time_limit": 3.0}, "more than max_minutes"),
        ({"batch_size": 100}, "at most the"),
        ({"color_space": ["lab"]}, "color_space must be"),
        ({"color_space": []}, "at least one color_space"),
        ({"name": "a [1]"}, "may not have"),
    ],
)
def test_impossible_sweeps_are_refused(
    cartoon_folder, tmp_path, arguments, message
):
    with pytest.raises(ValueError, match=message):
        tune(
            str(cartoon_folder),
            sweeps_dir=str(tmp_path),
            image_size=[(8, 8)],
            say=lambda line: None,
            **arguments,
        )
    assert not os.listdir(tmp_path)


def test_a_sweep_needs_pictures_to_validate(tmp_path):
    for i in range(5):
        cartoons.draw("fox", "same").save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="needs both"):
        tune(str(tmp_path), sweeps_dir=str(tmp_path), say=lambda line: None)


def quick_sweep(folder, pictures, **arguments):
    lines = []
    tune(
        str(pictures),
        sweeps_dir=str(folder),
        name="sweep",
        image_size=[(8, 8)],
        preset="pico",
        epochs=1,
        batch_size=8,
        jit_compile=False,
        min_psnr=0,
        say=lines.append,
        **arguments,
    )
    folder = os.path.join(folder, "sweep")
    trials = results.read_trials(folder, load_sweep(folder))
    return trials, "\n".join(lines)


def kill_trial(trial_id, killed):
    """Kill a trial's process as soon as there is one."""
    while not killed:
        time.sleep(0.1)
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                is_trial = "pixace_tf.tuning.trial" in line
                if is_trial and line[-2] == trial_id:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return


@pytest.fixture(scope="module")
def killed_sweep(tmp_path_factory):
    """A sweep over a TensorFlow data set, whose first trial was killed."""
    root, killed = tmp_path_factory.mktemp("sweeps"), []
    with pytest.MonkeyPatch.context() as patch:
        data_dir = str(root / "tfds")
        patch.setattr("tensorflow_datasets.core.constants.DATA_DIR", data_dir)
        patch.setenv("TFDS_DATA_DIR", data_dir)
        TinyZoo(data_dir=data_dir).download_and_prepare()
        killer = threading.Thread(target=kill_trial, args=("0000", killed))
        killer.start()
        try:
            trials, text = quick_sweep(root, ZOO, **KILLED)
        finally:
            killed.append(None)  # So that the killer ends.
            killer.join()
        yield root, trials, text


ZOO = "tfds:tiny_zoo"
KILLED = {"bit_widths": WIDTHS[:2], "flip": False}


@pytest.mark.slow
def test_a_sweep_records_a_killed_trial_and_goes_on(killed_sweep):
    root, trials, text = killed_sweep
    assert [t.status for t in trials] == [oracle.FAILED, oracle.COMPLETED], text
    assert "SIGKILL" in trials[0].message
    assert trials[0].message in text
    for name in ("table.md", "results.json", "pareto.png", "strips.png"):
        assert (root / "sweep" / name).stat().st_size > 100, name
    found = json.loads((root / "sweep" / "results.json").read_text())
    assert found["best"] == ["0001"]


@pytest.mark.slow
def test_the_figures_of_a_trial_are_those_of_its_model(killed_sweep):
    root, trials, _ = killed_sweep
    run = load_run(root / "sweep" / RUNS / "0001", jit_compile=False)
    tokens, _ = read_npz(run.file(TOKENS_FILE))
    bits = Scorer(run.model, jit_compile=False).bits(tokens["validation"])
    dims = bits_per_dim(bits, tokens["validation"], run.tokenizer)
    figures = trials[1].figures
    assert figures["bits_per_pixel"] == pytest.approx(bits.mean(), abs=1e-3)
    assert figures["bits_per_dim"] == pytest.approx(dims.mean(), abs=1e-3)
    (events,) = (root / "sweep" / RUNS / "0001" / "tensorboard").glob("events*")
    summaries = EventAccumulator(str(events)).Reload()
    hparams = summaries.PluginTagToContent("hparams")
    assert b"hsv 4,4,4" in hparams["_hparams_/session_start_info"]
    assert "bits_per_pixel" in summaries.Tags()["tensors"]


@pytest.mark.slow
def test_a_trial_keeps_its_images_for_an_evaluation(killed_sweep):
    """Also those of a TensorFlow data set."""
    root, _, _ = killed_sweep
    run = load_run(root / "sweep" / RUNS / "0001", jit_compile=False)
    images = np.asarray(cartoons.draw("cat", "0-0").resize((8, 8)))[None]
    evidence = gather(run, images, [""])
    assert len(evidence.require_training().token_ids) == 9


@pytest.mark.slow
def test_a_finished_sweep_is_resumed_without_another_trial(killed_sweep):
    """With `--download` too, which is no part of what a sweep is."""
    root, trials, _ = killed_sweep
    logs = {p: p.stat().st_mtime_ns for p in (root / "sweep/logs").iterdir()}
    for download in (False, True, False):
        again, text = quick_sweep(root, ZOO, **KILLED, download=download)
        assert again == trials
        assert "Going on with" in text
    assert logs == {p: p.stat().st_mtime_ns for p in logs}


@pytest.mark.slow
def test_a_sweep_refuses_other_arguments_and_other_images(
    killed_sweep, cartoon_folder
):
    root, _, _ = killed_sweep
    with pytest.raises(UserError, match="other arguments: flip was"):
        quick_sweep(root, ZOO, bit_widths=WIDTHS[:2])
    with pytest.raises(UserError, match="with other pictures"):
        quick_sweep(root, cartoon_folder, **KILLED)


@pytest.mark.soak
def test_a_sweep_over_two_machines(cartoon_folder, tmp_path):
    """Two command lines with keras-tuner's variables; the first has no worker.

    The second is killed with all its workers and begun again.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["--image-size", "8", "--preset", "pico", "--epochs", "1"]
    words += ["--batch-size", "8", "--min-psnr", "0", "--name", "sweep"]
    words += ["--no-jit-compile"]
    words += ["--bit-widths", "3,2,2", "--bit-widths", "4,3,3"]
    command = [sys.executable, "-m", "pixace_tf", "tune", str(cartoon_folder)]
    shared = {
        **os.environ,
        "PYTHONPATH": os.getcwd(),
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": port,
    }

    def begin(name, workers):
        return subprocess.Popen(
            [*command, *words, "--workers", str(workers)],
            cwd=tmp_path,
            env={**shared, "KERASTUNER_TUNER_ID": name},
            stdout=subprocess.PIPE,
            text=True,
        )

    chief, helper = begin("chief", 0), begin("helper", 1)
    folder = tmp_path / "sweeps" / "sweep"
    while not (folder / RUNS / "0000" / "run.json").exists():
        assert chief.poll() is None
        time.sleep(0.5)
    helper.kill()
    helper.wait()
    helper = begin("helper", 1)
    output, _ = chief.communicate(timeout=300)
    assert chief.returncode == 0
    assert helper.wait(timeout=60) == 0
    trials = results.read_trials(str(folder), load_sweep(str(folder)))
    assert [t.status for t in trials] == [oracle.COMPLETED] * 2
    assert "pixace-tf fit" in output


@pytest.mark.soak
def test_a_sweep_under_kills_records_every_trial(tmp_path):
    """Kills a worker and the chief; `pipelines` does so with 20 trials."""
    pipeline = pathlib.Path(__file__).parent.parent / "pipelines"
    words = ["--trials", "4", "--kills", "1"]
    done = subprocess.run(
        [sys.executable, pipeline / "sweep_under_kills.py", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    calm, killed, names, _ = done.stdout.splitlines()
    assert calm.removeprefix("calm") == killed.removeprefix("killed")
    assert "4 of 4 trials completed" in calm
    assert "chief" in names
    assert "worker" in names


@pytest.mark.soak
def test_hyperband_goes_on_with_the_better_trials(cartoon_folder, tmp_path):
    tune(
        str(cartoon_folder),
        sweeps_dir=str(tmp_path),
        name="sweep",
        bit_widths=[(3, 2, 2)],
        learning_rate=[1e-4, 1e-3, 3e-3],
        image_size=[(8, 8)],
        preset="pico",
        epochs=3,
        batch_size=8,
        jit_compile=False,
        min_psnr=0,
        tuner="hyperband",
        say=lambda line: None,
    )
    folder = tmp_path / "sweep"
    longest = []
    for path in (folder / RUNS).glob("*/history.json"):
        epochs = json.loads(path.read_text())[-1]["epoch"]
        longest.append(epochs)
    assert max(longest) == 3
    assert min(longest) == 1


def test_the_installed_keras_tuner_is_one_that_was_tested():
    """Another version may lack the private parts that `tuner` overrides."""
    (pinned,) = re.findall(
        r"keras-tuner (>= [\d.]+, < [\d.]+)",
        (pathlib.Path(__file__).parent.parent / "setup.cfg").read_text(),
    )
    assert keras_tuner.__version__ in SpecifierSet(pinned), (
        "Run `pytest tests/test_tuning.py`, and once more with `-m soak`, with "
        "this version; then widen setup.cfg."
    )
    names = {
        keras_tuner.Oracle: (
            *("_get_oracle_fname", "_get_trial_dir", "_save_trial"),
            *("create_trial", "end_trial", "set_state", "reload", "save"),
        ),
        keras_tuner.oracles.GridSearchOracle: ("_compare", "populate_space"),
        keras_tuner.oracles.HyperbandOracle: ("_get_size",),
        oracle.BaseTuner: (
            *("_is_worker", "_populate_initial_space", "_get_tuner_fname"),
            *("pre_create_trial", "on_trial_end"),
        ),
    }
    for owner, parts in names.items():
        for part in parts:
            assert hasattr(owner, part), f"{owner.__name__}.{part} is gone"
    made = oracle.make_oracle(make_sweep())
    for part in ("_retry_queue", "_ordered_ids", "_populate_next"):
        assert hasattr(made, part), f"{part} of a grid is gone"
    for owner, part in (
        (oracle.config, "DEBUG"),
        (oracle.oracle_client, "TIMEOUT"),
        (oracle.oracle_client, "OracleClient"),
    ):
        assert hasattr(owner, part), f"{owner.__name__}.{part} is gone"


def test_private_parts_of_keras_tuner_are_named_in_one_file():
    package = pathlib.Path(oracle.__file__).parent.parent
    files = [
        p for p in package.rglob("*.py") if "keras_tuner.src" in p.read_text()
    ]
    assert [p.name for p in files] == ["tuner.py"]

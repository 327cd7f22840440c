"""Sweeps: the trials, their records, and processes that die in between."""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import itertools
import json
import math
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

import keras_tuner
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)
from tiny_zoo import TinyZoo

from pixace_tf import storage
from pixace_tf.cli import main
from pixace_tf.data import cartoons
from pixace_tf.errors import UserError
from pixace_tf.evaluation.evidence import gather
from pixace_tf.model import presets
from pixace_tf.runs.run_config import CHECKPOINT_FILE, TOKENS_FILE
from pixace_tf.runs.run_folder import load_run
from pixace_tf.sampling.likelihood import Scorer, bits_per_dim
from pixace_tf.storage import read_npz
from pixace_tf.training.interruption import InterruptedTraining, StopRequest
from pixace_tf.training.training_arguments import TrainingArguments
from pixace_tf.tuning import claims, oracles, palettes, results, trials, workers
from pixace_tf.tuning import trial as trial_module
from pixace_tf.tuning.space import (
    FIGURES_FILE,
    RUNS,
    STRIP_FILE,
    TRIALS,
    Sweep,
    load_sweep,
    trial_arguments,
)
from pixace_tf.tuning.sweep import tune
from pixace_tf.tuning.sweep_arguments import SweepArguments

WIDTHS = [(4, 3, 4), (4, 4, 4), (5, 4, 4)]
DEFAULTS = {"preset": "pico", "decoder": "multiscale", "epochs": 1}


def make_sweep(tuner="grid", max_trials=None, training=(), **tried):
    values = {"bit_widths": [(5, 4, 4)], "image_size": [(8, 8)], **tried}
    return Sweep(
        source="pictures",
        arguments=SweepArguments(
            tuner=tuner, max_trials=max_trials, min_psnr=0, **values
        ),
        training=TrainingArguments(**{**DEFAULTS, **dict(training)}),
    )


GRID = {"num_layers": [1, 2, 3], "learning_rate": [0.1, 0.2, 0.3, 0.4]}


def begin(folder, sweep):
    """Return the search of a process that joins a sweep."""
    return trials.Search(str(folder), functools.partial(oracles.propose, sweep))


def complete(folder, claim, bits=None):
    values = trials.read_trial(str(folder), claim.trial_id).values
    bits = bits or len(str(values)) + float(values["learning_rate"])
    run = pathlib.Path(folder) / RUNS / claim.trial_id
    run.mkdir(parents=True, exist_ok=True)
    storage.write_json(run / FIGURES_FILE, {"bits_per_pixel": bits})
    claim.close()


def combinations(folder, space=GRID):
    """Return the combinations that were tried, with repetitions."""
    found = trials.read_trials(str(folder))
    assert all(trial.is_completed for trial in found)
    return sorted(tuple(t.values[k] for k in space) for t in found)


def search_until_the_end(folder, sweep):
    search = begin(folder, sweep)
    while claim := search.next():
        complete(folder, claim)
    assert search.is_over
    return folder


@pytest.mark.parametrize("tuner", ["grid", "random"])
def test_a_search_killed_anywhere_tries_the_same_combinations(tmp_path, tuner):
    sweep = make_sweep(tuner, 12, **GRID)
    calm = search_until_the_end(tmp_path / "calm", sweep)
    chance, killed = random.Random(0), tmp_path / "killed"
    while claim := begin(killed, sweep).next():
        if chance.random() < 0.5:
            claim.close()  # Like a kill; the trial is handed out again.
            again = begin(killed, sweep).next()
            assert again.trial_id == claim.trial_id
            claim = again
        complete(killed, claim)
    assert combinations(killed) == combinations(calm)
    assert 8 <= len(combinations(calm)) == len(set(combinations(calm)))
    if tuner == "grid":
        expected = itertools.product(*GRID.values())
        assert combinations(calm) == sorted(expected)


class CrashError(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("tuner", ["grid", "random"])
def test_a_search_crashed_at_any_write_tries_the_same_combinations(
    tmp_path, monkeypatch, tuner
):
    """Crash at each sync and each rename of the sweep, one after the other."""
    space = {"learning_rate": [0.1, 0.2]}
    sweep = make_sweep(tuner, 2, **space)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # Disks are slow.
    made, make = [], claims.Claim.make
    monkeypatch.setattr(
        claims.Claim, "make", lambda *args: made.append(make(*args)) or made[-1]
    )
    calm = search_until_the_end(tmp_path / "calm", sweep)
    for crash_at in itertools.count():
        calls = itertools.count()

        def crash(original, *arguments, at=crash_at, calls=calls):
            if next(calls) == at:
                raise CrashError
            return original(*arguments)

        folder = tmp_path / str(crash_at)
        made.clear()
        with monkeypatch.context() as patch:
            for name in ("replace", "rename", "fsync", "open"):
                each = functools.partial(crash, getattr(os, name))
                patch.setattr(os, name, each)
            try:
                search_until_the_end(folder, sweep)
                break
            except CrashError:
                pass
        for claim in made[-1:]:
            with contextlib.suppress(OSError):
                claim.close()  # As the kernel does after a kill.
        search_until_the_end(folder, sweep)
        assert combinations(folder, space) == combinations(calm, space)
    assert crash_at > 20


@pytest.mark.parametrize("tuner", ["bayesian", "hyperband"])
def test_the_other_oracles_end_in_spite_of_kills(tmp_path, tuner):
    max_trials = 8 if tuner == "bayesian" else None
    sweep = make_sweep(tuner, max_trials, {"epochs": 3}, **GRID)
    while claim := begin(tmp_path, sweep).next():
        claim.close()
        complete(tmp_path, begin(tmp_path, sweep).next())
    assert begin(tmp_path, sweep).next() is None
    assert len(combinations(tmp_path)) >= 6


def test_a_grid_keeps_all_workers_busy(tmp_path):
    searches = [begin(tmp_path, make_sweep(**GRID)) for _ in range(13)]
    held = [search.next() for search in searches[:12]]
    assert len({claim.trial_id for claim in held}) == 12
    assert searches[12].next() is None
    assert not searches[12].is_over  # A trial may come back.
    for claim in reversed(held):
        complete(tmp_path, claim)
    assert searches[12].next() is None
    assert searches[12].is_over
    assert len(set(combinations(tmp_path))) == 12


def test_a_trial_goes_to_another_process_when_its_own_is_dead(tmp_path):
    sweep = make_sweep(max_trials=1, **GRID)
    first, second = begin(tmp_path, sweep), begin(tmp_path, sweep)
    claim = first.next()
    assert second.next() is None
    assert not first.is_lost(claim)
    claim.close()
    taken = second.next()
    assert taken.trial_id == claim.trial_id
    assert first.is_lost(claim)
    complete(tmp_path, taken)
    assert first.next() is None
    assert first.is_over


def lock_nothing(*_):
    raise OSError(errno.ENOTSUP, "Not supported")


@pytest.mark.parametrize("case", ["another machine", "no locks"])
def test_without_locks_a_minute_of_silence_frees_a_trial(
    tmp_path, monkeypatch, case
):
    sweep = make_sweep(max_trials=1, **GRID)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    if case == "no locks":
        monkeypatch.setattr(fcntl, "flock", lock_nothing)
    claim = begin(tmp_path, sweep).next()
    os.utime(claim.path, (10**9, 10**9))  # Another machine's clock.
    if case == "another machine":
        monkeypatch.setattr(claims, "_machine", lambda: "another")
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # All is free.
    other = begin(tmp_path, sweep)
    assert other.next() is None
    now += claims.SILENCE_S
    assert other.next() is None
    claim.beat()
    now += 1
    assert other.next() is None
    now += claims.SILENCE_S + 1
    assert other.next().trial_id == claim.trial_id


def test_a_trial_that_kills_its_processes_is_given_up(tmp_path):
    sweep = make_sweep(max_trials=1, **GRID)
    for _ in range(trials.MAX_DEATHS):
        begin(tmp_path, sweep).next().close()
    assert begin(tmp_path, sweep).next() is None
    (trial,) = trials.read_trials(str(tmp_path))
    assert trial.status == trials.FAILED
    assert "died" in trial.message


def test_deaths_with_checkpoints_in_between_are_no_reason_to_give_up(tmp_path):
    sweep = make_sweep(max_trials=1, **GRID)
    checkpoint = tmp_path / RUNS / "0" / CHECKPOINT_FILE
    checkpoint.parent.mkdir(parents=True)
    for i in range(3 * trials.MAX_DEATHS):
        begin(tmp_path, sweep).next().close()
        checkpoint.touch()
        os.utime(checkpoint, (i, i))


def test_a_withdrawn_claim_is_no_death(tmp_path):
    sweep = make_sweep(max_trials=1, **GRID)
    for _ in range(2 * trials.MAX_DEATHS):
        begin(tmp_path, sweep).next().withdraw()
    assert not list((tmp_path / TRIALS).glob("*/claim-*"))


def test_a_success_counts_more_than_a_failure_of_the_same_trial(tmp_path):
    """One process slept past its limit; the one that replaced it succeeded."""
    sweep = make_sweep(max_trials=1, **GRID)
    claim = begin(tmp_path, sweep).next()
    trials.fail(str(tmp_path), claim.trial_id, "It took too long.")
    assert trials.read_trials(str(tmp_path))[0].status == trials.FAILED
    complete(tmp_path, claim)
    assert trials.read_trials(str(tmp_path))[0].status == trials.COMPLETED


@pytest.mark.parametrize("epochs", [9, 20])
def test_hyperband_reaches_its_longest_trials(tmp_path, epochs):
    """In a space smaller than its rounds, where keras-tuner gives up."""
    rates = GRID["learning_rate"]
    training = {"epochs": epochs}
    sweep = make_sweep("hyperband", None, training, learning_rate=rates)
    search_until_the_end(tmp_path, sweep)
    found = {t.trial_id: t.values for t in trials.read_trials(str(tmp_path))}
    for values in found.values():
        if "tuner/trial_id" in values:
            before = found[values["tuner/trial_id"]]
            assert before["learning_rate"] == values["learning_rate"]
    lengths = [values["tuner/epochs"] for values in found.values()]
    assert max(lengths) == epochs
    assert lengths[:4] == [min(lengths)] * 4


class Process:
    """A Gaussian process that keeps what it is fitted to."""

    def fit(self, x, y):
        self.scores = y.tolist()

    def predict(self, x, return_std):
        return np.zeros(len(x)), np.ones(len(x))


def test_a_gaussian_process_takes_running_trials_for_poor_ones(
    tmp_path, monkeypatch
):
    process = Process()
    monkeypatch.setattr(oracles._Bayesian, "_make_gpr", lambda self: process)
    sweep = make_sweep("bayesian", 20, learning_rate=np.arange(1, 21).tolist())
    search = begin(tmp_path, sweep)
    scores = [5.0, *[3.0] * 7, 4.0]  # Three times the dimensions.
    for bits in scores:
        complete(tmp_path, search.next(), bits)
    held = [search.next() for _ in range(3)]
    assert process.scores == [*scores, 5.0, 5.0]
    assert len({claim.trial_id for claim in held}) == 3


STAND_IN = pathlib.Path(__file__).with_name("stand_in_sweep.py")


@pytest.fixture
def stand_in(tmp_path):
    """Start processes of the stand-in; see there."""
    with contextlib.ExitStack() as stack:

        def start(*words):
            process = subprocess.Popen(
                [sys.executable, str(STAND_IN), str(tmp_path), *words],
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def test_a_sweep_by_processes_that_are_killed_trains_each_trial_once(
    tmp_path, stand_in
):
    """Three machines at work, four kills somewhere in a trial."""
    chance = random.Random(0)
    running = [stand_in("24", "2") for _ in range(3)]
    for i in range(4):
        victim = running[i % 3]
        assert victim.stdout.readline()  # It has claimed a trial.
        time.sleep(chance.uniform(0, 0.05))
        victim.kill()
        victim.wait()
        running[i % 3] = stand_in("24", "2")
    assert [process.wait() for process in running] == [0, 0, 0]
    found = trials.read_trials(str(tmp_path))
    assert [t.status for t in found] == [trials.COMPLETED] * 24
    logs = [(tmp_path / RUNS / t.trial_id / "log").read_text() for t in found]
    assert logs == ["trained\n"] * 24


def test_a_process_ends_when_its_parent_is_killed(tmp_path):
    code = (
        "import subprocess, sys;"
        "p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE); p.wait()"
    )
    words = [sys.executable, str(STAND_IN), str(tmp_path), "wait", "0000"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout.readline() == "waiting\n"
        parent.kill()
        parent.wait()
        # The child writes there too, so it has ended when that closes.
        assert parent.stdout.read() == ""
    assert (tmp_path / "0000 saved").exists()


def one_trial(trials_so_far, state):
    return None if trials_so_far else trials.Proposal("0000", {}, {})


NO_LIMITS = workers.Limits()


def work(folder, command, limits=NO_LIMITS, on_poll=lambda stop: None):
    """Let a command be the only trial; return it."""
    stop = StopRequest()
    workers.work(
        trials.Search(str(folder), one_trial),
        lambda trial_id: command,
        1,
        limits,
        stop,
        lambda: on_poll(stop),
    )
    return trials.read_trials(str(folder))[0]


def python(code):
    return [sys.executable, "-S", "-c", code]


@pytest.mark.parametrize(
    ("code", "limits", "message"),
    [
        ("pass", (0.001, None), "1.667e-05 minutes"),
        ("x = b'1' * 10**8", (None, 5 * 10**7), "more than the limit of 0.05"),
    ],
)
def test_a_trial_beyond_its_limits_fails(
    tmp_path, monkeypatch, code, limits, message
):
    monkeypatch.setattr(workers, "POLL_S", 0.01)
    command = python(f"import time; {code}; time.sleep(60)")
    assert message in work(tmp_path, command, workers.Limits(*limits)).message
    assert not psutil.Process().children()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "print('much'); sys.exit('batch_size must be smaller.')",
            "batch_size",
        ),
        ("os.kill(os.getpid(), 9)", "SIGKILL, perhaps for lack of memory"),
        ("os.kill(os.getpid(), 35)", "signal 35"),
        ("sys.exit(3)", "failed with code 3"),
    ],
)
def test_the_message_of_a_failed_trial_is_its_last_line_or_signal(
    tmp_path, code, message
):
    found = work(tmp_path, python(f"import os, sys; {code}"))
    assert found.status == trials.FAILED
    assert message in found.message


def test_a_stop_lets_trials_save_their_state_and_leaves_them_open(tmp_path):
    command = [sys.executable, str(STAND_IN), str(tmp_path), "wait", "0000"]
    log = tmp_path / "logs" / "0000.log"

    def stop_when_it_waits(stop):
        if log.exists() and "waiting" in log.read_text():
            stop.signum = signal.SIGTERM

    with pytest.raises(InterruptedTraining):
        work(tmp_path, command, on_poll=stop_when_it_waits)
    assert (tmp_path / "0000 saved").exists()
    (found,) = trials.read_trials(str(tmp_path))
    assert found.status == trials.RUNNING
    assert not list((tmp_path / TRIALS / "0000").glob("claim-*"))


def test_a_trial_that_somebody_else_stopped_is_tried_again(tmp_path):
    """For instance by a machine that shuts down."""
    code = "import os, sys; os.kill(os.getpid(), 15)"
    found = work(tmp_path, python(code))
    assert f"{trials.MAX_DEATHS} processes died" in found.message


def test_a_claim_and_a_trial_are_made_by_one_process(tmp_path):
    first = trials.Search(str(tmp_path), one_trial)
    held = []

    def overtaken(found, state):
        if found:
            return None
        held.append(first.next())  # It adds the trial a moment before.
        return trials.Proposal("0000", {"from": "the second"}, {})

    assert trials.Search(str(tmp_path), overtaken).next() is None
    assert trials.read_trial(str(tmp_path), "0000").values == {}
    assert claims.Claim.make("0000", held[0].path, 0) is None
    held[0].close()


def test_a_trial_that_was_taken_over_ends_here(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "POLL_S", 0.01)
    other = []

    def take_over(stop):
        path = tmp_path / TRIALS / "0000" / "claim-2"
        if not other:
            other.append(claims.Claim.make("0000", str(path), 0))
        elif not psutil.Process().children():
            complete_stand_in(tmp_path, "0000")

    command = python("import time; time.sleep(600)")
    found = work(tmp_path, command, workers.Limits(10.0), take_over)
    assert found.is_completed
    assert not list(tmp_path.glob("**/failed.json"))  # No limit was reached.
    other[0].close()


def complete_stand_in(folder, trial_id):
    run = folder / RUNS / trial_id
    run.mkdir(parents=True, exist_ok=True)
    (run / FIGURES_FILE).write_text('{"bits_per_pixel": 1}')


def test_a_trial_trains_with_the_chosen_values():
    sweep = make_sweep(hidden_dim=[64, 96], num_layers=[3])
    values = {"palette": "rgb 4,5,4", "hidden_dim": 96, "num_layers": 3}
    values |= {"image_size": "8x12", "tuner/epochs": 3, "tuner/round": 1}
    assert trial_arguments(sweep, values).given == {
        **DEFAULTS,
        "color_space": "rgb",
        "bit_widths": (4, 5, 4),
        "image_size": (8, 12),
        "hidden_dim": 96,
        "num_layers": 3,
        "epochs": 3,
    }


def test_a_sweep_is_read_as_it_was_written(tmp_path):
    sweep = make_sweep(hidden_dim=[64, 96], learning_rate=[1e-3])
    sweep.save(str(tmp_path))
    again = load_sweep(str(tmp_path))
    assert again == sweep
    assert again.space == {
        "palette": ["hsv 5,4,4"],
        "image_size": ["8x8"],
        "hidden_dim": [64, 96],
        "learning_rate": [1e-3],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 2, "arguments": {"tuner": 1}}', "is damaged"),
        ('{"format": 1}', "another version"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text, message):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_sweep(str(tmp_path))


ANYTHING = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "rgb", "random", "auto", "\0"]),
    st.lists(st.one_of(st.integers(), st.floats(), st.just("rgb"))),
    st.lists(st.lists(st.integers(-1, 9), max_size=3)),
)
NAMES = [field.name for field in dataclasses.fields(SweepArguments)]


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=3))
def test_arguments_of_a_sweep_are_valid_or_refused(values):
    try:
        arguments = SweepArguments(**values)
    except UserError:
        return
    assert (
        SweepArguments(**json.loads(json.dumps(arguments.given))) == arguments
    )
    assert arguments.workers >= 1
    assert all(rate > 0 for rate in arguments.learning_rate)
    assert all(layers >= 1 for layers in arguments.num_layers)
    assert all(height * width >= 1 for height, width in arguments.image_size)
    assert Sweep("images", arguments, TrainingArguments()).space["palette"]


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
    return results.Trial(str(trial_id), values, figures, "", palette, psnr)


def test_no_other_trial_dominates_the_front():
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
    training = {"flip": False, "epochs": None, "max_minutes": 3.0}
    sweep = make_sweep(training=training, learning_rate=[1e-3, 2e-3])
    chosen = trial(0, 30.0, 2.0, "rgb 4,5,4")
    chosen.values["learning_rate"] = 2e-3
    chosen.values["tuner/epochs"] = 1  # A short trial.
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
    sizes = {(96, 96): np.stack(faces), (48, 96): np.stack(faces)[:, ::2]}
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
        ({"workers": 0}, "workers must be"),
        ({"hidden_dim": [33]}, "multiple of"),
        ({"objective": "loss"}, "objective must be one of"),
        ({"tuner": "hyperband", "epochs": 2}, "at least 3"),
        (
            {"tuner": "hyperband", "epochs": 9, "max_trials": 2},
            "the number of trials itself",
        ),
        ({"learning_rate": [math.nan]}, "each item a finite number above 0"),
        ({"learning_rate": [0.0]}, "above 0"),
        ({"memory_limit": math.inf}, "finite number"),
        ({"min_psnr": math.nan}, "finite number"),
        ({"dropout": 0.1}, "does not take dropout"),
        ({"name": ".."}, "plain name"),
        ({"max_minutes": 5.0, "time_limit": 3.0}, "more than max_minutes"),
        ({"batch_size": 100}, "at most the"),
        ({"color_space": ["lab"]}, "color_space must be"),
        ({"color_space": []}, "at least one color_space"),
    ],
)
def test_impossible_sweeps_are_refused(
    cartoon_folder, tmp_path, arguments, message
):
    with pytest.raises(UserError, match=message):
        tune_with(cartoon_folder, tmp_path, image_size=[(8, 8)], **arguments)
    assert not os.listdir(tmp_path)


def tune_with(source, folder, name=None, say=lambda line: None, **values):
    """Tune with arguments of the sweep and of its trainings."""
    tried = {k: values.pop(k) for k in NAMES if k in values}
    return tune(
        str(source),
        SweepArguments(**tried),
        TrainingArguments(**values),
        name=name,
        sweeps_dir=str(folder),
        say=say,
    )


def test_a_sweep_needs_images_to_validate(tmp_path):
    for i in range(5):
        cartoons.draw("fox", "same").save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="needs both"):
        tune_with(tmp_path, tmp_path)


QUICK = {
    "decoder": "transformer",
    "name": "sweep",
    "image_size": [(8, 8)],
    "preset": "pico",
    "epochs": 1,
    "batch_size": 8,
    "jit_compile": False,
    "min_psnr": 0,
}


def test_a_folder_with_other_content_is_left_alone(cartoon_folder, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "notes.txt").touch()
    with pytest.raises(UserError, match="is no sweep"):
        tune_with(cartoon_folder, tmp_path, **QUICK)
    assert os.listdir(tmp_path / "sweep") == ["notes.txt"]


def quick_sweep(folder, pictures, **arguments):
    lines = []
    path = tune_with(
        pictures, folder, say=lines.append, **{**QUICK, **arguments}
    )
    return results.read_trials(path, load_sweep(path)), "\n".join(lines)


def kill_trial(trial_id, killed):
    """Kill a trial's process as soon as there is one."""
    while not killed:
        time.sleep(0.1)
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                is_trial = "pixace_tf.tuning.trial" in line
                if is_trial and line[-1] == trial_id:
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
            tried, text = quick_sweep(root, ZOO, **KILLED)
        finally:
            killed.append(None)  # So that the killer ends.
            killer.join()
        yield root, tried, text


ZOO = "tfds:tiny_zoo"
KILLED = {"bit_widths": WIDTHS[:2], "flip": False}


@pytest.mark.slow
def test_a_sweep_records_a_killed_trial_and_goes_on(killed_sweep):
    root, tried, text = killed_sweep
    assert [t.status for t in tried] == [trials.FAILED, trials.COMPLETED], text
    assert "SIGKILL" in tried[0].message
    assert tried[0].message in text
    for name in ("table.md", "results.json", "pareto.png", "strips.png"):
        assert (root / "sweep" / name).stat().st_size > 100, name
    found = json.loads((root / "sweep" / "results.json").read_text())
    assert found["best"] == ["0001"]


@pytest.mark.slow
def test_the_figures_of_a_trial_are_those_of_its_model(killed_sweep):
    root, tried, _ = killed_sweep
    run = load_run(root / "sweep" / RUNS / "0001", jit_compile=False)
    tokens, _ = read_npz(run.file(TOKENS_FILE))
    bits = Scorer(run.model, jit_compile=False).bits(tokens["validation"])
    dims = bits_per_dim(bits, tokens["validation"], run.tokenizer)
    figures = tried[1].figures
    assert figures["bits_per_pixel"] == pytest.approx(bits.mean(), abs=1e-3)
    assert figures["bits_per_dim"] == pytest.approx(dims.mean(), abs=1e-3)
    (events,) = (root / "sweep" / RUNS / "0001" / "tensorboard").glob("events*")
    summaries = EventAccumulator(str(events)).Reload()
    hparams = summaries.PluginTagToContent("hparams")
    assert b"hsv 4,4,4" in hparams["_hparams_/session_start_info"]
    assert "bits_per_pixel" in summaries.Tags()["tensors"]


@pytest.mark.slow
def test_a_trial_keeps_its_images_for_an_evaluation(killed_sweep):
    """The images of a TensorFlow data set are kept too."""
    root, _, _ = killed_sweep
    run = load_run(root / "sweep" / RUNS / "0001", jit_compile=False)
    images = np.asarray(cartoons.draw("cat", "0-0").resize((8, 8)))[None]
    evidence = gather(run, images, [""])
    assert len(evidence.require_training().token_ids) == 9


@pytest.mark.slow
def test_a_finished_sweep_is_resumed_without_another_trial(killed_sweep):
    """`--download` does not matter, since it is no part of a sweep."""
    root, tried, _ = killed_sweep
    logs = {p: p.stat().st_mtime_ns for p in (root / "sweep/logs").iterdir()}
    for download in (False, True, False):
        again, text = quick_sweep(root, ZOO, **KILLED, download=download)
        assert again == tried
        assert "Continuing" in text
    assert logs == {p: p.stat().st_mtime_ns for p in logs}


@pytest.mark.slow
def test_a_sweep_continues_without_its_arguments(killed_sweep):
    root, tried, _ = killed_sweep
    path = tune_with(ZOO, root, name="sweep")
    assert results.read_trials(path, load_sweep(path)) == tried


@pytest.mark.slow
def test_a_sweep_refuses_other_arguments_and_other_images(
    killed_sweep, cartoon_folder
):
    root, _, _ = killed_sweep
    with pytest.raises(UserError, match="other arguments: flip was False"):
        quick_sweep(root, ZOO, flip=True)
    with pytest.raises(UserError, match="with other images"):
        quick_sweep(root, cartoon_folder, **KILLED)


def test_a_longer_trial_begins_as_a_copy_of_the_shorter_one(tmp_path):
    shorter, longer = tmp_path / "0000", tmp_path / "0001"
    shorter.mkdir()
    for name in (CHECKPOINT_FILE, FIGURES_FILE, ".lock", STRIP_FILE):
        (shorter / name).write_text(name)
    trial_module.copy_run(str(shorter), str(longer))
    assert [path.name for path in longer.iterdir()] == [CHECKPOINT_FILE]
    (longer / CHECKPOINT_FILE).write_text("has trained")
    trial_module.copy_run(str(shorter), str(longer))  # After a kill.
    assert (longer / CHECKPOINT_FILE).read_text() == "has trained"
    with pytest.raises(UserError, match="is gone"):
        trial_module.copy_run(str(tmp_path / "2"), str(tmp_path / "3"))


@pytest.mark.soak
def test_hyperband_continues_a_shorter_run(cartoon_folder, tmp_path):
    training = {"batch_size": 8, "jit_compile": False, "epochs": 9}
    training["decoder"] = "transformer"
    rates = [1e-3]
    sweep = make_sweep("hyperband", None, training, learning_rate=rates)
    sweep.save(str(tmp_path))
    values = {"palette": "hsv 5,4,4", "image_size": "8x8"}
    values["learning_rate"] = 1e-3
    for trial_id, more in (
        ("0000", {"tuner/epochs": 1}),
        ("0001", {"tuner/epochs": 2, "tuner/trial_id": "0000"}),
    ):
        (tmp_path / TRIALS / trial_id).mkdir(parents=True)
        path = tmp_path / TRIALS / trial_id / "values.json"
        path.write_text(json.dumps({**values, **more}))
        trial_module.run_trial(str(tmp_path), str(cartoon_folder), trial_id)
    first, second = (
        json.loads((tmp_path / RUNS / each / "history.json").read_text())
        for each in ("0000", "0001")
    )
    assert [entry["epoch"] for entry in second] == [1, 2]
    assert second[:1] == first


@pytest.mark.soak
def test_a_sweep_under_kills_records_every_trial():
    """Two commands share a folder; `pipelines` does so with 20 trials."""
    pipeline = pathlib.Path(__file__).parent.parent / "pipelines"
    words = ["--trials", "2", "--kills", "1"]
    done = subprocess.run(
        [sys.executable, pipeline / "sweep_under_kills.py", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    calm, killed, _ = done.stdout.splitlines()
    assert calm.removeprefix("calm") == killed.removeprefix("killed")
    assert "2 of 2 trials completed" in calm


def test_the_installed_keras_tuner_is_one_that_was_tested():
    """Another version may lack the private parts that `oracles` overrides."""
    (pinned,) = re.findall(
        r"keras-tuner (>= [\d.]+, < [\d.]+)",
        (pathlib.Path(__file__).parent.parent / "setup.cfg").read_text(),
    )
    assert keras_tuner.__version__ in SpecifierSet(pinned), (
        "Run `pytest tests/test_tuning.py`, and once more with `-m soak`, with "
        "this version; then widen setup.cfg."
    )
    for owner, part in (
        (keras_tuner.Oracle, "_save_trial"),
        (keras_tuner.oracles.HyperbandOracle, "_get_size"),
    ):
        assert hasattr(owner, part), f"{owner.__name__}.{part} is gone"


def test_private_modules_of_keras_tuner_are_left_alone():
    package = pathlib.Path(oracles.__file__).parent.parent
    files = package.rglob("*.py")
    assert not [p for p in files if "keras_tuner.src" in p.read_text()]

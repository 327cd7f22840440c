import dataclasses
import fcntl
import importlib.util
import inspect
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import click
import pytest
from click.testing import CliRunner
from PIL import Image
from tensorflow.errors import ResourceExhaustedError

from pixace_tf.cli import main
from pixace_tf.cli.group import say, typed_command
from pixace_tf.cli.options import COLOR
from pixace_tf.data import image_files, tokenizer
from pixace_tf.model import causal_lm
from pixace_tf.model.presets import PRESETS
from pixace_tf.training import fit as fit_module
from pixace_tf.training import training_arguments
from pixace_tf.training.fit import fit
from pixace_tf.training.training_arguments import TrainingArguments
from pixace_tf.tuning import sweep
from pixace_tf.tuning.sweep_arguments import SHARED, SweepArguments


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def size_of(path):
    """Return the width and height of a PNG file."""
    with Image.open(path, formats=["PNG"]) as image:
        return image.size


def test_help_is_quick_and_imports_nothing_heavy():
    """Quick beside starting Python itself, since machines differ."""
    code = (
        "import sys; from pixace_tf.cli import main; "
        "main(['--help'], standalone_mode=False); "
        "heavy = {'tensorflow', 'keras', 'numpy', 'PIL'} & set(sys.modules); "
        "assert not heavy, heavy"
    )

    def seconds(code):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return time.monotonic() - start

    ratios = [seconds(code) / seconds("import click") for _ in range(3)]
    assert min(ratios) < 4


@pytest.mark.soak
def test_labels_paint_a_row_each(trained_run, tmp_path):
    out = tmp_path / "all.png"
    options = ("--count", 2, "--out", out)
    done = call("generate", trained_run.path, "--label", "all", *options)
    assert done.exit_code == 0, done.output
    assert "16 new pictures" in done.output
    with Image.open(out) as panel:
        assert panel.height > 3 * panel.width
    done = call(
        *("generate", trained_run.path, "--label", "dog"),
        *("--guidance", 2, "--tiles", tmp_path / "tiles", *options),
    )
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "tiles").glob("*.png"))) == 2
    for arguments, message in (
        (("--label", "owl"), "There is no label 'owl': the model knows bear,"),
        (("--guidance", 2), "guidance needs a label."),
    ):
        done = call("generate", trained_run.path, *arguments, *options)
        assert done.exit_code != 0
        assert message in done.output
        assert "Traceback" not in done.output


@pytest.mark.parametrize("command", main.commands)
def test_every_command_explains_itself(command):
    done = call(command, "--help")
    assert done.exit_code == 0
    assert len(done.output) > 200
    assert "\\b" not in done.output  # Or its examples run together.


def test_fit_has_an_option_for_every_argument_with_its_default():
    context = main.commands["fit"].make_context("fit", ["folder"])
    options = dict(context.params)
    assert options.pop("source") == "folder"
    parameters = dict(inspect.signature(fit).parameters)
    for name in ("start_from", "name", "runs_dir"):
        assert options.pop(name) == parameters[name].default
    assert options == dataclasses.asdict(TrainingArguments())


def given_by(monkeypatch, *words):
    """Return what the command `fit` hands to the function."""
    handed = []

    def stop(source, arguments, **_):
        handed.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "fit", stop)
    call("fit", "folder", *words)
    return handed[0].given


def test_an_option_that_equals_its_default_is_given_too(monkeypatch):
    assert given_by(monkeypatch) == {}
    words = ("--image-size", "32", "--flip", "--epochs", 3)
    expected = {"image_size": (32, 32), "flip": True, "epochs": 3}
    assert given_by(monkeypatch, *words) == expected


def test_tune_has_an_option_for_every_argument_with_its_default():
    context = main.commands["tune"].make_context("tune", ["folder"])
    options = dict(context.params)
    assert options.pop("source") == "folder"
    parameters = dict(inspect.signature(sweep.tune).parameters)
    for name in ("name", "sweeps_dir"):
        assert options.pop(name) == parameters[name].default
    training = dataclasses.asdict(TrainingArguments())
    expected = dataclasses.asdict(SweepArguments())
    expected |= {name: training[name] for name in SHARED}
    assert options == expected


def test_the_choices_are_those_of_the_classes():
    assert training_arguments.RESIZES == tokenizer.RESIZES
    assert training_arguments.ANCHORS == tokenizer.ANCHORS
    assert set(PRESETS["nano"]) == set(causal_lm.DECODERS)


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    def broken(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(image_files, "scan", broken)
    done = call("scan", ".")
    assert done.exit_code == 1
    assert isinstance(done.exception, ValueError)
    assert "pixace-tf:" not in done.output


@pytest.mark.soak
def test_the_main_job_from_the_command_line(
    cartoon_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = ("--preset", "pico", "--image-size", "8x12", "--epochs", "1")
    done = call("fit", cartoon_folder, *options)
    assert done.exit_code == 0, done.output
    assert "0 skipped" in done.output
    done = call("generate", "saved_models/animals", "--count", 3)
    assert done.exit_code == 0, done.output
    assert size_of("new.png")
    picture = next(cartoon_folder.glob("cat/*.png"))
    done = call("complete", "saved_models/animals", picture, "--tiles", "tiles",
                "--temperature", "0.9,1.0", "--samples", 2)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert size_of("completed.png")[0] > 6 * 96
    assert len(os.listdir("tiles")) == 4
    assert size_of("tiles/000.png") == (12, 8)


def test_scan_reports_as_json(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a b.png")
    odd = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (4, 4)).save(tmp_path / odd, "PNG")
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    report = json.loads(call("scan", tmp_path, "--json").output)
    assert report["loads"] == ["a b.png", odd]
    assert [s["path"] for s in report["skipped"]] == ["bad.jpg"]
    assert all(s["reason"] for s in report["skipped"])


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_reader_that_leaves_ends_a_command_quietly(tmp_path, option):
    for i in range(3):
        (tmp_path / f"{i}.png").touch()
    end, pipe = os.pipe()
    os.close(end)
    done = subprocess.run(
        [sys.executable, "-m", "pixace_tf", "scan", str(tmp_path), *option],
        stdout=pipe,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(pipe)
    assert done.stderr == ""
    assert done.returncode == 1


def test_palette_draws_a_sheet(cartoon_folder, tmp_path):
    picture = next(cartoon_folder.glob("fox/*.png"))
    out = tmp_path / "sheet.png"
    done = call("palette", picture, "--bit-widths", "5,4,4",
                "--bit-widths", "3,2,2", "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert size_of(out)[0] > 3 * 100


def test_draw_writes_labelled_pictures(tmp_path):
    assert call("draw", tmp_path / "a", "--count", 9).exit_code == 0
    assert len(list((tmp_path / "a").glob("*/*.png"))) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "{tmp}/none"], "There is no folder"),
        (["fit", "{tmp}/empty"], "There are no pictures"),
        (["fit", "{tmp}", "--image-size", "big"], "should be like 32"),
        (["fit", "{tmp}", "--image-size", "\u00b2"], "should be like 32"),
        (["fit", "{tmp}", "--image-size", "0"], "image_size must be"),
        (["fit", "{tmp}", "--bit-widths", "5,4"], "should be like"),
        (["fit", "{tmp}", "--bit-widths", "9,9,9"], "bit_widths must be"),
        (["fit", "{tmp}", "--epochs", "1", "--max-minutes", "1"], "not both"),
        (["generate", "{tmp}/none"], "There is no run folder"),
        (["generate", "{tmp}"], "no run folder"),
        (["generate", "{tmp}", "--out", "{tmp}/x/y.png"], "There is no folder"),
        (["generate", "{tmp}", "--out", "y.xyz"], "must end in"),
        (["generate", "{tmp}", "--out", "y.h5"], "must end in"),
        (["generate", "{tmp}", "--out", "y.xbm"], "must end in"),
        (["generate", "{tmp}", "--temperature", "warm"], "should be like"),
        (["complete", "{tmp}"], "Give RUN and then at least one IMAGE"),
        (["evaluate", "{tmp}", "{tmp}"], "no run folder"),
        (["scan", "{tmp}/none"], "There is no folder"),
        (["palette", "{tmp}/none.png"], "no such file"),
        (["draw", "{tmp}"], "not an empty folder"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    done = call(*(a.format(tmp=tmp_path) for a in arguments))
    assert done.exit_code == 2
    assert message in done.output
    assert not os.path.exists("saved_models")
    assert "Traceback" not in done.output


@pytest.mark.soak
def test_the_terminal_shows_a_bar_and_no_chatter(cartoon_folder, tmp_path):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pixace_tf", "fit"),
            *(str(cartoon_folder), "--runs-dir", str(tmp_path)),
            *("--preset", "pico", "--image-size", "8", "--epochs", "8"),
            *("--num-layers", "1", "--no-jit-compile"),
        ],
        stdout=slave,
        stderr=slave,
        env={k: v for k, v in os.environ.items() if not k.startswith("TF_CPP")},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # Closed by the other side.
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    os.close(master)
    text = shown.decode()
    assert "bits/pixel" in text
    assert "pictures/s" in text
    assert "left" in text
    for chatter in ("oneDNN", "absl", "Warning", "cuda"):
        assert chatter not in text


def test_the_recorded_command_has_every_option_that_counts():
    words = ["my run", "images", "--validation-only", "--json"]
    words += ["--max-megapixels", "2", "--report", "r"]
    context = main.commands["evaluate"].make_context("evaluate", words)
    assert typed_command(context, ["as_json"]) == (
        "pixace-tf evaluate 'my run' images --validation-only --report r "
        "--max-megapixels 2.0"
    )


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ptxas: PTX 8.5 does not support .target 'sm_120'", "--no-jit-comp"),
        ("DNN library is not found.", "pip install 'pixace-tf\\[gpu\\]'"),
        ("CUDA_ERROR_OUT_OF_MEMORY: out of memory", "nvidia-smi"),
    ],
)
def test_what_fails_on_a_gpu_is_one_line_with_what_to_do(
    monkeypatch, said, advice
):
    def fail(*_, **__):
        raise RuntimeError(f"{said}\n  and much more")

    monkeypatch.setattr(main.commands["draw"], "callback", fail)
    done = CliRunner().invoke(main, ["draw", "x"])
    assert done.exit_code == 1
    assert len(done.output.splitlines()) == 1
    assert re.search(advice, done.output)
    assert said in done.output  # The reason is not hidden.


def test_a_bug_that_names_a_library_keeps_its_traceback(monkeypatch):
    """A picture may be called so, too."""

    def fail(*_, **__):
        raise KeyError("PTX.png: no libcudnn")

    monkeypatch.setattr(main.commands["draw"], "callback", fail)
    done = call("draw", "x")
    assert isinstance(done.exception, KeyError)
    assert "pixace-tf:" not in done.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("fit", "x"), "Out of memory; lower --batch-size. (too much)"),
        (("complete", "x"), "Out of memory; lower --particles. (too much)"),
        (("generate", "x"), "Out of memory; lower --count. (too much)"),
        (("scan", "x"), "Out of memory. (too much)"),
    ],
)
def test_the_way_out_of_memory_is_an_option_of_the_command(
    monkeypatch, words, expected
):
    def fail(*_, **__):
        raise ResourceExhaustedError(None, None, "too much")

    monkeypatch.setattr(main.commands[words[0]], "callback", fail)
    done = call(*words)
    assert done.exit_code == 1
    assert done.output == f"pixace-tf: {expected}\n"


def test_texts_of_others_cannot_write_on_the_terminal(tmp_path, monkeypatch):
    evil = "\x1b[2J\x07\udcff"
    run = tmp_path / "run"
    run.mkdir()
    config = {"format": evil, "tokenizer": {}, "model": {}, "arguments": {}}
    (run / "run.json").write_text(json.dumps(config))
    done = call("generate", run)
    assert done.exit_code == 2
    assert r"run format \x1b[2J\x07\udcff, " in done.output
    done = CliRunner().invoke(click.command()(lambda: say("a\tb\n" + evil)))
    assert done.output == "a\tb\n\\x1b[2J\\x07\\udcff\n"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "/x", "a\\b"])
@pytest.mark.parametrize("command", ["fit", "tune"])
def test_a_name_is_a_new_folder_below_the_others(
    tmp_path, monkeypatch, command, name
):
    """`--name ..` once wrote the run into the current folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    done = call(command, tmp_path, "--name", name, "--epochs", 1)
    assert done.exit_code == 2
    assert "plain name for a new folder" in done.output
    assert os.listdir(tmp_path) == ["work"]
    assert not os.listdir()


def test_a_folder_of_other_things_is_no_place_for_a_run(tmp_path, monkeypatch):
    """`--runs-dir .` would write among the pictures themselves."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("photos")
    Image.new("RGB", (4, 4)).save("photos/a.png")
    done = call("fit", "photos", "--runs-dir", ".")
    assert done.exit_code == 2
    assert "is not empty and not a run" in done.output
    assert os.listdir("photos") == ["a.png"]


def test_without_tensorflow_a_line_says_what_needs_it(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "tensorflow" else find(name, *rest),
    )
    done = call("fit", tmp_path)
    assert done.exit_code == 2
    assert "needs TensorFlow, which is not installed" in done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("color", ["#0000", "#3070a080", "rgb(1, 2, 999)"])
def test_a_background_is_an_opaque_color(color):
    assert COLOR.convert("#3070a0ff", None, None) == (48, 112, 160)
    with pytest.raises(click.BadParameter, match="should be like white"):
        COLOR.convert(color, None, None)

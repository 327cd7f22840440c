"""Find runs by name, in saved_models/ and in the box, and list them."""

import fcntl
import json
import os
import pathlib
import pty
import shutil
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from test_export import make_run

from pixace_tf.cli import main
from pixace_tf.errors import UserError
from pixace_tf.painting import sheets
from pixace_tf.painting.local import LocalPainter
from pixace_tf.runs import catalog, run_config
from pixace_tf.runs.run_folder import load_run


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A working folder with `saved_models/`, and a box of our own."""
    box = tmp_path / "box"
    home = tmp_path / "home"
    (home / "saved_models").mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.setattr(catalog, "BOX_DIR", str(box))
    return home, box


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run without tokens, with what it has painted."""
    path = tmp_path_factory.mktemp("made") / "zoo"
    make_run(path)
    images = np.random.default_rng(0).integers(
        0, 256, (5, 8, 12, 3), dtype=np.uint8
    )
    for name in (run_config.SAMPLES_FILE, run_config.EXAMPLES_FILE):
        sheets.save_image(sheets.strip(images), path / name)
    history = [{"epoch": 1.0}, {"val_bits_per_pixel": 3.25}]
    (path / run_config.HISTORY_FILE).write_text(json.dumps(history))
    return path


@pytest.fixture
def boxed(folders, made):
    """The same in the box."""
    return shutil.copytree(made, folders[1] / "zoo")


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_a_name_is_a_path_then_a_saved_run_then_one_in_the_box(folders, boxed):
    home, _ = folders
    assert catalog.locate("zoo") == str(boxed)
    (home / "zoo").mkdir()  # No run: a folder of pictures, perhaps.
    assert catalog.locate("zoo") == str(boxed)
    shutil.copytree(boxed, home / "saved_models" / "zoo")
    assert catalog.locate("zoo") == os.path.join("saved_models", "zoo")
    shutil.copytree(boxed, home / "zoo", dirs_exist_ok=True)
    assert catalog.locate("zoo") == "zoo"
    assert catalog.locate(str(boxed)) == str(boxed)
    assert catalog.locate("elsewhere/zoo") == "elsewhere/zoo"


def test_an_unknown_name_is_told_what_there_is(folders, boxed):
    with pytest.raises(UserError, match=r"no run 'zo'.*only zoo\. .*models"):
        load_run("zo")


def test_a_run_in_the_box_loads_and_paints_by_its_name(boxed):
    run = load_run("zoo", jit_compile=False)
    painter = LocalPainter(run)
    assert painter.examples(3).shape == (3, 8, 12, 3)
    with Image.open(boxed / run_config.EXAMPLES_FILE) as strip:
        first = np.asarray(strip)[:, :12]
    np.testing.assert_array_equal(painter.examples(1)[0], first)


def test_models_lists_both_places_and_draws_strips(folders, boxed):
    home, _ = folders
    shutil.copytree(boxed, home / "saved_models" / "mine")
    broken = home / "saved_models" / "broken"
    broken.mkdir()
    config = json.loads((boxed / "run.json").read_text())
    escape = "\x1b[31m"
    model = {**config["model"], "decoder": f"{escape}multiscale"}
    config = {**config, "model": model}
    (home / "saved_models" / "mine" / "run.json").write_text(json.dumps(config))
    for i, damage in enumerate(({"tokenizer": []}, {"arguments": None})):
        folder = broken.with_name(f"broken-{i}")
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({**config, **damage}))
    (broken / "run.json").write_text("{")
    (home / "saved_models" / "mine" / run_config.SAMPLES_FILE).unlink()
    done = call("models", "--out", "models.png")
    assert done.exit_code == 0, done.output
    mine, zoo, last = done.output.splitlines()
    assert mine.startswith(f"mine: {os.path.join('saved_models', 'mine')}; ")
    assert "\x1b" not in done.output
    assert r"\x1b[31mmultiscale" in mine
    assert zoo.startswith("zoo: in the box; 12x8, HSV ")
    assert "3.250 bits/pixel" in zoo
    assert "1 strips" in last
    with Image.open("models.png") as sheet:
        assert sheet.width >= 5 * 96  # Five images, 64 high and 96 wide.


def test_models_needs_no_tensorflow(folders, boxed):
    code = (
        "import sys; from pixace_tf.runs import catalog; "
        f"catalog.BOX_DIR = {str(boxed.parent)!r}; "
        "from pixace_tf.cli import main; "
        "main(['models', '--out', 'm.png'], standalone_mode=False); "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_export_of_the_box_goes_into_a_copy(folders, boxed):
    home, _ = folders
    before = sorted(boxed.iterdir())
    said = []
    path = catalog.locate_own("zoo", said.append)
    assert path == os.path.join("saved_models", "zoo")
    assert (home / path / run_config.WEIGHTS_FILE).read_bytes() == (
        boxed / run_config.WEIGHTS_FILE
    ).read_bytes()
    assert "Copied zoo" in said[0]
    assert catalog.locate_own("zoo", said.append) == path  # No second copy.
    assert len(said) == 1
    assert sorted(boxed.iterdir()) == before


def test_a_copy_of_a_revision_has_the_name_of_its_run(
    folders, boxed, monkeypatch
):
    monkeypatch.setattr(catalog.hub, "fetch", lambda *_: str(boxed))
    path = catalog.locate_own("hf://ann/animals@refs/pr/1", lambda line: None)
    assert path == os.path.join("saved_models", "animals")


def test_a_copy_overwrites_nothing(folders, boxed):
    home, _ = folders
    other = home / "saved_models" / "zoo"
    other.mkdir()
    (other / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="exists"):
        catalog.locate_own("zoo")
    assert [p.name for p in other.iterdir()] == ["notes.txt"]


def test_a_strip_comes_apart_as_it_was():
    images = np.random.default_rng(0).integers(
        0, 256, (7, 8, 12, 3), dtype=np.uint8
    )
    cut = sheets.cut_strip(sheets.strip(images), images.shape[1:])
    np.testing.assert_array_equal(cut, images)


def test_the_box_of_this_package_is_whole():
    for name in catalog.run_names(catalog.BOX_DIR):
        path = pathlib.Path(catalog.BOX_DIR, name)
        size = sum(file.stat().st_size for file in path.iterdir())
        assert size <= 10e6, name
        assert load_run(str(path), jit_compile=False).model.labels
        # The sheet of nearest pictures would show tiles that are not ours.
        nearest = set() if name == "sprites" else {"nearest.png"}
        assert {f.name for f in path.iterdir()} == nearest | {
            *("README.md", "panel.png", "run.json"),
            run_config.COMPLETED_FILE,
            run_config.EXAMPLES_FILE,
            run_config.HISTORY_FILE,
            run_config.SAMPLES_FILE,
            run_config.WEIGHTS_FILE,
        }


def test_a_terminal_shows_the_sheet_and_a_pipe_does_not():
    code = (
        "from PIL import Image; from pixace_tf.cli.terminal import show; "
        "show(Image.new('RGB', (40, 20), (255, 0, 0)), True)"
    )
    command = [sys.executable, "-c", code]
    piped = subprocess.run(command, capture_output=True, check=True)
    assert piped.stdout == b""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:
            break
    os.close(master)
    assert process.wait() == 0
    text = shown.decode()
    # Half blocks, in red.
    assert "\u2580" in text or "\u2584" in text
    assert "255;0;0" in text or "38;5;" in text

"""The project itself: one direction of imports, clean code, working docs."""

import ast
import doctest
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from pixace_tf.cli import main
from pixace_tf.data import cartoons, labels
from pixace_tf.evaluation import frechet, recoloring, regions
from pixace_tf.runs import catalog
from pixace_tf.runs.run_config import SAMPLES_FILE
from pixace_tf.training.previews import Previews

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "pixace_tf"
# The way of an image: a package imports only itself and earlier ones.
ORDER = (
    *("errors", "typing", "machine", "storage", "console", "compile_cache"),
    *("data", "model"),
    *("sampling", "runs", "painting", "training", "serving", "evaluation"),
    *("tuning", "demo", "app", "cli", "__init__", "__main__"),
)
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path
    for path in PACKAGE.rglob("*.py")
}


def imports_of(path):
    """Yield the modules of this package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, *parts = node.module.split(".")
            if package == "pixace_tf":
                below = [[*parts, alias.name] for alias in node.names]
                for names in (parts, *below):
                    if "/".join(names) in MODULES:
                        yield "/".join(names)


def test_imports_point_one_way():
    for module, path in MODULES.items():
        place = ORDER.index(module.split("/")[0])
        for imported in imports_of(path):
            assert ORDER.index(imported.split("/")[0]) <= place, module


def test_every_package_says_what_is_in_it():
    for module, path in MODULES.items():
        if module.endswith("/__init__"):
            text = ast.get_docstring(ast.parse(path.read_text()))
            assert text, module
            assert 3 <= len(text.splitlines()) <= 10, module


def test_model_code_does_not_import_tensorflow():
    """The model can train on another Keras backend."""
    waiting, seen = ["model/causal_lm"], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        # These import TensorFlow only on its backend.
        if module not in ("model/recompute", "model/lookup"):
            text = MODULES[module].read_text()
            assert "import tensorflow" not in text, module
        waiting += set(imports_of(MODULES[module])) - seen
    assert {"model/flat_decoder", "model/reformer/lsh_attention"} <= seen


@pytest.mark.parametrize("module", ["data.palette", "data.tokenizer"])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(f"pixace_tf.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check"),
        ("ruff", "format", "--check"),
        pytest.param(("mypy",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_the_code_is_clean(command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands_of(page):
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip():
                yield " ".join(line.split("#")[0].split())


def python_of(page):
    """Return the one block of Python of a page."""
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    return block


def quickly(command):
    """Shorten slow commands of the docs; the others stay as written."""
    if command[0] == "evaluate":
        return [*command, "--samples", "16"]
    if command[0] == "draw":
        return [*command, "--count", "64"]
    if command[0] == "tokenize":
        return [*command, "--image-size", "8"]
    if command[0] != "fit":
        return command
    if "--max-minutes" in command:
        at = command.index("--max-minutes")
        command = command[:at] + command[at + 2 :]
    if "--image-size" in command:
        at = command.index("--image-size")
        command = command[:at] + command[at + 2 :]
    if "--decoder" not in command:  # This one is built in half the time.
        command = [*command, "--decoder", "transformer"]
    command = [*command, "--image-size", "8", "--preset", "pico"]
    return [*command, "--epochs", "1", "--no-jit-compile"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that the docs' commands read, and a box."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frechet, "NUM_STEPS", 20)
    monkeypatch.setattr(Previews, "update", _paint_little)
    monkeypatch.setattr(recoloring, "NUM_IMAGES", 2)
    monkeypatch.setattr(regions, "NUM_IMAGES", 2)
    monkeypatch.setattr(labels, "MIN_IMAGES", 2)
    monkeypatch.setattr(catalog, "BOX_DIR", str(tmp_path / "box"))
    cartoons.draw_folder("data/animals", 24)
    cat = cartoons.draw("cat", "9")
    cat.save("cat.jpg")
    Image.new("L", cat.size, "white").save("hole.png")
    cat.convert("1").save("sketch.png")
    exec(python_of(ROOT / "docs" / "guides" / "pairs.md"), {})
    os.makedirs("data/sprites")
    for i in range(24):
        sprite = cartoons.draw("pig", str(i)).resize((8, 8)).convert("RGBA")
        sprite.paste((0, 0, 0, 0), (0, 0, 3, 8))
        sprite.save(f"data/sprites/{i}.png")
    pathlib.Path("dusk.gpl").write_text("GIMP Palette\n0 0 0 Ink\n9 9 99\n")
    # Pages ask for models of these names and some of their labels.
    for i, group in enumerate(("Flags", "Smileys and Emotion") * 4):
        os.makedirs(f"data/emoji/{group}", exist_ok=True)
        cartoons.draw("pig", str(i)).save(f"data/emoji/{group}/{i}.png")
    for label in ("floor", "monster"):
        shutil.copytree("data/sprites", f"data/tiles/{label}")
    for command in (
        ["fit", "data/emoji"],
        ["fit", "data/tiles", "--name", "sprites", "--pixel-art"],
    ):
        words = [*command, "--runs-dir", "box"]
        done = CliRunner().invoke(main, quickly(words))
        assert not done.exit_code, done.output


def _paint_little(previews, *_, **__):
    strip = Image.new("RGB", (16, 8))
    strip.save(previews._run.file(SAMPLES_FILE))


@pytest.mark.soak
def test_every_command_and_block_of_the_docs_runs(workplace):
    """In the order of the pages, the README first; each command once."""
    commands = list(dict.fromkeys(c for p in PAGES for c in commands_of(p)))
    assert len(commands) >= 25
    # Drawing and training come first: some pages use the runs of others.
    first = ("draw", "tokenize", "fit")
    commands.sort(key=lambda c: (*first, c.split()[1]).index(c.split()[1]))
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "pixace-tf"
        name, *rest = arguments
        # These have their own tests, and have run for the README.
        is_known = name in ("evaluate", "export") and "faces" not in command
        if name == "tune" or is_known:
            assert main.commands[name].make_context(name, rest)
            continue
        done = CliRunner().invoke(main, quickly(arguments))
        assert done.exit_code == 0, (command, done.output)
    names = {}
    exec(python_of(ROOT / "README.md"), names)
    assert names["pictures"].shape == (1, 4, 8, 8, 3)


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text()
    for command in main.commands:
        assert f"pixace-tf {command}" in text, command


def readme_figures():
    """Return the pipeline as a module."""
    path = ROOT / "pipelines" / "readme_figures.py"
    spec = importlib.util.spec_from_file_location("readme_figures", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Its dataclasses look there.
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README.md", "docs/figures.md"])
def test_the_speeds_in_the_docs_are_those_of_the_benchmark(page):
    """`python pipelines/readme_figures.py` writes them."""
    module = readme_figures()
    results = json.loads(module.RESULTS.read_text())
    text, is_short = (ROOT / page).read_text(), page == "README.md"
    assert module.with_table(text, module.table(results, is_short)) == text
    for cells in results["sampling"]["figures"].values():
        for row in cells.values():
            for cell in row.values():
                cell["per_second"] = [2 * rate for rate in cell["per_second"]]
    assert module.with_table(text, module.table(results, is_short)) != text


def test_results_name_no_folder_of_a_machine():
    for path in (ROOT / "pipelines" / "results").glob("*.*"):
        if path.suffix in (".json", ".md"):
            assert not re.search(
                r"[ '\"]/(work|tmp|home|root)/", path.read_text()
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)", page.read_text()):
        if not re.match(r"https?:|#", target):
            path, _, anchor = target.partition("#")
            path = (page.parent / path).resolve()
            assert path.is_file(), target
            if anchor:
                titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
                assert anchor in map(slug, titles), target


def slug(title):
    """Return the anchor of a heading, as GitHub and mkdocs make it."""
    plain = re.sub(r"[^\w\s-]", "", title.lower())
    return re.sub(r"[\s]+", "-", plain.strip())

"""The project itself: one way of imports, clean code, a README that runs."""

import ast
import doctest
import importlib
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pixace_tf.cli.commands import main
from pixace_tf.data import cartoons

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "pixace_tf"
# The way of a picture; each module imports only those before it.
ORDER = (
    "storage", "console", "images", "cartoons", "sheets", "bit_widths",
    "color_codes", "tokenizer", "sources", "dataset", "recompute",
    "attention", "kv_cache", "transformer_stack", "reformer.reversible",
    "reformer.lsh_attention", "reformer.branches",
    "reformer.reformer_stack", "reformer", "initializers", "pixel_inputs",
    "decoders", "color_head", "presets", "causal_lm", "likelihood", "fidelity",
    "filters", "sampling", "run_folder", "painting", "gallery", "callbacks",
    "report", "training", "demo", "evaluation.learned",
    "evaluation.baselines", "evaluation.nearest", "evaluation.completion",
    "evaluation.novelty", "evaluation.frechet", "evaluation.features",
    "evaluation.probe", "evaluation.account", "evaluation.summary",
    "evaluation.plots", "evaluation.illustrations", "evaluation.html_parts",
    "evaluation.html_report", "evaluation.report_folder", "evaluation",
    "tuning", "tuning.processes", "tuning.space", "tuning.trial",
    "tuning.oracle", "tuning.tuner", "tuning.role", "tuning.launcher",
    "tuning.palettes", "tuning.results", "tuning.sweep", "served_model",
    "model_card", "export", "client", "app", "options", "cli", "__init__",
    "__main__",
)  # fmt: skip


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "pixace_tf":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("pixace_tf."):
                yield node.module.removeprefix("pixace_tf.")


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def test_imports_point_one_way():
    assert set(MODULES) == set(ORDER)
    for module, path in MODULES.items():
        for imported in imports_of(path):
            assert ORDER.index(imported) < ORDER.index(module), (
                f"{module} imports {imported}"
            )


def test_model_code_does_not_import_tensorflow():
    """So that it can train on another Keras backend."""
    waiting, seen = ["causal_lm"], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        path = MODULES[module]
        # There a function asks which backend runs.
        if module != "recompute":
            assert "import tensorflow" not in path.read_text(), module
        waiting += set(imports_of(path)) - seen
    assert {"decoders", "reformer.lsh_attention", "color_head"} <= seen


@pytest.mark.parametrize("module", ["tokenizer"])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(f"pixace_tf.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)],
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


def readme_commands():
    text = (ROOT / "README.md").read_text()
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip():
                yield line.split("#")[0].strip()


def quickly(command):
    """Make a training of the README short; all else stays as written."""
    if command[0] == "tune":
        return [*command, "--preset", "pico", "--epochs", "1"]
    if command[0] != "fit":
        return command
    if "--max-minutes" in command:
        at = command.index("--max-minutes")
        command = command[:at] + command[at + 2 :]
    if "--image-size" not in command:
        command = [*command, "--image-size", "16"]
    return [*command, "--preset", "pico", "--epochs", "1"]


def test_every_command_and_block_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cartoons.draw_folder("data/animals", 24)
    cartoons.draw("cat", "9").save("cat.jpg")
    commands = list(readme_commands())
    assert len(commands) >= 9
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "pixace-tf"
        done = CliRunner().invoke(main, quickly(arguments))
        assert done.exit_code == 0, (command, done.output)
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(block, names)
    assert names["pictures"].shape == (1, 4, 16, 16, 3)


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text()
    for command in main.commands:
        assert f"pixace-tf {command}" in text, command


def test_pictures_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    paths = re.findall(r"\]\((pipelines/[^)]*)\)", text)
    assert paths
    for path in paths:
        assert (ROOT / path).is_file(), path

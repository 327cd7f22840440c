"""The pipelines run."""

import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

PIPELINES = pathlib.Path(__file__).parent.parent / "pipelines"


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, PIPELINES / name, *arguments],
        capture_output=True,
        text=True,
    )


def measured(cell):
    if "curve" in cell:
        return min(bits for _, bits in cell["curve"])
    return min(cell.get("per_second", [cell.get("peak_bytes", 0)]))


@pytest.mark.soak
def test_the_benchmark_measures_every_subject(tmp_path):
    out = tmp_path / "results" / "benchmark"
    done = run("benchmark.py", "--smoke", "--out", out)
    assert done.returncode == 0, done.stderr
    sections = json.loads(out.with_suffix(".json").read_text())
    rows = [
        (section, row, cell)
        for section, result in sections.items()
        for table in result["figures"].values()
        for row, cells in table.items()
        for cell in cells.values()
    ]
    assert len(rows) == 4 + 2 + 5 + 2 + 2 + 2
    for section, row, cell in rows:
        if "missing" in cell:
            assert importlib.util.find_spec(cell["missing"]) is None
        else:
            assert measured(cell) > 0, (section, row)
    table = out.with_suffix(".md").read_text()
    assert all(f"| {row} |" in table for _, row, _ in rows)
    assert out.with_suffix(".png").stat().st_size > 10_000


def profile_steps():
    """The pipeline as a module."""
    path = PIPELINES / "profile_steps.py"
    spec = importlib.util.spec_from_file_location("profile_steps", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernels_are_told_apart_by_their_names():
    kind_of = profile_steps().kind_of
    assert kind_of("dot.12") == "matrix products"
    assert kind_of("input_reduce_fusion.3") == "sums and maxima"
    assert kind_of("wrapped_transpose") == "other loops"
    assert kind_of("ThreadpoolListener") is None
    assert kind_of("something else") is None


@pytest.mark.soak
def test_the_profile_finds_the_products_of_a_step(tmp_path):
    """Products are among the kernels of both, and none is counted twice."""
    done = run("profile_steps.py", "--preset", "pico", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^ +(\d+)%  ([\w ]+), by", done.stdout, re.M)
    assert len(found) == 6
    shares = [(kind, int(share)) for share, kind in found]
    for part in (shares[:3], shares[3:]):
        assert part[0][0] == "matrix products"
        assert all(share > 0 for _, share in part), part
    times = profile_steps().kernel_times(str(tmp_path / "training"))
    total = re.search(r"training step.*: ([\d.]+) ms", done.stdout)[1]
    assert sum(times.values()) == pytest.approx(float(total), abs=0.1)


@pytest.mark.soak
def test_bigger_pictures_are_painted_and_scored_both_ways(tmp_path):
    done = run(
        *("bigger_pictures.py", "--dir", tmp_path / "run", "--preset", "pico"),
        *("--image-size", "16", "--minutes", "0.1", "--count", "40"),
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+) attention: ([\d.]+) bits", done.stdout, re.M)
    assert [name for name, _ in found] == ["hashed", "exact"]
    # On a busy machine the time is over after a step or two: 13 bits are
    # what a model needs that knows nothing.
    hashed, exact = (float(bits) for _, bits in found)
    assert 1 < hashed < 15, done.stdout
    assert exact == pytest.approx(hashed, abs=1)
    assert (tmp_path / "run" / "completed.png").is_file()


@pytest.mark.soak
def test_the_check_of_gpus_measures_on_a_cpu(tmp_path):
    if not all(map(importlib.util.find_spec, ("jax", "torch"))):
        pytest.skip("needs jax and torch, as `pip install -e '.[bench]'` has")
    done = run("gpu_check.py", "--smoke", "--out", tmp_path / "gpu")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["what"] for row in rows] == [
        *("products", "peer", "train", "train")
    ]
    assert not any("error" in row for row in rows), rows
    for row in rows[2:]:
        assert row["pixels_per_second"] > 0
        # Each pixel takes two operations for a weight, three times, or more.
        assert row["flops_per_pixel"] > row["parameters"] / 16
        assert row["losses"][-1] < row["losses"][0] - 1
    assert "| multiscale | mixed_float16 | 2 |" in done.stdout


@pytest.mark.soak
def test_what_jax_trains_is_worth_the_same_to_tensorflow(trained_run, tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("needs jax, as `pip install -e '.[bench]'` has")
    import numpy as np

    from pixace_tf import load_run
    from pixace_tf.sampling.likelihood import Scorer
    from pixace_tf.storage import read_npz

    path = tmp_path / "run"
    shutil.copytree(trained_run.path, path)
    done = run(
        *("fit_with_jax.py", path, "--minutes", "0.2", "--batch-size", "8"),
        *("--precision", "float32"),
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    told = min(line["val_bits_per_pixel"] for line in lines)
    assert told < 11  # A model that knows nothing needs 13 bits.
    trained = load_run(path, jit_compile=False)
    arrays, _ = read_npz(path / "tokens.npz")
    held_out = arrays["validation"].astype(np.int32)
    bits = Scorer(trained.model, jit_compile=False).bits(held_out).mean()
    assert bits == pytest.approx(told, abs=1e-3)


def test_tiles_are_linked_by_label(tmp_path):
    tiles, folder = tmp_path / "tiles", tmp_path / "by-label"
    names = [f"mon/orc_{i}" for i in range(20)]
    names += ["mon/statues/imp", "mon/statues/overlay_bow", "item/ring/i-fire"]
    names += ["item/potion/red", "gui/cursor", "dngn/floor/mud0"]
    for name in names:
        path = tiles / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for _ in range(2):
        done = run("sprites.py", tiles, folder, "--links-only")
        assert done.returncode == 0, done.stderr
    assert "   20 monster\n" in done.stdout
    assert "    1 potion, each linked twice\n" in done.stdout
    assert "   23 in all, 4 labels\n" in done.stdout
    links = {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}
    monsters = {f"monster/mon-orc_{i}.png" for i in range(20)}
    assert links - monsters == {
        f"{label}/{again}{name}.png"
        for label, name in (
            ("floor", "dngn-floor-mud0"),
            ("potion", "item-potion-red"),
            ("statue", "mon-statues-imp"),
        )
        for again in ("", "again-")
    }
    assert (folder / "monster/mon-orc_3.png").read_bytes() == b"mon/orc_3"

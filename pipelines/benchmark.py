"""This program beside what people would use instead, in one run.

Every figure is taken in a process of its own, the subjects in turn. Where a
peer is not installed (`pip install -e '.[bench]'`), the tables say so.

Command:  python pipelines/benchmark.py FOLDER --out pipelines/results/benchmark
Hardware: 2 CPU cores
Time:     about 90 minutes; with --smoke three, for tests only
Expected: pipelines/results/benchmark.md
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import click
import summary
from origin import origin
from PIL import Image

from pixace_tf import console
from pixace_tf.data import cartoons, image_files
from pixace_tf.model.presets import PRESETS
from pixace_tf.storage import write_atomic

PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
OPTIONAL = ("torch", "transformers", "skimage")
SECTIONS = ("sampling", "training", "jpeg", "memory", "attention", "quality")


@dataclasses.dataclass(frozen=True)
class Case:
    """One figure: where it stands in a table, and what gives it."""

    section: str
    table: str
    row: str
    column: str
    script: str
    function: str
    arguments: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured."""

    decoders_and_heads: tuple[tuple[str, str], ...] = (
        ("multiscale", "chain"),
        ("transformer", "chain"),
        ("transformer", "packed"),
        ("reformer", "chain"),
    )
    presets: tuple[str, ...] = ("nano", "base")
    size: int = 32
    batch_sizes: tuple[int, ...] = (1, 16, 64)
    later_batch_sizes: tuple[int, ...] = (1, 16)
    training_batch_sizes: tuple[int, ...] = (4,)
    memory_preset: str = "base"
    memory_batch_sizes: tuple[int, ...] = (8, 32)
    peer_memory_batch_sizes: tuple[int, ...] = (2, 8)
    attention_lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)
    quality_preset: str = "nano"
    minutes: float = 10.0
    peer_learning_rate: float = 3e-3
    num_pictures: int = 3000
    jpeg_size: int = 512
    seconds: float = 6.0


SMOKE = Plan(
    decoders_and_heads=(("reformer", "chain"),),
    presets=("pico",),
    size=8,
    batch_sizes=(2,),
    training_batch_sizes=(2,),
    memory_preset="pico",
    memory_batch_sizes=(1,),
    peer_memory_batch_sizes=(1,),
    attention_lengths=(128,),
    quality_preset="pico",
    minutes=0.05,
    num_pictures=8,
    jpeg_size=64,
    seconds=0.1,
)


@click.command()
@click.argument("folder", required=False)
@click.option("--out", required=True, help="Path of the results, no suffix.")
@click.option(
    "--sections",
    default=",".join(SECTIONS),
    show_default=True,
    help="What to measure; other sections in the results stay as they are.",
)
@click.option("--smoke", is_flag=True, help="Tiny sizes, to try it out.")
def main(folder: str | None, out: str, sections: str, smoke: bool) -> None:
    """Measure on the pictures of FOLDER, or on drawn ones."""
    plan = SMOKE if smoke else Plan()
    chosen = sections.split(",")
    if not set(chosen) <= set(SECTIONS):
        raise click.ClickException(
            f"--sections takes {', '.join(SECTIONS)}. Received: {sections}"
        )
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    results: dict[str, Any] = {}
    if os.path.exists(f"{out}.json"):
        with open(f"{out}.json") as file:
            results = json.load(file)
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = os.path.join(scratch, "pictures")
            cartoons.draw_folder(folder, 64)
        for section in chosen:
            results[section] = {
                "origin": origin("torch", "transformers", "scikit-image"),
                "figures": {},
            }
            cases = list(_cases(section, plan, folder, scratch))
            with console.ProgressBar(f"Measuring {section}") as bar:
                for done, case in enumerate(cases):
                    bar.count(done, len(cases))
                    _keep(results[section]["figures"], case, ask(case))
                    write_atomic(f"{out}.json", json.dumps(results).encode())
    text = summary.markdown(results)
    write_atomic(f"{out}.md", text.encode())
    summary.plot(results, f"{out}.png")
    click.echo(text)


def ask(case: Case) -> dict[str, Any]:
    """Run a case in a process of its own.

    Returns:
        What the subject measured, or `{"missing": package}`.

    Raises:
        click.ClickException: If the subject failed.
    """
    command = [
        sys.executable,
        os.path.join(PEERS, f"{case.script}.py"),
        case.function,
        json.dumps(case.arguments),
    ]
    # Not every peer would use a GPU.
    on_cpu = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, capture_output=True, text=True, env=on_cpu)
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer
    missing = re.findall(r"No module named '(\w+)'", done.stderr)
    if missing and missing[-1] in OPTIONAL:
        return {"missing": missing[-1]}
    reason = done.stderr.strip().splitlines()[-1:] or ["killed"]
    raise click.ClickException(
        f"{case.row}, {case.column} failed ({done.returncode}): {reason[0]}"
    )


def _cases(
    section: str, plan: Plan, folder: str, scratch: str
) -> Iterator[Case]:
    makers = {
        "sampling": _sampling,
        "training": _training,
        "quality": lambda plan: _quality(plan, folder, scratch),
        "jpeg": lambda plan: _jpeg(plan, folder, scratch),
        "memory": _memory,
        "attention": _attention,
    }
    for case in makers[section](plan):
        yield Case(section, *case)


def _sampling(plan: Plan) -> Iterator[tuple]:
    """Second half of a picture; pixels per second."""
    for preset in plan.presets:
        sizes = _sizes(preset)
        table = (
            f"{preset}: width {sizes['hidden_dim']}, "
            f"{sizes['num_layers']} layers"
        )
        is_first = preset == plan.presets[0]
        batch_sizes = plan.batch_sizes if is_first else plan.later_batch_sizes
        for batch_size in batch_sizes:
            cell, both = _batch(plan, batch_size)
            for row, ours in _ours(plan, preset):
                yield table, row, cell, "pixace", "sample", {**ours, **both}
            row = "Hugging Face ImageGPT, packed head"
            yield table, row, cell, "image_gpt", "sample", {**sizes, **both}
            row = "keras_nlp sampler, packed head"
            for jit_compile, suffix in ((False, ""), (True, ", with XLA")):
                peer = {"preset": preset, "jit_compile": jit_compile, **both}
                yield (
                    *(table, row + suffix, cell),
                    *("keras_nlp_peer", "sample", peer),
                )


def _training(plan: Plan) -> Iterator[tuple]:
    """Steady steps; pixels per second."""
    preset = plan.presets[0]
    table = f"{preset}, {plan.size}x{plan.size}"
    for batch_size in plan.training_batch_sizes:
        cell, both = _batch(plan, batch_size)
        for row, ours in _ours(plan, preset):
            yield table, row, cell, "pixace", "train", {**ours, **both}
        for is_compiled, name in ((False, "eager"), (True, "compiled")):
            row = f"PyTorch {name}, packed head"
            peer = {**_sizes(preset), "is_compiled": is_compiled, **both}
            yield table, row, cell, "torch_gpt", "train", peer


def _ours(plan: Plan, preset: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a row and its arguments for each decoder and head."""
    for decoder, head in plan.decoders_and_heads:
        arguments = {"preset": preset, "decoder": decoder, "head": head}
        yield f"pixace-tf, {decoder}, {head} head", arguments


def _batch(plan: Plan, batch_size: int) -> tuple[str, dict[str, Any]]:
    """Return a column and the arguments that all its subjects share."""
    return f"batch {batch_size}", {
        "size": plan.size,
        "batch_size": batch_size,
        "seconds": plan.seconds,
    }


def _quality(plan: Plan, folder: str, scratch: str) -> Iterator[tuple]:
    """Validation bits per pixel against minutes, on the same tokens."""
    table, cell = plan.quality_preset, f"{plan.minutes:g} minutes"
    ours = {
        "folder": os.path.abspath(folder),
        "runs_dir": scratch,
        "preset": plan.quality_preset,
        "size": plan.size,
        "minutes": plan.minutes,
    }
    yield table, "pixace-tf", cell, "pixace", "learn", ours
    for is_compiled, name in ((False, "eager"), (True, "compiled")):
        peer: dict[str, Any] = {
            **_sizes(plan.quality_preset),
            "is_compiled": is_compiled,
            "size": plan.size,
            "batch_size": 4,
            "learning_rate": plan.peer_learning_rate,
            "tokens": os.path.join(scratch, "learned", "tokens.npz"),
            "minutes": plan.minutes,
        }
        row = f"PyTorch {name}, packed head"
        yield table, row, cell, "torch_gpt", "learn", peer


def _jpeg(plan: Plan, folder: str, scratch: str) -> Iterator[tuple]:
    """From JPEG files to tokens; pictures per second."""
    jpegs = os.path.join(scratch, "jpegs")
    _make_jpegs(folder, jpegs, plan.num_pictures, plan.jpeg_size)
    arguments = {
        "folder": jpegs,
        "size": plan.size,
        "num_pictures": plan.num_pictures,
        "seconds": plan.seconds,
    }
    table = f"JPEG {plan.jpeg_size}x{plan.jpeg_size}"
    cell = f"{plan.num_pictures} pictures"
    yield table, "pixace-tf", cell, "pixace", "load_images", arguments
    for name, function in (
        ("PIL and scikit-image, pool", "worker_pool"),
        ("torch DataLoader with PIL", "torch_loader"),
    ):
        for is_reduced in (False, True):
            row = f"{name}, reduced decoding" if is_reduced else name
            peer = {"is_reduced": is_reduced, **arguments}
            yield table, row, cell, "jpeg_loaders", function, peer


def _memory(plan: Plan) -> Iterator[tuple]:
    """Peak memory of training steps, in bytes."""
    preset = plan.memory_preset
    table = f"{preset}, {plan.size}x{plan.size}"
    for decoder in dict.fromkeys(d for d, _ in plan.decoders_and_heads):
        for batch_size in plan.memory_batch_sizes:
            cell = f"batch {batch_size}"
            ours = {
                "preset": preset,
                "decoder": decoder,
                "size": plan.size,
                "batch_size": batch_size,
            }
            row = f"pixace-tf, {decoder}"
            yield table, row, cell, "pixace", "train_memory", ours
    for batch_size in plan.peer_memory_batch_sizes:
        cell = f"batch {batch_size}"
        peer = {"preset": preset, "size": plan.size, "batch_size": batch_size}
        row = "stock keras_nlp layers, packed head"
        yield table, row, cell, "keras_nlp_peer", "train_memory", peer


def _attention(plan: Plan) -> Iterator[tuple]:
    """One layer of attention, forward and backward; tokens per second."""
    preset = plan.presets[0]
    table = f"{preset}, one layer, forward and backward"
    for num_hashes, name in ((0, "exact"), (2, "LSH, 2 rounds")):
        for length in plan.attention_lengths:
            arguments = {
                "preset": preset,
                "num_hashes": num_hashes,
                "length": length,
                "seconds": plan.seconds,
            }
            cell = f"{length} tokens"
            yield table, name, cell, "pixace", "attend", arguments


def _sizes(preset: str) -> dict[str, int]:
    sizes = PRESETS[preset]["transformer"]
    names = ("num_layers", "num_heads", "hidden_dim")
    return {name: sizes[name] for name in names}


def _make_jpegs(folder: str, out: str, count: int, edge: int) -> None:
    """Write detailed JPEG files: sixteen pictures of the folder in each."""
    scanned = image_files.scan(folder)
    paths = [os.path.join(scanned.root, p.path) for p in scanned.loads]
    os.makedirs(out)
    tile = edge // 4
    for number in range(count):
        sheet = Image.new("RGB", (edge, edge))
        for i in range(16):
            with Image.open(paths[(16 * number + i) % len(paths)]) as picture:
                small = picture.convert("RGB").resize((tile, tile))
            sheet.paste(small, (i % 4 * tile, i // 4 * tile))
        sheet.save(os.path.join(out, f"{number:05}.jpg"), quality=90)


def _keep(figures: dict[str, Any], case: Case, answer: dict[str, Any]) -> None:
    """Put a measurement into its row and column."""
    if "per_second" in answer:
        answer["per_second"] = [round(r, 3) for r in answer["per_second"]]
    row = figures.setdefault(case.table, {}).setdefault(case.row, {})
    row[case.column] = answer


if __name__ == "__main__":
    main()

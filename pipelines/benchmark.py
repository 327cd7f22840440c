"""This program beside what people would use instead, in one run.

Every subject runs in its own process. The subjects of a column compile first
and are then timed one at a time, in rounds, so that each ratio is taken within
a round. Peers run with every setting that could be their best. The tables name
peers that are not installed (`pip install -e '.[bench]'`).

Command:  python pipelines/benchmark.py FOLDER --out pipelines/results/benchmark
Hardware: 2 CPU cores
Time:     three hours, half of them for `quality`; with --smoke three minutes
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

# Settings of the peers: compiled or not, dtype, and how a row calls them.
IMAGE_GPT = (
    (False, "float32", "float32"),
    (False, "bfloat16", "bfloat16"),
    (True, "float32", "float32, static cache"),
)
# Compiled or not, dtype, one softmax for each channel or one for all.
TORCH_GPT = (
    (False, "float32", False),
    (True, "float32", False),
    (True, "bfloat16", False),
    (True, "float32", True),
    (True, "bfloat16", True),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One figure: its place in a table, and the function that measures it."""

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
    quality_decoder: str = "multiscale"
    minutes: tuple[float, ...] = (2.0, 10.0, 30.0)
    peer_learning_rate: float = 3e-3
    num_pictures: int = 3000
    jpeg_size: int = 512
    seconds: float = 3.0
    rounds: int = 5
    image_gpt: tuple[tuple[bool, str, str], ...] = IMAGE_GPT
    torch_gpt: tuple[tuple[bool, str, bool], ...] = TORCH_GPT
    # The fastest setting of each head trains as long as this program. After two
    # minutes the second one is far ahead (5.7 and 7.4 bits/pixel on photos),
    # so it alone trains for more than ten minutes.
    best_torch_gpt: tuple[tuple[bool, str, bool], ...] = (
        TORCH_GPT[2],
        TORCH_GPT[4],
    )
    minutes_of_both: float = 10.0


SMOKE = Plan(
    decoders_and_heads=(("transformer", "chain"),),
    presets=("pico",),
    size=8,
    batch_sizes=(2,),
    training_batch_sizes=(2,),
    memory_preset="pico",
    memory_batch_sizes=(1,),
    peer_memory_batch_sizes=(1,),
    attention_lengths=(128,),
    quality_preset="pico",
    quality_decoder="transformer",
    minutes=(0.05,),
    num_pictures=8,
    jpeg_size=64,
    seconds=0.1,
    rounds=2,
    image_gpt=IMAGE_GPT[-1:],
    torch_gpt=TORCH_GPT[:1],
    best_torch_gpt=TORCH_GPT[-1:],
)


@click.command()
@click.argument("folder", required=False)
@click.option("--out", required=True, help="Path of the results, no suffix.")
@click.option(
    "--sections",
    default=",".join(SECTIONS),
    show_default=True,
    help="Sections to measure; the results of the others are kept.",
)
@click.option(
    "--smoke", is_flag=True, help="Use tiny sizes, to try the script."
)
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
            columns: dict[tuple[str, str], list[Case]] = {}
            for case in _cases(section, plan, folder, scratch):
                columns.setdefault((case.table, case.column), []).append(case)
            with console.ProgressBar(f"Measuring {section}") as bar:
                for done, cases in enumerate(columns.values()):
                    bar.count(done, len(columns))
                    for case, figures in measure(cases, plan.rounds):
                        _keep(results[section]["figures"], case, figures)
                    write_atomic(f"{out}.json", json.dumps(results).encode())
    text = summary.markdown(results)
    write_atomic(f"{out}.md", text.encode())
    summary.plot(results, f"{out}.png")
    click.echo(text)


class Subject:
    """A process that measures one case, once in each round."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        script = os.path.join(PEERS, f"{case.script}.py")
        self._process = subprocess.Popen(
            [
                sys.executable,
                script,
                case.function,
                json.dumps(case.arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # Some peers cannot use a GPU.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )

    def answer(self) -> dict[str, Any]:
        """Wait for a figure.

        Returns:
            What the subject measured, or `{"missing": package}`.

        Raises:
            click.ClickException: If the subject failed.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        code = self._process.wait()
        self._errors.seek(0)
        errors = self._errors.read()
        missing = re.findall(r"No module named '(\w+)'", errors)
        if missing and missing[-1] in OPTIONAL:
            return {"missing": missing[-1]}
        reason = errors.strip().splitlines()[-1:] or ["killed"]
        raise click.ClickException(
            f"{self._case.row}, {self._case.column} failed ({code}): "
            f"{reason[0]}"
        )

    def next_answer(self) -> dict[str, Any]:
        """Ask for another round, and wait for its figure."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()


def measure(
    cases: list[Case], rounds: int
) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Measure one column of a table, its rows in turn, in rounds.

    Each subject compiles in its own process and then waits; only one works at a
    time.

    Args:
        cases: The cases of the rows.
        rounds: How often each case is timed.

    Yields:
        A case and its figures; item i of the rates is that of round i.
    """
    waiting: list[tuple[Case, Subject, dict[str, Any]]] = []
    for case in cases:
        subject = Subject(case)
        figures = subject.answer()
        if "first_seconds" in figures:
            waiting.append((case, subject, {**figures, "per_second": []}))
        else:  # It measures only once.
            subject.close()
            yield case, figures
    for _ in range(rounds):
        for _, subject, figures in waiting:
            figures["per_second"].append(subject.next_answer()["per_second"])
    for case, subject, figures in waiting:
        subject.close()
        yield case, figures


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
            for is_compiled, dtype, name in plan.image_gpt:
                row = f"Hugging Face ImageGPT, {name}"
                peer = {**sizes, **both, "dtype": dtype}
                peer["is_compiled"] = is_compiled
                yield table, row, cell, "image_gpt", "sample", peer
            row = "keras_nlp sampler, packed head"
            for jit_compile, suffix in ((False, ""), (True, ", with XLA")):
                peer = {"preset": preset, "jit_compile": jit_compile, **both}
                yield (
                    table,
                    row + suffix,
                    cell,
                    "keras_nlp_peer",
                    "sample",
                    peer,
                )


def _training(plan: Plan) -> Iterator[tuple]:
    """Steady steps; pixels per second."""
    preset = plan.presets[0]
    table = f"{preset}, {plan.size}x{plan.size}"
    for batch_size in plan.training_batch_sizes:
        cell, both = _batch(plan, batch_size)
        for row, ours in _ours(plan, preset):
            yield table, row, cell, "pixace", "train", {**ours, **both}
        for row, peer in _torch_peers(plan.torch_gpt):
            peer = {**_sizes(preset), **peer, **both}
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
    table = plan.quality_preset
    for minutes in plan.minutes:
        cell = f"{minutes:g} minutes"
        ours = {
            "folder": os.path.abspath(folder),
            "runs_dir": os.path.join(scratch, cell),
            "preset": plan.quality_preset,
            "decoder": plan.quality_decoder,
            "size": plan.size,
            "minutes": minutes,
        }
        yield table, "pixace-tf", cell, "pixace", "learn", ours
        peers = plan.best_torch_gpt
        if minutes > plan.minutes_of_both:
            peers = peers[-1:]
        for row, settings in _torch_peers(peers):
            peer: dict[str, Any] = {
                **_sizes(plan.quality_preset),
                **settings,
                "size": plan.size,
                "batch_size": 4,
                "learning_rate": plan.peer_learning_rate,
                "tokens": os.path.join(scratch, cell, "learned", "tokens.npz"),
                "minutes": minutes,
            }
            yield table, row, cell, "torch_gpt", "learn", peer


def _torch_peers(
    peers: tuple[tuple[bool, str, bool], ...],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a row and its settings for each PyTorch peer."""
    for is_compiled, dtype, is_split in peers:
        name = "compiled" if is_compiled else "eager"
        head = "64 logits" if is_split else "packed head"
        settings = {"is_compiled": is_compiled, "is_split": is_split}
        yield f"PyTorch {name}, {dtype}, {head}", {**settings, "dtype": dtype}


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
    paths = [os.path.join(scanned.root, path) for path in scanned.loads]
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

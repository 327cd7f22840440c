"""Write the speed tables of the README and the docs from the benchmark.

Each line takes one row of `pipelines/results/benchmark.json` and the fastest
peer of each kind. A ratio is the median of the ratios within each round.

Command:  python pipelines/readme_figures.py
Hardware: any
Time:     a second
Expected: nothing changes, unless the results have changed
"""

import dataclasses
import json
import pathlib
import re
import statistics
from collections.abc import Iterator
from typing import Any

import click

from pixace_tf.storage import write_atomic

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
FIGURES = ROOT / "docs" / "figures.md"
RESULTS = ROOT / "pipelines" / "results" / "benchmark.json"
BEGIN = "<!-- pipelines/readme_figures.py writes this table. -->"
END = "<!-- The end of that table. -->"


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        text: What the program does.
        section: Section of the results.
        table: Beginning of the name of the table.
        column: Column of the table.
        row: Row of this program.
        peers: One pattern for each kind of peer, which matches its rows.
        is_short: Whether the README shows the line too, beside the fastest
            peer of all.
    """

    text: str
    section: str
    table: str
    column: str
    row: str
    peers: tuple[str, ...]
    is_short: bool = False


_PAINTERS = ("Hugging Face", "keras_nlp")
_TRAINERS = ("PyTorch.*packed head", "PyTorch.*64 logits")
_MULTISCALE = "pixace-tf, multiscale, chain head"
_TRANSFORMER = "pixace-tf, transformer, chain head"
LINES = (
    Line(
        text="painting lower halves, 16 at once, default (multiscale)",
        section="sampling",
        table="nano",
        column="batch 16",
        row=_MULTISCALE,
        peers=_PAINTERS,
        is_short=True,
    ),
    Line(
        text="the same with `--decoder transformer`",
        section="sampling",
        table="nano",
        column="batch 16",
        row=_TRANSFORMER,
        peers=_PAINTERS,
    ),
    Line(
        text="one lower half, default",
        section="sampling",
        table="nano",
        column="batch 1",
        row=_MULTISCALE,
        peers=_PAINTERS[:1],
        is_short=True,
    ),
    Line(
        text="the same with `--decoder transformer`",
        section="sampling",
        table="nano",
        column="batch 1",
        row=_TRANSFORMER,
        peers=_PAINTERS[:1],
    ),
    Line(
        text="`--preset base` (width 512, 6 layers), 16 at once, default",
        section="sampling",
        table="base",
        column="batch 16",
        row=_MULTISCALE,
        peers=_PAINTERS[:1],
        is_short=True,
    ),
    Line(
        text="the same with `--decoder transformer`",
        section="sampling",
        table="base",
        column="batch 16",
        row=_TRANSFORMER,
        peers=_PAINTERS[:1],
    ),
    Line(
        text="the same, one lower half",
        section="sampling",
        table="base",
        column="batch 1",
        row=_TRANSFORMER,
        peers=_PAINTERS[:1],
    ),
    Line(
        text="training, default (multiscale)",
        section="training",
        table="nano",
        column="batch 4",
        row=_MULTISCALE,
        peers=_TRAINERS,
        is_short=True,
    ),
    Line(
        text="training, `--decoder transformer`",
        section="training",
        table="nano",
        column="batch 4",
        row=_TRANSFORMER,
        peers=_TRAINERS,
    ),
    Line(
        text="loading JPEG photos of 512x512",
        section="jpeg",
        table="JPEG",
        column="3000 pictures",
        row="pixace-tf",
        peers=("PIL", "torch"),
        is_short=True,
    ),
)


def table(results: dict[str, Any], is_short: bool = False) -> list[str]:
    """Return the lines of Markdown.

    Args:
        results: As `benchmark.py` writes them.
        is_short: Whether to return the table of the README.
    """
    lines = [
        "| | pixace-tf | the fastest alternative | ratio |",
        "|---|---:|---|---:|",
    ]
    for line in LINES:
        if is_short and line.is_short:
            kinds = ("|".join(line.peers),)
            line = dataclasses.replace(line, peers=kinds)
        if line.is_short or not is_short:
            lines += _cells(results, line)
    return [*lines, *_quality(results)]


def _cells(results: dict[str, Any], line: Line) -> Iterator[str]:
    """Yield a row for each kind of peer; only the first one has the text."""
    tables = results[line.section]["figures"]
    (rows,) = (
        rows for name, rows in tables.items() if name.startswith(line.table)
    )
    ours = rows[line.row][line.column]["per_second"]
    unit = "pictures/s" if line.section == "jpeg" else "pixels/s"
    start = f"{line.text} | {statistics.median(ours):,.0f} {unit}"
    for kind in line.peers:
        name, theirs = _fastest(rows, kind, line.column)
        ratios = [a / b for a, b in zip(ours, theirs, strict=False)]
        yield (
            f"| {start} | {name}: {statistics.median(theirs):,.0f} | "
            f"{statistics.median(ratios):.2g}x |"
        )
        start = " | "


def _fastest(
    rows: dict[str, Any], kind: str, column: str
) -> tuple[str, list[float]]:
    """Return the name and the rates of the fastest peer of a kind."""
    rates = {
        name: cells[column]["per_second"]
        for name, cells in rows.items()
        if re.match(kind, name) and "per_second" in cells.get(column, {})
    }
    best = max(rates, key=lambda name: statistics.median(rates[name]))
    return best, rates[best]


def _quality(results: dict[str, Any]) -> Iterator[str]:
    """Yield a row for each training time: the losses, and the best peer's."""
    (rows,) = results["quality"]["figures"].values()
    for column, cell in rows["pixace-tf"].items():
        ours = cell["curve"][-1][1]
        peers = {
            name: cells[column]["curve"][-1][1]
            for name, cells in rows.items()
            if "curve" in cells.get(column, {}) and name != "pixace-tf"
        }
        best = min(peers, key=lambda name: peers[name])
        yield (
            f"| {column} of training on photos, default | "
            f"{ours:.2f} bits/pixel | {best}: {peers[best]:.2f} | "
            f"{peers[best] - ours:.2f} less |"
        )


def with_table(text: str, lines: list[str]) -> str:
    """Return the text with its table replaced by these lines."""
    before, rest = text.split(f"{BEGIN}\n")
    _, after = rest.split(END)
    return "\n".join([f"{before}{BEGIN}\n", *lines, f"\n{END}{after}"])


@click.command()
def main() -> None:
    """Write the tables of speeds."""
    results = json.loads(RESULTS.read_text())
    for path in (README, FIGURES):
        lines = table(results, is_short=path == README)
        text = with_table(path.read_text(), lines)
        write_atomic(str(path), text.encode())


if __name__ == "__main__":
    main()

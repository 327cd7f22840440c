"""Writes the table of speeds in the README, from what the benchmark measured.

Each line names one row of `pipelines/results/benchmark.json` and, of the peers
beside it, the fastest of each kind. Ratios are medians of those within a round.

Command:  python pipelines/readme_figures.py
Hardware: any
Time:     a second
Expected: nothing changes, unless the results have changed
"""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import click

from pixace_tf.storage import write_atomic

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "pipelines" / "results" / "benchmark.json"
BEGIN = "<!-- pipelines/readme_figures.py writes this table. -->"
END = "<!-- The end of that table. -->"


@dataclasses.dataclass(frozen=True)
class Line:
    """What a line of the README shows.

    Attributes:
        text: What is done.
        section: Of the results.
        table: How the name of the table begins.
        column: Of the table.
        row: That of this program.
        peers: How the rows of the peers begin, a kind each.
    """

    text: str
    section: str
    table: str
    column: str
    row: str
    peers: tuple[str, ...]


_PAINTERS = ("Hugging Face", "keras_nlp")
_TRAINERS = ("PyTorch eager", "PyTorch compiled")
_MULTISCALE = "pixace-tf, multiscale, chain head"
_TRANSFORMER = "pixace-tf, transformer, chain head"
LINES = (
    Line(
        "painting lower halves, 16 at once, default (multiscale)",
        *("sampling", "nano", "batch 16", _MULTISCALE, _PAINTERS),
    ),
    Line(
        "the same with `--decoder transformer`",
        *("sampling", "nano", "batch 16", _TRANSFORMER, _PAINTERS),
    ),
    Line(
        "one lower half, default",
        *("sampling", "nano", "batch 1", _MULTISCALE, _PAINTERS[:1]),
    ),
    Line(
        "the same with `--decoder transformer`",
        *("sampling", "nano", "batch 1", _TRANSFORMER, _PAINTERS[:1]),
    ),
    Line(
        "`--preset base` (width 512, 6 layers), 16 at once, default",
        *("sampling", "base", "batch 16", _MULTISCALE, _PAINTERS[:1]),
    ),
    Line(
        "the same with `--decoder transformer`",
        *("sampling", "base", "batch 16", _TRANSFORMER, _PAINTERS[:1]),
    ),
    Line(
        "the same, one lower half",
        *("sampling", "base", "batch 1", _TRANSFORMER, _PAINTERS[:1]),
    ),
    Line(
        "training, default (multiscale)",
        *("training", "nano", "batch 4", _MULTISCALE, _TRAINERS),
    ),
    Line(
        "training, `--decoder transformer`",
        *("training", "nano", "batch 4", _TRANSFORMER, _TRAINERS),
    ),
    Line(
        "loading JPEG photos of 512x512",
        *("jpeg", "JPEG", "3000 pictures", "pixace-tf", ("PIL", "torch")),
    ),
)


def table(results: dict[str, Any]) -> list[str]:
    """Return the lines of Markdown.

    Args:
        results: As `benchmark.py` writes them.
    """
    lines = ["| | pixace-tf | beside it | |", "|---|---:|---|---:|"]
    for line in LINES:
        lines += _cells(results, line)
    return [*lines, *_quality(results)]


def _cells(results: dict[str, Any], line: Line) -> Iterator[str]:
    """Yield a row for each kind of peer; only the first says what is done."""
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
        if name.startswith(kind) and "per_second" in cells.get(column, {})
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


def with_table(readme: str, results: dict[str, Any]) -> str:
    """Return the text of the README with the table of these results."""
    before, rest = readme.split(f"{BEGIN}\n")
    _, after = rest.split(END)
    text = "\n".join(table(results))
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


@click.command()
def main() -> None:
    """Write the table of speeds in the README."""
    results = json.loads(RESULTS.read_text())
    text = with_table(README.read_text(), results)
    write_atomic(str(README), text.encode())


if __name__ == "__main__":
    main()

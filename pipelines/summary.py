"""The tables and the plot of the benchmark."""

import statistics
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TITLES = {
    "sampling": "Sampling the second half of pictures, pixels per second",
    "training": "Training, pixels per second",
    "quality": "Validation bits per pixel in equal time, same tokens",
    "jpeg": "From JPEG files to tokens, pictures per second",
    "memory": "Peak memory of training steps",
    "attention": "Attention of long sequences, tokens per second",
}
# How the rows of this program begin.
OURS = ("pixace-tf", "exact", "LSH")
NOTES = {
    "sampling": "The prefill is included, except for keras_nlp. Where a peer "
    "is too slow to finish the half, its prefill counts once and its first "
    "pixels, which are the cheapest, stand for all.",
    "quality": "Our clock includes validation; the clock of the peers stops.",
    "memory": "Memory of the whole process. Ours computes 8 pictures at a "
    "time.",
}

Table = dict[str, dict[str, dict[str, Any]]]


def markdown(results: dict[str, Any]) -> str:
    """Return all tables.

    Args:
        results: Origin and figures of each section: a table, a row and a
            column lead to the figures.
    """
    lines = [
        "# pixace-tf beside what people would use instead",
        "",
        "Medians of the rounds (lowest - highest), and the median of the",
        "ratios within a round to the fastest peer, which is marked 1x.",
    ]
    for section, result in results.items():
        lines += ["", f"## {TITLES[section]}", ""]
        if section in NOTES:
            lines += [NOTES[section], ""]
        for name, table in result["figures"].items():
            lines += [*_table(section, name, table), ""]
        lines.pop()
    lines += ["", "## Origin", ""]
    origins: dict[str, list[str]] = {}
    for section, result in results.items():
        origins.setdefault("\n".join(result["origin"]), []).append(section)
    for origin, sections in origins.items():
        lines += [f"{', '.join(sections)}:", "", origin, ""]
    return "\n".join(lines)


def plot(results: dict[str, Any], path: str) -> None:
    """Draw one panel for each table."""
    panels = [
        (section, name, table)
        for section, result in results.items()
        for name, table in result["figures"].items()
    ]
    figure = Figure(figsize=(11, 3.2 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (section, name, table) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True
    ):
        axes.set_title(f"{TITLES[section]} ({name})", loc="left", fontsize=10)
        if section == "quality":
            _draw_curves(axes, table)
        else:
            _draw_bars(axes, section, table)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


def _table(section: str, name: str, table: Table) -> list[str]:
    columns = list(dict.fromkeys(c for row in table.values() for c in row))
    last = {
        "training": ["first step"],
        "quality": ["parameters"],
    }.get(section, [])
    lines = [
        f"| {' | '.join([name, *columns, *last])} |",
        "|---|" + "---:|" * len([*columns, *last]),
    ]
    best = {c: _best_peer(table, c) for c in columns}
    for row, cells in table.items():
        texts = [_cell(cells.get(c, {}), best[c]) for c in columns]
        if last:
            texts.append(_last(cells[columns[0]]))
        lines.append(f"| {' | '.join([row, *texts])} |")
    return lines


def _best_peer(table: Table, column: str) -> dict[str, Any]:
    """Return the figures of the fastest peer in a column, {} without one."""
    peers = [
        cells[column]
        for row, cells in table.items()
        if not row.startswith(OURS) and "per_second" in cells.get(column, {})
    ]
    return max(
        peers, key=lambda p: statistics.median(p["per_second"]), default={}
    )


def _cell(cell: dict[str, Any], best: dict[str, Any]) -> str:
    if "missing" in cell:
        return f"{cell['missing']} is not installed"
    if "curve" in cell:
        return f"{cell['curve'][-1][1]:.3f}"
    if "peak_bytes" in cell:
        return f"{cell['peak_bytes'] / 1e9:.2f} GB"
    if "per_second" not in cell:
        return ""
    rates = cell["per_second"]
    text = (
        f"{statistics.median(rates):,.0f} ({min(rates):,.0f} - "
        f"{max(rates):,.0f})"
    )
    if cell is best:
        return f"{text}, 1x"
    if best:
        ratios = [
            own / peer
            for own, peer in zip(rates, best["per_second"], strict=False)
        ]
        text += (
            f", {statistics.median(ratios):.3g}x ({min(ratios):.3g} - "
            f"{max(ratios):.3g})"
        )
    return text


def _last(cell: dict[str, Any]) -> str:
    if "parameters" in cell:
        return f"{cell['parameters'] / 1e6:.1f} M"
    return f"{cell['first_seconds']:.1f} s" if "first_seconds" in cell else ""


def _draw_bars(axes: Any, section: str, table: Table) -> None:
    columns = list(dict.fromkeys(c for row in table.values() for c in row))
    height = 0.8 / len(columns)
    for i, column in enumerate(columns):
        values = [_value(cells.get(column, {})) for cells in table.values()]
        places = [n + i * height for n in range(len(table))]
        bars = axes.barh(places, values, height * 0.9, label=column)
        axes.bar_label(
            bars,
            [_short(value) for value in values],
            fontsize=7,
            padding=2,
        )
    middle = (len(columns) - 1) * height / 2
    axes.set_yticks([n + middle for n in range(len(table))], list(table))
    axes.invert_yaxis()
    axes.set_xlabel("GB" if section == "memory" else "per second")
    axes.legend(fontsize=7, frameon=False)


def _value(cell: dict[str, Any]) -> float:
    if "peak_bytes" in cell:
        return float(cell["peak_bytes"]) / 1e9
    return float(statistics.median(cell.get("per_second", [0.0])))


def _short(value: float) -> str:
    """Return the label of a bar, empty where nothing was measured."""
    if not value:
        return ""
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def _draw_curves(axes: Any, table: Table) -> None:
    for i, (row, cells) in enumerate(table.items()):
        curves = [cell["curve"] for cell in cells.values() if "curve" in cell]
        for number, curve in enumerate(curves):
            seconds, bits = zip(*curve, strict=True)
            minutes = [s / 60 for s in seconds]
            # A row has one curve for each budget, and one name.
            label = "_" if number else row
            axes.plot(minutes, bits, marker="o", color=f"C{i}", label=label)
    axes.set_xlabel("minutes")
    axes.set_ylabel("bits/pixel")
    axes.legend(fontsize=7, frameon=False)

"""The results of a sweep: a table, the Pareto front, strips, the winner."""

import dataclasses
import math
import os
import shlex
from typing import Any

from pixace_tf import storage
from pixace_tf.painting import sheets
from pixace_tf.tuning import trials as trial_files
from pixace_tf.tuning.palettes import is_poor
from pixace_tf.tuning.space import RUNS, STRIP_FILE, Sweep, trial_arguments

TABLE_FILE = "table.md"
RESULTS_FILE = "results.json"
PARETO_FILE = "pareto.png"
STRIPS_FILE = "strips.png"
# The winner's command trains this many times longer.
_LONGER = 4
_UNITS = {"bits_per_pixel": "bits/pixel", "bits_per_dim": "bits/dim"}


@dataclasses.dataclass(frozen=True)
class Trial(trial_files.Trial):
    """A trial with its name and the fidelity of its palette.

    Attributes:
        name: The choices that distinguish it, such as `hsv 5,4,4`.
        psnr: Fidelity of its palette in dB; infinite if exact.
    """

    name: str
    psnr: float


def read_trials(folder: str, sweep: Sweep) -> list[Trial]:
    """Read the trials of a sweep, in the order they were added."""
    psnrs = {(p["palette"], p["image_size"]): p["psnr"] for p in sweep.palettes}
    found = []
    for trial in trial_files.read_trials(folder):
        psnr = psnrs[trial.values["palette"], trial.values["image_size"]]
        name = _name(sweep, trial.values)
        psnr = math.inf if psnr is None else psnr
        found.append(Trial(**dataclasses.asdict(trial), name=name, psnr=psnr))
    return found


def _name(sweep: Sweep, values: dict[str, Any]) -> str:
    parts = []
    for name in sweep.swept:
        value = values[name]
        parts.append(value if isinstance(value, str) else f"{name} {value:g}")
    if "tuner/epochs" in values:
        parts.append(f"{values['tuner/epochs']} epochs")
    return ", ".join(parts)


def line(trial: Trial, objective: str) -> str:
    """Return the result of an ended trial as one line."""
    begin = f"trial {trial.trial_id}, {trial.name}"
    if not trial.is_completed:
        return f"{begin}, failed: {trial.message}"
    return f"{begin}: {trial.figures[objective]:.3f} {_UNITS[objective]}"


def by_size(trials: list[Trial]) -> list[list[Trial]]:
    """Group the completed trials by image size; other sizes do not compare."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.is_completed:
            groups.setdefault(trial.values["image_size"], []).append(trial)
    return list(groups.values())


def best_trials(trials: list[Trial], objective: str) -> list[Trial]:
    """Return the best completed trial of each size, the first of equals."""
    return [min(g, key=lambda t: t.figures[objective]) for g in by_size(trials)]


def pareto_front(trials: list[Trial]) -> list[Trial]:
    """Return the completed trials that no other trial of their size dominates.

    A trial dominates another if neither its PSNR nor its bits/pixel are worse
    and one of them is better. The lowest PSNR comes first.
    """

    def place(trial: Trial) -> tuple[float, float]:
        return -trial.psnr, trial.figures["bits_per_pixel"]

    front: list[Trial] = []
    for group in by_size(trials):
        lowest: tuple[float, float] = (-math.inf, math.inf)
        for trial in sorted(group, key=place):
            if place(trial)[1] < lowest[1] or place(trial) == lowest:
                front.append(trial)
                lowest = place(trial)
    return sorted(front, key=place, reverse=True)


def winner_command(sweep: Sweep, trial: Trial, name: str) -> str:
    """Return the command that trains the model of a trial four times longer."""
    # The epochs of Hyperband, which train for less, are left out.
    chosen = {key: trial.values[key] for key in sweep.space}
    arguments = trial_arguments(sweep, chosen).given
    arguments.pop("recipe", None)  # It depends on the time.
    arguments["name"] = name
    arguments["image_size"] = chosen["image_size"]
    arguments["bit_widths"] = ",".join(map(str, arguments["bit_widths"]))
    words = ["pixace-tf", "fit", sweep.source]
    for key, value in arguments.items():
        if key in ("epochs", "max_minutes"):
            value = f"{_LONGER * value:g}"
        option = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def write_report(folder: str, sweep: Sweep) -> str:
    """Write table, plot and strips; return the table and commands."""
    trials = read_trials(folder, sweep)
    best = best_trials(trials, sweep.arguments.objective)
    name = os.path.basename(folder)
    text = "\n".join([table(sweep, trials), *winners(sweep, best, name)])
    storage.write_atomic(os.path.join(folder, TABLE_FILE), text.encode())
    storage.write_json(
        os.path.join(folder, RESULTS_FILE),
        {
            "objective": sweep.arguments.objective,
            "best": [trial.trial_id for trial in best],
            "palettes": sweep.palettes,
            "trials": [_as_json(trial) for trial in trials],
        },
    )
    if best:
        plot_pareto(trials, best, os.path.join(folder, PARETO_FILE))
        sheet = sheets.strips(_strips(folder, trials), sheets.TILE_SIDE)
        sheets.save_image(sheet, os.path.join(folder, STRIPS_FILE))
    return text


def _strips(folder: str, trials: list[Trial]) -> dict[str, str]:
    """Return the strips of completed trials by caption, best palette first."""
    paths = {}
    for trial in sorted(trials, key=lambda t: -t.psnr):
        if trial.is_completed:
            bits = f"{trial.figures['bits_per_pixel']:.2f} bits/pixel"
            caption = f"{trial.name}: {bits} (trial {trial.trial_id})"
            path = os.path.join(folder, RUNS, trial.trial_id, STRIP_FILE)
            paths[caption] = path
    return paths


def winners(sweep: Sweep, best: list[Trial], name: str) -> list[str]:
    """Return lines that name the best trial of each size, and its command."""
    lines = []
    for trial in best:
        lines += [
            f"Lowest {_UNITS[sweep.arguments.objective]}: {trial.name} (trial "
            f"{trial.trial_id}). Train it for longer with",
            "",
            f"    {winner_command(sweep, trial, f'{name}-{trial.trial_id}')}",
            "",
        ]
    if len(best) > 1:
        lines += [
            "Bits of different image sizes do not compare: small images vary "
            "more from pixel to pixel.",
            "",
        ]
    return lines


def table(sweep: Sweep, trials: list[Trial]) -> str:
    """Return the results as Markdown: the best trials first."""
    front = {t.trial_id for t in pareto_front(trials)}
    lines = [
        "| trial | choice | palette PSNR | bits/pixel | bits/dim | tokens/s "
        "| parameters | front |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    completed = [t for t in trials if t.is_completed]
    completed.sort(key=lambda t: t.figures[sweep.arguments.objective])
    for t in completed:
        psnr = "exact" if math.isinf(t.psnr) else f"{t.psnr:.2f} dB"
        f = t.figures
        lines.append(
            f"| {t.trial_id} | {t.name} | {psnr} | {f['bits_per_pixel']:.3f} "
            f"| {f['bits_per_dim']:.3f} | {f['tokens_per_second']:,.0f} "
            f"| {f['parameters']:,} | {'yes' if t.trial_id in front else ''} |"
        )
    notes = [line(t, sweep.arguments.objective) for t in trials if t.message]
    notes += [
        f"{p['palette']} at {p['image_size']} was skipped: "
        f"{p['psnr']:.2f} dB is less than {sweep.arguments.min_psnr:g} dB."
        for p in sweep.palettes
        if is_poor(p, sweep.arguments.min_psnr)
    ]
    lines += ["", *[f"- {note}" for note in notes], ""] if notes else [""]
    return "\n".join(lines)


def plot_pareto(trials: list[Trial], best: list[Trial], path: str) -> None:
    """Plot bits against the PSNR of palettes as PNG; mark the best trials."""
    from matplotlib.figure import Figure

    completed = [t for t in trials if t.is_completed]
    finite = [t.psnr for t in completed if math.isfinite(t.psnr)]
    # Exact palettes stand at the right edge.
    edge = max(finite, default=40.0) + 3
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    front = pareto_front(trials)
    for axes, (key, unit) in zip(
        figure.subplots(1, 2), _UNITS.items(), strict=True
    ):
        for t in completed:
            x, y = min(t.psnr, edge), t.figures[key]
            color = "C0" if t in front or key != "bits_per_pixel" else "0.6"
            axes.plot(x, y, "o", color=color)
            if t in best:
                axes.plot(x, y, "*", color="C1", ms=15)
            exact = " (exact)" if math.isinf(t.psnr) else ""
            axes.annotate(
                t.name + exact,
                (x, y),
                textcoords="offset points",
                xytext=(6, 5),
                fontsize=8,
            )
        for group in by_size(front) if key == "bits_per_pixel" else []:
            points = [(min(t.psnr, edge), t.figures[key]) for t in group]
            axes.plot(*zip(*points, strict=True), color="0.6", lw=1, zorder=0)
        axes.set(xlabel="PSNR of the palette, dB", ylabel=f"validation {unit}")
        axes.margins(0.2, 0.12)
        axes.grid(alpha=0.3)
    sheets.save_figure(figure, path, dpi=120)


def _as_json(trial: Trial) -> dict[str, Any]:
    state = dataclasses.asdict(trial)
    psnr = None if math.isinf(trial.psnr) else trial.psnr
    return {**state, "status": trial.status, "psnr": psnr}

"""What a sweep found: a table, the Pareto front, strips, the winner."""

import dataclasses
import glob
import inspect
import io
import json
import math
import os
import shlex
from typing import Any

import numpy as np
from PIL import Image

from pixace_tf import sheets, storage
from pixace_tf.training import fit
from pixace_tf.tuning.space import (
    FIGURES_FILE,
    RUNS,
    STRIP,
    TUNER,
    Sweep,
    parse_palette,
)

TABLE_FILE = "table.md"
RESULTS_FILE = "results.json"
PARETO_FILE = "pareto.png"
STRIPS_FILE = "strips.png"
_UNITS = {"bits_per_pixel": "bits/pixel", "bits_per_dim": "bits/dim"}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial, and what is known of its palette.

    Attributes:
        trial_id: Name of its run.
        status: "COMPLETED", "FAILED" or "RUNNING".
        values: What was chosen, by name.
        message: Why it failed.
        psnr: Of the palette, in dB; infinite where nothing is lost.
        figures: See `trial.measure`; empty unless completed.
    """

    trial_id: str
    status: str
    values: dict[str, Any]
    message: str
    psnr: float
    figures: dict[str, float]

    @property
    def is_completed(self) -> bool:
        """Whether it has figures."""
        return self.status == "COMPLETED"

    @property
    def is_ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ("COMPLETED", "FAILED")

    @property
    def name(self) -> str:
        """What distinguishes it, such as `hsv 5,4,4, 32x32`."""
        return ", ".join(
            f"{value}" if isinstance(value, str) else f"{name} {value:g}"
            for name, value in self.values.items()
        )


def read_trials(folder: str, sweep: Sweep) -> list[Trial]:
    """Read the trials of a sweep, in the order they began."""
    quality = {(p["palette"], p["image_size"]): p for p in sweep.palettes}
    trials = []
    pattern = os.path.join(glob.escape(folder), TUNER, "trial_*", "trial.json")
    for path in sorted(glob.glob(pattern)):
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        chosen = state["hyperparameters"]["values"]
        values = {name: chosen[name] for name in sweep.space}
        palette = quality[values["palette"], values["image_size"]]
        is_completed = state["status"] == "COMPLETED"
        figures = os.path.join(folder, RUNS, state["trial_id"], FIGURES_FILE)
        trials.append(
            Trial(
                state["trial_id"],
                state["status"],
                values,
                state.get("message") or "",
                math.inf if palette["psnr"] is None else palette["psnr"],
                _read_json(figures) if is_completed else {},
            )
        )
    return trials


def line(trial: Trial, objective: str) -> str:
    """Return what came of an ended trial, in one line."""
    if not trial.is_completed:
        return f"trial {trial.trial_id}, {trial.name}, failed: {trial.message}"
    bits = trial.figures[objective]
    return (
        f"trial {trial.trial_id}, {trial.name}: {bits:.3f} {_UNITS[objective]}"
    )


def best_trial(trials: list[Trial], objective: str) -> Trial | None:
    """Return the completed trial with the lowest objective, if there is one.

    Among equals the first.
    """
    completed = [t for t in trials if t.is_completed]
    return min(completed, key=lambda t: t.figures[objective], default=None)


def pareto_front(trials: list[Trial]) -> list[Trial]:
    """Return the completed trials that no other beats.

    One beats another where its palette is as good and its bits/pixel as low,
    and one of both is better.

    Returns:
        The front, from the poorest palette to the best.
    """
    completed = [t for t in trials if t.is_completed]
    ordered = sorted(
        completed, key=lambda t: (-t.psnr, t.figures["bits_per_pixel"])
    )
    front: list[Trial] = []
    for trial in ordered:
        lowest = front[-1].figures["bits_per_pixel"] if front else math.inf
        if trial.figures["bits_per_pixel"] < lowest:
            front.append(trial)
    return front[::-1]


def winner_command(sweep: Sweep, trial: Trial) -> str:
    """Return the command that trains a trial's model for longer.

    Args:
        sweep: The sweep.
        trial: Any of its trials.
    """
    color_space, widths = parse_palette(trial.values["palette"])
    options = {
        **sweep.fixed,
        **{k: v for k, v in trial.values.items() if k != "palette"},
        "color_space": color_space,
        "bit_widths": ",".join(map(str, widths)),
    }
    words = ["pixace-tf", "fit", sweep.source]
    defaults = inspect.signature(fit).parameters
    for name, value in options.items():
        is_budget = name in ("epochs", "max_minutes")
        if is_budget or value is None or value == defaults[name].default:
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def write_report(folder: str, sweep: Sweep) -> str:
    """Write table, plot and strips into the folder of a sweep.

    Returns:
        The table and the winner's command, as text.
    """
    trials = read_trials(folder, sweep)
    best = best_trial(trials, sweep.objective)
    text = table(sweep, trials, best)
    storage.write_atomic(os.path.join(folder, TABLE_FILE), text.encode())
    storage.write_json(
        os.path.join(folder, RESULTS_FILE),
        {
            "objective": sweep.objective,
            "best": best and best.trial_id,
            "palettes": sweep.palettes,
            "trials": [_as_json(trial) for trial in trials],
        },
    )
    if best is not None:
        plot_pareto(trials, best, os.path.join(folder, PARETO_FILE))
        sheet = strips(folder, trials)
        sheets.save_picture(sheet, os.path.join(folder, STRIPS_FILE))
    return text


def table(sweep: Sweep, trials: list[Trial], best: Trial | None) -> str:
    """Return the results as Markdown: best trials first, then the failed."""
    front = {t.trial_id for t in pareto_front(trials)}
    lines = [
        "| trial | choice | palette PSNR | bits/pixel | bits/dim | tokens/s "
        "| parameters | front |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    completed = [t for t in trials if t.is_completed]
    completed.sort(key=lambda t: t.figures[sweep.objective])
    for t in completed:
        psnr = "exact" if math.isinf(t.psnr) else f"{t.psnr:.2f} dB"
        f = t.figures
        lines.append(
            f"| {t.trial_id} | {t.name} | {psnr} | {f['bits_per_pixel']:.3f} "
            f"| {f['bits_per_dim']:.3f} | {f['tokens_per_second']:,.0f} "
            f"| {f['parameters']:,} | {'yes' if t.trial_id in front else ''} |"
        )
    notes = [
        line(t, sweep.objective)
        for t in trials
        if t.is_ended and not t.is_completed
    ]
    notes += [
        f"{p['palette']} at {p['image_size']} was left out: "
        f"{p['psnr']:.2f} dB are less than {sweep.min_psnr:g} dB."
        for p in sweep.palettes
        if p["is_excluded"] and p["psnr"] is not None
    ]
    lines += ["", *[f"- {note}" for note in notes], ""] if notes else [""]
    if best is not None:
        lines += [
            f"Lowest {_UNITS[sweep.objective]}: {best.name} (trial "
            f"{best.trial_id}). Train it for longer with",
            "",
            f"    {winner_command(sweep, best)}",
            "",
        ]
    if len(sweep.space["image_size"]) > 1:
        lines += [
            "Bits of different image sizes do not compare: small pictures "
            "change more from pixel to pixel.",
            "",
        ]
    return "\n".join(lines)


def plot_pareto(trials: list[Trial], best: Trial, path: str) -> None:
    """Plot the cost of each trial against the fidelity of its palette.

    Args:
        trials: Some of them completed.
        best: The one to mark.
        path: The PNG to write.
    """
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
            if t.trial_id == best.trial_id:
                axes.plot(x, y, "*", color="C1", ms=15)
            exact = " (exact)" if math.isinf(t.psnr) else ""
            axes.annotate(
                t.values["palette"] + exact,
                (x, y),
                textcoords="offset points",
                xytext=(6, 5),
                fontsize=8,
            )
        if key == "bits_per_pixel":
            points = [(min(t.psnr, edge), t.figures[key]) for t in front]
            axes.plot(*zip(*points, strict=True), color="0.6", lw=1, zorder=0)
        axes.set_xlabel("PSNR of the palette, dB")
        axes.set_ylabel(f"validation {unit}")
        axes.margins(0.2, 0.12)
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    storage.write_atomic(path, buffer.getvalue())


def strips(folder: str, trials: list[Trial]) -> Image.Image:
    """Return a sheet with a row of pictures for each completed trial.

    Completions of validation pictures (the lower half is drawn), then new
    pictures.
    """
    rows = []
    for t in sorted(
        (t for t in trials if t.is_completed), key=lambda t: -t.psnr
    ):
        pattern = os.path.join(
            glob.escape(folder), RUNS, t.trial_id, STRIP, "*.png"
        )
        images = [np.asarray(Image.open(p)) for p in sorted(glob.glob(pattern))]
        bits = f"{t.figures['bits_per_pixel']:.2f} bits/pixel"
        captions = [t.values["palette"], bits, *[""] * len(images)]
        rows.append(
            [
                sheets.Tile(image, caption)
                for image, caption in zip(images, captions, strict=False)
            ]
        )
    largest = max(
        (row[0].pixels.shape[:2] for row in rows), key=lambda s: s[0] * s[1]
    )
    rows = [
        [
            sheets.Tile(
                np.asarray(
                    Image.fromarray(tile.pixels).resize(
                        largest[::-1], Image.Resampling.NEAREST
                    )
                ),
                tile.caption,
            )
            for tile in row
        ]
        for row in rows
    ]
    return sheets.contact_sheet(rows)


def _read_json(path: str) -> dict[str, float]:
    with open(path, encoding="utf-8") as file:
        content: dict[str, float] = json.load(file)
    return content


def _as_json(trial: Trial) -> dict[str, Any]:
    state = dataclasses.asdict(trial)
    return {**state, "psnr": None if math.isinf(trial.psnr) else trial.psnr}

"""How large a model should be: the law behind `fit --preset auto`.

Fits the loss of models with N parameters after D pixels, as in
`pixace_tf/training/size_law.py`, to what `ablate.py` measured for several
sizes, and shows what each preset is expected to reach in how much time. Needs
the extra `evaluate` for SciPy.

Command:  python pipelines/size_law.py pipelines/results/sizes-*.json \
              --out pipelines/results/size-law
Hardware: any
Time:     seconds
Expected: pipelines/results/size-law.json, .md and .png; the constants of the
          module are those of the first
"""

import dataclasses
import json
import os
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from origin import origin
from scipy.optimize import curve_fit

from pixace_tf.painting import sheets
from pixace_tf.storage import write_atomic
from pixace_tf.training import size_law
from pixace_tf.training.size_law import SizeLaw

IMAGE_SIZE = (32, 32)
# Speed of a large matrix product on two cores of a server, and on eight.
FLOPS = (1.5e11, 6e11)
# Before, the learning rate has hardly warmed up.
MIN_UPDATES = 300
MINUTES = (2, 10, 30, 60, 240, 1440)


def fit_law(points: list[dict[str, Any]]) -> SizeLaw:
    """Return the law with the least squares of residuals in bits."""
    parameters, pixels, bits = (
        np.array([point[name] for point in points], float)
        for name in ("parameters", "pixels", "bits_per_pixel")
    )

    def law(
        inputs: np.ndarray,
        floor: float,
        size: float,
        size_power: float,
        data: float,
        data_power: float,
    ) -> np.ndarray:
        # Scales at a million keep all unknowns near 1.
        millions = inputs / 1e6
        return (
            floor
            + size * millions[0] ** -size_power
            + data * millions[1] ** -data_power
        )

    (floor, size, size_power, data, data_power), _ = curve_fit(
        law,
        np.stack([parameters, pixels]),
        bits,
        p0=(2.5, 1.0, 0.3, 1.0, 0.4),
        # The powers of larger models and longer trainings lie within these;
        # so few points alone would allow almost any.
        bounds=([0, 0, 0.05, 0, 0.25], [5, 5, 1, 10, 0.5]),
    )
    return SizeLaw(
        round(float(floor), 4),
        round(float(size * 1e6**size_power), 4),
        round(float(size_power), 4),
        round(float(data * 1e6**data_power), 4),
        round(float(data_power), 4),
    )


def read_points(paths: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the trainings that `ablate.py` recorded.

    Of those that differ in the learning rate only the best one counts, and
    none whose learning rate had hardly warmed up.
    """
    best: dict[tuple[int, int], dict[str, Any]] = {}
    for path in paths:
        with open(path) as file:
            records = [
                record
                for record in json.load(file)["records"]
                if record["updates"] >= MIN_UPDATES
            ]
        for point in sorted(records, key=lambda p: -p["bits_per_pixel"]):
            best[point["parameters"], point["pixels"]] = point
    return [best[key] for key in sorted(best)]


def draw(points: list[dict[str, Any]], law: SizeLaw) -> Figure:
    """Return a plot: what was measured, and the law's curves."""
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    counts = sorted({point["parameters"] for point in points})
    for index, count in enumerate(counts):
        own = [p for p in points if p["parameters"] == count]
        axes.plot(
            [p["pixels"] for p in own],
            [p["bits_per_pixel"] for p in own],
            "o",
            color=f"C{index}",
            label=f"{count / 1e6:.1f} M parameters",
        )
        pixels = np.geomspace(min(p["pixels"] for p in points), 1e9, 200)
        curve = [law.bits_per_pixel(count, seen) for seen in pixels]
        axes.plot(pixels, curve, color=f"C{index}", linewidth=1)
    axes.set(
        xscale="log",
        xlabel="pixels seen in training",
        ylabel="bits/pixel of validation images",
        title="Size law: measured (dots) and fitted (lines)",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def choices(law: SizeLaw, flops: float) -> list[str]:
    """Return lines of Markdown: what each preset reaches, and the best."""
    found = size_law.candidates("multiscale", IMAGE_SIZE, flops)
    names = " | ".join(
        f"{c.preset} ({c.parameters / 1e6:.1f} M)" for c in found
    )
    lines = [
        f"| minutes at {flops / 1e9:.0f} GFLOP/s | {names} | best |",
        f"|---:|{'---:|' * len(found)}---|",
    ]
    for minutes in MINUTES:
        bits = [c.bits_per_pixel(60 * minutes, law) for c in found]
        best = found[int(np.argmin(bits))].preset
        cells = " | ".join(f"{value:.2f}" for value in bits)
        lines.append(f"| {minutes} | {cells} | {best} |")
    return lines


@click.command()
@click.argument("results", nargs=-1, required=True)
@click.option("--out", required=True)
def main(results: tuple[str, ...], out: str) -> None:
    """Fit the law to RESULTS, files of `ablate.py`."""
    points = read_points(results)
    law = fit_law(points)
    lines = [
        "# How large a model should be",
        "",
        f"Bits per pixel = {law.floor} + {law.size_scale} / N^{law.size_power}"
        f" + {law.data_scale} / D^{law.data_power}, with N parameters and D "
        "pixels seen; multiscale, photos of 32x32 in HSV 544, one training "
        "per point.",
        "",
        f"![The law]({os.path.basename(out)}.png)",
        "",
        "| parameters | pixels | measured | fitted | difference |",
        "|---:|---:|---:|---:|---:|",
    ]
    for point in points:
        bits = point["bits_per_pixel"]
        fitted = law.bits_per_pixel(point["parameters"], point["pixels"])
        lines.append(
            f"| {point['parameters'] / 1e6:.2f} M | "
            f"{point['pixels'] / 1e6:.2f} M | {bits:.3f} | {fitted:.3f} | "
            f"{fitted - bits:+.3f} |"
        )
    for flops in FLOPS:
        lines += ["", *choices(law, flops)]
    lines += ["", *origin("scipy")]
    names = ("parameters", "pixels", "bits_per_pixel")
    record = {
        "law": dataclasses.asdict(law),
        "points": [{name: p[name] for name in names} for p in points],
    }
    text = json.dumps(record, indent=1) + "\n"
    write_atomic(f"{out}.json", text.encode())
    write_atomic(f"{out}.md", ("\n".join(lines) + "\n").encode())
    sheets.save_figure(draw(points, law), f"{out}.png", dpi=120)
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()

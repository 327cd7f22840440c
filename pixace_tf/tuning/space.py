"""A sweep: what its trials try, what they share, and where its files lie."""

import dataclasses
import json
import os
from typing import Any

from pixace_tf import storage
from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError

FORMAT = 2
# What the folder of a sweep contains.
SWEEP_FILE = "sweep.json"
TRIALS = "trials"  # What was chosen, and who trains it; see `trials`.
RUNS = "runs"  # A run folder for each trial, with its figures and a strip.
FIGURES_FILE = "figures.json"
STRIP_FILE = "strip.png"
LOGS = "logs"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Everything that the processes of a sweep must agree on.

    Attributes:
        source: The images, as for `fit`.
        space: The values to try, by name: "palette" (such as `"hsv 5,4,4"`),
            "image_size" (`"32x32"`), "num_layers", "hidden_dim",
            "learning_rate". A name with one value, or none, is not swept.
        fixed: Arguments of `fit` that all trials share.
        tuner: One of `sweep_arguments.TUNERS`.
        objective: One of `sweep_arguments.OBJECTIVES`, to be minimized.
        max_trials: Largest number of trials, None for the whole grid.
        seed: Seed of random choices; that of the trainings is in `fixed`.
        min_psnr: Least fidelity of a palette in dB.
        pictures: Digest of the images, so that all trials see the same.
        palettes: Measured before any training, for each palette: "palette",
            "image_size", "psnr" in dB (None if nothing is lost), "colors"
            used, and "is_excluded".
    """

    source: str
    space: dict[str, list[Any]]
    fixed: dict[str, Any]
    tuner: str
    objective: str
    max_trials: int | None
    seed: int
    min_psnr: float
    pictures: str = ""
    palettes: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def swept(self) -> list[str]:
        """The names with several values, which tell trials apart."""
        names = [name for name, values in self.space.items() if values[1:]]
        return names or ["palette"]

    def with_palettes(self, palettes: list[dict[str, Any]]) -> "Sweep":
        """Return the sweep without the palettes that are excluded."""
        excluded = {p["palette"] for p in palettes if p["is_excluded"]}
        kept = [p for p in self.space["palette"] if p not in excluded]
        space = {**self.space, "palette": kept}
        return dataclasses.replace(self, space=space, palettes=palettes)

    def save(self, folder: str) -> None:
        """Write the sweep into its folder."""
        state = {"format": FORMAT, **dataclasses.asdict(self)}
        storage.write_json(os.path.join(folder, SWEEP_FILE), state)


def load_sweep(folder: str) -> Sweep:
    """Read the sweep of a folder.

    Raises:
        UserError: If there is none, it was made by another version, or the
            file is damaged.
    """
    path = os.path.join(folder, SWEEP_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        if state.pop("format") != FORMAT:
            raise UserError(
                f"{folder!r} was made by another version of pixace-tf. Start a "
                "new sweep with --name."
            )
        return Sweep(**state)
    except FileNotFoundError:
        raise UserError(f"{folder!r} has no {SWEEP_FILE}.") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise UserError(f"The file {path} is damaged.") from None


def parse_size(size: str) -> tuple[int, int]:
    """Turn `"24x40"` into `(24, 40)`."""
    height, width = size.split("x")
    return int(height), int(width)


def trial_arguments(sweep: Sweep, values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fit` for the values of a trial.

    Args:
        sweep: The sweep.
        values: By name, as keras-tuner chose them. Hyperband sets the epochs
            too; its other entries, named "tuner/...", are ignored.
    """
    arguments = dict(sweep.fixed)
    for name, value in values.items():
        if name == "palette":
            palette = Palette.parse(value)
            arguments["color_space"] = palette.color_space
            arguments["bit_widths"] = palette.bit_widths
        elif name == "image_size":
            arguments["image_size"] = parse_size(value)
        elif name == "tuner/epochs":
            arguments["epochs"] = value
        elif "/" not in name:
            arguments[name] = value
    return arguments

"""What a sweep tries: the space, the arguments of each trial, the contract."""

import dataclasses
import json
import os
from typing import Any

import keras_tuner

from pixace_tf import storage
from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.training.compile import compile_model
from pixace_tf.training.training_arguments import TrainingArguments

FORMAT = 1
# What lies in the folder of a sweep.
SWEEP_FILE = "sweep.json"
TUNER = "tuner"  # keras-tuner's own files.
RUNS = "runs"  # A run folder for each trial, with its figures and a strip.
FIGURES_FILE = "figures.json"
STRIP = "strip"
LOGS = "logs"
WORKERS = "workers"  # Touched by those that live.
# The exit code of a worker whose chief is gone.
GAVE_UP = 3


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All that the processes of a sweep must agree on.

    Attributes:
        source: The pictures, as for `fit`.
        space: The values to try, by name: "palette" (such as `"hsv 5,4,4"`),
            "image_size" (`"32x32"`), "num_layers", "hidden_dim",
            "learning_rate". What is not swept has one value or none.
        fixed: Arguments of `fit` that all trials share.
        tuner: One of `sweep_arguments.TUNERS`.
        objective: One of `sweep_arguments.OBJECTIVES`; less is better.
        max_trials: At most so many, or None for all of a grid.
        seed: Of what is chosen at random; trials use that of `fixed`.
        min_psnr: Least fidelity of a palette in dB.
        pictures: Digest of the pictures, so that all trials see the same.
        palettes: What is known of each palette before any training: "palette",
            "image_size", "psnr" in dB (None where nothing is lost), "colors"
            used, and "is_excluded".
        time_limit_s: Of one trial, None for no limit.
        memory_limit_bytes: Of one trial.
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
    time_limit_s: float | None = None
    memory_limit_bytes: int | None = None

    @property
    def swept(self) -> list[str]:
        """What has several values: the names that tell trials apart."""
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
        UserError: If there is none, or the file is damaged.
    """
    path = os.path.join(folder, SWEEP_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        if state.pop("format") > FORMAT:
            raise UserError(f"{folder!r} was made by a newer pixace-tf.")
        return Sweep(**state)
    except FileNotFoundError:
        raise UserError(f"{folder!r} has no {SWEEP_FILE}.") from None
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"The file {path} is damaged.") from None


def parse_size(size: str) -> tuple[int, int]:
    """Turn `"24x40"` into `(24, 40)`."""
    height, width = size.split("x")
    return int(height), int(width)


def trial_arguments(sweep: Sweep, values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fit` for the values of a trial.

    Args:
        sweep: The sweep.
        values: By name, as keras-tuner chose them; those of its own, with a
            slash in their name, are left out.
    """
    arguments = dict(sweep.fixed)
    for name, value in values.items():
        if name == "palette":
            palette = Palette.parse(value)
            arguments["color_space"] = palette.color_space
            arguments["bit_widths"] = palette.bit_widths
        elif name == "image_size":
            arguments["image_size"] = parse_size(value)
        elif "/" not in name:
            arguments[name] = value
    return arguments


class PixaceHyperModel(keras_tuner.HyperModel):
    """The models of a sweep, for keras-tuner.

    Args:
        sweep: What may be chosen, and what is fixed.
    """

    def __init__(self, sweep: Sweep) -> None:
        super().__init__()
        self.sweep = sweep

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Name every choice of the space."""
        for name, values in self.sweep.space.items():
            hp.Choice(name, values)

    def build(self, hp: keras_tuner.HyperParameters) -> PixaceCausalLM:
        """Build and compile the model of one choice."""
        self.declare_hyperparameters(hp)
        arguments = TrainingArguments(
            **trial_arguments(self.sweep, dict(hp.values))
        )
        model = PixaceCausalLM(
            arguments.image_size,
            arguments.palette,
            arguments.decoder,
            arguments.decoder_config(),
        )
        compile_model(model, arguments.peak_learning_rate, True)
        return model

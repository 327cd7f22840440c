"""A sweep: the choices of its trials, shared arguments, and its files."""

import dataclasses
import os
from typing import Any

from pixace_tf import storage
from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.training.training_arguments import TrainingArguments
from pixace_tf.tuning.sweep_arguments import SweepArguments

FORMAT = 2
# The folder of a sweep.
SWEEP_FILE = "sweep.json"
TRIALS = "trials"  # The choices and the claims of each trial; see `trials`.
RUNS = "runs"  # A run folder for each trial, with its figures and a strip.
FIGURES_FILE = "figures.json"
STRIP_FILE = "strip.png"
LOGS = "logs"
# Palettes to try if no bit widths are given.
DEFAULT_BIT_WIDTHS = {
    "hsv": ((4, 3, 4), (4, 4, 4), (4, 4, 5), (5, 4, 4), (5, 4, 5), (5, 5, 5)),
    "rgb": ((3, 4, 3), (4, 4, 4), (4, 5, 4), (5, 5, 5)),
}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Everything that the processes of a sweep must agree on.

    Attributes:
        source: The images, as for `fit`, on the machine that began the sweep.
        arguments: The values to try, and how.
        training: The arguments that all trials share.
        images: Digest of the images, so that all trials use the same ones.
        palettes: Fidelity before any training; see `measure_palettes`.
    """

    source: str
    arguments: SweepArguments
    training: TrainingArguments
    images: str = ""
    palettes: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def space(self) -> dict[str, list[Any]]:
        """The values to try, by name; names without values are left out.

        Excluded palettes are left out, too.
        """
        tried = self.arguments
        excluded = {p["palette"] for p in self.palettes if p["is_excluded"]}
        palettes = [
            str(Palette(space, widths))
            for space in tried.color_space
            for widths in tried.bit_widths or DEFAULT_BIT_WIDTHS[space]
        ]
        space: dict[str, list[Any]] = {
            "palette": [name for name in palettes if name not in excluded],
            "image_size": [f"{h}x{w}" for h, w in tried.image_size],
            "num_layers": list(tried.num_layers),
            "hidden_dim": list(tried.hidden_dim),
            "learning_rate": list(tried.learning_rate),
        }
        return {name: list(dict.fromkeys(v)) for name, v in space.items() if v}

    @property
    def swept(self) -> list[str]:
        """The names with several values, which distinguish trials."""
        names = [name for name, values in self.space.items() if values[1:]]
        return names or ["palette"]

    def save(self, folder: str) -> None:
        """Write the sweep into its folder."""
        state = {
            "format": FORMAT,
            "source": self.source,
            "arguments": self.arguments.given,
            "training": self.training.given,
            "images": self.images,
            "palettes": self.palettes,
        }
        storage.write_json(os.path.join(folder, SWEEP_FILE), state)


def load_sweep(folder: str) -> Sweep:
    """Read the sweep of a folder; a UserError says why it is unusable."""
    path = os.path.join(folder, SWEEP_FILE)
    try:
        state = storage.read_json(path)
        if state.pop("format") == FORMAT:
            arguments = SweepArguments(**state.pop("arguments"))
            training = TrainingArguments(**state.pop("training"))
            return Sweep(arguments=arguments, training=training, **state)
    except FileNotFoundError:
        raise UserError(
            f"{folder!r} is no sweep: it has no {SWEEP_FILE}. Choose another "
            "--name."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"The file {path} is damaged.") from None
    raise UserError(
        f"{folder!r} was made by another version of pixace-tf. Start a new "
        "sweep with --name."
    )


def trial_arguments(sweep: Sweep, values: dict[str, Any]) -> TrainingArguments:
    """Return the arguments of `fit` for the values of a trial.

    Of the names that Hyperband adds, only "tuner/epochs" matters here.
    """
    chosen = {name: v for name, v in values.items() if "/" not in name}
    palette = Palette.parse(chosen.pop("palette"))
    chosen["color_space"] = palette.color_space
    chosen["bit_widths"] = palette.bit_widths
    height, width = chosen["image_size"].split("x")
    chosen["image_size"] = int(height), int(width)
    if "tuner/epochs" in values:
        chosen["epochs"] = values["tuner/epochs"]
    return sweep.training.replaced(**chosen)

"""The arguments of a sweep, without the arguments of its trainings.

The command line makes its options from them. Needs no TensorFlow.
"""

import dataclasses

from pixace_tf.data.palette import COLOR_SPACES, BitWidths
from pixace_tf.errors import UserError
from pixace_tf.runs.arguments import Arguments, argument
from pixace_tf.training.training_arguments import TrainingArguments

OBJECTIVES = ("bits_per_pixel", "bits_per_dim")
TUNERS = ("grid", "random", "hyperband", "bayesian")
# The arguments of a training that `tune` takes; all trials share them.
SHARED = (
    "preset",
    "decoder",
    "resize",
    "epochs",
    "max_minutes",
    "batch_size",
    "flip",
    "jit_compile",
    "seed",
    "max_megapixels",
    "download",
)
# Arguments that may change when a sweep continues.
FREE = ("workers", "time_limit", "memory_limit", "download", "max_megapixels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepArguments(Arguments):
    """Arguments of `tune` that are not arguments of its trainings.

    The first six are the values to try.

    Raises:
        UserError: If a value is out of range.
    """

    bit_widths: tuple[BitWidths, ...] = argument(
        (),
        "Bits per channel to try; repeat it for several.  [default: from "
        "4,3,4 to 5,5,5]",
    )
    color_space: tuple[str, ...] = argument(
        ("hsv",), "Color space to try; repeat it for both.", COLOR_SPACES
    )
    image_size: tuple[tuple[int, int], ...] = argument(
        ((32, 32),), "Image size to try, in pixels; repeat it for several."
    )
    num_layers: tuple[int, ...] = argument(
        (), "Depths to try.  [default: the preset's]", at_least=1
    )
    hidden_dim: tuple[int, ...] = argument(
        (), "Widths to try.  [default: the preset's]", at_least=1
    )
    learning_rate: tuple[float, ...] = argument(
        (), "Peak learning rates to try.  [default: the preset's]", above=0
    )
    tuner: str = argument(
        "grid",
        "How keras-tuner chooses trials: grid tries all combinations, random "
        "some of them; hyperband trains many for a short time, and continues "
        "the best up to --epochs (at least 3); bayesian uses a Gaussian "
        "process.",
        TUNERS,
    )
    max_trials: int | None = argument(
        None,
        "Maximum number of trials; required for random and bayesian, refused "
        "for hyperband.",
        at_least=1,
    )
    objective: str = argument(
        "bits_per_pixel",
        "Figure to minimize. Bits per pixel favor coarse palettes, so they "
        "need --min-psnr; bits per dimension compare all palettes.",
        OBJECTIVES,
    )
    min_psnr: float = argument(
        32.0,
        "Skip palettes with less fidelity than this, in dB.",
        at_least=0,
    )
    workers: int = argument(
        1, "Trials to train at a time on this machine.", at_least=1
    )
    time_limit: float | None = argument(
        None,
        "Minutes after which a trial fails.  [default: 10 more than three "
        "times --max-minutes, none with --epochs]",
        above=0,
    )
    memory_limit: float | None = argument(
        None,
        "Gigabytes above which a trial fails.  [default: four fifths of this "
        "machine's memory, divided by the workers]",
        above=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.color_space or not self.image_size:
            raise UserError("Give at least one color_space and one image_size.")
        for name in ("color_space", "image_size", "bit_widths"):
            for value in getattr(self, name):
                TrainingArguments(**{name: value})  # Checks the value.
        if self.tuner in ("random", "bayesian") and self.max_trials is None:
            raise UserError(f"{self.tuner} needs max_trials.")
        if self.tuner == "hyperband" and self.max_trials is not None:
            raise UserError("hyperband chooses the number of trials itself.")

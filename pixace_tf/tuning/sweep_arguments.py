"""The arguments of a sweep beyond those of its trainings: in one place.

The command line makes its options from them. Needs no TensorFlow.
"""

import dataclasses

from pixace_tf.data.palette import BitWidths
from pixace_tf.errors import UserError
from pixace_tf.training.training_arguments import argument, check

OBJECTIVES = ("bits_per_pixel", "bits_per_dim")
TUNERS = ("grid", "random", "hyperband", "bayesian")
# Arguments of a training that all trials of a sweep share.
SHARED = (
    *("preset", "decoder", "resize", "epochs", "max_minutes", "batch_size"),
    *("flip", "jit_compile", "seed", "max_megapixels", "download"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepArguments:
    """What `tune` can be told beyond the images and the trainings.

    The first six are the values to try.

    Raises:
        UserError: If a value is out of range.
    """

    bit_widths: tuple[BitWidths, ...] = argument(
        (),
        "Bits per channel to try; give it several times.  [default: from "
        "4,3,4 to 5,5,5]",
    )
    color_space: tuple[str, ...] = argument(
        ("hsv",), "What the bits are of; may be given twice."
    )
    image_size: tuple[tuple[int, int], ...] = argument(
        ((32, 32),), "Pixels to scale down to; may be given several times."
    )
    num_layers: tuple[int, ...] = argument(
        (), "Depths to try.  [default: the preset's]"
    )
    hidden_dim: tuple[int, ...] = argument(
        (), "Widths to try.  [default: the preset's]"
    )
    learning_rate: tuple[float, ...] = argument(
        (), "Peaks to try.  [default: the preset's]"
    )
    tuner: str = argument(
        "grid",
        "How keras-tuner chooses: all; at random; short trials, of which the "
        "better ones go on for --epochs (3 or more); or by a Gaussian process.",
        TUNERS,
    )
    max_trials: int | None = argument(
        None,
        "At most so many; random and bayesian need it, hyperband has its own "
        "number.",
        at_least=1,
    )
    objective: str = argument(
        "bits_per_pixel",
        "What shall be low. Bits per pixel only compare among palettes that "
        "are good enough, bits per dimension among all.",
        OBJECTIVES,
    )
    min_psnr: float = argument(
        32.0,
        "Palettes with less fidelity, in dB, are not trained at all.",
        at_least=0,
    )
    workers: int = argument(
        1,
        "Trials at a time on this machine; 0 for a chief that only leads.",
        at_least=0,
    )
    time_limit: float | None = argument(
        None,
        "Minutes after which a trial counts as failed.  [default: 10 more than "
        "three times --max-minutes, none with --epochs]",
        above=0,
    )
    memory_limit: float | None = argument(
        None,
        "Gigabytes after which a trial counts as failed.  [default: four "
        "fifths of the memory, over the workers]",
        above=0,
    )

    def __post_init__(self) -> None:
        if not self.color_space or not self.image_size:
            raise UserError("Give at least one color_space and one image_size.")
        for field in dataclasses.fields(self):
            check(field.name, getattr(self, field.name), field.metadata)

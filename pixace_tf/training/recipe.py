"""The recipe of a training: another one where images are seen many times."""

import math

from pixace_tf.console import Say
from pixace_tf.training import size_law
from pixace_tf.training.training_arguments import (
    FEW,
    NATIVE,
    PLAIN,
    TrainingArguments,
)

# Up to so many passes over the images, a repeated image is nearly as good as a
# new one.
MAX_PLAIN_PASSES = 8
# Speed of pixel art, compared to photos: the copy head takes as long again.
_SPEED_OF_ART = 0.5
# What the recipe for few images changes. Dropout is too slow for it on a CPU.
# With input noise, a painted pixel that stands alone is taken for noise: new
# sprites are strewn with such pixels, and many stay empty.
FEW_IMAGES = {"weight_decay": 0.5}
# What it also changes for pixel art, whose colors are often exchanged.
FEW_SPRITES = {"hue_turns": 0.5, "shifts": 0.5}


def settled(
    arguments: TrainingArguments, num_images: int, say: Say
) -> TrainingArguments:
    """Resolve the recipe of a new run to other arguments, and say so.

    Arguments that are given stay as they are. The preset is chosen already;
    `num_images` are those to train on.
    """
    is_native = arguments.resize == NATIVE
    recipe, reason = arguments.recipe, ""
    if recipe not in (PLAIN, FEW):
        recipe = PLAIN
        # For other pictures, the recipe for few has not been measured.
        passes = planned_passes(arguments, num_images) if is_native else 0
        if passes > MAX_PLAIN_PASSES:
            recipe = FEW
            reason = (
                f", since the images will be seen about {passes:,.0f} times"
            )
    changes = {}
    if recipe == FEW:
        art = FEW_SPRITES if is_native else {}
        given = arguments.given
        changes = {
            name: value
            for name, value in {**FEW_IMAGES, **art}.items()
            if name not in given
        }
    if changes:
        values = ", ".join(
            f"{name.replace('_', ' ')} {value:g}"
            for name, value in changes.items()
        )
        say(
            f"Recipe for few images{reason}: {values}. --recipe plain does "
            "without."
        )
    return arguments.replaced(recipe=recipe, **changes)


def planned_passes(arguments: TrainingArguments, num_images: int) -> float:
    """Return how often a training will see each image.

    Without `epochs`, that is estimated for pixel art and the speed of this
    machine.
    """
    if arguments.epochs is not None:
        return arguments.epochs
    assert arguments.minutes is not None
    length = math.prod(arguments.whole_size)
    speed = _SPEED_OF_ART * size_law.pixels_per_second(
        arguments.decoder_config(), length, size_law.measure_flops()
    )
    return 60 * arguments.minutes * speed / (num_images * length)

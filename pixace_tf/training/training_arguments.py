"""The arguments of a training: names, defaults, ranges and help, in one place.

The command line makes its options from them. Needs no TensorFlow.
"""

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

from pixace_tf.data import labels
from pixace_tf.data.palette import COLOR_SPACES, BitWidths, Palette
from pixace_tf.errors import UserError
from pixace_tf.model.presets import (
    FALLBACK_PRESET,
    HEAD_HIDDEN_DIMS,
    HEADS,
    LEARNING_RATES,
    PRESETS,
    decoder_config,
    default_head,
)

# Those of `PixelTokenizer`, which needs TensorFlow.
RESIZES = ("crop", "squash", "pad")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
DEFAULT_MAX_MINUTES = 10.0
# The preset that `size_law` chooses.
AUTO = "auto"
# As many devices as there are here, and as there are on all hosts.
ALL = "all"
ALL_HOSTS = "all-hosts"


# What bounds of an argument are called, and what they demand.
_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "above": operator.gt,
    "at least": operator.ge,
    "below": operator.lt,
    "at most": operator.le,
}


def argument(
    default: Any,
    help: str,
    choices: Iterable[str] = (),
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Return a dataclass field that can become an option.

    Args:
        default: The default value; None means that the help tells it.
        help: What the command line says of it.
        choices: The texts that are allowed.
        above: A bound that is not allowed itself.
        at_least: The least value.
        below: A bound that is not allowed itself.
        at_most: The greatest value.
    """
    bounds = dict(zip(_BOUNDS, (above, at_least, below, at_most), strict=True))
    rules = {"help": help, "choices": tuple(choices), "bounds": bounds}
    return dataclasses.field(default=default, metadata=rules)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """What `fit` can be told beyond the images and the name of the run.

    Raises:
        UserError: If a value is out of range.
    """

    preset: str = argument(
        AUTO,
        "Size: micro 1.2, nano 2.8, small 13, base 24 million parameters; "
        "auto is the one that should learn most on this machine in the time "
        "there is. In a sweep, and with --num-layers or --hidden-dim, it is "
        "nano.",
        (AUTO, *PRESETS),
    )
    decoder: str = argument(
        "multiscale",
        "Transformer over patches of pixels and inside each patch; or one flat "
        "stack over all pixels; or that with reversible layers, for small "
        "memory.",
        PRESETS["nano"],
    )
    num_layers: int | None = argument(
        None,
        "Layers of the (global) stack.  [default: the preset's]",
        at_least=1,
    )
    hidden_dim: int | None = argument(
        None,
        "Width of the (global) stack.  [default: the preset's]",
        at_least=1,
    )
    num_hashes: int = argument(
        0,
        "Reformer: LSH attention with so many rounds, from 64x64 on; 0 is "
        "exact attention.",
        at_least=0,
    )
    head: str | None = argument(
        None,
        "Predict a color channel by channel; or that with mixtures of logistic "
        "distributions for channels of 6 bits or more; or all in one softmax.  "
        "[default: mixture where there is such a channel, else chain]",
        HEADS,
    )
    image_size: tuple[int, int] = argument(
        (32, 32), "Pixels to scale down to: 32 or 24x40 (height x width)."
    )
    bit_widths: BitWidths = argument(
        (5, 4, 4), "Bits per color channel, in the order of --color-space."
    )
    color_space: str = argument(
        "hsv", "Color space of the tokens.", COLOR_SPACES
    )
    resize: str = argument(
        "crop",
        "How to bring an image to the aspect of --image-size.",
        RESIZES,
    )
    trim: bool = argument(
        False,
        "Cut transparent or one-colored margins first, for sprites and "
        "stickers.",
    )
    epochs: int | None = argument(None, "Passes over the images.", at_least=1)
    max_minutes: float | None = argument(
        None,
        "Time to train instead of --epochs.  [default: 10]",
        above=0,
    )
    batch_size: int | None = argument(
        None,
        "Images per step.  [default: 4 of 32x32, on a GPU 64, or what fits]",
        at_least=1,
    )
    learning_rate: float | None = argument(
        None,
        "At its peak.  [default: micro and nano 6e-3, small 4e-3, base 1e-3]",
        above=0,
    )
    dropout: float = argument(
        0.0, "0.1 helps on few images and long runs.", at_least=0, below=1
    )
    flip: bool = argument(
        True, "Mirror half of the images, anew in each epoch."
    )
    orders: bool = argument(
        False,
        "Read half of the images upside down or by columns, so that each side "
        "can be completed from the others; what is painted from the top down "
        "then takes longer to learn.",
    )
    labels: bool | None = argument(
        None,
        "Learn the class folders as labels, to paint one class.  [default: "
        f"where 2 to {labels.MAX_LABELS:,} of them have {labels.MIN_IMAGES} "
        "images]",
    )
    seed: int = argument(
        0,
        "Of weights, order, flips and dropout.",
        at_least=0,
        at_most=2**31 - 2,
    )
    precision: str = argument(
        "auto",
        "auto: mixed_float16 on a GPU, float32 on a CPU.",
        PRECISIONS,
    )
    devices: str = argument(
        "1",
        "GPUs of this machine that share each batch: a number, or all; "
        "all-hosts with KERAS_BACKEND=jax.",
    )
    jit_compile: bool = argument(
        True, "Compile with XLA: training is twice as fast on a CPU."
    )
    max_megapixels: float = argument(
        64.0, "Skip larger images, by their header.", above=0, at_most=64
    )
    checkpoint_seconds: float = argument(
        60.0, "Time between two checkpoints.", at_least=0
    )
    download: bool = argument(False, "Download a tfds: data set if needed.")

    def __post_init__(self) -> None:
        if not re.fullmatch(f"{ALL}|{ALL_HOSTS}|[1-9][0-9]*", self.devices):
            raise UserError(
                "devices must be a positive number, all or all-hosts. "
                f"Received: devices={self.devices!r}"
            )
        if self.epochs is not None and self.max_minutes is not None:
            raise UserError("Give epochs or max_minutes, not both.")
        for field in dataclasses.fields(self):
            check(field.name, getattr(self, field.name), field.metadata)
        if self.preset == AUTO:
            self.with_preset(FALLBACK_PRESET)  # This checks the sizes.
        else:
            self.decoder_config()
        assert self.palette

    def with_preset(self, preset: str) -> "TrainingArguments":
        """Return these arguments with another preset."""
        return dataclasses.replace(self, preset=preset)

    @property
    def palette(self) -> Palette:
        """The colors of the tokens."""
        return Palette(self.color_space, self.bit_widths)

    @property
    def max_pixels(self) -> int:
        """Pixels of the largest image to read."""
        return int(self.max_megapixels * 1e6)

    @property
    def peak_learning_rate(self) -> float:
        """The peak of the schedule."""
        return self.learning_rate or LEARNING_RATES[self.preset]

    @property
    def minutes(self) -> float | None:
        """Time to train, None where epochs count."""
        if self.epochs is None and self.max_minutes is None:
            return DEFAULT_MAX_MINUTES
        return self.max_minutes

    @property
    def model_head(self) -> str:
        """The head that was asked for, or that suits the palette."""
        return self.head or default_head(self.palette)

    @property
    def head_hidden_dim(self) -> int | None:
        """Width within the chain head, None for that of the decoder."""
        return HEAD_HIDDEN_DIMS.get((self.preset, self.decoder))

    def decoder_config(self) -> dict[str, int]:
        """Return the sizes of the decoder; see `presets.decoder_config`."""
        return decoder_config(
            self.preset,
            self.decoder,
            self.image_size[1],
            self.num_hashes,
            self.num_layers,
            self.hidden_dim,
        )


def check(name: str, value: Any, rules: Any) -> None:
    """Refuse a value that breaks the rules of its `argument`.

    Raises:
        UserError: If it does; the message states the rule.
    """
    if value is None:
        return
    if rules["choices"] and value not in rules["choices"]:
        raise UserError(
            f"{name} must be one of {', '.join(rules['choices'])}. "
            f"Received: {name}={value!r}"
        )
    bounds = {k: b for k, b in rules["bounds"].items() if b is not None}
    is_good = all(_BOUNDS[k](value, bound) for k, bound in bounds.items())
    if bounds and not (is_good and math.isfinite(value)):
        text = " and ".join(f"{k} {bound:g}" for k, bound in bounds.items())
        raise UserError(
            f"{name} must be finite and {text}. Received: {name}={value!r}"
        )

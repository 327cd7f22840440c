"""The arguments of a training: names, defaults, ranges and help, in one place.

The command line makes its options from them. Needs no TensorFlow.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pixace_tf.data import labels
from pixace_tf.data.cutting import Cutting
from pixace_tf.data.palette import (
    COLOR_SPACES,
    MAX_ALPHA_BITS,
    BitWidths,
    Palette,
)
from pixace_tf.errors import UserError
from pixace_tf.model import presets
from pixace_tf.model.presets import FALLBACK_PRESET, HEADS, PRESETS
from pixace_tf.runs.arguments import AUTO, Arguments, argument, refuse_changes

if TYPE_CHECKING:
    from pixace_tf.data.tokenizer import PixelTokenizer

# Repeated from `PixelTokenizer`, which needs NumPy.
NATIVE = "native"
RESIZES = ("crop", "squash", "pad", NATIVE)
ANCHORS = ("bottom", "center", "top")
PLAIN, FEW = "plain", "few"
RECIPES = (AUTO, PLAIN, FEW)
WEIGHT_DECAY = 0.05
# Values that older runs had without recording them.
_OF_OLDER_RUNS = {
    "anchor": ANCHORS[0],
    "pixel_art": False,
    "tiles_gap": 0,
    "tiles_margin": 0,
    "frames": False,
    "recipe": PLAIN,
    "weight_decay": WEIGHT_DECAY,
    "input_noise": 0.0,
    "hue_turns": 0.0,
    "shifts": 0.0,
}
# What would part the two pictures of a pair.
_NOT_WITH_PAIRS = {
    "orders": "the first picture is read before the second",
    "trim": "each picture would be cut in its own way",
    "tiles": "of equal and empty tiles, some would lose their partners",
    "frames": "of equal frames, some would lose their partners",
}
PRECISIONS = (AUTO, "float32", "mixed_float16", "mixed_bfloat16")
DEFAULT_MAX_MINUTES = 10.0
# All devices of this machine, or of all hosts.
ALL = "all"
ALL_HOSTS = "all-hosts"
BUDGET = ("epochs", "max_minutes")
# These may change when a run resumes: they change neither model nor data. Of
# the second pictures, the folder may be another one, but not the content.
FREE = (
    *BUDGET,
    "devices",
    "jit_compile",
    "pairs",
    "max_megapixels",
    "checkpoint_seconds",
    "download",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingArguments(Arguments):
    """The arguments of `fit` besides the images and the name of the run.

    Raises:
        UserError: If a value has the wrong type or is out of range.
    """

    preset: str = argument(
        AUTO,
        "Size: micro 1.2, nano 2.8, small 13, base 24 million parameters; auto "
        "picks the size that should learn most on this machine in the given "
        "time, or nano in a sweep and with --num-layers or --hidden-dim.",
        (AUTO, *PRESETS),
    )
    decoder: str = argument(
        "multiscale",
        "multiscale: a transformer over patches of pixels and another one "
        "inside each patch; transformer: one flat stack over all pixels; "
        "reformer: a flat stack of reversible layers, which saves memory.",
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
        "Reformer: rounds of LSH attention, which pays from 64x64 on; 0 is "
        "exact attention.",
        at_least=0,
    )
    head: str | None = argument(
        None,
        "chain: predict a color channel by channel; mixture: the same, with "
        "mixtures of logistic distributions for channels of 6 bits or more; "
        "packed: all in one softmax; copy: a color of the picture so far, or a "
        "new one.  [default: copy with --resize native, else mixture if there "
        "is such a channel, else chain]",
        HEADS,
    )
    image_size: tuple[int, int] = argument(
        (32, 32),
        "Size in pixels to scale images to: 32 or 24x40 (height x width).",
    )
    bit_widths: BitWidths = argument(
        (5, 4, 4), "Bits per color channel, in the order of --color-space."
    )
    color_space: str = argument(
        "hsv", "Color space of the tokens.", COLOR_SPACES
    )
    alpha: int | None = argument(
        None,
        "Bits of transparency: 0 lays pictures over white, 1 has hard edges, 8 "
        "is exact; auto takes 0 if all are opaque, else 1 or 2.  [default: "
        "auto]",
        at_least=0,
        at_most=MAX_ALPHA_BITS,
    )
    resize: str = argument(
        "crop",
        "How to fit an image to the aspect ratio of --image-size; native sets "
        "pixel art into a canvas of that size as it is.",
        RESIZES,
    )
    anchor: str = argument(
        ANCHORS[0],
        "Where --resize native sets smaller images in the canvas.",
        ANCHORS,
    )
    trim: bool = argument(
        False,
        "First cut off transparent or one-colored margins, for sprites and "
        "stickers.",
    )
    pixel_art: bool = argument(
        False,
        "For sprites, tiles and icons: keep every pixel as it is, with "
        "--resize native, all colors of RGB 888, and as many bits of --alpha "
        "as the files need.",
    )
    tiles: tuple[int, int] | None = argument(
        None,
        "Cut sheets into tiles of this size: 16 or 16x24 (height x width). "
        "Tiles of one color and equal ones of a sheet are dropped.  [default "
        "of --image-size: the tiles', up to 64]",
    )
    tiles_gap: int = argument(
        0, "Pixels between two tiles of a sheet.", at_least=0
    )
    tiles_margin: int = argument(
        0, "Pixels above and left of the first tile of a sheet.", at_least=0
    )
    frames: bool = argument(
        False,
        "Take every frame of animations (GIF, APNG, WebP) and every page of "
        "TIFF files, instead of the first; equal ones of a file are dropped.",
    )
    pairs: str | None = argument(
        None,
        "Learn to turn each picture of IMAGES into the one of the same name in "
        "this folder: sketches into sprites, days into nights. In IMAGES "
        "itself, x_a.png is turned into x_b.png. --image-size is that of one "
        "picture; complete then paints the second from the first.",
    )
    epochs: int | None = argument(None, "Passes over the images.", at_least=1)
    max_minutes: float | None = argument(
        None, "Minutes to train, instead of --epochs.  [default: 10]", above=0
    )
    batch_size: int | None = argument(
        None,
        "Images per step.  [default: 4 of 32x32, on a GPU 64, or what fits]",
        at_least=1,
    )
    learning_rate: float | None = argument(
        None,
        "Peak of the learning rate.  [default: micro and nano 6e-3, small "
        "4e-3, base 1e-3]",
        above=0,
    )
    recipe: str = argument(
        AUTO,
        "few sets --weight-decay and --input-noise, and for pixel art "
        "--hue-turns and --shifts, for images that are seen many times; plain "
        "does not; auto takes few for pixel art that will be seen more than "
        "eight times.",
        RECIPES,
    )
    dropout: float = argument(
        0.0,
        "Dropout rate; 0.1 helps in long runs. Training on a CPU gets slower, "
        "with the copy head several times.",
        at_least=0,
        below=1,
    )
    weight_decay: float = argument(
        WEIGHT_DECAY,
        "Share of each weight that decays per step, times the learning rate.",
        at_least=0,
    )
    input_noise: float = argument(
        0.0,
        "Share of the pixels that the model reads as another color of the "
        "images, but still has to predict.",
        at_least=0,
        at_most=1,
    )
    hue_turns: float = argument(
        0.0,
        "Share of the images whose hues are turned; the model is told.",
        at_least=0,
        at_most=1,
    )
    shifts: float = argument(
        0.0,
        "Share of the images that are shifted within their transparent or "
        "one-colored margins; the model is told.",
        at_least=0,
        at_most=1,
    )
    flip: bool = argument(
        True, "Mirror half of the images, chosen anew in each epoch."
    )
    orders: bool = argument(
        False,
        "Read half of the images upside down or by columns, so that any side "
        "can be completed from the others; painting from the top down is then "
        "learned more slowly.",
    )
    labels: bool | None = argument(
        None,
        "Learn the class folders as labels, to paint one class.  [default: if "
        f"2 to {labels.MAX_LABELS:,} folders have {labels.MIN_IMAGES} or more "
        "images]",
    )
    seed: int = argument(
        0,
        "Seed for weights, order, dropout and all changes of images.",
        at_least=0,
        at_most=2**31 - 2,
    )
    precision: str = argument(
        AUTO, "auto: mixed_float16 on a GPU, float32 on a CPU.", PRECISIONS
    )
    devices: str = argument(
        "1",
        "GPUs of this machine that share each batch: a number, or all; "
        "all-hosts with KERAS_BACKEND=jax.",
    )
    jit_compile: bool = argument(
        True, "Compile with XLA, which trains twice as fast on a CPU."
    )
    max_megapixels: float = argument(
        64.0, "Skip images with more megapixels.", above=0, at_most=64
    )
    checkpoint_seconds: float = argument(
        60.0, "Seconds between two checkpoints.", at_least=0
    )
    download: bool = argument(False, "Download a tfds: data set if necessary.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(f"{ALL}|{ALL_HOSTS}|[1-9]\\d{{0,3}}", self.devices):
            raise UserError(
                "devices must be a positive number, all or all-hosts. "
                f"Received: devices={self.devices!r}"
            )
        if self.epochs is not None and self.max_minutes is not None:
            raise UserError("Give epochs or max_minutes, not both.")
        if min(self.image_size) < 1:
            raise UserError(
                "image_size must be two positive integers. "
                f"Received: image_size={self.image_size}"
            )
        is_open = self.preset == AUTO
        sized = self.replaced(preset=FALLBACK_PRESET) if is_open else self
        sized.decoder_config()  # Checks the sizes.
        Cutting.of(dataclasses.asdict(self))
        Palette(self.color_space, self.bit_widths)
        for name, reason in _NOT_WITH_PAIRS.items():
            if self.pairs is not None and getattr(self, name):
                raise UserError(f"Give pairs or {name}, not both: {reason}.")

    @classmethod
    def of_tokenizer(cls, config: Mapping[str, Any]) -> Self:
        """Return the arguments of `PixelTokenizer.get_config()`."""
        palette = Palette.get(config["palette"])
        return cls(
            image_size=config["image_size"],
            bit_widths=palette.bit_widths,
            color_space=palette.color_space,
            alpha=palette.alpha_bits,
            resize=config["resize"],
            trim=config.get("trim", False),
            **({"anchor": config["anchor"]} if "anchor" in config else {}),
        )

    @classmethod
    def of_run(cls, config: Mapping[str, Any]) -> Self:
        """Return the arguments of a run from its `run.json`.

        Those that an older run does not record come from tokenizer and model.

        Raises:
            UserError: If the file is damaged.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            model, sizes = config["model"], config["model"]["decoder_config"]
            known = {
                **_OF_OLDER_RUNS,
                **cls.of_tokenizer(config["tokenizer"]).given,
                "decoder": model["decoder"],
                "num_layers": sizes["num_layers"],
                "hidden_dim": sizes["hidden_dim"],
                "num_hashes": sizes.get("num_hashes", 0),
                "head": model.get("head"),
                "dropout": model["dropout"],
                "orders": len(set(model["orders"])) > 1,
                "labels": bool(model["labels"]),
            }
            kept = {k: v for k, v in config["arguments"].items() if k in names}
            return cls(**{**known, **kept})
        except (AttributeError, KeyError, TypeError, UserError) as error:
            raise UserError(f"run.json is damaged: {error}") from None

    def settled(self, fixed: Self, what: str, advice: str) -> Self:
        """Return these arguments merged with fixed ones.

        Args:
            fixed: The given ones apply, except `devices`, and the budget if
                these arguments have another one.
            what: The owner of the fixed arguments, for the message.
            advice: What to do instead, in whole sentences.

        Raises:
            UserError: If an argument that is not in `FREE` differs.
        """
        before, now = fixed.given, self.given
        bound = [name for name in before if name in now and name not in FREE]
        refuse_changes(
            what,
            {name: before[name] for name in bound},
            {name: now[name] for name in bound},
            advice,
        )
        left = {"devices", *(BUDGET if set(BUDGET) & set(now) else ())}
        kept = {k: v for k, v in before.items() if k not in left}
        return type(self)(**{**kept, **now})

    @property
    def palette(self) -> Palette:
        """The colors of the tokens; opaque, if `alpha` is not chosen yet."""
        return Palette(self.color_space, self.bit_widths, self.alpha or 0)

    def tokenizer(self) -> "PixelTokenizer":
        """Return what makes the tokens."""
        from pixace_tf.data.tokenizer import PixelTokenizer

        return PixelTokenizer(
            self.whole_size, self.palette, self.resize, self.trim, self.anchor
        )

    @property
    def whole_size(self) -> tuple[int, int]:
        """Height and width of an image: of a picture, or of a pair of them."""
        height, width = self.image_size
        return height if self.pairs is None else 2 * height, width

    @property
    def cutting(self) -> Cutting | None:
        """How files are cut into pictures, if they are."""
        return Cutting.of(dataclasses.asdict(self))

    @property
    def max_pixels(self) -> int:
        """Most pixels of an image that is read."""
        return int(self.max_megapixels * 1e6)

    @property
    def minutes(self) -> float | None:
        """Minutes to train, None if `epochs` is given."""
        if self.epochs is None and self.max_minutes is None:
            return DEFAULT_MAX_MINUTES
        return self.max_minutes

    def decoder_config(self) -> dict[str, int]:
        """Return the sizes of the decoder; see `presets.decoder_config`."""
        return presets.decoder_config(
            self.preset,
            self.decoder,
            self.image_size[1],
            self.num_hashes,
            self.num_layers,
            self.hidden_dim,
        )

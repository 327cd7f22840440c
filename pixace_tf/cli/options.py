"""Types and options that commands share."""

from collections.abc import Callable
from typing import Any

import click

SPELLED = "Give it as NUMBER or HEIGHTxWIDTH, such as 32 or 24x40."


class ImageSize(click.ParamType):
    """A square size or HEIGHTxWIDTH."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) not in (1, 2) or not all(p.isdigit() for p in parts):
            self.fail(f"{value!r} is no image size. {SPELLED}", param, ctx)
        return int(parts[0]), int(parts[-1])


class BitWidths(click.ParamType):
    """Three numbers with commas."""

    name = "b,b,b"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) != 3 or not all(p.strip().isdigit() for p in parts):
            self.fail(f"{value!r} should be like 5,4,4.", param, ctx)
        return tuple(int(p) for p in parts)


class Numbers(click.ParamType):
    """Numbers with commas."""

    name = "t[,t...]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} should be like 1.0 or 0.9,1.0.", param, ctx)


def _together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


preset = click.option(
    "--preset",
    default="nano",
    type=click.Choice(["pico", "nano", "small", "base"]),
    help="Size: nano 4.5, small 13, base 24 million parameters (multiscale); "
    "a laptop wants nano.",
)
decoder = click.option(
    "--decoder",
    default="multiscale",
    type=click.Choice(["multiscale", "transformer", "reformer"]),
    help="Transformer over runs of pixels and inside each run; or one flat "
    "stack over all pixels; or that with reversible layers, for small memory.",
)
resize = click.option(
    "--resize",
    default="crop",
    type=click.Choice(["crop", "squash", "pad"]),
    help="How to bring a picture to the aspect of --image-size.",
)
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Pictures per step.  [default: 4 of 32x32, on a GPU 64, or what fits]",
)
flip = click.option(
    "--flip/--no-flip",
    default=True,
    help="Mirror half of the pictures, anew in each epoch.",
)
jit_compile = click.option(
    "--jit-compile/--no-jit-compile",
    default=True,
    help="Compile the training step with XLA: twice as fast on a CPU.",
)
training_seed = click.option(
    "--seed", type=click.IntRange(0, 2**31 - 2), default=0
)
max_megapixels = click.option(
    "--max-megapixels",
    type=click.FloatRange(0, 64, min_open=True),
    default=64.0,
    help="Skip larger pictures, by their header.",
)
download = click.option(
    "--download", is_flag=True, help="Download a tfds: data set if needed."
)
scale = click.option(
    "--scale",
    type=click.IntRange(1, 64),
    help="Enlargement on the sheet.  [default: tiles of about 128 pixels]",
)
filters = _together(
    click.option(
        "--top-k",
        type=click.IntRange(0),
        default=0,
        help="Draw from the k likeliest values; 0 is off.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1, min_open=True),
        default=1.0,
        help="Draw from the likeliest values up to this probability.",
    ),
    click.option(
        "--min-p",
        type=click.FloatRange(0, 1),
        default=0.0,
        help="Drop values below this share of the likeliest one.",
    ),
)
sampling = _together(
    click.option(
        "--temperature",
        "temperatures",
        type=Numbers(),
        default="1.0",
        help="Below 1 bolder, above 1 wilder; several with commas.",
    ),
    filters,
    click.option(
        "--seed",
        type=click.IntRange(0, 2**62),
        default=0,
        help="The same seed draws the same picture.",
    ),
    scale,
    click.option(
        "--tiles",
        type=click.Path(file_okay=False),
        help="Folder for each picture by itself, as small PNG.",
    ),
)
served = _together(
    click.option(
        "--server",
        metavar="ADDRESS",
        help="Paint on a TensorFlow Serving instead of with RUN: "
        "http://HOST:8501, or grpc://HOST:8500.",
    ),
    click.option(
        "--model", default="model", help="Name of the model on that server."
    ),
)

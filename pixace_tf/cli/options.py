"""Types and options that commands share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from pixace_tf.training.training_arguments import TrainingArguments

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


_FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}


def training_options(*names: str) -> Callable[[Any], Any]:
    """Return a decorator that adds options for arguments of a training.

    Args:
        *names: Fields of `TrainingArguments`; without any, all of them.
    """
    return together(*(training_option(name) for name in names or _FIELDS))


def training_option(name: str, **changes: Any) -> Callable[[Any], Any]:
    """Return the option for an argument of a training.

    Args:
        name: A field of `TrainingArguments`.
        **changes: What is different, as arguments of `click.option`.
    """
    field = _FIELDS[name]
    spelled = "--" + name.replace("_", "-")
    settings: dict[str, Any] = {
        "default": field.default,
        "help": field.metadata["help"],
    }
    if field.type is bool:
        if field.default:
            spelled += f"/--no-{spelled[2:]}"
        settings["is_flag"] = True
    else:
        settings["type"] = _type_of(field)
    if name in _SPELLED_DEFAULTS:
        settings["default"] = _SPELLED_DEFAULTS[name]
    return click.option(spelled, name, **{**settings, **changes})


# Defaults as a user would type them.
_SPELLED_DEFAULTS = {"image_size": "32", "bit_widths": "5,4,4"}


def _type_of(field: dataclasses.Field) -> click.ParamType:
    """Return the type of the option for a field, with its range."""
    rules = field.metadata
    if rules["choices"]:
        return click.Choice(rules["choices"])
    if field.name in ("image_size", "bit_widths"):
        return ImageSize() if field.name == "image_size" else BitWidths()
    bounds = rules["bounds"]
    low = bounds["at least"] if bounds["above"] is None else bounds["above"]
    high = bounds["at most"] if bounds["below"] is None else bounds["below"]
    is_integer = field.type in (int, int | None)
    return (click.IntRange if is_integer else click.FloatRange)(
        min=low,
        max=high,
        min_open=bounds["above"] is not None,
        max_open=bounds["below"] is not None,
    )


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds options in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


max_megapixels = training_option("max_megapixels")
download = training_option("download")
scale = click.option(
    "--scale",
    type=click.IntRange(1, 64),
    help="Enlargement on the sheet.  [default: tiles of about 128 pixels]",
)
sampling = together(
    click.option(
        "--temperature",
        "temperatures",
        type=Numbers(),
        default="1.0",
        help="Below 1 bolder, above 1 wilder; several with commas.",
    ),
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
served = together(
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

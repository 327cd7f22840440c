"""Types and options that commands share."""

import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource

from pixace_tf.data.palette import MAX_ALPHA_BITS
from pixace_tf.runs.arguments import AUTO
from pixace_tf.training.training_arguments import TrainingArguments


class Parsed(click.ParamType):
    """A tuple that is written as one word."""

    def __init__(
        self, name: str, example: str, parse: Callable[[str], tuple[Any, ...]]
    ) -> None:
        self.name = name
        self._example = example
        self._parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return self._parse(str(value))
        except ValueError:
            message = f"{value!r} should be like {self._example}."
            self.fail(message, param, ctx)


def _counts(parts: Sequence[str], length: int) -> tuple[int, ...]:
    is_good = all(part.strip().isdecimal() for part in parts)
    if not is_good or len(parts) != length:
        raise ValueError
    return tuple(map(int, parts))


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    height, width = _counts(parts * 2 if len(parts) == 1 else parts, 2)
    return height, width


def _share(text: str) -> tuple[int, int]:
    index, count = _counts(text.split("/"), 2)
    if not 1 <= index <= count:
        raise ValueError
    return index, count


def _color(text: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    red, green, blue, *alpha = ImageColor.getrgb(text)
    # Pillow takes rgb(1, 2, 999) as it is.
    if max(red, green, blue) > 255 or alpha not in ([], [255]):
        raise ValueError
    return red, green, blue


IMAGE_SIZE = Parsed("size", "32 or 24x40 (height x width)", _size)
BIT_WIDTHS = Parsed("b,b,b", "5,4,4", lambda text: _counts(text.split(","), 3))
COLOR = Parsed("color", "white or #3070a0", _color)
SHARE = Parsed("i/n", "1/4, up to 4/4", _share)
CHANNELS = Parsed(
    "channel[,channel...]",
    "value or alpha,value",
    lambda text: tuple(name.strip() for name in text.split(",")),
)
TEMPERATURES = Parsed(
    "t[,t...]",
    "1.0 or 0.9,1.0",
    lambda text: tuple(map(float, text.split(","))),
)


def options_of(arguments: Any, *names: str) -> Callable[[Any], Any]:
    """Return a decorator that adds options for some fields, or for all."""
    names = names or tuple(f.name for f in dataclasses.fields(arguments))
    return together(*(option_of(arguments, name) for name in names))


def handing_over(**classes: type[Any]) -> Callable[[Any], Any]:
    """Return a decorator that hands a command objects instead of options.

    The objects get only the options that the user gave, defaults included. If
    two dataclasses share a field, the first one takes the option.

    Args:
        **classes: For each parameter of the command, a dataclass that takes the
            options named like its fields.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            source = click.get_current_context().get_parameter_source
            for parameter, arguments in classes.items():
                names = [f.name for f in dataclasses.fields(arguments)]
                options = {n: values.pop(n) for n in names if n in values}
                given = {
                    name: value
                    for name, value in options.items()
                    if source(name) is not ParameterSource.DEFAULT
                }
                values[parameter] = arguments(**given)
            command(**values)

        return wrapped

    return decorate


def option_of(arguments: Any, name: str, **changes: Any) -> Callable[..., Any]:
    """Return the option for a field of `argument`s.

    `changes` are arguments of `click.option` that override those of the field.
    """
    field = arguments.__dataclass_fields__[name]
    spelled = "--" + name.replace("_", "-")
    settings: dict[str, Any] = {
        "default": _SPELLED_DEFAULTS.get(field.default, field.default),
        "help": field.metadata["help"],
    }
    if field.type in (bool, bool | None):
        if field.default is not False:
            spelled += f"/--no-{spelled[2:]}"
        settings["is_flag"] = True
    else:
        settings["type"] = _type_of(field)
        settings["multiple"] = isinstance(field.default, tuple) and (
            field.default == () or not isinstance(field.default[0], int)
        )
    return click.option(spelled, name, **{**settings, **changes})


class AutoInt(click.IntRange):
    """A number, or auto, which is None."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        is_auto = value == AUTO
        return None if is_auto else super().convert(value, param, ctx)


_TYPES: dict[str, click.ParamType] = {
    "image_size": IMAGE_SIZE,
    "bit_widths": BIT_WIDTHS,
    "alpha": AutoInt(0, MAX_ALPHA_BITS),
    "tiles": IMAGE_SIZE,
    "pairs": click.Path(),
}
# Defaults as a user types them.
_SPELLED_DEFAULTS: dict[Any, Any] = {
    (32, 32): "32",
    ((32, 32),): ["32"],
    (5, 4, 4): "5,4,4",
}


def _type_of(field: dataclasses.Field) -> click.ParamType:
    """Return the type of the option for a field, including its range."""
    if field.metadata["choices"]:
        return click.Choice(field.metadata["choices"])
    if field.name in _TYPES:
        return _TYPES[field.name]
    # An item of a tuple, or a type or None.
    kind = (typing.get_args(field.type) or (field.type,))[0]
    if kind is str:
        return click.STRING
    bounds = field.metadata["bounds"]
    return (click.IntRange if kind is int else click.FloatRange)(
        min=bounds.get("above", bounds.get("at_least")),
        max=bounds.get("below", bounds.get("at_most")),
        min_open="above" in bounds,
        max_open="below" in bounds,
    )


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds options in the given order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


max_megapixels = option_of(TrainingArguments, "max_megapixels")
download = option_of(TrainingArguments, "download")
scale = click.option(
    "--scale",
    type=click.IntRange(1, 64),
    help="Enlargement on the sheet.  [default: tiles of about 128 pixels]",
)
background = click.option(
    "--background",
    type=COLOR,
    help="Color below transparent pixels on the sheet, such as black or "
    "#3070a0.  [default: a checkerboard]",
)
sampling = together(
    click.option(
        "--temperature",
        "temperatures",
        type=TEMPERATURES,
        default="1.0",
        help="Below 1 prefers likely values, above 1 takes risks; separate "
        "several values by commas.",
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
        help="Drop values less likely than this share of the likeliest one.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**62),
        default=0,
        help="The same seed draws the same picture.",
    ),
    scale,
    background,
    click.option(
        "--tiles",
        type=click.Path(file_okay=False),
        help="Also write each picture as a small PNG file into this folder.",
    ),
    click.option(
        "--only-colors",
        metavar="FILE",
        help="Paint only the colors of this file: .gpl, .hex, .pal (JASC), "
        ".act, .txt (paint.net), or a .png strip. --tiles are then indexed.",
    ),
    click.option(
        "--max-colors",
        type=click.IntRange(0),
        default=0,
        help="Paint each picture with at most so many colors, kept ones "
        "included; for runs of --pixel-art. 0 is off.",
    ),
    click.option(
        "--counts",
        metavar="FILE",
        help="Also write how many pixels have each of --only-colors, as CSV.",
    ),
)
served = together(
    click.option(
        "--server",
        metavar="ADDRESS",
        help="Paint on a TensorFlow Serving server instead of with RUN: "
        "http://HOST:8501, or grpc://HOST:8500.",
    ),
    click.option(
        "--model", default="model", help="Name of the model on the server."
    ),
)

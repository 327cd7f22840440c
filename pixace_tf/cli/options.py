"""Types and options that commands share."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from pixace_tf.training.training_arguments import TrainingArguments

SIZE_FORM = "Write NUMBER or HEIGHTxWIDTH, such as 32 or 24x40."


class ImageSize(click.ParamType):
    """A square size or HEIGHTxWIDTH."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) not in (1, 2) or not all(p.isdecimal() for p in parts):
            self.fail(f"{value!r} is no image size. {SIZE_FORM}", param, ctx)
        return int(parts[0]), int(parts[-1])


class BitWidths(click.ParamType):
    """Three numbers, separated by commas."""

    name = "b,b,b"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) != 3 or not all(p.strip().isdecimal() for p in parts):
            self.fail(f"{value!r} should be like 5,4,4.", param, ctx)
        return tuple(int(p) for p in parts)


class Share(click.ParamType):
    """The number of this machine, and the number of machines."""

    name = "i/n"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split("/")
        if len(parts) != 2 or not all(p.isdecimal() for p in parts):
            self.fail(f"{value!r} should be like 1/4.", param, ctx)
        index, count = map(int, parts)
        if not 1 <= index <= count:
            rule = f"{value!r} must be one of 1/{count} to {count}/{count}."
            self.fail(rule, param, ctx)
        return index, count


class Numbers(click.ParamType):
    """Numbers, separated by commas."""

    name = "t[,t...]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} should be like 1.0 or 0.9,1.0.", param, ctx)


def options_of(arguments: Any, *names: str) -> Callable[[Any], Any]:
    """Return a decorator that adds options for arguments.

    Args:
        arguments: A dataclass of `argument` fields.
        *names: Names of fields; all fields by default.
    """
    every = [field.name for field in dataclasses.fields(arguments)]
    return together(*(option_of(arguments, name) for name in names or every))


def handing_over(**classes: type[Any]) -> Callable[[Any], Any]:
    """Return a decorator that hands a command objects instead of options.

    Only the options that the user gave count as given, so an option that is
    given with its default is told from one that is not given.

    Args:
        **classes: For each parameter of the command, a dataclass that takes the
            options named like its fields. If two dataclasses share a field, the
            first one takes the option.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            context = click.get_current_context()
            for parameter, arguments in classes.items():
                names = [f.name for f in dataclasses.fields(arguments)]
                options = {n: values.pop(n) for n in names if n in values}
                values[parameter] = arguments(
                    **{n: v for n, v in options.items() if is_given(context, n)}
                )
            command(**values)

        return wrapped

    return decorate


def is_given(context: click.Context, name: str) -> bool:
    """Return whether the user gave the option of a parameter."""
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def option_of(arguments: Any, name: str, **changes: Any) -> Callable[..., Any]:
    """Return the option for an argument.

    Args:
        arguments: A dataclass of `argument` fields.
        name: Name of a field.
        **changes: Arguments of `click.option` that override those of the field.
    """
    fields = {field.name: field for field in dataclasses.fields(arguments)}
    field = fields[name]
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


_TYPES: dict[str, click.ParamType] = {
    "image_size": ImageSize(),
    "bit_widths": BitWidths(),
}
# Defaults as a user would type them.
_SPELLED_DEFAULTS: dict[Any, Any] = {
    (32, 32): "32",
    ((32, 32),): ["32"],
    (5, 4, 4): "5,4,4",
}


def _type_of(field: dataclasses.Field) -> click.ParamType:
    """Return the type of the option for a field, including its range."""
    rules = field.metadata
    if rules["choices"]:
        return click.Choice(rules["choices"])
    if field.name in _TYPES:
        return _TYPES[field.name]
    if field.type is str:
        return click.STRING
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
sampling = together(
    click.option(
        "--temperature",
        "temperatures",
        type=Numbers(),
        default="1.0",
        help="Below 1 draws more cautiously, above 1 more wildly; separate "
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
    click.option(
        "--tiles",
        type=click.Path(file_okay=False),
        help="Folder for the single pictures, as small PNG files.",
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

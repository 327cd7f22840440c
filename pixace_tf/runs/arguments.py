"""Dataclasses of arguments: ranges, help, and which arguments were given.

The command line makes its options from them. Needs no TensorFlow.
"""

import dataclasses
import math
import operator
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from pixace_tf.errors import UserError

# Leaves the choice to this program, as None does.
AUTO = "auto"

_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "above": operator.gt,
    "at_least": operator.ge,
    "below": operator.lt,
    "at_most": operator.le,
}
_KINDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "a string",
}


def argument(
    default: Any, help: str, choices: Iterable[str] = (), **bounds: float
) -> Any:
    """Return a dataclass field that can become an option.

    The default is None if the help explains it. Choices and bounds, which are
    `above`, `at_least`, `below` and `at_most`, apply to each item of a
    `tuple[KIND, ...]`.
    """
    assert bounds.keys() <= _BOUNDS.keys()
    rules = {"help": help, "choices": tuple(choices), "bounds": bounds}
    return dataclasses.field(default=default, metadata=rules)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Base class of frozen dataclasses whose fields are `argument`s.

    Lists become tuples and NumPy scalars become Python numbers.

    Raises:
        UserError: If a value has the wrong type or is out of range.
    """

    def __new__(cls, **values: Any) -> Self:
        """Remember which arguments are given; None and "auto" are not."""
        self = super().__new__(cls)
        names = [n for n, v in values.items() if not _is_open(v)]
        object.__setattr__(self, "_names_given", names)
        return self

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    @property
    def given(self) -> dict[str, Any]:
        """The given arguments by name, whether or not they are defaults."""
        names: list[str] = self.__dict__["_names_given"]
        return {name: getattr(self, name) for name in names}

    def replaced(self, **values: Any) -> Self:
        """Return these arguments with other values, which count as given."""
        return type(self)(**{**self.given, **values})


def refuse_changes(
    what: str, before: Mapping[str, Any], now: Mapping[str, Any], advice: str
) -> None:
    """Raise a UserError that names the arguments of something that differ.

    `advice` says in whole sentences what to do instead.
    """
    differ = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if differ:
        raise UserError(
            f"{what} has other arguments: {'; '.join(differ)}. {advice}"
        )


def _is_open(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value == AUTO)


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """Return a value in its type; the UserError names a broken rule."""
    choices, bounds = field.metadata["choices"], field.metadata["bounds"]
    try:
        value = _converted(field.type, value)
        is_open_tuple = typing.get_args(field.type)[-1:] == (Ellipsis,)
        is_good = value is None or all(
            (not choices or item in choices)
            and all(_BOUNDS[k](item, bound) for k, bound in bounds.items())
            for item in (value if is_open_tuple else (value,))
        )
    except (TypeError, ValueError, OverflowError):
        is_good = False
    if is_good:
        return value
    rule = f"one of {', '.join(choices)}" if choices else _describe(field.type)
    limits = " and".join(
        f" {name.replace('_', ' ')} {bound}" for name, bound in bounds.items()
    )
    raise UserError(
        f"{field.name} must be {rule}{limits}. Received: {field.name}={value!r}"
    )


def _converted(kind: Any, value: Any) -> Any:
    """Return a value as its kind.

    A TypeError, ValueError or OverflowError says if it is of another kind.
    """
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        if parts[-1] is Ellipsis:
            parts = parts[:1] * len(value)
        return tuple(
            _converted(part, item)
            for part, item in zip(parts, value, strict=True)
        )
    if parts:  # A kind or None.
        return None if value is None else _converted(parts[0], value)
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # A scalar of NumPy.
    if isinstance(value, bool) is not (kind is bool):
        raise TypeError
    if kind is float and isinstance(value, int):
        value = float(value)
    if not isinstance(value, kind):
        raise TypeError
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def _describe(kind: Any) -> str:
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        count = "" if parts[-1] is Ellipsis else f" of {len(parts)}"
        return f"a tuple{count}, each item {_describe(parts[0])}"
    return _describe(parts[0]) if parts else _KINDS[kind]

"""Temperature and filters, and checks of numbers, without TensorFlow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.errors import UserError
from pixace_tf.sampling import MAX_GUIDANCE
from pixace_tf.typing import Tensor

# A rule in words, and for arrays or tensors; NaN breaks every rule.
Rule = tuple[str, Callable[[Any], Any]]


def between(low: float, high: float, kind: str = "") -> Rule:
    """Return the rule that numbers of a kind lie in `[low, high]`."""
    text = f"{kind} from {low} to {high}".strip()
    return text, lambda x: (x >= low) & (x <= high)


RULES: dict[str, Rule] = {
    "temperature": between(0.001, 1000),
    "top_k": ("0 (off) or a positive integer", between(0, 2**31 - 1)[1]),
    "top_p": ("above 0 and at most 1", lambda x: (x > 0) & (x <= 1)),
    "min_p": between(0, 1),
    "guidance": between(1, MAX_GUIDANCE),
}


def has_filters(config: dict[str, Tensor], xp: Any = np) -> Tensor:
    """Return whether a filter may remove choices of any image, a bool.

    Args:
        config: Arrays `(B,)` by name, as in `SamplingConfig`.
        xp: Their module: NumPy, or `tf.experimental.numpy`.
    """
    names = ("top_k", "top_p", "min_p")
    neutral = SamplingConfig()
    return xp.any(
        xp.stack([config[name] != getattr(neutral, name) for name in names])
    )


def is_guided(labels: Tensor, guidance: Tensor) -> Tensor:
    """Tell which images guidance changes, bool `(B,)`."""
    return (guidance > 1) & (labels != NULL_LABEL)


def check_setting(name: str, value: Any) -> np.ndarray:
    """Return a setting as float32, or `top_k` as int32; see `check_numbers`."""
    dtype = np.int32 if name == "top_k" else np.float32
    return check_numbers(name, value, RULES[name], dtype)


def check_integers(name: str, value: Any, low: int, high: int) -> np.ndarray:
    """Return int64 values, all in `[low, high]`; see `check_numbers`."""
    return check_numbers(
        name, value, between(low, high, "an integer"), np.int64
    )


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Return one integer in `[low, high]`; see `check_numbers`."""
    return int(check_is_one(name, check_integers(name, value, low, high)))


def check_is_one(name: str, value: np.ndarray) -> np.ndarray:
    """Return an array of no dimensions; raise UserError for any other."""
    if value.ndim:
        raise UserError(
            f"{name} must be one number. Received: shape={value.shape}"
        )
    return value


def check_numbers(
    name: str, value: Any, rule: Rule, dtype: type[np.generic]
) -> np.ndarray:
    """Convert numbers to an array; only rounding may change them.

    Args:
        name: The name that the error shows.
        value: One number, or an array of them. Bools and strings are not
            numbers; floats are not integers.
        rule: Must hold before and after the conversion.
        dtype: Type of the result.

    Raises:
        UserError: If a value is not a number or breaks the rule.
    """
    text, is_good = rule
    given = _as_numbers(value, "iu" if issubclass(dtype, np.integer) else "iuf")
    if given is not None:
        with np.errstate(over="ignore", under="ignore"):
            array = given.astype(dtype)
        if np.all(is_good(given) & is_good(array)):
            return array
    raise UserError(f"{name} must be {text}. Received: {name}={value!r}")


def _as_numbers(value: Any, kinds: str) -> np.ndarray | None:
    """Return an array, or None if a value is not of these kinds of dtype."""
    try:
        if isinstance(value, list | tuple):
            # In a list with numbers, NumPy would convert bools to numbers.
            each = np.asarray(value, object).ravel()
            if any(isinstance(x, bool | np.bool_) for x in each):
                return None
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.dtype.kind in kinds or not array.size else None


def per_image(name: str, value: np.ndarray, count: int) -> np.ndarray:
    """Return `(count,)` values, from one or as many."""
    if value.ndim and value.shape != (count,):
        raise UserError(
            f"{name} must be one value, or one for each of the {count} images. "
            f"Received: shape={value.shape}"
        )
    return np.broadcast_to(value, count)


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Temperature and filters; each field is one value or one per image.

    With the chain head, they act on each color channel in turn; with the copy
    head, on alpha, on the way to a color, and on each channel of a new one.

    Attributes:
        temperature: From 0.001 to 1000; values below 1 favor likely choices.
        top_k: Keep the k likeliest choices; 0 keeps all of them.
        top_p: Keep the likeliest choices up to this probability, in `(0, 1]`.
        min_p: Keep choices with at least this share of the likeliest one's
            probability, in `[0, 1]`.

    Raises:
        UserError: If a value is not a number or out of range.
    """

    temperature: Any = 1.0
    top_k: Any = 0
    top_p: Any = 1.0
    min_p: Any = 0.0

    def __post_init__(self) -> None:
        self._settings()

    def arrays(self, count: int) -> dict[str, np.ndarray]:
        """Return float32 `(count,)` arrays by name; `top_k` is int32.

        Raises:
            UserError: If a field has another number of values.
        """
        return {
            name: per_image(name, value, count)
            for name, value in self._settings().items()
        }

    def _settings(self) -> dict[str, np.ndarray]:
        return {
            field.name: check_setting(field.name, getattr(self, field.name))
            for field in dataclasses.fields(self)
        }

"""How freely to sample, and the rules for it; needs no TensorFlow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from pixace_tf.errors import UserError

# What the fields must be, for arrays and for tensors; NaN fails every rule.
RULES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "temperature": ("from 0.001 to 1000", lambda x: (x >= 1e-3) & (x <= 1e3)),
    "top_k": ("0 (off) or a positive integer", lambda x: x >= 0),
    "top_p": ("above 0 and at most 1", lambda x: (x > 0) & (x <= 1)),
    "min_p": ("from 0 to 1", lambda x: (x >= 0) & (x <= 1)),
}


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How freely to sample; each field is one value or one per image.

    For the chain head they act on each color channel in turn.

    Attributes:
        temperature: From 0.001 to 1000; below 1 keeps closer to what is likely.
        top_k: Keep the k likeliest choices; 0 keeps all.
        top_p: Keep the likeliest choices up to this probability, in `(0, 1]`.
        min_p: Keep the choices that have at least this share of the likeliest
            one's probability, in `[0, 1]`.
    """

    temperature: Any = 1.0
    top_k: Any = 0
    top_p: Any = 1.0
    min_p: Any = 0.0

    def arrays(self, count: int) -> dict[str, np.ndarray]:
        """Return one value per image, checked.

        Args:
            count: Number of images.

        Returns:
            float32 `(count,)` arrays by name; `top_k` is int32.

        Raises:
            UserError: If a value is out of range.
        """
        arrays = {}
        for name, (rule, is_good) in RULES.items():
            value = np.asarray(getattr(self, name), np.float64)
            is_whole = name != "top_k" or np.all(value == np.floor(value))
            if not (is_whole and np.all(np.isfinite(value) & is_good(value))):
                raise UserError(
                    f"{name} must be {rule}. Received: {getattr(self, name)}"
                )
            dtype = np.int32 if name == "top_k" else np.float32
            arrays[name] = np.broadcast_to(value, count).astype(dtype)
        return arrays

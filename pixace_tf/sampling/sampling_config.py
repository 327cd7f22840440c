"""How freely to draw, and the rules for it; needs no TensorFlow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

# What `Filters` must be, for arrays as for tensors; not a number fails.
FILTER_RULES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "temperature": ("from 0.001 to 1000", lambda x: (x >= 1e-3) & (x <= 1e3)),
    "top_k": ("0 (off) or a positive integer", lambda x: x >= 0),
    "top_p": ("above 0 and at most 1", lambda x: (x > 0) & (x <= 1)),
    "min_p": ("from 0 to 1", lambda x: (x >= 0) & (x <= 1)),
}


@dataclasses.dataclass(frozen=True)
class Filters:
    """How freely to draw; each is one value or one per picture.

    For the chain head they act on each color channel in turn.

    Attributes:
        temperature: From 0.001 to 1000; below 1 is bolder on what is likely.
        top_k: Keep the k likeliest choices; 0 keeps all.
        top_p: Keep the likeliest choices up to this probability, in `(0, 1]`.
        min_p: Keep what has this share of the likeliest one's probability, in
            `[0, 1]`.
    """

    temperature: Any = 1.0
    top_k: Any = 0
    top_p: Any = 1.0
    min_p: Any = 0.0

    def arrays(self, count: int) -> dict[str, np.ndarray]:
        """Return one value per picture, checked.

        Args:
            count: Number of pictures.

        Returns:
            float32 `(count,)` arrays, `top_k` int32.

        Raises:
            ValueError: If a value is out of range.
        """
        arrays = {}
        for name, (rule, is_good) in FILTER_RULES.items():
            value = np.asarray(getattr(self, name), np.float64)
            is_whole = name != "top_k" or np.all(value == np.floor(value))
            if not (is_whole and np.all(np.isfinite(value) & is_good(value))):
                raise ValueError(
                    f"{name} must be {rule}. Received: {getattr(self, name)}"
                )
            dtype = np.int32 if name == "top_k" else np.float32
            arrays[name] = np.broadcast_to(value, count).astype(dtype)
        return arrays

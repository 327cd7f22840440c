"""The alias for tensors."""

from typing import Any, TypeAlias

# A tensor of the Keras backend in use. TensorFlow and Keras ship no types that
# mypy could check, so the alias only tells the reader what the value is.
Tensor: TypeAlias = Any

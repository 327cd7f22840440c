"""The activation of the feed-forward layers."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("pixace_tf")
def relu_squared(x: Any) -> Any:
    """Return the square of a ReLU, of the shape and dtype of `x`.

    It learns more from a pixel than GELU, and takes less time (arXiv
    2109.08668).
    """
    return ops.square(ops.relu(x))

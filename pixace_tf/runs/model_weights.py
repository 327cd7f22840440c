"""Build the Keras model of a run, and read and write its weights."""

from typing import Any

import keras
import numpy as np

from pixace_tf import storage
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM


def get_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the model's weights by the path of each variable."""
    arrays = {v.path: array_of(v) for v in model.weights}
    assert len(arrays) == len(model.weights), "two weights share a path"
    return arrays


def array_of(variable: keras.Variable) -> np.ndarray:
    """Return the value of a variable, which may lie on several devices."""
    value = variable.value
    # NumPy cannot read a variable of several devices itself.
    is_variable = hasattr(value, "read_value")
    return np.asarray(value.read_value() if is_variable else value)


def load(model: PixaceCausalLM, path: str) -> None:
    """Assign the model's weights from a file of arrays by their paths.

    Shapes are compared before any array is read.

    Raises:
        UserError: If an array is missing, damaged or of another shape; then no
            weight is changed.
    """
    weights = model.weights
    with storage.open_npz(path) as file:
        for weight in weights:
            found = file.shapes.get(weight.path)
            if found != tuple(weight.shape):
                raise UserError(
                    f"The file {path} does not fit this model: {weight.path} "
                    f"should have the shape {tuple(weight.shape)}. Received: "
                    f"{found}"
                )
        arrays = [file.read(weight.path) for weight in weights]
    for weight, array in zip(weights, arrays, strict=True):
        weight.assign(array)


def build_model(
    tokenizer: PixelTokenizer, model_config: dict[str, Any], dtype: str
) -> PixaceCausalLM:
    """Return the model of a run with new weights."""
    return PixaceCausalLM(
        image_size=tokenizer.image_size,
        palette=tokenizer.palette,
        **model_config,
        dtype=dtype,
        name="pixace",
    )

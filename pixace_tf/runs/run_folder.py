"""Build and load the model of a run folder."""

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from pixace_tf import storage
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.runs.catalog import locate
from pixace_tf.runs.run_config import (
    CHECKPOINT_FILE,
    FORMAT,
    WEIGHTS_FILE,
    read_config,
)
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.storage import RUN_FILE


@dataclasses.dataclass
class Run:
    """A model with its tokenizer and its folder.

    Attributes:
        path: The run folder.
        model: The model, its weights loaded or new.
        tokenizer: Translates between images and tokens.
        arguments: The arguments of training that are in force, by name.
        jit_compile: Whether XLA compiles sampling and scoring.
    """

    path: str
    model: PixaceCausalLM
    tokenizer: PixelTokenizer
    arguments: dict[str, Any]
    jit_compile: bool = True

    @functools.cached_property
    def sampler(self) -> Sampler:
        """The sampler of the model, compiled on first use."""
        return Sampler(self.model, jit_compile=self.jit_compile)

    def file(self, *names: str) -> str:
        """Return the path of a file of this run."""
        return os.path.join(self.path, *names)


def create_run(
    path: storage.StrPath,
    tokenizer: PixelTokenizer,
    model_config: dict[str, Any],
    arguments: dict[str, Any],
    dtype: str = "float32",
    jit_compile: bool = True,
    given: dict[str, Any] | None = None,
) -> Run:
    """Build a model with new weights, and start its run folder.

    Args:
        path: The folder; created if it is missing.
        tokenizer: Translates between images and tokens.
        model_config: Arguments of `PixaceCausalLM` beyond the tokenizer's.
        arguments: JSON-ready arguments of training, as they are in force.
        dtype: Keras dtype policy to train with.
        jit_compile: Whether XLA compiles sampling and scoring.
        given: The arguments that the user gave.
    """
    path = os.fspath(path)
    model = _build(tokenizer, model_config, dtype)
    os.makedirs(path, exist_ok=True)
    packages = ("tensorflow", "keras", "keras-nlp", "numpy", "pillow")
    storage.write_json(
        os.path.join(path, RUN_FILE),
        {
            "format": FORMAT,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("pixace-tf", *packages)
            },
            "tokenizer": tokenizer.get_config(),
            "model": model_config,
            "given": given or {},
            "arguments": arguments,
        },
    )
    return Run(path, model, tokenizer, arguments, jit_compile)


def open_run(
    path: storage.StrPath, dtype: str = "float32", jit_compile: bool = True
) -> Run:
    """Build the model of a run folder, with new weights; see `create_run`.

    Raises:
        UserError: If the folder is not a usable run.
    """
    path = os.fspath(path)
    config = read_config(path)
    try:
        tokenizer = PixelTokenizer(**config["tokenizer"])
        model = _build(tokenizer, config["model"], dtype)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"The file {os.path.join(path, RUN_FILE)} is damaged: {error}"
        ) from None
    return Run(path, model, tokenizer, config["arguments"], jit_compile)


def load_run(path: storage.StrPath, jit_compile: bool = True) -> Run:
    """Load a trained model, ready to sample from.

    Args:
        path: A run folder, finished or interrupted; or anything else that
            `locate` takes, such as the name of a model in the box.
        jit_compile: Whether XLA compiles sampling and scoring, which pays for
            more than a few images.

    Returns:
        The run with its best weights; before the first validation, with the
        latest ones.

    Raises:
        UserError: If the folder is not a usable run or has no weights yet.
    """
    return load_weights(open_run(locate(path), jit_compile=jit_compile))


def load_weights(run: Run) -> Run:
    """Load the weights of a run from its folder; see `load_run`."""
    for name in (WEIGHTS_FILE, CHECKPOINT_FILE):
        if os.path.exists(run.file(name)):
            _assign(run.model.weights, run.file(name))
            return run
    raise UserError(f"{run.path!r} has no weights yet; go on with `fit`.")


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


def _assign(weights: Sequence[Any], path: str) -> None:
    """Assign variables from a file of arrays by their paths.

    Shapes are compared before any array is read. A UserError says if an array
    is missing, damaged or of another shape; then no variable is changed.
    """
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


def _build(
    tokenizer: PixelTokenizer, model_config: dict[str, Any], dtype: str
) -> PixaceCausalLM:
    return PixaceCausalLM(
        image_size=tokenizer.image_size,
        palette=tokenizer.palette,
        **model_config,
        dtype=dtype,
        name="pixace",
    )

"""A run folder: all that later steps need to know about a model.

    saved_models/NAME/
        run.json         architecture, tokenizer, arguments, versions
        weights.npz      the best weights so far, by validation
        checkpoint.npz   the latest state of training, optimizer included
        tokens.npz       the tokens of the training and validation images
        history.json     one entry per epoch
        learning_curve.png, pictures/, tensorboard/

Loading runs no code from these files: JSON and plain arrays, built by this
package's own classes.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from pixace_tf import storage
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.storage import RUN_FILE

FORMAT = 2
WEIGHTS_FILE = "weights.npz"
CHECKPOINT_FILE = "checkpoint.npz"
TOKENS_FILE = "tokens.npz"
HISTORY_FILE = "history.json"


@dataclasses.dataclass
class Run:
    """A model with its tokenizer, and the folder they live in.

    Attributes:
        path: The run folder.
        model: The model, weights loaded or fresh.
        tokenizer: What its tokens mean.
        arguments: The arguments of training.
        jit_compile: Whether XLA compiles what samples and scores.
    """

    path: str
    model: PixaceCausalLM
    tokenizer: PixelTokenizer
    arguments: dict[str, Any]
    jit_compile: bool = True

    @functools.cached_property
    def sampler(self) -> Sampler:
        """What samples from the model, compiled at its first use."""
        return Sampler(self.model, jit_compile=self.jit_compile)

    def file(self, *names: str) -> str:
        """Return the path of a file of this run."""
        return os.path.join(self.path, *names)


def create_run(
    path: str | os.PathLike[str],
    tokenizer: PixelTokenizer,
    model_config: dict[str, Any],
    arguments: dict[str, Any],
    dtype: str = "float32",
    jit_compile: bool = True,
) -> Run:
    """Build a model and start its run folder.

    Args:
        path: The folder; made where it is missing.
        tokenizer: What the model's tokens mean.
        model_config: Arguments of `PixaceCausalLM` beyond the tokenizer's.
        arguments: JSON-ready arguments of training.
        dtype: Keras dtype policy to train with.
        jit_compile: Whether XLA compiles what samples and scores.

    Returns:
        The run with fresh weights.
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
            "arguments": arguments,
        },
    )
    return Run(path, model, tokenizer, arguments, jit_compile)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check the `run.json` of a run folder.

    Raises:
        UserError: If the folder or file is missing, damaged or made by a
            another version.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise UserError(f"There is no run folder {path!r}.")
    file = os.path.join(path, RUN_FILE)
    if not os.path.exists(file):
        raise UserError(f"{path!r} is no run folder: it has no {RUN_FILE}.")
    try:
        with open(file, encoding="utf-8") as opened:
            config: dict[str, Any] = json.load(opened)
        version = config["format"]
        missing = {"tokenizer", "model", "arguments"} - set(config)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"The file {file} is damaged.") from None
    if version != FORMAT:
        is_newer = not isinstance(version, int) or version > FORMAT
        age, advice = (
            ("a newer", "upgrade pixace-tf")
            if is_newer
            else ("an older", "train it anew")
        )
        raise UserError(
            f"{path!r} was made by {age} pixace-tf (run format {version}, this "
            f"version reads {FORMAT}); {advice}."
        )
    if missing:
        raise UserError(f"The file {file} lacks {', '.join(sorted(missing))}.")
    # Runs from before there were these: mirrored images were the same task.
    config["tokenizer"] = {"trim": False, **config["tokenizer"]}
    plain = (0, 0) if config["arguments"].get("flip") else (0,)
    config["model"] = {
        **{"head_hidden_dim": None, "orders": plain, "labels": []},
        **config["model"],
    }
    return config


def open_run(
    path: str | os.PathLike[str],
    dtype: str = "float32",
    jit_compile: bool = True,
) -> Run:
    """Build the model of a run folder, with fresh weights.

    Args:
        path: The run folder.
        dtype: Keras dtype policy.
        jit_compile: Whether XLA compiles what samples and scores.

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


def load_run(path: str | os.PathLike[str], jit_compile: bool = True) -> Run:
    """Load a trained model, ready to sample from.

    Args:
        path: A run folder, as `fit` leaves it, finished or interrupted.
        jit_compile: Whether XLA compiles what samples and scores. That pays
            from some images on.

    Returns:
        The run with its best weights; before the first validation, with the
        latest ones.

    Raises:
        UserError: If the folder is not a usable run or has no weights yet.
    """
    return load_weights(open_run(path, jit_compile=jit_compile))


def load_weights(run: Run) -> Run:
    """Set the weights of a run to those of its folder; see `load_run`.

    Raises:
        UserError: If the folder has no weights yet, or damaged ones.
    """
    for name in (WEIGHTS_FILE, CHECKPOINT_FILE):
        if os.path.exists(run.file(name)):
            arrays, _ = storage.read_npz(run.file(name))
            assign_by_path(run.model.weights, arrays, run.file(name))
            return run
    raise UserError(f"{run.path!r} has no weights yet; go on with `fit`.")


def get_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the model's weights by the path of each variable."""
    arrays = {v.path: np.asarray(v.value) for v in model.weights}
    assert len(arrays) == len(model.weights), "two weights share a path"
    return arrays


def assign_by_path(
    variables: Sequence[Any], arrays: dict[str, np.ndarray], file: str
) -> None:
    """Assign Keras variables from arrays that go by their paths.

    Args:
        variables: The variables.
        arrays: Arrays by variable path; others are ignored.
        file: Where they come from, for the error.

    Raises:
        UserError: If an array is missing or has another shape; nothing is
            assigned then.
    """
    for variable in variables:
        array = arrays.get(variable.path)
        if array is None or array.shape != tuple(variable.shape):
            raise UserError(
                f"The file {file} does not fit this model: {variable.path} "
                f"should have the shape {tuple(variable.shape)}. Received: "
                f"{None if array is None else array.shape}"
            )
    for variable in variables:
        variable.assign(arrays[variable.path])


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

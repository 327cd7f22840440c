"""Start, open and load run folders; Keras is imported when a model is built."""

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pixace_tf import storage
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.runs import hub, painter
from pixace_tf.runs.catalog import is_in_box, locate
from pixace_tf.runs.run_config import FORMAT, read_config, weights_file
from pixace_tf.sampling.engine import Engine
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.storage import RUN_FILE

if TYPE_CHECKING:
    from pixace_tf.model.causal_lm import PixaceCausalLM


@dataclasses.dataclass
class Run:
    """A model with its tokenizer and its folder.

    Attributes:
        path: The run folder.
        tokenizer: Translates between images and tokens.
        arguments: The arguments of training that are in force, by name.
        build: Returns the model; called once, by `model`.
        jit_compile: Whether XLA compiles sampling and scoring.
        engine: What samples, if not the model in memory.
    """

    path: str
    tokenizer: PixelTokenizer
    arguments: dict[str, Any]
    build: "Callable[[], PixaceCausalLM]"
    jit_compile: bool = True
    engine: Engine | None = None

    @property
    def are_pairs(self) -> bool:
        """Whether its images are pairs of pictures; see `data.pairing`."""
        return self.arguments.get("pairs") is not None

    @functools.cached_property
    def model(self) -> "PixaceCausalLM":
        """The model, built on first use, which imports Keras."""
        return self.build()

    @functools.cached_property
    def sampler(self) -> Sampler:
        """The sampler of the model."""
        if self.engine is None:
            from pixace_tf.sampling.graph_engine import GraphEngine

            self.engine = GraphEngine(self.model, jit_compile=self.jit_compile)
        return Sampler(self.engine)

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
    from pixace_tf.runs import model_weights

    path = os.fspath(path)
    model = model_weights.build_model(tokenizer, model_config, dtype)
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
    return Run(path, tokenizer, arguments, lambda: model, jit_compile)


def open_run(
    path: storage.StrPath, dtype: str = "float32", jit_compile: bool = True
) -> Run:
    """Build the model of a run folder, with new weights; see `create_run`.

    Raises:
        UserError: If the folder is not a usable run.
    """
    run = _read_run(os.fspath(path), dtype, jit_compile)
    run.model  # noqa: B018  An error must come here.
    return run


def load_run(
    path: storage.StrPath,
    jit_compile: bool | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Load a trained model, ready to sample from.

    On a CPU it samples with the run's painter file, which needs no TensorFlow;
    the file is made if it is missing. The Keras model is built when `model` is
    used first.

    Args:
        path: A run folder, finished or interrupted; or anything else that
            `locate` takes, such as the name of a model in the box.
        jit_compile: None for the painter file where there is no GPU. A bool
            samples with the Keras model and tells whether XLA compiles it.
        say: Takes the lines that say what takes time.

    Returns:
        The run with its best weights; before the first validation, with the
        latest ones.

    Raises:
        UserError: If the folder is not a usable run or has no weights yet.
    """
    run = _read_run(locate(path, say), "float32", jit_compile is not False)
    file = weights_file(run.path)
    build = run.build

    def load() -> "PixaceCausalLM":
        from pixace_tf.runs import model_weights

        model = build()
        model_weights.load(model, file)
        return model

    run.build = load
    if jit_compile is None:
        is_own = not (is_in_box(run.path) or hub.is_address(os.fspath(path)))
        run.engine = painter.open_engine(run.path, is_own, say)
    else:
        run.model  # noqa: B018  An error must come here.
    return run


def _read_run(path: str, dtype: str, jit_compile: bool) -> Run:
    """Read a run folder; the model has new weights."""
    config = read_config(path)
    file = os.path.join(path, RUN_FILE)
    try:
        tokenizer = PixelTokenizer(**config["tokenizer"])
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"The file {file} is damaged: {error}") from None

    def build() -> "PixaceCausalLM":
        from pixace_tf.runs import model_weights

        try:
            return model_weights.build_model(tokenizer, config["model"], dtype)
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"The file {file} is damaged: {error}") from None

    return Run(path, tokenizer, config["arguments"], build, jit_compile)

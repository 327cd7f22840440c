"""Find, make and open the painter file of a run.

    python -m pixace_tf.runs.painter RUN FILE

makes the file; TensorFlow's converter loses memory, so it gets a process of its
own. The file lies in the run folder; for runs that are not the user's own, such
as those in the box, and for folders that are read-only, in the cache.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator

from pixace_tf import machine, storage
from pixace_tf.errors import UserError, first_line
from pixace_tf.runs.run_config import (
    PAINTER_FILE,
    read_config,
    weights_file,
)
from pixace_tf.sampling import self_test
from pixace_tf.sampling.engine import Engine, ModelFacts
from pixace_tf.sampling.lite_engine import LiteEngine
from pixace_tf.sampling.painter_file import PainterFile
from pixace_tf.sampling.sampler import Sampler

_RUNTIME = "ai-edge-litert"
# Folders of the cache.
_PAINTERS, _PASSED = "painters", "self-tests"


class ConversionError(UserError):
    """A model that is not converted; the message is the reason."""


def open_engine(
    path: str, is_own: bool = True, say: Callable[[str], None] = print
) -> Engine | None:
    """Return an engine with the painter file of a run.

    Args:
        path: The run folder.
        is_own: Whether the file may be written there.
        say: Takes the lines that say what takes time, or what is wrong.

    Returns:
        The engine, or None if TensorFlow must sample: if there is a GPU, a flat
        decoder, or no runtime that gives the right pixels.

    Raises:
        UserError: If the run has no weights, or its files are damaged.
    """
    if machine.has_gpu() or not is_supported(path):
        return None
    try:
        version = importlib.metadata.version(_RUNTIME)
    except importlib.metadata.PackageNotFoundError:
        say(f"TensorFlow paints, slower: {_RUNTIME} is not installed.")
        return None
    try:
        painter = find(path) or make(path, is_own, say)
    except ConversionError as error:
        say(f"TensorFlow paints, slower: {error}")
        return None
    try:
        engine = LiteEngine.of(painter)
        engine.prepare()
        is_right = _has_passed(painter, engine, version)
    except (ImportError, ValueError, RuntimeError) as error:
        say(f"TensorFlow paints, slower: {_RUNTIME} {version}: {error}")
        return None
    if not is_right:
        say(
            f"TensorFlow paints, slower: {_RUNTIME} {version} gives wrong "
            "pixels on this machine; please report it."
        )
        return None
    return engine


def is_supported(path: str) -> bool:
    """Tell whether LiteRT paints with this run.

    The cache of a flat decoder grows, which XNNPACK does not take within a
    loop; XLA is faster than LiteRT is with a cache of a fixed length.
    """
    return bool(read_config(path)["model"]["decoder"] == "multiscale")


def find(path: str) -> PainterFile | None:
    """Return the painter file of a run's weights, or None if there is none.

    A damaged file, or one of other weights, does not count.
    """
    weights = storage.npz_digest(weights_file(path))
    for file in [os.path.join(path, PAINTER_FILE), *_cached(weights)]:
        with contextlib.suppress(UserError):
            painter = PainterFile.open(file)
            if painter.weights == weights:
                return painter
    return None


def make(
    path: str, is_own: bool = True, say: Callable[[str], None] = print
) -> PainterFile:
    """Make the painter file of a run, in a process of its own.

    Args:
        path: The run folder.
        is_own: Whether to write it there rather than into the cache.
        say: Takes the line that says what takes time.

    Raises:
        ConversionError: If it cannot be made.
        UserError: If the run has no weights.
    """
    if not is_supported(path):
        raise ConversionError(
            f"{path} has a flat decoder; LiteRT paints only with the decoder "
            "multiscale."
        )
    weights = storage.npz_digest(weights_file(path))
    places = [os.path.join(path, PAINTER_FILE)] if is_own else []
    places += _cached(weights)
    for place in places:
        folder = os.path.dirname(place)
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            if os.access(folder, os.W_OK):
                break
    else:
        raise ConversionError(f"no folder for {PAINTER_FILE} is writable")
    say(f"Preparing {path} for painting, once: {place}")
    # This package may lie where only this process looks.
    root = str(pathlib.Path(__file__).parent.parent.parent)
    python_path = os.pathsep.join(filter(None, [root, *sys.path]))
    result = subprocess.run(
        [sys.executable, "-m", "pixace_tf.runs.painter", path, place],
        env={
            **os.environ,
            "PYTHONPATH": python_path,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
            "KERAS_BACKEND": "tensorflow",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["it was killed"]
        raise ConversionError(f"{path} could not be converted: {lines[-1]}")
    return PainterFile.open(place)


def _convert(path: str, place: str) -> None:
    """Write the painter file of a run; needs TensorFlow."""
    from pixace_tf.runs.run_folder import load_run
    from pixace_tf.sampling import converter, painter_file

    weights = storage.npz_digest(weights_file(path))
    run = load_run(path, jit_compile=False)
    content, test = converter.convert(run.model)
    facts, tokenizer = ModelFacts.of(run.model), run.tokenizer.get_config()
    painter_file.write(place, content, facts, tokenizer, weights, test)


def _has_passed(painter: PainterFile, engine: LiteEngine, version: str) -> bool:
    """Tell whether this runtime passes the self-test of a file; ask once."""
    text = f"{painter.digest} {version} {platform.platform()}"
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    folder = machine.cache_folder()
    stamp = None if folder is None else folder / _PASSED / name
    if stamp is not None and stamp.exists():
        return True
    if not self_test.passes(Sampler(engine), painter.self_test):
        return False
    if stamp is not None:
        with contextlib.suppress(OSError):
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.touch()
    return True


def _cached(weights: str) -> Iterator[str]:
    """Yield the path of a painter file in the cache, if there is a cache."""
    folder = machine.cache_folder()
    if folder is not None:
        yield str(folder / _PAINTERS / f"{weights}.tflite")


if __name__ == "__main__":
    try:
        _convert(*sys.argv[1:])
    except Exception as error:
        sys.exit(first_line(error))

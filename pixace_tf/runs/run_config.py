"""The files of a run folder, which hold everything that later steps need.

    saved_models/NAME/
        run.json         architecture, tokenizer, versions, and the arguments:
                         "given" by the user, and the "arguments" in force
        weights.npz      the best weights so far, by validation
        checkpoint.npz   the latest state of training, optimizer included
        tokens.npz       the tokens of the training and validation images
        history.json     one entry per epoch
        samples.png      a strip of new images, side by side
        completed.png    a sheet of completed validation images
        examples.png     a strip of validation images, if the run was published
                         without its tokens
        painter.tflite   the best weights and the graphs of painting, for LiteRT
        learning_curve.png, pictures/, tensorboard/

Loading runs no code from these files: they are JSON and plain arrays, from
which this package builds its own classes. This module needs no TensorFlow.
"""

import os
from typing import Any

from pixace_tf.errors import UserError
from pixace_tf.storage import RUN_FILE, StrPath, read_json

FORMAT = 2
WEIGHTS_FILE = "weights.npz"
CHECKPOINT_FILE = "checkpoint.npz"
TOKENS_FILE = "tokens.npz"
HISTORY_FILE = "history.json"
SAMPLES_FILE = "samples.png"
COMPLETED_FILE = "completed.png"
EXAMPLES_FILE = "examples.png"
PAINTER_FILE = "painter.tflite"


def read_config(path: StrPath) -> dict[str, Any]:
    """Read and check `run.json`; a UserError says why a run is unusable."""
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise UserError(f"There is no run folder {path!r}.")
    file = os.path.join(path, RUN_FILE)
    if not os.path.exists(file):
        raise UserError(f"{path!r} is no run folder: it has no {RUN_FILE}.")
    try:
        config: dict[str, Any] = read_json(file)
        version = config["format"]
        sections = {"tokenizer", "model", "arguments"}
        missing = sections - set(config)
        if not all(isinstance(config[n], dict) for n in sections - missing):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"The file {file} is damaged.") from None
    if version != FORMAT:
        is_newer = not isinstance(version, int) or version > FORMAT
        age = "a newer" if is_newer else "an older"
        advice = "upgrade pixace-tf" if is_newer else "train it anew"
        raise UserError(
            f"{path!r} was made by {age} pixace-tf (run format {version}, this "
            f"version reads {FORMAT}); {advice}."
        )
    if missing:
        raise UserError(f"The file {file} lacks {', '.join(sorted(missing))}.")
    # Older runs lack these keys; mirrored images had no order of their own.
    config["tokenizer"] = {"trim": False, **config["tokenizer"]}
    plain = (0, 0) if config["arguments"].get("flip") else (0,)
    config["model"] = {
        "head_hidden_dim": None,
        "orders": plain,
        "labels": [],
        **config["model"],
    }
    return config


def weights_file(path: StrPath) -> str:
    """Return the path of a run's best weights, or else of its latest.

    Raises:
        UserError: If it has none yet.
    """
    for name in (WEIGHTS_FILE, CHECKPOINT_FILE):
        file = os.path.join(path, name)
        if os.path.exists(file):
            return file
    raise UserError(
        f"{os.fspath(path)!r} has no weights yet; go on with `fit`."
    )


def best_entry(path: StrPath) -> dict[str, float] | None:
    """Return the history entry of the epoch with the fewest bits per pixel.

    It is None before the first validation, or if the history is lost.
    """
    key = "val_bits_per_pixel"
    try:
        history = read_json(os.path.join(path, HISTORY_FILE))
        scored = [
            {name: float(value) for name, value in entry.items()}
            for entry in history
            if key in entry
        ]
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    return min(scored, key=lambda entry: entry[key], default=None)

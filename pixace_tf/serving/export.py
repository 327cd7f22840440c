"""Exports a run as a numbered SavedModel in its folder, for TF Serving.

    saved_models/NAME/
        1/, 2/, ...      versions; the server takes the highest
        README.md        the model card, which shows how to call the model

A version is written atomically and never changed.
"""

import contextlib
import io
import itertools
import os
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.runs import model_card
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling.sampling_config import SamplingConfig
from pixace_tf.serving.served_model import BLOCK_ROWS, ServedModel

# Sizes of the server's batches, as in `serving/batching.txt`.
BATCH_SIZES = (1, 2, 4, BLOCK_ROWS)
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def export(
    run: Run,
    keep: int | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Write the next version of a run, and the card of the model.

    Args:
        run: A trained model.
        keep: Number of versions to keep, including this one; older ones are
            removed. By default, all are kept.
        say: Called with each line of the report.

    Returns:
        The folder of the version.

    Raises:
        UserError: If `keep` is not positive.
    """
    if keep is not None and keep < 1:
        raise UserError(f"keep must be positive. Received: keep={keep}")
    path = _write_version(run)
    say(f"{path}: {_megabytes(path):.1f} MB")
    if keep is not None:
        for number in versions(run.path)[:-keep]:
            storage.remove_folder(run.file(str(number)))
            say(f"Removed version {number}.")
    card = run.file(model_card.CARD_FILE)
    if model_card.is_own(run.path):
        say(f"{card} is your own and stays as it is.")
    else:
        text = model_card.for_export(run.path, os.path.basename(path))
        storage.write_atomic(card, text.encode())
    return path


def versions(path: str) -> list[int]:
    """Return the exported versions in a run folder, the oldest first."""
    return sorted(
        int(name)
        for name in os.listdir(path)
        if name.isdecimal() and os.path.isdir(os.path.join(path, name))
    )


def example_inputs(run: Run, count: int) -> dict[str, np.ndarray]:
    """Return `count` rows of inputs of `complete` that cost little."""
    height, width = run.tokenizer.image_size
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "gray").save(buffer, "PNG")
    return {
        "image_bytes": np.array([buffer.getvalue()] * count, object),
        "prefix_length": np.full(count, height * width - 1, np.int32),
        **SamplingConfig().arrays(count),
        "seed": np.arange(count, dtype=np.int64),
    }


def _write_version(run: Run) -> str:
    served = ServedModel(run.model, run.tokenizer)
    for number in itertools.count(max(versions(run.path), default=0) + 1):
        path = run.file(str(number))
        # Another export may take the number in the meantime.
        with contextlib.suppress(FileExistsError):
            with storage.new_folder(path) as temporary:
                served.save(temporary)
                _write_warmup(run, os.path.join(temporary, WARMUP_FILE))
            break
    return path


def _write_warmup(run: Run, path: str) -> None:
    """Write requests that the server runs when it loads the version."""
    os.makedirs(os.path.dirname(path))
    name = os.path.basename(os.path.abspath(run.path))
    with tf.io.TFRecordWriter(path) as writer:
        for count in BATCH_SIZES:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = "serving_default"
            for key, value in example_inputs(run, count).items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def _megabytes(path: str) -> float:
    files = pathlib.Path(path).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6

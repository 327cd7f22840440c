"""A client of TensorFlow Serving: the same pictures, over the wire.

Needs no TensorFlow, but for gRPC, whose messages bring it along.

Shapes: B rows of a request, T pixels.
"""

import base64
import functools
import http.client
import io
import json
import random
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pixace_tf.data import image_files
from pixace_tf.painting import sheets
from pixace_tf.sampling.sampling_config import Filters

# What the batching of the server takes at most.
MAX_ROWS = 8
# Requests under way at once, so that the server has what to batch.
NUM_CONNECTIONS = 4
TRIES = 6
FIRST_PAUSE_S = 0.25
TIMEOUT_S = 600.0

Arrays = dict[str, np.ndarray]

# Status codes of gRPC, and those of HTTP that TF Serving gives for them.
_CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
_CODES |= {501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
_ADVICE = {
    "NOT_FOUND": "is the name of --model right, and is a version exported?",
    "RESOURCE_EXHAUSTED": "the server has too much to do; try again later.",
    "UNAVAILABLE": "is the server running, and the model loaded?",
    "DEADLINE_EXCEEDED": "give the server a longer --rest_api_timeout_in_ms.",
    "UNIMPLEMENTED": "is this a TensorFlow Serving?",
}
_DTYPES = {
    "prefix_length": np.int32,
    "top_k": np.int32,
    "token_ids": np.int32,
    "seed": np.int64,
}


class ServerError(ConnectionError):
    """A server that does not answer as it should; the message says why."""


class _StatusError(Exception):
    """An answer with a status code other than OK."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Server:
    """A model behind a TensorFlow Serving.

    Args:
        address: `http://HOST:PORT` or `https://...` for REST,
            `grpc://HOST:PORT` for gRPC.
        model: The name that the server gives the model.
        timeout_s: Time for one request.

    Raises:
        ValueError: If the address has another form.
    """

    def __init__(
        self, address: str, model: str = "model", timeout_s: float = TIMEOUT_S
    ) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https", "grpc") or not parts.hostname:
            raise ValueError(
                "A server is given as http://HOST:PORT or grpc://HOST:PORT. "
                f"Received: {address!r}"
            )
        self.address = address.rstrip("/")
        self.model = model
        self.timeout_s = timeout_s
        self._call = (
            _grpc_call(parts.netloc)
            if parts.scheme == "grpc"
            else functools.partial(_rest_call, self.address)
        )

    def predict(self, signature_name: str, inputs: Arrays) -> Arrays:
        """Run a signature; try again while the server is unavailable.

        Args:
            signature_name: Such as `complete`; see `ServedModel`.
            inputs: Arrays `(B, ...)`; pictures as arrays of `bytes` objects.

        Returns:
            Arrays `(B, ...)`.

        Raises:
            ValueError: If the server refuses an input.
            ServerError: For every other failure.
        """
        pause = FIRST_PAUSE_S
        for remaining in reversed(range(TRIES)):
            try:
                return self._call(
                    self.model, signature_name, inputs, self.timeout_s
                )
            except _StatusError as error:
                if error.code == "INVALID_ARGUMENT":
                    raise ValueError(f"The server refused: {error}") from None
                if error.code != "UNAVAILABLE" or not remaining:
                    advice = _ADVICE.get(error.code, "")
                    raise ServerError(
                        f"{self.address}: {error.code}: {error} {advice}"
                    ) from None
            # Not all clients at the same moment.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2
        raise AssertionError


def complete(
    server: Server,
    pictures: Sequence[str | np.ndarray],
    *,
    keep: float = 0.5,
    prefix_length: int | None = None,
    temperatures: Sequence[float] = (1.0,),
    samples: int = 1,
    seed: int = 0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[np.ndarray], None] | None = None,
) -> sheets.Completions:
    """Complete pictures; see `painting.complete` for the arguments.

    A server shows no picture before it is whole: `watch` is shown the end.

    Raises:
        ValueError: If a picture is not usable or a value is out of range.
        ServerError: If the server does not answer as it should.
    """
    sheets.check_completing(pictures, keep, samples)
    filters = Filters(temperatures, top_k, top_p, min_p)
    filters.arrays(len(temperatures))
    scored = _score(server, pictures)
    small = scored["image_bytes"]
    originals = _pictures(small)
    length = scored["token_ids"].shape[1]
    if prefix_length is None:
        prefix_length = round(keep * length)
    if not 0 <= prefix_length <= length:
        raise ValueError(
            f"prefix_length must lie in [0, {length}]. "
            f"Received: {prefix_length}"
        )
    columns = len(temperatures) * samples
    rows = {
        "image_bytes": np.repeat(small, columns),
        "temperature": np.tile(np.repeat(temperatures, samples), len(small)),
        "seed": np.tile(
            seed + np.arange(samples), len(small) * len(temperatures)
        ),
        **_all_rows(
            len(small) * columns,
            prefix_length=prefix_length,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        ),
    }
    drawn = _predict_all(server, "complete", rows, progress)
    painted = _pictures(drawn["image_bytes"])
    # What was kept is the same in every column.
    kept = [sheets.hide_after(p, prefix_length) for p in painted[::columns]]
    shape = (len(small), len(temperatures), samples, *originals.shape[1:])
    painted = painted.reshape(shape)
    if watch is not None:
        watch(painted)
    return sheets.Completions(
        originals,
        np.stack(kept),
        painted,
        tuple(float(t) for t in temperatures),
    )


def generate(
    server: Server,
    count: int = 16,
    *,
    temperatures: Sequence[float] = (1.0,),
    seed: int = 0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Draw new pictures; see `painting.generate` and `complete`.

    Raises:
        ValueError: If a value is out of range.
        ServerError: If the server does not answer as it should.
    """
    sheets.check_positive("count", count)
    Filters(temperatures, top_k, top_p, min_p).arrays(len(temperatures))
    rows = {
        "temperature": np.repeat(temperatures, count),
        "seed": np.tile(seed + np.arange(count), len(temperatures)),
        **_all_rows(
            len(temperatures) * count, top_k=top_k, top_p=top_p, min_p=min_p
        ),
    }
    drawn = _predict_all(server, "generate", rows, progress)
    painted = _pictures(drawn["image_bytes"])
    painted = painted.reshape(len(temperatures), count, *painted.shape[1:])
    if watch is not None:
        watch(painted)
    return painted


def shrink(server: Server, picture: str | np.ndarray) -> np.ndarray:
    """Return a picture as the model sees it; see `painting.shrink`.

    Raises:
        ValueError: If the picture is not usable.
        ServerError: If the server does not answer as it should.
    """
    scored = _score(server, [picture])
    whole = {
        "image_bytes": scored["image_bytes"],
        "seed": np.zeros(1),
        **_all_rows(
            1,
            prefix_length=scored["token_ids"].shape[1],
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_p=0.0,
        ),
    }
    answer = _predict_all(server, "complete", whole)
    return _pictures(answer["image_bytes"])[0]


def _score(server: Server, pictures: Sequence[str | np.ndarray]) -> Arrays:
    """Return what the server sees of pictures."""

    def score(is_plain: bool | None) -> Arrays:
        files = [_file(picture, is_plain) for picture in pictures]
        return _predict_all(
            server, "score", {"image_bytes": np.array(files, object)}
        )

    try:
        return score(None)
    except ValueError:
        if not any(isinstance(picture, str) for picture in pictures):
            raise
        # Rare kinds of JPEG and PNG that only Pillow reads.
        return score(False)


def _all_rows(count: int, **values: float) -> Arrays:
    return {name: np.full(count, value) for name, value in values.items()}


def _predict_all(
    server: Server,
    signature_name: str,
    rows: Arrays,
    progress: Callable[[int, int], None] | None = None,
) -> Arrays:
    """Run a signature on any number of rows, some at a time."""
    rows = {
        name: value.astype(_DTYPES.get(name, value.dtype))
        for name, value in rows.items()
    }
    count = len(next(iter(rows.values())))
    requests = [
        {name: value[i : i + MAX_ROWS] for name, value in rows.items()}
        for i in range(0, count, MAX_ROWS)
    ]
    answers = []
    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        for answer in pool.map(
            functools.partial(server.predict, signature_name), requests
        ):
            answers.append(answer)
            if progress is not None:
                progress(min(len(answers) * MAX_ROWS, count), count)
    return {
        name: np.concatenate([answer[name] for answer in answers])
        for name in answers[0]
    }


def _file(picture: str | np.ndarray, is_plain: bool | None) -> bytes:
    if isinstance(picture, str):
        return image_files.read(picture, is_plain=is_plain)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _pictures(files: np.ndarray) -> np.ndarray:
    """Decode PNG files of one size to uint8 `(B, height, width, 3)`."""
    return np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in files])


def _rest_call(
    address: str,
    model: str,
    signature_name: str,
    inputs: Arrays,
    timeout_s: float,
) -> Arrays:
    body = {
        "signature_name": signature_name,
        "inputs": {
            name: [{"b64": base64.b64encode(v).decode()} for v in value]
            if value.dtype == object
            else value.tolist()
            for name, value in inputs.items()
        },
    }
    name = urllib.parse.quote(model, safe="")
    request = urllib.request.Request(
        f"{address}/v1/models/{name}:predict",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        code = _CODES.get(error.code, f"HTTP {error.code}")
        raise _StatusError(code, _message(error)) from None
    except TimeoutError:
        raise _StatusError("DEADLINE_EXCEEDED", "no answer in time;") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError | socket.gaierror | ssl.SSLError):
            # Another try would not help.
            raise ServerError(f"{address}: {reason}") from None
        raise _StatusError("UNAVAILABLE", f"{reason};") from None
    except ValueError:
        raise _StatusError("UNIMPLEMENTED", "no JSON in the answer;") from None
    try:
        return {
            name: np.array([base64.b64decode(v["b64"]) for v in value], object)
            if name.endswith("_bytes")
            else np.array(value)
            for name, value in answer["outputs"].items()
        }
    except (AttributeError, KeyError, TypeError):
        raise _StatusError("UNIMPLEMENTED", "no such answer known;") from None


def _message(error: urllib.error.HTTPError) -> str:
    """Return the server's own words, or those of HTTP."""
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return error.reason


def _grpc_call(target: str) -> Callable[..., Arrays]:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import (
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    stub = prediction_service_pb2_grpc.PredictionServiceStub(
        grpc.insecure_channel(
            target,
            [
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
            ],
        )
    )

    def call(
        model: str, signature_name: str, inputs: Arrays, timeout_s: float
    ) -> Arrays:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature_name
        for name, value in inputs.items():
            # TF Serving takes float32 for the filters.
            narrow = (
                value.astype(np.float32) if value.dtype.kind == "f" else value
            )
            request.inputs[name].CopyFrom(tf.make_tensor_proto(narrow))
        try:
            answer = stub.Predict(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise _StatusError(error.code().name, error.details()) from None
        return {
            name: tf.make_ndarray(value)
            for name, value in answer.outputs.items()
        }

    return call

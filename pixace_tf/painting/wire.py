"""The wire to a TensorFlow Serving: REST and gRPC, with patience.

Needs no TensorFlow, but for gRPC, whose messages bring it along.

Shapes: B rows of a request.
"""

import base64
import functools
import http.client
import json
import random
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

import numpy as np

from pixace_tf.errors import UserError

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
        UserError: If the address has another form.
    """

    def __init__(
        self, address: str, model: str = "model", timeout_s: float = TIMEOUT_S
    ) -> None:
        try:
            parts = urllib.parse.urlsplit(address)
            scheme, host = parts.scheme, parts.hostname
        except ValueError:  # Such as http://[::1
            scheme, host = "", None
        if scheme not in ("http", "https", "grpc") or not host:
            raise UserError(
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
            inputs: Arrays `(B, ...)`; images as arrays of `bytes` objects.

        Returns:
            Arrays `(B, ...)`.

        Raises:
            UserError: If the server refuses an input.
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
                    raise UserError(f"The server refused: {error}") from None
                if error.code != "UNAVAILABLE" or not remaining:
                    advice = _ADVICE.get(error.code, "")
                    raise ServerError(
                        f"{self.address}: {error.code}: {error} {advice}"
                    ) from None
            # Not all clients at the same moment.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2
        raise AssertionError


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
    except (AttributeError, KeyError, TypeError, ValueError):
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

"""The client of a TensorFlow Serving, over REST and gRPC, with retries.

Only gRPC needs TensorFlow, because its messages do.

Shapes: B rows of a request.
"""

import base64
import json
import urllib.parse
from collections.abc import Callable
from typing import Any

import numpy as np
import requests
import requests.adapters
import urllib3
import urllib3.exceptions

from pixace_tf.errors import UserError

# Calls of an unavailable server, and the factor of the growing pauses between.
TRIES = 5
PAUSE_S = 0.5
TIMEOUT_S = 600.0

Arrays = dict[str, np.ndarray]

# Status codes of gRPC by those of HTTP, as TF Serving translates them.
_CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
_CODES |= {501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
_ADVICE = {
    "NOT_FOUND": "is the name of --model right, and is a version exported?",
    "RESOURCE_EXHAUSTED": "the server is overloaded; try again later.",
    "UNAVAILABLE": "is the server running, and the model loaded?",
    "DEADLINE_EXCEEDED": "give the server a longer --rest_api_timeout_in_ms.",
    "UNIMPLEMENTED": "is this a TensorFlow Serving?",
}


class ServerError(ConnectionError):
    """A server fails or gives an unusable answer; the message says why."""


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
            else _rest_call(self.address)
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
        try:
            return self._call(
                self.model, signature_name, inputs, self.timeout_s
            )
        except _StatusError as error:
            if error.code == "INVALID_ARGUMENT":
                raise UserError(f"The server refused: {error}") from None
            advice = _ADVICE.get(error.code, "")
            raise ServerError(
                f"{self.address}: {error.code}: {error} {advice}"
            ) from None


class _Retry(urllib3.Retry):
    """Retries that do not repeat what would fail again, or only after long."""

    def increment(self, *args: Any, **kwargs: Any) -> Any:
        error = kwargs.get("error")
        if isinstance(
            error,
            urllib3.exceptions.NameResolutionError
            | urllib3.exceptions.ReadTimeoutError
            | urllib3.exceptions.SSLError,
        ):
            raise error
        return super().increment(*args, **kwargs)


def _rest_call(address: str) -> Callable[..., Arrays]:
    session = requests.Session()
    retry = _Retry(
        TRIES - 1,
        backoff_factor=PAUSE_S,
        # Not all clients at the same moment.
        backoff_jitter=PAUSE_S,
        status_forcelist=[503],
        allowed_methods=None,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def call(
        model: str, signature_name: str, inputs: Arrays, timeout_s: float
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
        try:
            response = session.post(
                f"{address}/v1/models/{name}:predict",
                json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
                timeout=timeout_s,
            )
        except requests.Timeout:
            raise _StatusError(
                "DEADLINE_EXCEEDED", "no answer in time;"
            ) from None
        except requests.RequestException as error:
            raise _StatusError("UNAVAILABLE", f"{_reason(error)};") from None
        return _arrays_in(response)

    return call


def _reason(error: requests.RequestException) -> BaseException:
    """Return the innermost cause of an error."""
    reason: BaseException = error
    while isinstance(inner := _inner(reason), BaseException):
        reason = inner
    return reason


def _inner(error: BaseException) -> Any:
    return getattr(error, "reason", None) or (error.args or (None,))[0]


def _arrays_in(response: requests.Response) -> Arrays:
    if not response.ok:
        code = _CODES.get(response.status_code, f"HTTP {response.status_code}")
        raise _StatusError(code, _message(response))
    try:
        answer = response.json()
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


def _message(response: requests.Response) -> str:
    """Return the server's own words, or those of HTTP."""
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return str(response.reason)


def _grpc_call(target: str) -> Callable[..., Arrays]:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import (
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    policy = {
        "name": [{}],  # All methods.
        "retryPolicy": {
            "maxAttempts": TRIES,
            "initialBackoff": f"{PAUSE_S}s",
            "maxBackoff": "10s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }
    stub = prediction_service_pb2_grpc.PredictionServiceStub(
        grpc.insecure_channel(
            target,
            [
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # Longer messages are not repeated.
                ("grpc.per_rpc_retry_buffer_size", 2**28),
                ("grpc.service_config", json.dumps({"methodConfig": [policy]})),
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
            # TF Serving expects float32.
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

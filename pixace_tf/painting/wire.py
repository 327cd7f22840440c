"""The client of a TensorFlow Serving, over REST and gRPC, with retries.

Only the messages of gRPC need TensorFlow.

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

# An unavailable server is called so often, with growing pauses from this one.
TRIES = 5
PAUSE_S = 0.5
TIMEOUT_S = 600.0

Arrays = dict[str, np.ndarray]
_Call = Callable[[str, Arrays], Arrays]

# Status codes of HTTP and gRPC, as TF Serving translates them.
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
        model: The model's name on the server.
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
        self._call = (
            _grpc_call(parts.netloc, model, timeout_s)
            if scheme == "grpc"
            else _rest_call(self.address, model, timeout_s)
        )

    def predict(self, signature_name: str, inputs: Arrays) -> Arrays:
        """Run a signature; try again while the server is unavailable.

        Args:
            signature_name: For example `complete`; see `ServedModel`.
            inputs: Arrays `(B, ...)`; image files as arrays of `bytes` objects.

        Returns:
            Arrays `(B, ...)`.

        Raises:
            UserError: If the server refuses an input.
            ServerError: For every other failure.
        """
        try:
            return self._call(signature_name, inputs)
        except _StatusError as error:
            if error.code == "INVALID_ARGUMENT":
                raise UserError(f"The server refused: {error}") from None
            advice = _ADVICE.get(error.code, "")
            raise ServerError(
                f"{self.address}: {error.code}: {error} {advice}"
            ) from None


class _Retry(urllib3.Retry):
    """Retries, except after a timeout or an error that would come again."""

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


def _rest_call(address: str, model: str, timeout_s: float) -> _Call:
    session = requests.Session()
    retry = _Retry(
        TRIES - 1,
        backoff_factor=PAUSE_S,
        # Clients must not all call again at the same moment.
        backoff_jitter=PAUSE_S,
        status_forcelist=[503],
        allowed_methods=None,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    url = f"{address}/v1/models/{urllib.parse.quote(model, safe='')}:predict"

    def call(signature_name: str, inputs: Arrays) -> Arrays:
        body = {
            "signature_name": signature_name,
            "inputs": {
                name: [{"b64": base64.b64encode(v).decode()} for v in value]
                if value.dtype == object
                else value.tolist()
                for name, value in inputs.items()
            },
        }
        try:
            response = session.post(
                url,
                json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
                timeout=timeout_s,
            )
        except requests.Timeout:
            message = "no answer in time;"
            raise _StatusError("DEADLINE_EXCEEDED", message) from None
        except requests.RequestException as error:
            raise _StatusError("UNAVAILABLE", f"{_reason(error)};") from None
        return _arrays_in(response)

    return call


def _reason(error: requests.RequestException) -> BaseException:
    """Return the innermost cause of an error."""
    inner: Any = error
    while isinstance(inner, BaseException):
        reason = inner
        inner = getattr(inner, "reason", None) or (inner.args or (None,))[0]
    return reason


def _arrays_in(response: requests.Response) -> Arrays:
    if not response.ok:
        code = _CODES.get(response.status_code, f"HTTP {response.status_code}")
        try:
            message = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            message = response.reason
        raise _StatusError(code, str(message))
    try:
        return {
            name: np.array([base64.b64decode(v["b64"]) for v in value], object)
            if name.endswith("_bytes")
            else np.array(value)
            for name, value in response.json()["outputs"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        message = "the answer has an unknown form;"
        raise _StatusError("UNIMPLEMENTED", message) from None


def _grpc_call(target: str, model: str, timeout_s: float) -> _Call:
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
                # Messages above this are not sent again.
                ("grpc.per_rpc_retry_buffer_size", 2**28),
                ("grpc.service_config", json.dumps({"methodConfig": [policy]})),
            ],
        )
    )

    def call(signature_name: str, inputs: Arrays) -> Arrays:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature_name
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        try:
            answer = stub.Predict(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise _StatusError(error.code().name, error.details()) from None
        return {
            name: tf.make_ndarray(value)
            for name, value in answer.outputs.items()
        }

    return call

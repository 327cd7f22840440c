"""A stand-in for TensorFlow Serving, for tests.

It loads a version as the server does (the graph and the saver of the
SavedModel in a session, XLA compilation switched off, warm-up requests played)
and speaks its protocols, gRPC Predict and GetModelMetadata and REST, with its
rules for names, rows, batches and errors. This package is not imported.

Command: python tests/stand_in.py FOLDER NAME
Prints a line of JSON with its ports when it is ready; ends with its parent's
standard input.
"""

import base64
import ctypes
import json
import os
import queue
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

MAX_BATCH_SIZE = 8
ALLOWED_BATCH_SIZES = (1, 2, 4, 8)
BATCH_TIMEOUT_S = 0.02
HTTP_CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "UNAVAILABLE": 503,
}


class StatusError(Exception):
    def __init__(self, message, code="INVALID_ARGUMENT"):
        super().__init__(message)
        self.code = code


def disable_xla():
    """Switch off XLA, which is the server's default."""
    library = ctypes.CDLL(
        os.path.join(tf.sysconfig.get_lib(), "libtensorflow_cc.so.2")
    )
    library._ZN10tensorflow21DisableXlaCompilationEv()


class Model:
    """The highest version in a folder, in a session, with batching."""

    def __init__(self, folder, name):
        self.name = name
        self.version = max(int(n) for n in os.listdir(folder) if n.isdigit())
        path = os.path.join(folder, str(self.version))
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.loader.load(
                self.session, ["serve"], path
            )
        self.signatures = meta_graph.signature_def
        self.batch_sizes = []
        self.queues = {}
        for key in self.signatures:
            self.queues[key] = queue.Queue(100)
            threading.Thread(
                target=self._batch, args=[key], daemon=True
            ).start()
        self.warmed_up = self._warm_up(path)

    def _warm_up(self, path):
        records = tf.compat.v1.io.tf_record_iterator(
            os.path.join(path, "assets.extra", "tf_serving_warmup_requests")
        )
        count = 0
        for record in records:
            log = prediction_log_pb2.PredictionLog.FromString(record)
            request = log.predict_log.request
            inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
            self._run(request.model_spec.signature_name, inputs)
            count += 1
        return count

    def predict(self, name, signature_name, inputs):
        if name != self.name:
            message = f"Servable not found for request: Latest({name})"
            raise StatusError(message, "NOT_FOUND")
        key = signature_name or "serving_default"
        if key not in self.queues or not self.signatures[key].inputs:
            raise StatusError(f'Serving signature key "{key}" not found.')
        signature = self.signatures[key]
        for alias, value in signature.defaults.items():
            inputs.setdefault(alias, tf.make_ndarray(value))
        if set(inputs) != set(signature.inputs):
            extra, missing = (
                ",".join(sorted(one - other))
                for one, other in [
                    (set(inputs), set(signature.inputs)),
                    (set(signature.inputs), set(inputs)),
                ]
            )
            raise StatusError(
                f"input size does not match signature: Sent extra: {{{extra}}}."
                f" Missing but required: {{{missing}}}."
            )
        sizes = {value.shape[:1] for value in inputs.values()}
        if len(sizes) > 1 or () in sizes:
            raise StatusError(
                "Batching session Run() input tensors must have equal "
                "0th-dimension size"
            )
        ((size,),) = sizes
        if size > MAX_BATCH_SIZE:
            raise StatusError(
                f"Task size {size} is larger than maximum input batch size "
                f"{MAX_BATCH_SIZE}"
            )
        future = futures.Future()
        try:
            self.queues[key].put_nowait((inputs, size, future))
        except queue.Full:
            message = "The batch queue is full"
            raise StatusError(message, "UNAVAILABLE") from None
        return future.result()

    def _batch(self, key):
        """Put waiting requests together, run them, take them apart."""
        kept = None
        while True:
            tasks = [kept or self.queues[key].get()]
            kept = None
            while True:
                try:
                    task = self.queues[key].get(timeout=BATCH_TIMEOUT_S)
                except queue.Empty:
                    break
                if sum(size for _, size, _ in [*tasks, task]) > MAX_BATCH_SIZE:
                    kept = task
                    break
                tasks.append(task)
            self._run_batch(key, tasks)

    def _run_batch(self, key, tasks):
        sizes = [size for _, size, _ in tasks]
        try:
            inputs = {
                name: np.concatenate([task[0][name] for task in tasks])
                for name in tasks[0][0]
            }
            total = sum(sizes)
            if total:
                full = next(n for n in ALLOWED_BATCH_SIZES if n >= total)
                rows = [*range(total), *[0] * (full - total)]
                inputs = {k: value[rows] for k, value in inputs.items()}
                self.batch_sizes.append((full, len(tasks)))
            outputs = self._run(key, inputs)
            start = 0
            for size, (_, _, future) in zip(sizes, tasks, strict=True):
                future.set_result(
                    {k: v[start : start + size] for k, v in outputs.items()}
                )
                start += size
        except Exception as error:
            for _, _, future in tasks:
                future.set_exception(error)

    def _run(self, key, inputs):
        signature = self.signatures[key]
        try:
            return self.session.run(
                {k: v.name for k, v in signature.outputs.items()},
                {signature.inputs[k].name: v for k, v in inputs.items()},
            )
        except tf.errors.OpError as error:
            (code,) = (
                c.name
                for c in grpc.StatusCode
                if c.value[0] == error.error_code
            )
            raise StatusError(error.message, code) from None
        except (ValueError, TypeError) as error:
            raise StatusError(str(error)) from None


class Grpc(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model):
        self.model = model

    def Predict(self, request, context):
        spec = request.model_spec
        try:
            inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
            outputs = self.model.predict(spec.name, spec.signature_name, inputs)
        except StatusError as error:
            context.abort(grpc.StatusCode[error.code], str(error))
        answer = predict_pb2.PredictResponse()
        answer.model_spec.name = spec.name
        answer.model_spec.version.value = self.model.version
        for name, value in outputs.items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return answer

    def GetModelMetadata(self, request, context):
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.model_spec.name = self.model.name
        answer.model_spec.version.value = self.model.version
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for key, value in self.model.signatures.items():
            signatures.signature_def[key].CopyFrom(value)
        answer.metadata["signature_def"].Pack(signatures)
        return answer


def rest_handler(model):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.lower()
            if path == "/stand-in":
                self._answer(
                    200,
                    {"batches": model.batch_sizes, "warm": model.warmed_up},
                )
            elif path == f"/v1/models/{model.name}":
                state = {"state": "AVAILABLE", "version": str(model.version)}
                state["status"] = {"error_code": "OK", "error_message": ""}
                self._answer(200, {"model_version_status": [state]})
            elif path == f"/v1/models/{model.name}/metadata":
                signatures = {
                    key: json_format.MessageToDict(value)
                    for key, value in model.signatures.items()
                }
                self._answer(200, {"metadata": {"signature_def": signatures}})
            else:
                self._answer(404, {"error": "Malformed request"})

        def do_POST(self):
            try:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                name, verb = self.path.rpartition("/")[2].split(":")
                if verb != "predict":
                    raise StatusError("Malformed request")
                self._answer(200, self._predict(name, body))
            except StatusError as error:
                code = HTTP_CODES.get(error.code, 500)
                self._answer(code, {"error": str(error)})
            except ValueError as error:
                self._answer(400, {"error": str(error)})

        def _predict(self, name, body):
            body = json.loads(body)
            if not isinstance(body, dict) or ("inputs" in body) == (
                "instances" in body
            ):
                raise ValueError("Give either 'inputs' or 'instances'.")
            key = body.get("signature_name", "serving_default")
            if key not in model.signatures:
                raise ValueError(f'Serving signature key "{key}" not found.')
            specs = model.signatures[key].inputs
            if "inputs" in body:
                # Others are ignored, and defaults do not count.
                for k in specs:
                    if k not in body["inputs"]:
                        raise ValueError(f"Missing named input: {k}")
                columns = {k: body["inputs"][k] for k in specs}
            else:
                rows = body["instances"]
                if not rows or any(set(r) != set(specs) for r in rows):
                    raise ValueError("Failed to process element: wrong keys.")
                columns = {k: [row[k] for row in rows] for k in specs}
            outputs = model.predict(
                name,
                key,
                {k: _array(v, specs.get(k)) for k, v in columns.items()},
            )
            plain = {k: _plain(k, v) for k, v in outputs.items()}
            if "inputs" in body:
                return {"outputs": plain}
            return {
                "predictions": [
                    dict(zip(plain, row, strict=True))
                    for row in zip(*plain.values(), strict=True)
                ]
            }

        def _answer(self, code, value):
            content = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


def _array(value, spec):
    """Return JSON as an array of the signature's type, base64 decoded."""
    if spec is None:
        raise ValueError("The signature has no such input.")
    dtype = tf.dtypes.as_dtype(spec.dtype)
    if dtype == tf.string:
        cells = []
        for cell in value:
            if isinstance(cell, dict) and set(cell) == {"b64"}:
                cells.append(base64.b64decode(cell["b64"], validate=True))
            elif isinstance(cell, str):
                cells.append(cell.encode())
            else:
                raise ValueError(f"JSON Value: {cell} is not a string")
        return np.array(cells, object)
    array = np.array(value)
    is_number = array.dtype.kind in "iuf"
    is_fitting = dtype.is_floating or array.dtype.kind in "iu"
    if array.size and not (is_number and is_fitting):
        raise ValueError(f"JSON Value: {value} is not {dtype.name}")
    return array.astype(dtype.as_numpy_dtype)


def _plain(name, value):
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(v).decode()} for v in value]
    return value.tolist()


def main(folder, name):
    disable_xla()
    model = Model(folder, name)
    assert "pixace_tf" not in sys.modules
    server = grpc.server(
        futures.ThreadPoolExecutor(32),
        options=[
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Grpc(model), server
    )
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    rest = ThreadingHTTPServer(("127.0.0.1", 0), rest_handler(model))
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    ports = {"rest": rest.server_address[1], "grpc": grpc_port}
    print(json.dumps(ports), flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main(*sys.argv[1:])

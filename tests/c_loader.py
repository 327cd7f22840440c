"""Run a signature through TensorFlow's C interface, without Python TensorFlow.

Loads a SavedModel as TensorFlow Serving does, with XLA compilation switched
off. Neither `tensorflow` nor this package is imported.

Command: python tests/c_loader.py FOLDER < requests.json
A request holds, for inputs and outputs, the names of the graph's tensors
and, for inputs, dtype, shape and values (strings as base64). Prints for each
request the outputs in the same form, or code and message of its error.
"""

import base64
import ctypes
import importlib.util
import json
import math
import os
import struct
import sys

DTYPES = {"float32": (1, "f"), "int32": (3, "i"), "int64": (9, "q")}
STRING = 7


class TensorString(ctypes.Structure):
    _fields_ = [("raw", ctypes.c_uint8 * 24)]


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def load_library():
    (folder,) = importlib.util.find_spec(
        "tensorflow"
    ).submodule_search_locations
    # Some symbols are in the one, some in the other.
    ctypes.CDLL(
        os.path.join(folder, "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL
    )
    library = ctypes.CDLL(os.path.join(folder, "libtensorflow_cc.so.2"))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result in (
        ("TF_NewStatus", pointer),
        ("TF_NewGraph", pointer),
        ("TF_NewSessionOptions", pointer),
        ("TF_LoadSessionFromSavedModel", pointer),
        ("TF_GraphOperationByName", pointer),
        ("TF_AllocateTensor", pointer),
        ("TF_TensorData", pointer),
        ("TF_TensorByteSize", size),
        ("TF_Dim", ctypes.c_int64),
        ("TF_NumDims", ctypes.c_int),
        ("TF_TensorType", ctypes.c_int),
        ("TF_GetCode", ctypes.c_int),
        ("TF_Message", ctypes.c_char_p),
        ("TF_StringGetDataPointer", pointer),
        ("TF_StringGetSize", size),
    ):
        getattr(library, name).restype = result
    return library


def make_tensor(library, spec):
    shape = (ctypes.c_int64 * len(spec["shape"]))(*spec["shape"])
    if spec["dtype"] == "string":
        values = [base64.b64decode(v) for v in spec["values"]]
        tensor = library.TF_AllocateTensor(
            STRING, shape, len(shape), ctypes.c_size_t(24 * len(values))
        )
        data = library.TF_TensorData(ctypes.c_void_p(tensor))
        cells = ctypes.cast(data, ctypes.POINTER(TensorString))
        for i, value in enumerate(values):
            cell = ctypes.byref(cells[i])
            library.TF_StringInit(cell)
            library.TF_StringCopy(cell, value, ctypes.c_size_t(len(value)))
        return tensor
    number, code = DTYPES[spec["dtype"]]
    content = struct.pack(f"<{len(spec['values'])}{code}", *spec["values"])
    tensor = library.TF_AllocateTensor(
        number, shape, len(shape), ctypes.c_size_t(len(content))
    )
    data = library.TF_TensorData(ctypes.c_void_p(tensor))
    ctypes.memmove(data, content, len(content))
    return tensor


def read_tensor(library, tensor):
    tensor = ctypes.c_void_p(tensor)
    shape = [
        library.TF_Dim(tensor, i) for i in range(library.TF_NumDims(tensor))
    ]
    number, count = library.TF_TensorType(tensor), math.prod(shape)
    data = library.TF_TensorData(tensor)
    if number == STRING:
        cells = ctypes.cast(data, ctypes.POINTER(TensorString))
        values = []
        for i in range(count):
            cell = ctypes.byref(cells[i])
            content = ctypes.string_at(
                library.TF_StringGetDataPointer(cell),
                library.TF_StringGetSize(cell),
            )
            values.append(base64.b64encode(content).decode())
        return {"dtype": "string", "shape": shape, "values": values}
    dtype, code = next(
        (name, code) for name, (n, code) in DTYPES.items() if n == number
    )
    content = ctypes.string_at(data, library.TF_TensorByteSize(tensor))
    values = struct.unpack(f"<{count}{code}", content)
    return {"dtype": dtype, "shape": shape, "values": values}


def main(folder):
    library = load_library()
    library._ZN10tensorflow21DisableXlaCompilationEv()
    status = ctypes.c_void_p(library.TF_NewStatus())
    graph = ctypes.c_void_p(library.TF_NewGraph())
    options = ctypes.c_void_p(library.TF_NewSessionOptions())
    tags = (ctypes.c_char_p * 1)(b"serve")
    session = ctypes.c_void_p(
        library.TF_LoadSessionFromSavedModel(
            options, None, folder.encode(), tags, 1, graph, None, status
        )
    )
    assert not library.TF_GetCode(status), library.TF_Message(status)

    def places(names):
        outputs = (Output * len(names))()
        for i, name in enumerate(names):
            operation, _, index = name.partition(":")
            outputs[i].operation = library.TF_GraphOperationByName(
                graph, operation.encode()
            )
            assert outputs[i].operation, name
            outputs[i].index = int(index)
        return outputs

    def run(inputs, names):
        values = (ctypes.c_void_p * len(inputs))(
            *(make_tensor(library, spec) for spec in inputs.values())
        )
        results = (ctypes.c_void_p * len(names))()
        library.TF_SessionRun(
            *(session, None),
            *(places(list(inputs)), values, len(inputs)),
            *(places(list(names.values())), results, len(names)),
            *(None, 0, None, status),
        )
        code = library.TF_GetCode(status)
        if code:
            message = library.TF_Message(status).decode()
            return {"code": code, "message": message}
        return {
            name: read_tensor(library, tensor)
            for name, tensor in zip(names, results, strict=True)
        }

    answers = [
        run(request["inputs"], request["outputs"])
        for request in json.load(sys.stdin)
    ]
    assert not {"tensorflow", "pixace_tf"} & set(sys.modules)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])

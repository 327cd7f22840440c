"""Exported versions, seen by the loader of a server and by a plain client."""

import base64
import functools
import io
import json
import operator
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_once, stir
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from pixace_tf import storage
from pixace_tf.data import cartoons, raster_orders
from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.presets import decoder_config
from pixace_tf.painting import local
from pixace_tf.painting.request import Request
from pixace_tf.runs import model_card, run_config, run_folder
from pixace_tf.runs.model_weights import get_weights
from pixace_tf.sampling import MAX_SERVED_PARTICLES
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.likelihood import Scorer
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.sampling.sampling_config import SamplingConfig
from pixace_tf.serving import export
from pixace_tf.serving.served_model import BLOCK_ROWS

TESTS = pathlib.Path(__file__).parent
IMAGE_SIZE = (8, 12)
LENGTH = 96
LABELS = ["cat", "dog"]
KINDS = {
    "multiscale": {},
    "transformer": {"palette": "hsv 5,4,4 alpha 2"},
    "reformer with LSH": {"num_hashes": 2},
}


def make_run(
    path,
    decoder="multiscale",
    num_hashes=0,
    image_size=IMAGE_SIZE,
    palette="hsv 5,4,4",
):
    """A run folder with random weights; XLA compiles nothing."""
    keras.utils.set_random_seed(1)
    run = run_folder.create_run(
        str(path),
        PixelTokenizer(image_size, palette),
        {
            "decoder": decoder,
            "decoder_config": decoder_config(
                "pico", decoder, image_size[1], num_hashes
            ),
            "orders": raster_orders.vector_rows(image_size, True, True),
            # A label makes more programs to trace.
            "labels": LABELS if decoder == "multiscale" else [],
        },
        {"source": "animals", "preset": "pico"},
    )
    # Without noise the layers would add nothing, and no cache would matter.
    weights = get_weights(stir(run.model))
    storage.write_npz(run.file(run_config.WEIGHTS_FILE), weights, {})
    return run_folder.load_run(run.path, jit_compile=False)


def as_png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def png(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3))
    return as_png(pixels.astype(np.uint8))


def jpeg(**options):
    buffer = io.BytesIO()
    cartoons.draw("cat", "1").convert("RGB").save(buffer, "JPEG", **options)
    return buffer.getvalue()


def inputs_of(count, **changes):
    """Inputs of `complete`: different pictures, prefixes and filters."""
    some = np.arange(count)
    return {
        "image_bytes": np.array([png(i) for i in some], object),
        "prefix_length": (some * 37 % (LENGTH + 1)).astype(np.int32),
        "temperature": (0.7 + some % 3 * 0.3).astype(np.float32),
        "top_k": (some % 4 * 5).astype(np.int32),
        "top_p": np.where(some % 2, 1.0, 0.9).astype(np.float32),
        "min_p": np.zeros(count, np.float32),
        "seed": some + 7,
        **changes,
    }


def fill_inputs(count, seed=0, **changes):
    """Inputs of `fill`: masks of all kinds, labels and guidance."""
    rng = np.random.default_rng(seed)
    inputs = inputs_of(count)
    del inputs["prefix_length"]
    inputs["seed"] = rng.integers(0, 1 << 60, count)
    height, width = IMAGE_SIZE
    row, column = np.indices(IMAGE_SIZE)
    files = []
    for _ in range(count):
        top, bottom = np.sort(rng.integers(0, height + 1, 2))
        left, right = np.sort(rng.integers(0, width + 1, 2))
        inside = (row >= top) & (row < bottom)
        inside &= (column >= left) & (column < right)
        buffer = io.BytesIO()
        Image.fromarray(inside).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return {
        **inputs,
        "mask_bytes": np.array(files, object),
        "particles": rng.integers(1, MAX_SERVED_PARTICLES + 1, count).astype(
            np.int32
        ),
        "label": np.array(
            [["", *LABELS][i].encode() for i in rng.integers(0, 3, count)],
            object,
        ),
        "guidance": rng.choice([1, 1, 1.5, 3], count).astype(np.float32),
        "given": np.array([b""] * count, object),
        **changes,
    }


def fill_here(run, inputs):
    """Return what the sampler fills, from what goes over the wire."""
    images = [
        GraphTokenizer(run.tokenizer).decode(f) for f in inputs["image_bytes"]
    ]
    token_ids = run.tokenizer.tokenize(np.stack(images))
    sampler = Sampler(GraphEngine(run.model, jit_compile=False))
    rows = []
    for i, file in enumerate(inputs["mask_bytes"]):
        mask = np.asarray(Image.open(io.BytesIO(file)).convert("L")) > 0
        config = SamplingConfig(
            *(inputs[k][i] for k in ("temperature", "top_k", "top_p", "min_p"))
        )
        (row,) = sampler.fill(
            *(token_ids[i : i + 1], mask.reshape(1, -1)),
            *(inputs["seed"][i : i + 1], config),
            num_particles=int(inputs["particles"][i]),
            labels=["", *LABELS].index(inputs["label"][i].decode()),
            guidance=inputs["guidance"][i],
            given=inputs["given"][i].decode().split(",")
            if inputs["given"][i]
            else (),
        )
        rows.append(row)
    return np.stack(rows)


def call(served, name, inputs):
    tensors = {k: tf.constant(v) for k, v in inputs.items()}
    return {k: v.numpy() for k, v in served.signatures[name](**tensors).items()}


def meta_graph(path):
    file = pathlib.Path(path, "saved_model.pb")
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (graph,) = model.meta_graphs
    return graph


def exported(tmp_path_factory, name):
    """Return the folder of a run of a kind that has a version 1."""
    decoder = name.split()[0]

    def make(folder):
        run = make_run(folder / "run", decoder, **KINDS[name])
        export.export(run, say=lambda line: None)

    return make_once(tmp_path_factory, f"exported-{decoder}", make) / "run"


@functools.cache
def loaded(path):
    """Return a run, its version 1, and that as TensorFlow loads it."""
    run = run_folder.load_run(path, jit_compile=False)
    return run, run.file("1"), tf.saved_model.load(run.file("1"))


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    return loaded(exported(tmp_path_factory, request.param))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    _, _, served = loaded(exported(tmp_path_factory, "multiscale"))
    return served


@pytest.fixture
def traced_before(monkeypatch, tmp_path_factory):
    """Export what was traced before, where only the files matter."""
    path = exported(tmp_path_factory, "multiscale") / "1"

    class Saved:
        def __init__(self, model, tokenizer):
            pass

        def save(self, folder):
            shutil.copytree(
                path,
                folder,
                ignore=shutil.ignore_patterns("assets.extra"),
                dirs_exist_ok=True,
            )

    monkeypatch.setattr(export, "ServedModel", Saved)


def run_with_c_loader(path, signature_name, requests):
    signature = meta_graph(path).signature_def[signature_name]
    names = {k: v.name for k, v in signature.outputs.items()}

    def spec(value):
        values = (
            [base64.b64encode(v).decode() for v in value]
            if value.dtype == object
            else value.ravel().tolist()
        )
        dtype = "string" if value.dtype == object else value.dtype.name
        return {"dtype": dtype, "shape": value.shape, "values": values}

    plain = [
        {
            "inputs": {
                signature.inputs[name].name: spec(value)
                for name, value in inputs.items()
            },
            "outputs": names,
        }
        for inputs in requests
    ]
    done = subprocess.run(
        [sys.executable, "-I", str(TESTS / "c_loader.py"), path],
        input=json.dumps(plain),
        capture_output=True,
        text=True,
        env={"TF_CPP_MIN_LOG_LEVEL": "2", "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.soak
@pytest.mark.parametrize(
    "kind", ["multiscale", "reformer with LSH"], indirect=True
)
def test_the_servers_loader_gives_what_python_gives(kind):
    _, path, served = kind
    inputs = inputs_of(11)
    expected = call(served, "complete", inputs)
    wrong = inputs_of(1, temperature=np.array([np.nan], np.float32))
    refused, given = run_with_c_loader(path, "serving_default", [wrong, inputs])
    assert refused["code"] == 3  # INVALID_ARGUMENT
    assert "temperature must be from 0.001 to 1000." in refused["message"]
    shape = given["token_ids"]["shape"]
    assert shape == [11, LENGTH]
    token_ids = np.reshape(given["token_ids"]["values"], shape)
    np.testing.assert_array_equal(token_ids, expected["token_ids"])
    np.testing.assert_allclose(
        given["bits_per_pixel"]["values"], expected["bits_per_pixel"], rtol=1e-5
    )
    files = [base64.b64decode(v) for v in given["image_bytes"]["values"]]
    assert files == list(expected["image_bytes"])


@pytest.mark.slow
@pytest.mark.parametrize("prefix_length", [0, LENGTH // 2, LENGTH])
def test_the_signature_draws_what_the_sampler_draws(kind, prefix_length):
    run, _, served = kind
    count = 5
    inputs = inputs_of(
        count, prefix_length=np.full(count, prefix_length, np.int32)
    )
    drawn = call(served, "complete", inputs)
    images = [
        GraphTokenizer(run.tokenizer).decode(f) for f in inputs["image_bytes"]
    ]
    token_ids = run.tokenizer.tokenize(np.stack(images))
    config = SamplingConfig(
        *(inputs[k] for k in ("temperature", "top_k", "top_p", "min_p"))
    )
    sampler = Sampler(GraphEngine(run.model, BLOCK_ROWS, jit_compile=False))
    expected = sampler.complete(
        token_ids, prefix_length, inputs["seed"], config
    )
    np.testing.assert_array_equal(drawn["token_ids"], expected)
    pictures = [Image.open(io.BytesIO(f)) for f in drawn["image_bytes"]]
    np.testing.assert_array_equal(
        np.stack(pictures), run.tokenizer.detokenize(expected)
    )


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["multiscale", "transformer"], indirect=True)
def test_fill_draws_what_the_sampler_draws(kind):
    run, _, served = kind
    count = 12
    inputs = fill_inputs(count)
    if not run.model.labels:
        inputs["label"] = np.array([b""] * count, object)
    filled = call(served, "fill", inputs)
    expected = fill_here(run, inputs)
    # Blocks of other sizes round differently: a draw near a tie may flip.
    same = np.all(filled["token_ids"] == expected, axis=1)
    assert same.sum() >= count - 2
    masks = filled["mask"]
    bits = Scorer(run.model, jit_compile=False).bits(
        filled["token_ids"],
        labels=[["", *LABELS].index(name.decode()) for name in inputs["label"]],
        orders=Sampler(GraphEngine(run.model, jit_compile=False)).orders(masks),
    )
    np.testing.assert_allclose(
        filled["bits_per_pixel"], bits.mean(axis=1), rtol=1e-3
    )
    for row in range(0, count, 5):
        alone = call(served, "fill", {k: v[[row]] for k, v in inputs.items()})
        np.testing.assert_array_equal(
            alone["token_ids"][0], filled["token_ids"][row]
        )
    kept = ~filled["mask"]
    scored = call(served, "score", {"image_bytes": inputs["image_bytes"]})
    np.testing.assert_array_equal(
        filled["token_ids"][kept], scored["token_ids"][kept]
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multiscale", "transformer"], indirect=True)
def test_fill_keeps_the_channels_that_the_sampler_keeps(kind):
    run, _, served = kind
    palette = run.tokenizer.palette
    names = palette.channel_names
    given = ["value", "hue", f"{names[0]},{names[-1]}", "", ",".join(names)]
    count = len(given)
    inputs = fill_inputs(
        count,
        given=np.array([text.encode() for text in given], object),
        particles=np.full(count, MAX_SERVED_PARTICLES, np.int32),
    )
    if not run.model.labels:
        inputs["label"] = np.array([b""] * count, object)
    filled = call(served, "fill", inputs)
    token_ids = filled["token_ids"]
    np.testing.assert_array_equal(token_ids, fill_here(run, inputs))
    scored = call(served, "score", {"image_bytes": inputs["image_bytes"]})
    before, after = map(palette.unpack, (scored["token_ids"], token_ids))
    for row, text in enumerate(given):
        for c, name in zip(palette.chain_order, names, strict=True):
            if name in text.split(","):
                np.testing.assert_array_equal(before[c][row], after[c][row])
    # With all channels known, nothing is painted.
    np.testing.assert_array_equal(scored["token_ids"][-1], token_ids[-1])
    kept = np.stack([Image.open(io.BytesIO(f)) for f in filled["kept_bytes"]])
    np.testing.assert_array_equal(
        kept[-1], run.tokenizer.detokenize(token_ids[-1])
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multiscale"], indirect=True)
def test_fill_paints_a_label_from_nothing(kind):
    run, _, served = kind
    empty = np.array([b"", b""], object)
    inputs = fill_inputs(2, image_bytes=empty, mask_bytes=empty)
    inputs["label"] = np.array([b"dog", b"dog"], object)
    filled = call(served, "fill", inputs)
    assert filled["mask"].all()
    config = SamplingConfig(
        *(inputs[k] for k in ("temperature", "top_k", "top_p", "min_p"))
    )
    expected = Sampler(GraphEngine(run.model, jit_compile=False)).generate(
        inputs["seed"], config, labels=2, guidance=inputs["guidance"]
    )
    np.testing.assert_array_equal(filled["token_ids"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multiscale"], indirect=True)
def test_a_mask_is_read_as_complete_reads_it(kind, tmp_path):
    run, _, served = kind
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (80, 120, 3), np.uint8)
    # Blue is the only pure color that is too dark.
    blocks = rng.choice([0, 255], (*IMAGE_SIZE, 4)).astype(np.uint8)
    blocks = blocks.repeat(10, axis=0).repeat(10, axis=1)
    cases = {
        "colors.png": blocks[::2, ::2, :3],
        "gray.jpg": blocks[..., 0],
        "alpha.png": blocks,
    }
    for name, pixels in cases.items():
        path = tmp_path / name
        Image.fromarray(pixels).save(path)
        inputs = fill_inputs(1, **of_bytes(as_png(image)))
        inputs["mask_bytes"] = np.array([path.read_bytes()], object)
        filled = call(served, "fill", inputs)
        small = run.tokenizer.read(image)
        expected = local.hidden_pixels(
            Request([image], mask=str(path)), small[None], run.tokenizer
        )
        np.testing.assert_array_equal(filled["mask"], expected.reshape(1, -1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multiscale"], indirect=True)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mask_bytes", b"no picture", "JPEG or PNG"),
        ("mask_bytes", png(0, (40, 41)), "mask_bytes must have the aspect"),
        ("label", b"owl", "a label of the model, such as cat, dog."),
        ("particles", np.int32(0), "particles must be from 1 to 16."),
        ("particles", np.int32(17), "particles must be from 1 to 16."),
        ("guidance", np.float32(0.5), "guidance must be from 1 to 100."),
        ("guidance", np.float32(np.nan), "guidance must be from 1 to 100."),
        ("given", b"size", "commas: value, saturation, hue."),
        ("given", b"value,", "commas: value, saturation, hue."),
        ("given", b"hue, value", "commas: value, saturation, hue."),
    ],
)
def test_bad_masks_and_labels_are_refused(kind, name, value, message):
    _, _, served = kind
    dtype = object if isinstance(value, bytes) else value.dtype
    inputs = fill_inputs(1, **{name: np.array([value], dtype)})
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(served, "fill", inputs)


def test_no_image_has_no_channels_to_keep(served):
    inputs = fill_inputs(1, given=np.array([b"value"], object), **of_bytes(b""))
    with pytest.raises(tf.errors.InvalidArgumentError, match="needs image_by"):
        call(served, "fill", inputs)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["multiscale"], indirect=True)
def test_the_signatures_agree(kind):
    run, _, served = kind
    inputs = inputs_of(4)
    images = [
        GraphTokenizer(run.tokenizer).decode(f) for f in inputs["image_bytes"]
    ]
    token_ids = run.tokenizer.tokenize(np.stack(images))
    completed = call(served, "complete", inputs)
    given = {k: v for k, v in inputs.items() if k != "image_bytes"}
    # Pixels behind the prefix are not read.
    behind = np.arange(LENGTH) >= inputs["prefix_length"][:, None]
    given["token_ids"] = np.where(behind, -5, token_ids).astype(np.int32)
    from_tokens = call(served, "complete_tokens", given)
    for name, value in completed.items():
        np.testing.assert_array_equal(from_tokens[name], value)
    kept = ~behind
    np.testing.assert_array_equal(completed["token_ids"][kept], token_ids[kept])
    scored = call(served, "score", {"image_bytes": inputs["image_bytes"]})
    np.testing.assert_array_equal(scored["token_ids"], token_ids)
    bits = Scorer(run.model).bits(token_ids).mean(axis=1)
    np.testing.assert_allclose(scored["bits_per_pixel"], bits, rtol=1e-4)
    small = [
        np.asarray(Image.open(io.BytesIO(f))) for f in scored["image_bytes"]
    ]
    np.testing.assert_array_equal(small, np.stack(images))
    del given["token_ids"], given["prefix_length"]
    zeros = np.zeros(4, np.int32)
    np.testing.assert_array_equal(
        call(served, "generate", given)["token_ids"],
        call(served, "complete", {**inputs, "prefix_length": zeros})[
            "token_ids"
        ],
    )


@pytest.mark.slow
def test_a_picture_is_the_same_alone_and_in_any_batch(kind):
    _, _, served = kind
    inputs = inputs_of(19)
    together = call(served, "complete", inputs)["token_ids"]
    for rows in ([0], [7], [18], [3, 5, 11, 12, 4]):
        some = call(served, "complete", {k: v[rows] for k, v in inputs.items()})
        np.testing.assert_array_equal(some["token_ids"], together[rows])


@pytest.mark.slow
def test_the_graph_holds_only_what_the_server_runs(kind):
    _, path, _ = kind
    graph = meta_graph(path).graph_def
    functions = operator.attrgetter("library.function")(graph)
    ops = {n.op for n in graph.node} | {
        n.op for f in functions for n in f.node_def
    }
    forbidden = ("Xla", "PyFunc", "EagerPyFunc", "NumpyFunction", "Text")
    assert not [op for op in ops if any(word in op for word in forbidden)]
    for function in functions:
        attributes = function.attr
        assert not attributes["_XlaMustCompile"].b, function.signature.name
    assert {"While", "StatelessRandomUniformV2", "EncodePng"} <= ops


@pytest.mark.slow
def test_weights_are_stored_once(kind):
    run, path, _ = kind
    weights = sum(np.asarray(v.value).nbytes for v in run.model.weights)
    stored = sum(
        file.stat().st_size
        for file in pathlib.Path(path, "variables").iterdir()
    )
    assert weights <= stored < 1.1 * weights


@pytest.mark.slow
def test_signatures_are_as_promised(kind):
    _, path, _ = kind
    signatures = meta_graph(path).signature_def
    options = {"temperature", "top_k", "top_p", "min_p", "seed"}
    expected = {
        "serving_default": {"image_bytes", "prefix_length", *options},
        "complete": {"image_bytes", "prefix_length", *options},
        "complete_tokens": {"token_ids", "prefix_length", *options},
        "fill": {
            *("image_bytes", "mask_bytes", "particles", "label", "guidance"),
            *("given", *options),
        },
        "generate": options,
        "score": {"image_bytes"},
    }
    outputs = {"image_bytes", "token_ids", "bits_per_pixel"}
    for name, inputs in expected.items():
        signature = signatures[name]
        assert signature.method_name == "tensorflow/serving/predict"
        assert set(signature.inputs) == inputs
        assert set(signature.outputs) == outputs | (
            {"mask", "kept_bytes"} if name == "fill" else set()
        )
        assert set(signature.defaults) == inputs - {
            *("image_bytes", "mask_bytes", "token_ids")
        }
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            assert info.tensor_shape.dim[0].size == -1


def huge_png():
    header = bytearray(png())
    header[16:24] = (50_000).to_bytes(4) * 2
    return bytes(header)


def huge_jpeg():
    content = bytearray(jpeg())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = (60_000).to_bytes(2) * 2
    return bytes(content)


def of_bytes(content):
    return {"image_bytes": np.array([content], object)}


def of(name, value, dtype):
    return {name: np.array([value], dtype)}


BAD_INPUTS = {
    "empty": (of_bytes(b""), "JPEG or PNG"),
    "text": (of_bytes(b"not a picture"), "JPEG or PNG"),
    "gif": (of_bytes(b"GIF89a" + bytes(40)), "JPEG or PNG"),
    "10 MB of nothing": (of_bytes(bytes(10**7)), "JPEG or PNG"),
    "a PNG header alone": (of_bytes(png()[:30]), "PNG"),
    "half a PNG": (of_bytes(png()[: len(png()) // 2]), "PNG"),
    "a damaged PNG": (of_bytes(png()[:200] + bytes(len(png()) - 200)), "PNG"),
    "half a JPEG": (of_bytes(jpeg()[: len(jpeg()) // 2]), "JPEG"),
    "a JPEG header alone": (of_bytes(jpeg()[:20]), "JPEG"),
    "a PNG bomb": (of_bytes(huge_png()), "may have 1 to 16000000 pixels"),
    "a JPEG bomb": (of_bytes(huge_jpeg()), "may have 1 to 16000000 pixels"),
    "prefix -1": (of("prefix_length", -1, np.int32), "from 0 to 96"),
    "prefix too long": (of("prefix_length", 97, np.int32), "from 0 to 96"),
    "temperature 0": (of("temperature", 0, np.float32), "from 0.001"),
    "temperature -1": (of("temperature", -1, np.float32), "from 0.001"),
    "temperature NaN": (of("temperature", np.nan, np.float32), "from 0.001"),
    "temperature inf": (of("temperature", np.inf, np.float32), "from 0.001"),
    "top_p 0": (of("top_p", 0, np.float32), "above 0"),
    "top_k -1": (of("top_k", -1, np.int32), "0 \\(off\\)"),
    "min_p 2": (of("min_p", 2, np.float32), "from 0 to 1"),
    "other rows": ({"seed": np.arange(3)}, "as many rows"),
    "no rows": ({"seed": np.zeros(0, np.int64)}, "row"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_refused_with_a_sentence(served, case):
    change, message = BAD_INPUTS[case]
    good = inputs_of(2)
    changed = inputs_of(1, **change)
    if case == "other rows":
        changed = {**good, **change}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(served, "complete", changed)
    assert call(served, "complete", good)["token_ids"].shape == (2, LENGTH)


def test_tokens_out_of_range_are_refused(served):
    inputs = inputs_of(1)
    del inputs["image_bytes"]
    for token in (-1, 1 << 13):
        token_ids = np.full((1, LENGTH), token, np.int32)
        inputs["prefix_length"] = np.array([1], np.int32)
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="from 0 to 8191"
        ):
            call(served, "complete_tokens", {**inputs, "token_ids": token_ids})


def test_a_batch_of_no_rows_is_refused(served):
    empty = {k: v[:0] for k, v in inputs_of(1).items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="a row"):
        call(served, "complete", empty)


def test_a_huge_header_does_not_allocate(served):
    import psutil

    process = psutil.Process()
    call(served, "complete", inputs_of(1))
    before, peak, is_done = process.memory_info().rss, [0], threading.Event()

    def watch():
        while not is_done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for bomb in (huge_png(), huge_jpeg()):
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(served, "complete", inputs_of(1, **of_bytes(bomb)))
    is_done.set()
    watcher.join()
    assert peak[0] - before < 100e6


def test_transparent_pictures_lie_on_white_as_in_training(served):
    buffer = io.BytesIO()
    Image.new("RGBA", (12, 8), (255, 0, 0, 0)).save(buffer, "PNG")
    scored = call(served, "score", of_bytes(buffer.getvalue()))
    with Image.open(io.BytesIO(scored["image_bytes"][0])) as picture:
        assert np.all(np.asarray(picture) == 255)


@pytest.mark.soak
def test_versions_count_up_and_old_ones_go(tmp_path, traced_before):
    run = make_run(tmp_path / "run")
    os.mkdir(run.file("7"))
    lines = []
    path = export.export(run, say=lines.append)
    assert path == run.file("8")
    export.export(run, keep=2, say=lines.append)
    assert export.versions(run.path) == [8, 9]
    assert "Removed version 7." in lines
    assert not [n for n in os.listdir(run.path) if n.startswith(".")]
    with pytest.raises(ValueError, match="keep must be positive"):
        export.export(run, keep=0)


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch, traced_before):
    run = make_run(tmp_path / "run")
    before = sorted(os.listdir(run.path))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_write_warmup", fail)
    with pytest.raises(OSError, match="No space left"):
        export.export(run)
    assert sorted(os.listdir(run.path)) == before


def test_a_new_folder_does_not_replace_an_old_one(tmp_path):
    old = tmp_path / "1"
    old.mkdir()
    (old / "file").write_text("old")
    with (
        pytest.raises(FileExistsError),
        storage.new_folder(str(old)) as temporary,
    ):
        pathlib.Path(temporary, "file").write_text("new")
    assert (old / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["1"]


def test_the_card_says_what_the_model_is(trained_run, traced_before):
    path = export.export(trained_run, keep=1, say=lambda line: None)
    card = pathlib.Path(trained_run.path, "README.md").read_text()
    assert "HSV 544" in card
    assert "12x8 pixels" in card
    assert "bits/pixel after 3 epochs" in card
    assert f"| version | {os.path.basename(path)} |" in card
    for line in card.splitlines():
        if line.startswith("!["):
            link = line.split("](")[1].rstrip(")")
            assert pathlib.Path(trained_run.path, link).is_file()
    assert card.count("![") == 2


def test_commands_of_the_card_are_quoted(tmp_path):
    run = make_run(tmp_path / "my cats")
    card = model_card.for_export(run.path, "1")
    block = card.split("```sh\n")[1].split("```")[0]
    for line in block.splitlines():
        assert run.path in shlex.split(line), line
    for line in card.splitlines():
        if "--model" in line or "MODEL_NAME" in line:
            words = shlex.split(line.removesuffix("\\"))
            assert {"my cats", "MODEL_NAME=my cats"} & set(words), line
    assert f"{run.path}:/models/my cats:ro" in card
    assert "/v1/models/my%20cats:predict" in card


def test_an_export_leaves_a_card_of_the_user_as_it_is(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(export, "_write_version", lambda run: run.path)
    said = []
    export.export(run, say=said.append)
    card = tmp_path / "run" / "README.md"
    assert "## Serve it" in card.read_text()
    card.write_text("Mine\n")
    export.export(run, say=said.append)
    assert card.read_text() == "Mine\n"
    assert "your own" in said[-1]

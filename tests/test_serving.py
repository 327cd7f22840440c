"""The wire: our client and bare requests against a stand-in of the server."""

import base64
import fnmatch
import http.server
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent import futures

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from test_export import (
    BAD_INPUTS,
    LENGTH,
    call,
    exported,
    fill_here,
    fill_inputs,
    inputs_of,
    loaded,
    make_run,
    png,
)

from pixace_tf.cli import main
from pixace_tf.data import cartoons
from pixace_tf.painting import local, served, wire
from pixace_tf.painting.request import Request, generation
from pixace_tf.serving import export
from pixace_tf.serving.served_model import ServedModel

pytestmark = pytest.mark.slow  # Nearly all of it.
ROOT = pathlib.Path(__file__).parent.parent
STAND_IN = pathlib.Path(__file__).parent / "stand_in.py"


class StandIn:
    """The process, and what it serves."""

    def __init__(self, run, served, folder=None):
        self.run, self.served = run, served
        self.process = subprocess.Popen(
            [sys.executable, str(STAND_IN), folder or run.path, "animals"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ports = json.loads(self.process.stdout.readline())
        self.rest = f"http://127.0.0.1:{ports['rest']}"
        self.grpc = f"grpc://127.0.0.1:{ports['grpc']}"

    def post(self, body, path="/v1/models/animals:predict"):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.rest + path, content)
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def get(self, path):
        with urllib.request.urlopen(self.rest + path) as response:
            return json.load(response)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    run, _, served = loaded(exported(tmp_path_factory, "multiscale"))
    stand_in = StandIn(run, served)
    yield stand_in
    stand_in.stop()


@pytest.fixture(params=["rest", "grpc"])
def server(request, stand_in):
    return wire.Server(getattr(stand_in, request.param), "animals")


def as_json(inputs):
    return {
        k: [{"b64": base64.b64encode(c).decode()} for c in v]
        if v.dtype == object
        else v.tolist()
        for k, v in inputs.items()
    }


def test_warm_up_requests_are_played(stand_in):
    assert stand_in.get("/stand-in")["warm"] == len(export.BATCH_SIZES)


def test_predict_over_the_wire_equals_python(stand_in, server):
    inputs = inputs_of(5)
    answer = server.predict("complete", inputs)
    expected = call(stand_in.served, "complete", inputs)
    np.testing.assert_array_equal(answer["token_ids"], expected["token_ids"])
    assert list(answer["image_bytes"]) == list(expected["image_bytes"])


def test_grpc_may_leave_out_what_has_a_default(stand_in):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(
        grpc.insecure_channel(stand_in.grpc.removeprefix("grpc://"))
    )
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "animals"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([png()]))
    answer = stub.Predict(request)
    defaults = {
        **inputs_of(1),
        "prefix_length": np.array([LENGTH // 2], np.int32),
        "temperature": np.ones(1, np.float32),
        "top_k": np.zeros(1, np.int32),
        "top_p": np.ones(1, np.float32),
        "seed": np.zeros(1, np.int64),
    }
    np.testing.assert_array_equal(
        tf.make_ndarray(answer.outputs["token_ids"]),
        call(stand_in.served, "complete", defaults)["token_ids"],
    )


def test_metadata_tell_the_signatures(stand_in):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(
        grpc.insecure_channel(stand_in.grpc.removeprefix("grpc://"))
    )
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "animals"
    request.metadata_field.append("signature_def")
    answer = stub.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    over_rest = stand_in.get("/v1/models/animals/metadata")
    names = {
        "serving_default",
        "complete",
        "complete_tokens",
        "generate",
        "score",
    }
    assert names <= set(signatures.signature_def)
    assert names <= set(over_rest["metadata"]["signature_def"])


def test_rest_rows_and_columns_agree(stand_in):
    columns = as_json(inputs_of(3))
    rows = [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
    by_column = stand_in.post({"inputs": columns})["outputs"]
    by_row = stand_in.post({"instances": rows})["predictions"]
    for name, values in by_column.items():
        assert [row[name] for row in by_row] == values
    picture = base64.b64decode(by_column["image_bytes"][0]["b64"])
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_requests_get_an_error_and_the_server_lives(stand_in, server, case):
    change, message = BAD_INPUTS[case]
    inputs = inputs_of(3 if case == "other rows" else 1, **change)
    if case == "no rows":
        inputs = {k: v[:0] for k, v in inputs.items()}
    if case == "other rows":
        inputs["seed"] = np.arange(2)
        message = "equal"
    with pytest.raises((ValueError, wire.ServerError), match=message):
        server.predict("complete", inputs)
    good = server.predict("complete", inputs_of(1))
    assert good["token_ids"].shape == (1, LENGTH)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        {"inputs": {}},
        {"instances": []},
        {"instances": [{"image_bytes": "x"}]},
        {"inputs": {"image_bytes": [{"b64": "?"}]}},
        {"inputs": {**as_json(inputs_of(1)), "prefix_length": ["one"]}},
        {"inputs": {**as_json(inputs_of(1)), "seed": [1.5]}},
        {"inputs": as_json(inputs_of(1)), "signature_name": "no"},
    ],
    ids=str,
)
def test_malformed_json_gets_a_400(stand_in, body):
    with pytest.raises(urllib.error.HTTPError) as error:
        stand_in.post(body)
    assert error.value.code == 400
    assert json.load(error.value)["error"]


def test_a_wrong_model_name_is_one_clear_line(stand_in, server):
    server = wire.Server(server.address, "no-such-model")
    with pytest.raises(wire.ServerError, match=r"NOT_FOUND.*--model"):
        server.predict("score", {"image_bytes": np.array([png()], object)})


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(wire, "PAUSE_S", 0.01)
    return {"image_bytes": np.array([png()], object)}


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_an_absent_server_is_one_clear_line(scheme, quick):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # It does not listen.
        port = deaf.getsockname()[1]
        server = wire.Server(f"{scheme}://127.0.0.1:{port}", "animals", 5)
        with pytest.raises(wire.ServerError, match=r"UNAVAILABLE.*running"):
            server.predict("score", quick)


def test_a_busy_rest_server_is_tried_again(quick):
    tries = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            tries.append(self.path)
            if len(tries) == 1:
                return  # The connection breaks off.
            good = len(tries) == wire.TRIES
            content = json.dumps({"outputs": {"token_ids": [[1]]}}).encode()
            self.send_response(200 if good else 503)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(
            target=httpd.serve_forever, args=[0.01], daemon=True
        ).start()
        server = wire.Server(f"http://127.0.0.1:{httpd.server_port}", "a/b")
        assert server.predict("score", quick)["token_ids"].tolist() == [[1]]
        assert tries == ["/v1/models/a%2Fb:predict"] * wire.TRIES
        httpd.shutdown()


def test_a_busy_grpc_server_is_tried_again(quick):
    tries = []

    class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            tries.append(request)
            if len(tries) < wire.TRIES:
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            answer = predict_pb2.PredictResponse()
            answer.outputs["token_ids"].CopyFrom(tf.make_tensor_proto([[1]]))
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Servicer(), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    many = {"image_bytes": np.array([bytes(2**20)] * 3, object)}
    answer = wire.Server(f"grpc://127.0.0.1:{port}").predict("score", many)
    server.stop(None)
    assert answer["token_ids"].tolist() == [[1]]
    assert len(tries) == wire.TRIES


def test_an_address_of_another_form_is_refused():
    with pytest.raises(ValueError, match="grpc://HOST:PORT"):
        wire.Server("localhost:8501")


@pytest.mark.soak
def test_the_client_paints_what_the_server_paints(stand_in, server):
    pictures = [np.asarray(cartoons.draw("cat", s)) for s in ("1", "2", "3")]
    options = {"samples": 3, "temperatures": (0.8, 1.0), "seed": 5, "keep": 0.3}
    done = []
    painter = served.ServedPainter(server)
    remote = painter.complete(
        Request(pictures, **options), lambda *d: done.append(d)
    )
    here = local.complete(stand_in.run, pictures, **options)
    np.testing.assert_array_equal(remote.originals, here.originals)
    np.testing.assert_array_equal(remote.kept, here.kept)
    np.testing.assert_array_equal(remote.images, here.images)
    assert remote.temperatures == here.temperatures
    assert done[-1] == (18, 18)
    new = painter.generate(generation(3, temperatures=(0.9,), seed=2))
    np.testing.assert_array_equal(
        new, local.generate(stand_in.run, 3, temperatures=(0.9,), seed=2)
    )


@pytest.mark.soak
@pytest.mark.parametrize(
    "options",
    [
        {"cover": "top"},
        {"cover": "center", "label": "dog", "guidance": 2.0},
        {"keep": 0.6, "label": "cat"},
        {"mask": "hole.png"},
        {"mask": "alpha"},
        {"vary": 0.4},
    ],
)
def test_the_client_fills_what_the_server_fills(
    stand_in, server, tmp_path, options
):
    drawing = cartoons.draw("cat", "4").convert("RGBA")
    drawing.paste((0, 0, 0, 0), (10, 5, 40, 30))
    drawing.save(tmp_path / "cat.png")
    hole = Image.new("L", drawing.size)
    hole.paste(255, (20, 10, 50, 25))
    hole.save(tmp_path / "hole.png")
    if options.get("mask") == "hole.png":
        options = {"mask": str(tmp_path / "hole.png")}
    images = [tmp_path / "cat.png"]
    options = {**options, "samples": 4, "seed": 3}
    remote = served.ServedPainter(server).complete(Request(images, **options))
    here = local.complete(stand_in.run, images, particles=16, **options)
    np.testing.assert_array_equal(remote.originals, here.originals)
    np.testing.assert_array_equal(remote.kept, here.kept)
    # Blocks of other sizes round differently: a draw near a tie may flip.
    same = np.all(remote.images == here.images, axis=(3, 4, 5))
    assert same.sum() >= same.size - 2


@pytest.mark.parametrize("options", [{}, {"cover": "center"}, {"keep": 0.5}])
def test_the_client_recolors_as_this_machine_does(stand_in, server, options):
    images = [np.asarray(cartoons.draw("cat", "4"))]
    options = {**options, "given": ("value", "hue"), "samples": 2, "best": 2}
    remote = served.ServedPainter(server).complete(Request(images, **options))
    here = local.complete(stand_in.run, images, particles=16, **options)
    np.testing.assert_array_equal(remote.originals, here.originals)
    np.testing.assert_array_equal(remote.kept, here.kept)
    np.testing.assert_array_equal(remote.images, here.images)


def older(path, place):
    """Copy a version and turn it into one whose `fill` knows no `given`."""
    shutil.copytree(path, place / "1")
    file = place / "1" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (meta_graph,) = model.meta_graphs
    fill = meta_graph.signature_def["fill"]
    # Its graph has the default, too.
    del fill.inputs["given"], fill.defaults["given"], fill.outputs["kept_bytes"]
    file.write_bytes(model.SerializeToString())


def test_an_older_export_paints_and_cannot_recolor(stand_in, tmp_path):
    older(stand_in.run.file("1"), tmp_path)
    old = StandIn(stand_in.run, None, tmp_path)
    images = [np.asarray(cartoons.draw("cat", "4"))]
    for address in (old.rest, old.grpc):
        painter = served.ServedPainter(wire.Server(address, "animals"))
        done = painter.complete(Request(images, cover="center"))
        assert done.images.shape == (1, 1, 1, 8, 12, 3)
        with pytest.raises(ValueError, match="export the model again"):
            painter.complete(Request(images, given="value"))
    old.stop()


@pytest.mark.parametrize("name", ["only_colors", "max_colors"])
def test_a_server_does_not_limit_colors(stand_in, server, name):
    value = {"only_colors": np.zeros((1, 3), np.uint8), "max_colors": 3}[name]
    request = Request([np.zeros((8, 12, 3), np.uint8)], **{name: value})
    with pytest.raises(ValueError, match=f"{name} needs a run on this machine"):
        served.ServedPainter(server).complete(request)


@pytest.mark.parametrize("name", ["symmetric", "seamless"])
def test_a_server_has_no_second_pass(server, name):
    with pytest.raises(ValueError, match=f"{name} needs a run on this machine"):
        served.ServedPainter(server).generate(Request(**{name: True}))


def test_a_channel_that_the_model_lacks_is_told(stand_in, server):
    request = Request([np.zeros((8, 12, 3), np.uint8)], given="alpha")
    with pytest.raises(ValueError, match="commas: value, saturation, hue"):
        served.ServedPainter(server).complete(request)


def test_the_client_paints_a_label(stand_in, server):
    painter = served.ServedPainter(server)
    options = {"label": "dog", "guidance": 1.5, "seed": 2}
    new = painter.generate(generation(3, **options))
    here = local.generate(stand_in.run, 3, **options)
    assert np.all(new == here, axis=(2, 3, 4)).sum() >= 2
    with pytest.raises(ValueError, match="label must be empty or a label"):
        painter.generate(generation(1, label="owl"))
    image = np.zeros((8, 12, 3), np.uint8)
    for count in (17, 64):
        many = Request([image], cover="top", particles=count)
        with pytest.raises(ValueError, match="at most 16 particles"):
            painter.complete(many)


@pytest.mark.soak
def test_many_masks_of_eight_clients(stand_in):
    """None lost, none mixed up, from clients that share batches."""
    count, clients = 24, 8
    inputs = fill_inputs(count, seed=9)
    expected = fill_here(stand_in.run, inputs)
    server = wire.Server(stand_in.grpc, "animals")
    drawn = np.full((count, LENGTH), -1)

    def work(first):
        for i in range(first, count, clients):
            one = {k: v[i : i + 1] for k, v in inputs.items()}
            drawn[i] = server.predict("fill", one)["token_ids"][0]

    threads = [threading.Thread(target=work, args=[i]) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A draw near a tie may flip.
    assert np.all(drawn == expected, axis=1).sum() >= count - 1


def test_the_client_takes_any_kind_of_path(stand_in, server, tmp_path):
    cartoons.draw("cat", "9").save(tmp_path / "cat.png")
    painter = served.ServedPainter(server)
    here = local.complete(stand_in.run, [tmp_path / "cat.png"])
    remote = painter.complete(Request([tmp_path / "cat.png"]))
    np.testing.assert_array_equal(remote.images, here.images)


def test_the_command_line_paints_on_a_server(stand_in, server, tmp_path):
    cartoons.draw("cat", "9").save(tmp_path / "cat.jpg")
    for command in (
        ["complete", str(tmp_path / "cat.jpg"), "--samples", "2"],
        ["generate", "--count", "3"],
    ):
        out = tmp_path / "sheet.png"
        arguments = ["--server", server.address, "--model", "animals"]
        done = CliRunner().invoke(
            main, [*command, *arguments, "--out", str(out)]
        )
        assert done.exit_code == 0, done.output
        with Image.open(out) as sheet:
            assert sheet.width > 200
        out.unlink()


def test_the_page_paints_on_a_server(stand_in, server):
    app = pytest.importorskip("pixace_tf.app")
    studio = app.Studio(served.ServedPainter(server), "served")
    picture, small = studio.choose(np.asarray(cartoons.draw("cat", "2")))
    here = local.LocalPainter(stand_in.run)
    np.testing.assert_array_equal(small, here.shrink(picture))
    *_, (shown, sheet) = studio.complete(picture, 0.5, 2, 1.0, 3)
    assert sheet.width > shown.width
    *_, (_, grid) = studio.generate(4, 1.0, 3)
    assert grid.width > shown.width / 2


def test_a_wrong_dtype_is_refused(stand_in, server):
    wrong = inputs_of(1, prefix_length=np.array([b"many"], object))
    with pytest.raises(ValueError, match="refused"):
        server.predict("complete", wrong)
    assert len(server.predict("complete", inputs_of(1))["token_ids"]) == 1


def test_rest_needs_no_tensorflow(stand_in, tmp_path):
    code = (
        "import sys; from pixace_tf.painting.request import generation;"
        "from pixace_tf.painting.served import ServedPainter;"
        "from pixace_tf.painting.wire import Server;"
        f"server = Server({stand_in.rest!r}, 'animals');"
        "print(ServedPainter(server).generate(generation(1)).shape);"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stdout.strip() == "(1, 1, 8, 12, 3)", done.stderr


@pytest.mark.soak
def test_hundreds_of_pictures_of_sixteen_clients(stand_in):
    """None lost, none mixed up, batches formed, memory flat."""
    count, clients = 400, 16
    inputs = inputs_of(count)
    expected = call(stand_in.served, "complete", inputs)["token_ids"]
    server = wire.Server(stand_in.grpc, "animals")
    process = psutil.Process(stand_in.process.pid)
    drawn = np.full((count, LENGTH), -1)
    batches = len(stand_in.get("/stand-in")["batches"])
    memory = []

    def work(first):
        for i in range(first, count, clients):
            one = {k: v[i : i + 1] for k, v in inputs.items()}
            drawn[i] = server.predict("complete", one)["token_ids"][0]
            if i % 25 == 0:
                memory.append((i, process.memory_info().rss))

    threads = [threading.Thread(target=work, args=[i]) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(drawn, expected)
    merged = stand_in.get("/stand-in")["batches"][batches:]
    assert len(merged) < count / 2
    # A request that is never freed would take more than its picture.
    early = max(rss for i, rss in memory if 50 <= i < 100)
    assert process.memory_info().rss - early < 300 * 100_000


def compose_flags():
    text = (ROOT / "docker-compose.yml").read_text()
    return dict(re.findall(r"^ +- --(\w+)=(\S+)$", text, re.M))


def test_the_servers_settings_fit_the_export():
    text = (ROOT / "serving" / "batching.txt").read_text()
    allowed = [int(n) for n in re.findall(r"allowed_batch_sizes: (\d+)", text)]
    (largest,) = re.findall(r"max_batch_size { value: (\d+) }", text)
    assert tuple(allowed) == export.BATCH_SIZES
    assert int(largest) == allowed[-1] == served.MAX_ROWS
    flags = compose_flags()
    assert flags["batching_parameters_file"] == "/config/batching.txt"
    assert flags["monitoring_config_file"] == "/config/monitoring.txt"
    assert int(flags["rest_api_timeout_in_ms"]) >= 60_000
    # A pinned image, the same everywhere.
    images = {
        image
        for name in (
            "docker-compose.yml",
            "Dockerfile",
            "pixace_tf/runs/export_card.md",
        )
        for image in re.findall(
            r"tensorflow/serving:\S+", (ROOT / name).read_text()
        )
    }
    assert len(images) == 1
    assert "latest" not in images.pop()


def has_docker_daemon():
    if shutil.which("docker") is None:
        return False
    return not subprocess.run(
        ["docker", "info"], capture_output=True, timeout=60
    ).returncode


@pytest.mark.slow
@pytest.mark.skipif(not has_docker_daemon(), reason="no Docker daemon")
def test_the_real_server_paints_what_python_paints(tmp_path):
    """In the image of docker-compose.yml, with its flags."""
    run = make_run(tmp_path / "animals")
    export.export(run, say=lambda line: None)
    (image,) = re.findall(
        r"image: (\S+)", (ROOT / "docker-compose.yml").read_text()
    )
    command = ["docker", "run", "--rm", "-d", "-p", "127.0.0.1:0:8501"]
    command += ["-v", f"{run.path}:/models/animals:ro"]
    command += ["-v", f"{ROOT}/serving:/config:ro", "-e", "MODEL_NAME=animals"]
    command += [image, *(f"--{k}={v}" for k, v in compose_flags().items())]
    started = subprocess.run(
        command, capture_output=True, text=True, check=True
    )
    container = started.stdout.strip()
    try:
        port = subprocess.run(
            ["docker", "port", container, "8501"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        server = wire.Server(f"http://{port}", "animals")
        inputs = inputs_of(5)
        answer = server.predict("complete", inputs)
    finally:
        subprocess.run(["docker", "kill", container], capture_output=True)
    expected = call(ServedModel(run.model, run.tokenizer), "complete", inputs)
    np.testing.assert_array_equal(answer["token_ids"], expected["token_ids"])


@pytest.mark.parametrize(
    "page", ["Dockerfile", "docker-compose.yml", "docs/guides/serving.md"]
)
def test_containers_that_write_run_as_the_user_who_starts_them(page):
    text = (ROOT / page).read_text()
    # Shells export neither, so compose would take a default.
    assert not re.search(r"\$\{?(UID|GID)\b", text)
    text = re.sub(r"\\\n#? *", "", text)
    commands = re.findall(r"docker (?:compose )?run .*", text)
    writing = [c for c in commands if re.search(r"\b(fit|export|train)\b", c)]
    assert writing or page.endswith("md")
    assert all('--user "$(id -u):$(id -g)"' in c for c in writing)


def test_the_image_of_a_server_has_only_versions_of_a_run():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and line[0] != "#"]

    def is_sent(path):
        sent = True
        parts = pathlib.PurePath(path).parts
        prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        for pattern in patterns:  # The last one that matches decides.
            glob, depth = pattern.lstrip("!"), pattern.count("/") + 1
            if any(
                fnmatch.fnmatch(p, glob) and p.count("/") + 1 == depth
                for p in prefixes
            ):
                sent = pattern[0] == "!"
        return sent

    assert is_sent("saved_models/cats/12/saved_model.pb")
    assert is_sent("saved_models/cats/1/variables/variables.index")
    for name in ("completed.png", "samples.png", "tokens.npz", "run.json"):
        assert not is_sent(f"saved_models/cats/{name}")
    assert not is_sent("saved_models/cats/pictures/0001-new.png")

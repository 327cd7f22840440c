"""Painting with LiteRT: against TensorFlow's graphs, and what may go wrong."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import stir
from PIL import Image

from pixace_tf import machine, storage
from pixace_tf.cli import main
from pixace_tf.data.raster_orders import vector_rows
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.presets import decoder_config
from pixace_tf.runs import painter, run_config, run_folder
from pixace_tf.runs.model_weights import get_weights
from pixace_tf.sampling import painter_file
from pixace_tf.sampling.lite_engine import LiteEngine, LiteStepper
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.sampling.sampling_config import SamplingConfig
from pixace_tf.serving import lite_export

pytestmark = pytest.mark.slow
SIZE = (8, 8)
LENGTH = SIZE[0] * SIZE[1]


def save_run(path, decoder="multiscale", head="chain", **options):
    keras.utils.set_random_seed(1)
    palette = options.pop("palette", "hsv 3,2,2")
    run = run_folder.create_run(
        str(path),
        PixelTokenizer(SIZE, palette),
        {
            "decoder": decoder,
            "head": head,
            "decoder_config": decoder_config("pico", decoder, SIZE[1], 0),
            **options,
        },
        {},
    )
    weights = get_weights(stir(run.model, stddev=0.3))
    storage.write_npz(run.file(run_config.WEIGHTS_FILE), weights, {})
    return run.path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    orders = vector_rows(SIZE, False, True)
    path = save_run(folder, orders=orders, labels=["cat", "dog"])
    painter.make(path)
    return path


@pytest.fixture
def copy(path, tmp_path, monkeypatch):
    """A run that a test may spoil, with a cache of its own."""
    monkeypatch.setenv(machine.CACHE_VARIABLE, str(tmp_path / "cache"))
    return str(shutil.copytree(path, tmp_path / "copy"))


@pytest.fixture(scope="module")
def graph(path):
    return run_folder.load_run(path, jit_compile=False).sampler


@pytest.fixture(scope="module")
def lite(path):
    return Sampler(LiteEngine.of(painter.find(path)))


@pytest.fixture(scope="module")
def images(graph):
    return graph.generate(np.arange(40))


def hole():
    mask = np.zeros(SIZE, bool)
    mask[2:5, 3:6] = True
    return mask.reshape(1, -1)


FILLS = {
    "new": lambda s, x: s.generate(np.arange(40)),
    "prefixes": lambda s, x: s.complete(x, np.arange(40), np.arange(40)),
    "all but the last": lambda s, x: s.complete(x, LENGTH - 1, range(40)),
    "filters": lambda s, x: s.generate(
        range(12), SamplingConfig(0.9, [0, 5, 1, 2] * 3, 0.9, 0.05)
    ),
    "labels": lambda s, x: s.generate(range(9), labels=[0, 1, 2] * 3),
    "guidance": lambda s, x: s.generate(
        range(9), labels=[0, 1, 2] * 3, guidance=[1.0, 1.5, 3.0] * 3
    ),
    "a hole": lambda s, x: s.fill(
        x[:3], np.repeat(hole(), 3, axis=0), range(3), num_particles=8
    ),
    "a hole and guidance": lambda s, x: s.fill(
        x[:1], hole(), [5], num_particles=8, labels=2, guidance=2.0
    ),
    "the top": lambda s, x: s.fill(
        x[:3], np.tile(np.arange(LENGTH) < 20, (3, 1)), range(3)
    ),
}


@pytest.mark.parametrize("name", FILLS)
def test_litert_paints_what_the_graph_paints(graph, lite, images, name):
    expected = FILLS[name](graph, images)
    np.testing.assert_array_equal(FILLS[name](lite, images), expected)


def test_litert_scores_as_the_graph_does(graph, lite, images):
    labels, orders = np.arange(40) % 3, np.arange(40) % 8
    np.testing.assert_allclose(
        lite.bits(images, labels, orders),
        graph.bits(images, labels, orders),
        atol=1e-4,
    )


def test_a_picture_is_the_same_in_any_block_and_on_any_threads(path, lite):
    together = lite.generate(np.arange(40))
    engine = LiteEngine.of(painter.find(path))
    for engine.num_workers, count in ((1, 40), (1, 3), (3, 7), (2, 1)):
        drawn = Sampler(engine).generate(np.arange(count))
        np.testing.assert_array_equal(drawn, together[:count])


@pytest.mark.soak
@pytest.mark.parametrize(
    ("head", "palette"),
    [
        ("packed", "hsv 3,2,2"),
        ("mixture", "rgb 8,8,8"),
        ("chain", "rgb 0,1,8"),
        ("packed", "hsv 2,2,2 alpha 1"),
        ("mixture", "rgb 8,8,8 alpha 8"),
        ("chain", "hsv 3,2,2 alpha 2"),
        ("copy", "rgb 8,8,8 alpha 8"),
        ("copy", "hsv 3,2,2"),
    ],
)
def test_every_head_paints_alike(tmp_path, head, palette):
    path = save_run(tmp_path / "run", head=head, palette=palette)
    painter.make(path)
    graph = run_folder.load_run(path, jit_compile=False).sampler
    lite = Sampler(LiteEngine.of(painter.find(path)))
    images = graph.generate(np.arange(40))
    for name in ("new", "prefixes", "a hole"):
        drawn, expected = FILLS[name](lite, images), FILLS[name](graph, images)
        differ = np.any(drawn != expected, axis=1).sum()
        # Rounding decides draws near a tie: of a mixture with 256 levels, some
        # one in ten thousand.
        assert differ <= (2 if head in ("mixture", "copy") else 0), name
    if head == "copy":
        drawn, expected = (
            s.generate(range(9), max_colors=3) for s in (lite, graph)
        )
        np.testing.assert_array_equal(drawn, expected)


def test_a_loaded_run_paints_with_its_file(copy):
    lines = []
    run = run_folder.load_run(copy, say=lines.append)
    assert isinstance(run.engine, LiteEngine)
    assert not lines


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def train_on(file):
    weights = file.parent / run_config.WEIGHTS_FILE
    arrays, meta = storage.read_npz(weights)
    arrays = {name: array + 1 for name, array in arrays.items()}
    storage.write_npz(weights, arrays, meta)


@pytest.mark.parametrize("spoil", [pathlib.Path.unlink, damage, train_on])
def test_a_file_that_does_not_fit_does_not_count(copy, spoil):
    spoil(pathlib.Path(copy, run_config.PAINTER_FILE))
    assert painter.find(copy) is None


def test_a_missing_file_is_made(copy):
    pathlib.Path(copy, run_config.PAINTER_FILE).unlink()
    lines = []
    engine = run_folder.load_run(copy, say=lines.append).engine
    assert isinstance(engine, LiteEngine)
    assert [line.split(",")[0] for line in lines] == [
        f"Preparing {copy} for painting"
    ]
    assert painter.find(copy) is not None


def test_a_runtime_that_is_wrong_is_refused(copy):
    found = painter.find(copy)
    content = bytearray(pathlib.Path(found.path).read_bytes())
    # The kernels of the file are its largest constants.
    weights, _ = storage.read_npz(os.path.join(copy, "weights.npz"))
    kernel = max(weights.values(), key=lambda array: array.size)
    place = content.find(kernel.tobytes()[:64])
    if place < 0:
        place = content.find(np.ascontiguousarray(kernel.T).tobytes()[:64])
    assert place > 0
    content[place : place + 4] = np.float32(50).tobytes()
    with storage.new_file(found.path) as temporary:
        painter_file.write(
            temporary,
            bytes(content[: content.rindex(b"PK\x03\x04")]),
            found.facts,
            found.tokenizer,
            found.weights,
            found.self_test,
        )
    lines = []
    assert painter.open_engine(copy, say=lines.append) is None
    assert len(lines) == 1
    assert "gives wrong pixels" in lines[0]


def test_a_right_runtime_is_asked_once(copy, monkeypatch):
    assert painter.open_engine(copy) is not None
    monkeypatch.setattr("pixace_tf.sampling.self_test.passes", lambda *_: 1 / 0)
    assert painter.open_engine(copy) is not None


def test_without_litert_tensorflow_paints(copy, monkeypatch):
    def version(name):
        raise painter.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("importlib.metadata.version", version)
    lines = []
    run = run_folder.load_run(copy, say=lines.append)
    assert run.engine is None
    assert "ai-edge-litert is not installed" in lines[0]


@pytest.mark.soak
def test_the_file_of_a_read_only_run_lies_in_the_cache(copy):
    file = pathlib.Path(copy, run_config.PAINTER_FILE)
    file.unlink()
    found = painter.make(copy, is_own=False)
    assert not file.exists()
    assert pathlib.Path(found.path).is_relative_to(machine.cache_folder())
    assert painter.find(copy).digest == found.digest


def test_a_run_that_cannot_be_converted_says_why(copy):
    config = pathlib.Path(copy, storage.RUN_FILE)
    config.write_text(config.read_text().replace('"chain"', '"chains"'))
    with pytest.raises(painter.ConversionError, match="decoder must be one of"):
        painter.make(copy)


def test_files_of_another_version_do_not_count(copy, monkeypatch):
    monkeypatch.setattr(painter_file, "FORMAT", 99)
    assert painter.find(copy) is None
    with pytest.raises(UserError, match="another pixace-tf"):
        painter_file.PainterFile.open(
            os.path.join(copy, run_config.PAINTER_FILE)
        )


COMMANDS = """
import sys
from click.testing import CliRunner
from pixace_tf.cli import main
done = CliRunner().invoke(main, sys.argv[1:], catch_exceptions=False)
assert done.exit_code == 0, done.output
heavy = {"tensorflow", "keras", "keras_hub", "keras_nlp", "jax", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "{run}", "--count", "3", "--label", "all"],
        ["generate", "{run}", "--label", "cat", "--top-k", "3"],
        ["complete", "{run}", "{image}", "--cover", "center", "--tiles", "all"],
        ["complete", "{run}", "{image}", "--mask", "{image}", "--best", "2"],
        ["models"],
        ["palette", "{image}"],
        ["scan", "{folder}"],
    ],
    ids=lambda words: " ".join(words[:1]),
)
def test_commands_that_paint_import_no_tensorflow(path, tmp_path, words):
    image = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    pixels[5:9] = 255
    Image.fromarray(pixels).save(image)
    places = {"run": path, "image": image, "folder": tmp_path}
    words = [word.format(**places) for word in words]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr


def test_the_examples_of_the_card_paint_without_this_package(copy, tmp_path):
    out = tmp_path / "shared"
    done = CliRunner().invoke(
        main, ["export", copy, "--format", "litert", "--out", str(out)]
    )
    assert not done.exit_code, done.output
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        run_config.PAINTER_FILE,
    ]
    card = (out / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    blocks.append("import sys; assert 'pixace_tf' not in sys.modules")
    subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=out, check=True
    )
    new, completed = (
        np.asarray(Image.open(out / name))
        for name in ("new.png", "completed.png")
    )
    assert new.shape == completed.shape == (8, 4 * 8, 3)
    # The strip was scaled to one picture, whose upper half all have in common.
    pictures = completed.reshape(8, 4, 8, 3)
    assert np.all(pictures[:4] == pictures[:4, :1])
    assert np.any(pictures[4:] != pictures[4:, :1])


def test_a_card_of_ones_own_stays(copy, tmp_path):
    out = tmp_path / "shared"
    out.mkdir()
    (out / "README.md").write_text("mine")
    lines = []
    lite_export.export(copy, out, lines.append)
    assert (out / "README.md").read_text() == "mine"
    assert "your own" in lines[-1]


def test_colors_are_those_of_the_tokenizer(path):
    found = painter.find(path)
    tokenizer = PixelTokenizer(**found.tokenizer)
    images = np.random.default_rng(0).integers(0, 256, (50, *SIZE, 3))
    with LiteEngine.of(found)._interpreter() as interpreter:
        call = interpreter.get_signature_runner
        tokens = call("tokenize")(images=images.astype(np.int32))["token_ids"]
        back = call("detokenize")(token_ids=tokens)["images"]
    expected = tokenizer.tokenize(images.astype(np.uint8))
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(back, tokenizer.detokenize(expected))


CHATTY = """
from pixace_tf import console
console.LOG_INTERVAL_S = 0
from pixace_tf.cli import main
main()
"""


def test_ctrl_c_in_the_midst_of_painting_is_one_line(path, tmp_path):
    out = tmp_path / "new.png"
    words = ["generate", path, "--count", "50000", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", CHATTY, *words],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr.readline().startswith("Painting:")
        process.send_signal(signal.SIGINT)
        lines = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert lines[-1] == "pixace-tf: Stopped by SIGINT."
    assert not [line for line in lines if "Traceback" in line]
    assert not out.exists()


def test_a_damaged_run_is_no_fault_of_the_runtime(copy):
    pathlib.Path(copy, run_config.WEIGHTS_FILE).write_bytes(b"PK")
    lines = []
    with pytest.raises(UserError, match=r"weights\.npz is damaged"):
        run_folder.load_run(copy, say=lines.append)
    assert not lines


@pytest.mark.soak
def test_a_flat_run_paints_with_a_quiet_tensorflow(tmp_path):
    path = save_run(tmp_path / "flat", "transformer")
    environment = {**os.environ, "TF_XLA_FLAGS": ""}
    del environment["TF_CPP_MIN_LOG_LEVEL"]
    done = subprocess.run(
        [sys.executable, "-m", "pixace_tf", "generate", path, "--count", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr


@pytest.mark.parametrize("num_parts", [1, 3])
def test_copies_of_rows_come_from_all_parts(num_parts):
    rows = 7
    # Of each row, two heads.
    heads = np.arange(2 * rows * 3, dtype=np.float32).reshape(2 * rows, 3)

    class Interpreter:
        def get_signature_runner(self, name):
            return lambda condition: {"keys": heads}

    stepper = LiteStepper([Interpreter()] * num_parts, map, rows, "weighed")
    tokens = np.arange(rows)[:, None]
    carry = stepper.begin(tokens, 0, np.zeros((rows, 2), np.int32), 1)
    index = np.array([0, 0, 2, 5, 5, 5, 6])
    taken = stepper.take(carry, index)
    found = np.concatenate([part["keys"] for part in taken.state])
    expected = heads.reshape(rows, 2, 3)[index].reshape(-1, 3)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(taken.token_ids[:, 0], index)
    assert not taken.nats.any()

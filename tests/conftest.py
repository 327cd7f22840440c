import fcntl
import gc
import os
import pathlib
import shutil
import sys

from pixace_tf import compile_cache, machine

# Before TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
# Tests compile the same programs in many processes.
CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "programs"
os.environ[machine.CACHE_VARIABLE] = str(CACHE)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
compile_cache.enable()

import numpy as np
import pytest

# Modules that import TensorFlow are imported where they are used: the process
# that distributes the tests to the workers does not need it.
DECODERS = ("multiscale", "transformer", "reformer")
SLOW_FIXTURES = {"kind", "paired_run", "served", "trained_run"}
# These take half a minute or more.
SOAK_FIXTURES = {"killed_sweep", "of_two", "report"}
# The longest files start first, so that no worker ends alone with one.
LONGEST = (
    *("test_pipelines", "test_training", "test_export", "test_serving"),
    *("test_tuning", "test_hosts", "test_project", "test_model", "test_cli"),
    *("test_evaluation", "test_jax_training", "test_reformer"),
    *("test_sampling", "test_devices", "test_golden", "test_app"),
    *("test_conditions", "test_hub"),
)


def pytest_collection_modifyitems(items):
    """Mark tests by the fixtures that they need; soak tests are slow, too."""
    for item in items:
        if SOAK_FIXTURES & set(item.fixturenames):
            item.add_marker("soak")
        if "soak" in item.keywords or SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker("slow")
    items.sort(key=_place)


def _place(item):
    name = item.path.stem
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def stir(layer, stddev=0.1):
    """Add noise to all weights: those that start at zero would do nothing."""
    import keras

    for weight in layer.trainable_variables:
        weight.assign_add(stddev * keras.random.normal(weight.shape))
    return layer


@pytest.fixture(scope="module", autouse=True)
def forget_graphs():
    """Free the graphs of a module: keeping them all makes a process slow.

    What is alive after that stays so. Where the garbage collector does not look
    at it again, tracing takes a tenth less time.
    """
    gc.collect()
    gc.freeze()
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()


def make_once(tmp_path_factory, name, make):
    """Return a folder that one of the workers makes for all.

    Args:
        tmp_path_factory: The fixture.
        name: The folder's.
        make: Is called with the path of an empty folder and fills it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, unfinished = root / name, root / f"{name}.unfinished"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def cartoon_folder(tmp_path_factory):
    """Forty-eight labeled pictures."""
    from pixace_tf.data import cartoons

    folder = tmp_path_factory.mktemp("data") / "animals"
    cartoons.draw_folder(str(folder), 48, seed=0)
    return folder


@pytest.fixture(scope="session")
def trained_run(cartoon_folder, tmp_path_factory):
    """A briefly trained run, with its eight classes as labels.

    Tests may write into its folder: each worker has its own.
    """
    from pixace_tf.data import labels
    from pixace_tf.runs import painter
    from pixace_tf.runs.run_folder import load_run
    from pixace_tf.training.fit import fit
    from pixace_tf.training.training_arguments import TrainingArguments

    def train(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(labels, "MIN_IMAGES", 3)
            fit(
                str(cartoon_folder),
                TrainingArguments(
                    preset="pico",
                    image_size=(8, 12),
                    epochs=3,
                    batch_size=8,
                    jit_compile=False,
                    labels=True,
                ),
                runs_dir=str(folder),
                say=lambda line: None,
            )
        painter.make(str(folder / "animals"), say=lambda line: None)

    runs = make_once(tmp_path_factory, "trained-runs", train)
    path = tmp_path_factory.mktemp("runs") / "animals"
    shutil.copytree(runs / "animals", path)
    return load_run(path, jit_compile=False)


@pytest.fixture
def eager():
    """Run eagerly: tracing would take longer than the few steps themselves."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def random_images():
    return np.random.default_rng(0).integers(
        0, 256, (4, 8, 12, 3), dtype=np.uint8
    )


@pytest.fixture
def tiny_zoo(tmp_path, monkeypatch):
    """The source `tfds:tiny_zoo`, for this process and its children."""
    from tiny_zoo import TinyZoo

    folder = str(tmp_path / "tfds")
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", folder)
    monkeypatch.setenv("TFDS_DATA_DIR", folder)
    TinyZoo(data_dir=folder).download_and_prepare()
    return "tfds:tiny_zoo"

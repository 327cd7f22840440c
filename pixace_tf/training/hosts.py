"""Several processes, on one or more hosts, that train one model with JAX.

Each process reads its share of every batch. The first one writes the run
folder; the others work in temporary copies of it.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator

import keras
import numpy as np

from pixace_tf.console import Say
from pixace_tf.errors import UserError
from pixace_tf.runs.arguments import AUTO
from pixace_tf.runs.run_config import CHECKPOINT_FILE
from pixace_tf.storage import RUN_FILE
from pixace_tf.training.training_arguments import ALL_HOSTS, TrainingArguments

# A process that is silent for this long counts as dead.
HEARTBEAT_S = 20
SHUTDOWN_S = 20
# Words in the errors of JAX if another process is gone.
_BROKEN = re.compile("gloo|nccl|heartbeat|coordination|connection", re.I)
# The names that keras.distribution uses.
_ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
_COUNT = "KERAS_DISTRIBUTION_NUM_PROCESSES"
_INDEX = "KERAS_DISTRIBUTION_PROCESS_ID"


def join(options: TrainingArguments) -> None:
    """Join the other processes if `options.devices` is "all-hosts".

    Slurm or Open MPI has started them, or the environment variables of
    `keras.distribution` name them.

    Raises:
        UserError: If the backend is not JAX, the processes are not found, or
            the options would let each process choose differently.
    """
    if options.devices != ALL_HOSTS:
        return
    if keras.backend.backend() != "jax":
        raise UserError(
            "Several hosts train one model on the JAX backend only: set "
            "KERAS_BACKEND=jax."
        )
    if options.epochs is None or options.preset == AUTO:
        raise UserError(
            "Several hosts cannot use the clock: give --epochs and --preset."
        )
    import jax

    count, index = os.environ.get(_COUNT), os.environ.get(_INDEX)
    addresses = os.environ.get(_ADDRESSES)
    try:
        jax.distributed.initialize(
            addresses.split(",")[0] if addresses else None,
            int(count) if count else None,
            int(index) if index else None,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=SHUTDOWN_S,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"The other processes were not found ({error}). Start them with "
            f"Slurm or Open MPI, or set {_ADDRESSES}, {_COUNT} and {_INDEX}."
        ) from None


def place() -> tuple[int, int]:
    """Return the index of this process and the number of processes."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def check_alike(name: str, value: str) -> None:
    """Check that all processes, which must all call this, have the same value.

    Raises:
        UserError: In every process, with the name, if values differ.
    """
    _, count = place()
    if count == 1:
        return
    from jax.experimental import multihost_utils

    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    others = [i for i in range(count) if (found[i] != found[0]).any()]
    if others:
        raise UserError(
            f"The hosts do not have the same {name}: processes 0 and "
            f"{', '.join(map(str, others))} differ. Put images and run folder "
            "on a file system that all hosts share, or copy them to each host."
        )


def _state_of(path: str) -> str:
    """Return a digest of the state from which a training resumes."""
    parts = []
    for name in (RUN_FILE, CHECKPOINT_FILE):
        with (
            contextlib.suppress(FileNotFoundError),
            open(os.path.join(path, name), "rb") as file,
        ):
            parts.append(hashlib.file_digest(file, "blake2b").hexdigest())
    return " ".join(parts)


@contextlib.contextmanager
def own_folder(path: str) -> Iterator[str]:
    """Give the first process the run folder `path`, each other one a copy.

    Raises:
        UserError: If the processes see different states of the run.
    """
    index, count = place()
    if count == 1:
        yield path
        return
    check_alike(f"state of the run in {path}", _state_of(path))
    from jax.experimental import multihost_utils

    with tempfile.TemporaryDirectory(prefix="pixace-tf-") as scratch:
        own = os.path.join(scratch, os.path.basename(path)) if index else path
        if index and os.path.isdir(path):
            # The names of exported versions are numbers.
            others = ("tensorboard", "pictures", ".*", "[0-9]*")
            shutil.copytree(path, own, ignore=shutil.ignore_patterns(*others))
        # The first process writes nothing before all have their copies.
        multihost_utils.sync_global_devices("copied")
        yield own


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """If another process ends, print one line and end this process at once.

    An exception would not do, since JAX would wait for the other process.
    """
    if place()[1] == 1:
        yield
        return
    import jax

    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if isinstance(error, UserError) or not _BROKEN.search(str(error)):
            raise
        reason = " ".join(str(error).split())[:120]
        line = (
            f"pixace-tf: Another process of this training has ended ({reason})."
            " The same command on all hosts goes on from the last checkpoint.\n"
        )
        os.write(2, line.encode())
        os._exit(1)


def quietly(say: Say) -> Say:
    """Return `say` for the first process, a silent function for the others."""
    return say if not place()[0] else lambda line: None

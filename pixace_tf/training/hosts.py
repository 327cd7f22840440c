"""Several processes, on one host or on many, that train one model with JAX.

All of them compute the same; each reads its share of every batch. The first one
writes the run folder. The others work in temporary copies of it.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from pixace_tf.errors import UserError
from pixace_tf.runs.arguments import AUTO
from pixace_tf.runs.run_config import CHECKPOINT_FILE
from pixace_tf.storage import RUN_FILE
from pixace_tf.training.training_arguments import ALL_HOSTS, TrainingArguments

# A process that is silent for this long is considered dead.
HEARTBEAT_S = 20
SHUTDOWN_S = 20
# Words of JAX, in errors of several kinds, if another process is gone.
_BROKEN = re.compile("gloo|nccl|heartbeat|coordination|connection", re.I)
# How keras.distribution names them, too.
_ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
_COUNT = "KERAS_DISTRIBUTION_NUM_PROCESSES"
_INDEX = "KERAS_DISTRIBUTION_PROCESS_ID"


def join(options: TrainingArguments) -> None:
    """Join the processes that train together, if that is asked for.

    Slurm or Open MPI has started them, or the environment variables of
    `keras.distribution` name them.

    Raises:
        UserError: If the backend is another one, the processes are not found,
            or the options leave to each process what all must do alike.
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
            "Several hosts cannot go by the clock: give --epochs and --preset."
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
    """Return which process this is, from 0 on, and how many there are."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def check_alike(name: str, value: str) -> None:
    """Check that all processes have the same.

    All of them call this at the same point, before they compute together.

    Args:
        name: Names the value in the message.
        value: The value of this process, of any length.

    Raises:
        UserError: In every process, if one has something else.
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
    """Return a text that changes with what a training goes on from."""
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
    """Give each process a folder to write to.

    Args:
        path: The run folder; it may be missing.

    Yields:
        For the first process `path` itself, for each other one a copy.

    Raises:
        UserError: If the processes see different states of the run.
    """
    index, count = place()
    if count == 1:
        yield path
        return
    check_alike(f"state of the run in {path}", _state_of(path))
    from jax.experimental import multihost_utils

    if not index:
        # Nothing is written before all have their copies.
        multihost_utils.sync_global_devices("copied")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="pixace-tf-") as scratch:
        copy = os.path.join(scratch, os.path.basename(path))
        if os.path.isdir(path):
            # Exported versions are named by numbers.
            others = ("tensorboard", "pictures", ".*", "[0-9]*")
            shutil.copytree(path, copy, ignore=shutil.ignore_patterns(*others))
        multihost_utils.sync_global_devices("copied")
        yield copy


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """If another process ends, say so in one line and end, too.

    Raises:
        SystemExit: Not as usual: the process ends at once, since JAX would wait
            for the other one.
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
        os.write(
            2,
            b"pixace-tf: Another process of this training has ended ("
            + " ".join(str(error).split())[:120].encode()
            + b"). The same command on all hosts goes on from the last "
            b"checkpoint.\n",
        )
        os._exit(1)


def quietly(say: Callable[[str], None]) -> Callable[[str], None]:
    """Let only the first process speak."""

    def nothing(*_: Any) -> None:
        pass

    return say if not place()[0] else nothing

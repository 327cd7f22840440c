"""The group of all commands: errors as one line, TensorFlow without chatter."""

import contextlib
import errno
import functools
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from pixace_tf import compile_cache, console
from pixace_tf.errors import UserError

# What TensorFlow and JAX say where a GPU fails them, and what a user can do.
_ADVICE = {
    r"PTX|ptxas": "This GPU is newer than what XLA of this TensorFlow compiles "
    "for: add --no-jit-compile, or train with KERAS_BACKEND=jax.",
    r"(?i)DNN library|libcudnn|cudnn.*(not found|initiali[sz])": "cuDNN is "
    "missing or does not fit: pip install 'pixace-tf[gpu]'.",
    r"CUDA_ERROR_OUT_OF_MEMORY|cuda.*out of memory": "The memory of the GPU is "
    "taken: end what nvidia-smi shows, or set CUDA_VISIBLE_DEVICES= (empty) to "
    "do without the GPU.",
}


class Commands(click.Group):
    """Shows what a user can mend as one clear line, with an exit code.

    A mistake of this program keeps its traceback.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        console.open_standard_streams()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(str(error), 2)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click ends quietly then.
                raise
            place = f"{error.filename}: " if error.filename else ""
            _fail(f"{place}{error.strerror or error}", 1)
        except KeyboardInterrupt as error:
            signum = getattr(error, "signum", signal.SIGINT)
            name = signal.Signals(signum).name
            _fail(f"Stopped by {name}.", 128 + signum)
        except Exception as error:
            for pattern, advice in _ADVICE.items():
                if re.search(pattern, str(error)):
                    _fail(advice, 1)
            if type(error).__name__ != "ResourceExhaustedError":
                raise
            if "No space left" in str(error):
                _fail("No space left on the disk.", 1)
            _fail("Out of memory; try a smaller --batch-size.", 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"pixace-tf: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 88,
        "show_default": True,
    },
)
@click.version_option(package_name="pixace-tf")
def main() -> None:
    """Learn to finish half-covered pictures and to paint new ones.

    \b
    The way to go:
      pixace-tf generate animals          # paint with a model in the box
      pixace-tf demo                      # watch a whole training, 8 minutes
      pixace-tf fit data/cats             # train on your own pictures
      pixace-tf complete cats cat.jpg     # finish a picture like these

    Where a command takes a RUN, that is a path, a name in saved_models/, the
    name of a model in the box, or hf://USER/NAME; pixace-tf models lists them.
    Every command has its own --help.
    """
    # Such as of broken metadata, which does no harm.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def needs_tensorflow(command: Callable[..., None]) -> Callable[..., None]:
    """Import TensorFlow before the command, without its chatter."""

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        import_tensorflow()
        command(**arguments)

    return wrapped


def import_tensorflow() -> None:
    """Import TensorFlow without its chatter, and keep what XLA compiles.

    The chatter comes from C++ and heeds no setting. It is shown where
    TF_CPP_MIN_LOG_LEVEL is set.
    """
    is_cached = compile_cache.enable()
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        # XLA logs an error for each program that it finds, and runs it.
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3" if is_cached else "2"
        with _silent_stderr():
            import tensorflow as tf

            tf.config.list_physical_devices()


def typed_command(ctx: click.Context, left_out: Sequence[str] = ()) -> str:
    """Return the command of a context as a user would type it.

    Args:
        ctx: The context of a command.
        left_out: Names of parameters that change nothing of the result.

    Returns:
        One line, quoted for a shell; options with their defaults are left out.
    """
    words = ["pixace-tf", str(ctx.info_name)]
    for parameter in ctx.command.get_params(ctx):
        value = ctx.params.get(str(parameter.name))
        if parameter.name in left_out or value == parameter.get_default(ctx):
            continue
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif value is True:
            words.append(parameter.opts[0])
        elif value is False:
            words.append(parameter.secondary_opts[0])
        elif value is not None:
            words += [parameter.opts[0], str(value)]
    return shlex.join(words)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

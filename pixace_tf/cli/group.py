"""The group of all commands: errors as one line, a quiet TensorFlow."""

import errno
import functools
import importlib.util
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import click

from pixace_tf import compile_cache, console
from pixace_tf.errors import UserError, first_line

# Errors of TensorFlow and JAX on a GPU, and what a user can do about them.
_ADVICE = {
    r"PTX|ptxas": "This GPU is newer than what XLA of this TensorFlow compiles "
    "for: add --no-jit-compile, or train with KERAS_BACKEND=jax.",
    r"(?i)DNN library|libcudnn|cudnn.*(not found|initiali[sz])": "cuDNN is "
    "missing or does not fit: pip install 'pixace-tf[gpu]'.",
    r"CUDA_ERROR_OUT_OF_MEMORY|cuda.*out of memory": "The memory of the GPU is "
    "in use: end the processes that nvidia-smi shows, or set "
    "CUDA_VISIBLE_DEVICES= (empty) to work without the GPU.",
}
# The libraries that raise these errors.
_LIBRARIES = ("tensorflow", "jax", "jaxlib")
# Options that reduce the memory of a command, the most useful one first.
_SMALLER = ("--batch-size", "--count", "--particles", "--samples")


class Commands(click.Group):
    """Shows an error that the user can correct as one line, with an exit code.

    A bug of this program keeps its traceback.
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
            # click ends quietly if nobody reads. An error without a number is
            # one of a library, not of a system call.
            if error.errno in (None, errno.EPIPE):
                raise
            place = f"{error.filename}: " if error.filename else ""
            _fail(f"{place}{error.strerror or error}", 1)
        except KeyboardInterrupt as error:
            signum = getattr(error, "signum", signal.SIGINT)
            name = signal.Signals(signum).name
            _fail(f"Stopped by {name}.", 128 + signum)
        except Exception as error:
            advice = self._advice(error, ctx)
            if advice is None:
                raise
            _fail(f"{advice} ({first_line(error)})", 1)

    def _advice(self, error: Exception, ctx: click.Context) -> str | None:
        """Return what a user can do about an error of a library, if known."""
        library = type(error).__module__.partition(".")[0]
        if not isinstance(error, RuntimeError) and library not in _LIBRARIES:
            return None
        for pattern, advice in _ADVICE.items():
            if re.search(pattern, str(error)):
                return advice
        if type(error).__name__ != "ResourceExhaustedError":
            return None
        if "No space left" in str(error):
            return "No space left on the disk."
        command = self.commands[str(ctx.invoked_subcommand)]
        options = {name for each in command.params for name in each.opts}
        smaller = [name for name in _SMALLER if name in options]
        return f"Out of memory{f'; lower {smaller[0]}' if smaller else ''}."


def _fail(message: str, code: int) -> None:
    say(f"pixace-tf: {' '.join(message.split())}", err=True)
    sys.exit(code)


def say(text: str, err: bool = False) -> None:
    """Print lines of text, with control characters spelled out.

    Names of files, texts of a `run.json` and answers of a server can hold them.
    """
    safe = "".join(
        c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text
    )
    click.echo(safe, err=err)


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
    Where to start:
      pixace-tf generate animals          # paint with a model in the box
      pixace-tf demo                      # watch a training, 8 minutes
      pixace-tf fit data/cats             # train on your own pictures
      pixace-tf complete cats cat.jpg     # finish a picture like these

    A RUN is a path, a name in saved_models/, the name of a model in the box, or
    hf://USER/NAME; pixace-tf models lists them. Every command has its own
    --help.
    """
    # Pillow warns of broken metadata, which does no harm.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def needs_tensorflow(command: Callable[..., None]) -> Callable[..., None]:
    """Import TensorFlow before the command; see `import_tensorflow`."""

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        import_tensorflow()
        command(**arguments)

    return wrapped


def import_tensorflow() -> None:
    """Import TensorFlow without its log, and cache the programs of XLA.

    The first lines of the log come from C++ and ignore all settings. They are
    shown if TF_CPP_MIN_LOG_LEVEL is set.

    Raises:
        UserError: If it is not installed.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            "This needs TensorFlow, which is not installed: pip install "
            "pixace-tf, without --no-deps. Without it, pixace-tf paints with "
            "runs that have a painter file."
        )
    is_cached = compile_cache.enable()
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        # XLA logs an error for each program that it takes from the cache.
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3" if is_cached else "2"
        with console.silent_stderr():
            import tensorflow as tf

            tf.config.list_physical_devices()


def typed_command(ctx: click.Context, left_out: Sequence[str] = ()) -> str:
    """Return a command as a user would type it, in one line.

    Options that equal their defaults are left out, and parameters that do not
    change the result can be.
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

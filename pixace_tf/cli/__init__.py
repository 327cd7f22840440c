"""The command line: one file per group of commands.

`main` is the program. Only commands that need TensorFlow import it, so `--help`
answers at once.
"""

from pixace_tf.cli import (  # noqa: F401 - They add their commands to `main`.
    evaluation,
    images,
    painting,
    runs,
    serving,
    training,
)
from pixace_tf.cli.group import main

__all__ = ["main"]

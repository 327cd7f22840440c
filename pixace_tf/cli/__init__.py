"""The command line: one file per group of commands.

`main` is the program. TensorFlow is imported only by what needs it, so
`--help` answers at once.
"""

from pixace_tf.cli import (
    evaluation,
    images,
    painting,
    runs,
    serving,
    training,
)
from pixace_tf.cli.group import main

__all__ = [
    "evaluation",
    "images",
    "main",
    "painting",
    "runs",
    "serving",
    "training",
]

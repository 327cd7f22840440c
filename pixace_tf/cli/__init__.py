"""."""

from pixace_tf.cli.commands import main

__all__ = ["main"]

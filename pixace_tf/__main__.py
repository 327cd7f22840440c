"""Lets `python -m pixace_tf` do what `pixace-tf` does."""

from pixace_tf.cli.commands import main

main()

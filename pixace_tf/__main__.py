"""Lets `python -m pixace_tf` do what `pixace-tf` does."""

from pixace_tf.cli import main

main()

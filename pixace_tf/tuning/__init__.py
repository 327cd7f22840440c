"""Sweeps: which bits, and which sizes, are worth it.

`sweep.tune` runs one. keras-tuner chooses the trials; each trains in a process
of its own, and what dies is started again.
"""

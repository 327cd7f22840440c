"""Sweeps that compare bit widths and model sizes on a folder of images.

`sweep.tune` runs a sweep. keras-tuner chooses the trials; each trains in its
own process, on any number of machines that share the folder of the sweep.
"""

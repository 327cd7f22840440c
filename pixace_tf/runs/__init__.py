"""The run folder: everything that later steps need to know about a model.

`run_config` reads its description and `catalog` finds runs by name; neither
needs TensorFlow. `run_folder` creates and loads a run, `hub` fetches and
publishes one, and `arguments` checks what a training is told.
"""

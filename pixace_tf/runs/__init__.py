"""The run folder: all that later steps need to know about a model.

`run_config` says what is in it and `catalog` which runs there are; neither
needs TensorFlow. `run_folder.load_run` opens one, `run_folder.create_run`
begins one; `hub` fetches and publishes them; `arguments` refuses to go on with
other arguments.
"""

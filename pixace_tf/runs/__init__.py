"""The run folder: all that later steps need to know about a model.

`run_folder.load_run` opens one, `run_folder.create_run` begins one;
`arguments` refuses to go on with other arguments.
"""

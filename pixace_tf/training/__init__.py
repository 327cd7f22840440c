"""From images to a trained run.

`fit.fit` resolves its `training_arguments`, opens the run folder and hands it
to `loop.train`, which calls `model.fit` with the callbacks of `callbacks`,
`checkpoint` and `previews`.
"""

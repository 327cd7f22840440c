"""From a run to a SavedModel that a stock TensorFlow Serving takes.

`served_model.ServedModel` holds the signatures; `export.export` writes them as
the next numbered version, with warm-up requests and a `model_card`.
"""

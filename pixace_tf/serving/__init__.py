"""Exports a run as a SavedModel for a stock TensorFlow Serving.

`served_model.ServedModel` holds the signatures; `export.export` writes them as
the next numbered version, with warm-up requests and a `model_card`.
"""

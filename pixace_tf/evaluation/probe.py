"""A linear probe: whether the layers know the classes of images."""

from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressBar, ProgressCallback
from pixace_tf.data import batches
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    Part,
    detokenize,
    evenly_spaced,
)
from pixace_tf.evaluation.plots import probe_by_layer
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.typing import Tensor

_FOLDS = 3
_MAX_TRAIN = 2000
# Good for raw pixels, which need regularization most.
_INVERSE_PENALTY = 0.01
_BATCH_SIZE = 16

# Features `(N, D)` and labels `(N,)`.
_Examples = tuple[np.ndarray, np.ndarray]


def probe_layers(evidence: Evidence) -> Part:
    """Learn classes from each layer's states, with a logistic regression.

    As in Image GPT (Chen et al., 2020), it sees the mean states of a layer over
    all places, standardized; the model does not change. Cross-validation on at
    most 2,000 training images chooses the layer; held-out images test it.

    Returns:
        `classes`; the numbers of `train_pictures` and `pictures`; for each of
        `layers` the accuracy in `cross_validation` and on the tested images,
        `accuracy`; the `chosen_layer` (from 1), its `accuracy` and
        `accuracy_standard_error`; the accuracy of the same probe on
        `raw_pixels`, and of always naming the `majority_class`; and a PNG
        `probe`.

    Raises:
        MissingDataError: If there are fewer than two `shared_classes`.
    """
    training = evidence.require_training()
    chosen = evenly_spaced(len(training.labels), _MAX_TRAIN)
    train_labels = training.labels[chosen]
    labels = evidence.labels[evidence.is_held_out]
    classes = shared_classes(train_labels, labels)
    if len(classes) < 2:
        raise MissingDataError(
            "The probe needs at least two classes that occur both in the "
            "training pictures and in evaluated pictures outside of them."
        )
    is_train, is_test = np.isin(train_labels, classes), np.isin(labels, classes)
    held_out = evidence.token_ids[evidence.is_held_out]
    figures = _probe(
        evidence,
        (training.token_ids[chosen][is_train], train_labels[is_train]),
        (held_out[is_test], labels[is_test]),
    )
    figures["classes"] = classes
    return figures, {"probe": probe_by_layer(figures)}


def shared_classes(train: np.ndarray, test: np.ndarray) -> list[str]:
    """Return the classes with three images to learn from and one to test.

    Labels are str `(N,)` and `(M,)`, "" for none.
    """
    names, counts = np.unique(train, return_counts=True)
    known = set(names[counts >= _FOLDS].tolist()) & set(test.tolist())
    return sorted(known - {""})


def _probe(
    evidence: Evidence, train: _Examples, test: _Examples
) -> dict[str, Any]:
    """Return the figures of `probe_layers`, given tokens and labels."""
    (train_ids, train_labels), (test_ids, test_labels) = train, test
    run = evidence.run
    token_ids = np.concatenate([train_ids, test_ids])

    def split(features: np.ndarray) -> tuple[_Examples, _Examples]:
        learned, tested = np.split(features, [len(train_ids)])
        return (learned, train_labels), (tested, test_labels)

    layers = []
    with ProgressBar("Probing") as bar:
        states = layer_means(run.model, token_ids, run.jit_compile, bar.count)
        for number, layer in enumerate(states, 1):
            learned, tested = split(layer)
            layers.append(
                {
                    "layer": number,
                    "cross_validation": _cross_validate(learned),
                    "accuracy": _accuracy(learned, tested),
                }
            )
            bar.count(number, len(states) + 1)
    best = max(layers, key=lambda layer: layer["cross_validation"])
    accuracy = best["accuracy"]
    names, counts = np.unique(train_labels, return_counts=True)
    pixels = detokenize(token_ids, run.tokenizer).reshape(len(token_ids), -1)
    return {
        "train_pictures": len(train_ids),
        "pictures": len(test_ids),
        "layers": layers,
        "chosen_layer": best["layer"],
        "accuracy": accuracy,
        "accuracy_standard_error": np.sqrt(
            accuracy * (1 - accuracy) / len(test_ids)
        ),
        "raw_pixels": _accuracy(*split(pixels)),
        "majority_class": np.mean(test_labels == names[counts.argmax()]),
    }


def layer_means(
    model: PixaceCausalLM,
    token_ids: np.ndarray,
    jit_compile: bool = True,
    progress: ProgressCallback | None = None,
) -> list[np.ndarray]:
    """Return the mean state of each layer over all places of an image.

    The tokens are integers `(N, T)`, the states float32 `(N, hidden_dim)`.
    """

    def means(token_ids: Tensor) -> Tensor:
        states = model.layer_states(token_ids)
        means = [tf.reduce_mean(tf.cast(s, tf.float32), axis=1) for s in states]
        return tf.stack(means, axis=1)

    shape = _BATCH_SIZE, model.sequence_length
    program = tf.function(
        means,
        input_signature=[tf.TensorSpec(shape, tf.int32)],
        autograph=False,
        jit_compile=jit_compile,
    )
    layers = batches.apply(
        lambda batch: program(batch.astype(np.int32)),
        _BATCH_SIZE,
        token_ids,
        progress=progress,
    )
    return list(np.moveaxis(layers, 1, 0))


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(),
        LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000),
    )


def _cross_validate(examples: _Examples) -> float:
    from sklearn.model_selection import cross_val_score

    return float(cross_val_score(_classifier(), *examples, cv=_FOLDS).mean())


def _accuracy(train: _Examples, test: _Examples) -> float:
    return float(_classifier().fit(*train).score(*test))

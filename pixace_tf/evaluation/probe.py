"""What the layers know of classes they were never told: a linear probe."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.evaluation.learned import LearnedPictures, decode, spread
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.runs.run_folder import Run

HAS_SCIKIT_LEARN = importlib.util.find_spec("sklearn") is not None
_FOLDS = 3
_MAX_TRAIN = 2000
# Of the logistic regression: good for raw pixels, which need it most.
_INVERSE_PENALTY = 0.01
_BATCH_SIZE = 16


def shared_classes(learned: np.ndarray, evaluated: np.ndarray) -> list[str]:
    """Return the classes that can be learned and then told apart.

    Args:
        learned: str `(N,)`, "" for none; 2,000 of them, evenly spread, are for
            learning.
        evaluated: str `(M,)`.

    Returns:
        In order, those with at least three pictures to learn from and one to
        evaluate.
    """
    chosen = learned[spread(len(learned), _MAX_TRAIN)]
    names, counts = np.unique(chosen, return_counts=True)
    known = set(names[counts >= _FOLDS].tolist()) & set(evaluated.tolist())
    return sorted(known - {""})


def probe_layers(
    run: Run,
    learned: LearnedPictures,
    token_ids: np.ndarray,
    labels: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Learn classes from each layer's states, with a logistic regression.

    As Image GPT did (Chen et al., 2020): the states of a layer, their mean over
    all places, standardized; the model itself stays as it is. The layer is
    chosen by cross-validation on training pictures, not by its result.

    Args:
        run: A trained model.
        learned: What it has learned from; at most 2,000, evenly spread, train
            the probe.
        token_ids: integers `(N, T)`, pictures it has not learned from.
        labels: str `(N,)`; at least two `shared_classes`.
        progress: Told the pictures read and their number, then the layers.

    Returns:
        `classes`; the numbers of `train_pictures` and `pictures`; for each of
        `layers` the shares of right answers in `cross_validation` and on the
        pictures, `accuracy`; the `chosen_layer` (from 1), its `accuracy` and
        `accuracy_standard_error`; the accuracy of the same probe on
        `raw_pixels`, and of always naming the `majority_class`.
    """
    classes = shared_classes(learned.labels, labels)
    chosen = spread(len(learned.labels), _MAX_TRAIN)
    chosen = chosen[np.isin(learned.labels[chosen], classes)]
    known = np.isin(labels, classes)
    train, test = learned.train[chosen], token_ids[known]
    train_labels, test_labels = learned.labels[chosen], labels[known]
    states = layer_means(run.model, np.concatenate([train, test]), progress)
    layers = []
    for number, layer in enumerate(states, 1):
        layer_train, layer_test = layer[: len(train)], layer[len(train) :]
        layers.append(
            {
                "layer": number,
                "cross_validation": _cross_validate(layer_train, train_labels),
                "accuracy": _accuracy(
                    (layer_train, train_labels), (layer_test, test_labels)
                ),
            }
        )
        if progress is not None:
            progress(number, len(states) + 1)
    best = max(layers, key=lambda layer: layer["cross_validation"])
    names, counts = np.unique(train_labels, return_counts=True)
    pixels = [
        decode(tokens, run.tokenizer).reshape(len(tokens), -1)
        for tokens in (train, test)
    ]
    return {
        "classes": classes,
        "train_pictures": len(train),
        "pictures": len(test),
        "layers": layers,
        "chosen_layer": best["layer"],
        "accuracy": best["accuracy"],
        "accuracy_standard_error": np.sqrt(
            best["accuracy"] * (1 - best["accuracy"]) / len(test)
        ),
        "raw_pixels": _accuracy(
            (pixels[0], train_labels), (pixels[1], test_labels)
        ),
        "majority_class": np.mean(test_labels == names[counts.argmax()]),
    }


def layer_means(
    model: PixaceCausalLM,
    token_ids: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Return the mean state of each layer over all places of a picture.

    Args:
        model: The model.
        token_ids: integers `(N, T)`.
        progress: Told the pictures done and their number.

    Returns:
        For each layer float32 `(N, W)`.
    """

    def means(token_ids: tf.Tensor) -> list[tf.Tensor]:
        states = model.layer_states(token_ids)
        return [tf.reduce_mean(tf.cast(s, tf.float32), axis=1) for s in states]

    shape = _BATCH_SIZE, model.sequence_length
    program = tf.function(
        means,
        input_signature=[tf.TensorSpec(shape, tf.int32)],
        jit_compile=True,
    )
    done = []
    for start in range(0, len(token_ids), _BATCH_SIZE):
        batch = token_ids[start : start + _BATCH_SIZE].astype(np.int32)
        missing = _BATCH_SIZE - len(batch)
        full = np.pad(batch, ((0, missing), (0, 0)), mode="edge")
        done.append([layer.numpy()[: len(batch)] for layer in program(full)])
        if progress is not None:
            progress(start + len(batch), len(token_ids))
    return [np.concatenate(layer) for layer in zip(*done, strict=True)]


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(),
        LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000),
    )


def _cross_validate(features: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.model_selection import cross_val_score

    return float(
        cross_val_score(_classifier(), features, labels, cv=_FOLDS).mean()
    )


def _accuracy(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> float:
    return float(_classifier().fit(*train).score(*test))

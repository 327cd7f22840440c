"""The Fréchet distance of image sets, between features of a network.

Shapes: N images, D features.
"""

import dataclasses
import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressBar, ProgressCallback
from pixace_tf.data import batches
from pixace_tf.data.fidelity import on_white
from pixace_tf.errors import UserError
from pixace_tf.evaluation.evidence import (
    Evidence,
    MissingDataError,
    Part,
    detokenize,
    evenly_spaced,
    with_mirrored,
)
from pixace_tf.typing import Tensor

_MAX_REFERENCE = 5000
_BATCH_SIZE = 64
# The classifier learns for a number of steps, not for a time, so that it is the
# same on every machine.
NUM_STEPS = 400
_SIDE = 32
_FEATURES = 32


@dataclasses.dataclass(frozen=True)
class Judge:
    """A classifier of the training images.

    Attributes:
        network: See `train_classifier`.
        names: str `(K,)`, the classes in the order of its logits.
        accuracy: On held-out evaluated images, None if there are none.
    """

    network: keras.Model
    names: np.ndarray
    accuracy: float | None

    def share_right(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of images whose class is seen.

        Args:
            images: uint8 `(N, height, width, C)`, N at least 1.
            labels: str `(N,)`.
        """
        logits = extract(self.network, images)
        return float(np.mean(self.names[logits.argmax(axis=1)] == labels))


def compare_features(
    evidence: Evidence,
    new: np.ndarray,
    judge: Callable[[], Judge],
    network: keras.Model | None = None,
) -> Part:
    """Return Fréchet distances to the training images.

    Args:
        evidence: Images to compare with, and the training images.
        new: uint8 `(N, height, width, C)`, drawn by the model.
        judge: Returns a classifier; see `network`.
        network: Gives the features; by default the judge's last hidden layer.

    Returns:
        Distances to `reference_pictures` training images, each from the same
        number of `pictures`: `samples`, the new images; `palette_floor`,
        evaluated images in the colors of the palette; `real`, the same before
        the palette; with the number of `features`, the name of the `network`,
        and the `held_out_accuracy` of the judge, None if unknown. No images.

    Raises:
        MissingDataError: If there are fewer than two images or classes.
    """
    training = evidence.require_training()
    count = min(len(new), len(evidence.images))
    if count < 2 or len(training.token_ids) < 2:
        raise MissingDataError("One picture alone has no spread to compare.")
    chosen = evenly_spaced(len(training.token_ids), _MAX_REFERENCE)
    reference = detokenize(training.token_ids[chosen], evidence.run.tokenizer)
    if network is not None:
        name, accuracy = network.name, None
    else:
        name = "a classifier trained for this report"
        network, accuracy = drop_head(judge().network), judge().accuracy
    with ProgressBar("Comparing") as bar:
        reference_features = extract(network, reference, bar.count)
    evaluated = evidence.sample(count)

    def distance(images: np.ndarray) -> float:
        return frechet_distance(extract(network, images), reference_features)

    return {
        "pictures": count,
        "reference_pictures": len(reference),
        "features": reference_features.shape[1],
        "network": name,
        "held_out_accuracy": accuracy,
        "samples": distance(new[:count]),
        "palette_floor": distance(evaluated.quantized),
        "real": distance(evaluated.images),
    }, {}


def train_judge(evidence: Evidence) -> Judge:
    """Train a classifier on the training images that have classes.

    Raises:
        MissingDataError: If there are fewer than two classes.
    """
    training = evidence.require_training()
    chosen = evenly_spaced(len(training.token_ids), _MAX_REFERENCE)
    chosen = chosen[training.labels[chosen] != ""]
    names, classes = np.unique(training.labels[chosen], return_inverse=True)
    if len(names) < 2:
        raise MissingDataError(
            "The training pictures have no classes to train a network with; "
            "give one with --features."
        )
    images = detokenize(training.token_ids[chosen], evidence.run.tokenizer)
    flip = evidence.run.arguments["flip"]
    classifier = train_classifier(images, classes, flip, NUM_STEPS)
    is_known = evidence.is_held_out & np.isin(evidence.labels, names)
    judge = Judge(classifier, names, None)
    if not is_known.any():
        return judge
    accuracy = judge.share_right(
        evidence.quantized[is_known], evidence.labels[is_known]
    )
    return dataclasses.replace(judge, accuracy=accuracy)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Fréchet distance of two sets of features.

    As in FID (Heusel et al., 2017), it is squared, and between Gaussians with
    the means and covariances of float features `(N, D)`, N at least 2. It
    depends on the number of images, so figures compare only for equal numbers.
    """
    moments = []
    for features in (first.astype(np.float64), second.astype(np.float64)):
        covariance = np.atleast_2d(np.cov(features, rowvar=False))
        moments += [features.mean(axis=0), covariance]
    return gaussian_distance(*moments)


def gaussian_distance(
    first_mean: np.ndarray,
    first_covariance: np.ndarray,
    second_mean: np.ndarray,
    second_covariance: np.ndarray,
) -> float:
    """Return the squared Fréchet distance of two Gaussians.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)` (Dowson and Landau,
    1982). Means are float `(D,)`; covariances `(D, D)` may be singular.
    """
    values, vectors = np.linalg.eigh(first_covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ second_covariance @ root)
    distance = (
        np.sum((first_mean - second_mean) ** 2)
        + np.trace(first_covariance)
        + np.trace(second_covariance)
        - 2 * np.sum(np.sqrt(np.maximum(product, 0)))
    )
    return float(max(distance, 0))


def load_network(path: str) -> keras.Model:
    """Load a `.keras` network for `extract` without running code from it.

    Raises:
        UserError: If the file is missing, or its model does not take one tensor
            `(N, height, width, 3)` and return one.
    """
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path!r} with a Keras model.")
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # A damaged file can raise anything.
        reason = (str(error).strip().splitlines() or ["damaged"])[0]
        raise UserError(
            f"{path!r} does not load as a .keras model: {reason}"
        ) from None
    # A subclassed model may have no inputs.
    shapes = [tuple(x.shape) for x in getattr(network, "inputs", None) or []]
    outputs = getattr(network, "outputs", None) or []
    is_image = len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][3] == 3
    if not is_image or len(outputs) != 1:
        raise UserError(
            f"The model of {path!r} must take one tensor (N, height, width, 3) "
            f"and return one. Received: inputs {shapes}, {len(outputs)} outputs"
        )
    return network


def extract(
    network: keras.Model,
    images: np.ndarray,
    progress: ProgressCallback | None = None,
) -> np.ndarray:
    """Return the features of uint8 `(N, any_height, any_width, 3 or 4)`.

    The network takes float32 `(N, height, width, 3)` with values from 0 to 255.
    Transparent images are laid over white. Images are resized, antialiased, if
    the size of the network is fixed.

    Returns:
        float64 `(N, D)`: vectors as they are, maps as their mean over places.

    Raises:
        UserError: If the network returns another shape, or values that are not
            finite.
    """
    own_size = network.inputs[0].shape[1:3]
    size = [
        own or given
        for own, given in zip(own_size, images.shape[1:3], strict=True)
    ]

    def run(batch: np.ndarray) -> np.ndarray:
        pixels = tf.image.resize(on_white(batch), size, antialias=True)
        (output,) = keras.tree.flatten(network(pixels, training=False))
        features = np.asarray(output, np.float64)
        return features.mean(axis=tuple(range(1, features.ndim - 1)))

    features = batches.apply(run, _BATCH_SIZE, images, progress=progress)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise UserError(
            "The network must return finite features (N, D) or (N, ..., D). "
            f"Received: shape={features.shape}"
        )
    return features


def train_classifier(
    images: np.ndarray,
    classes: np.ndarray,
    flip: bool,
    num_steps: int,
) -> keras.Model:
    """Train a small convolutional classifier on batches of 64 images.

    Images are uint8 `(N, height, width, 3 or 4)`, some thousands, classes
    integers `(N,)`, each of 0 to K - 1 at least once, K at least 2. The model
    takes float32 `(N, 32, 32, 3)` with values from 0 to 255 and returns logits
    `(N, K)`. With `flip`, mirror images belong to the same class.
    """
    if flip:
        images, classes = with_mirrored(images), np.tile(classes, 2)
    small = batches.apply(
        lambda batch: tf.image.resize(
            on_white(batch), (_SIDE, _SIDE), antialias=True
        ),
        _BATCH_SIZE,
        images,
    )

    def gather(index: Tensor) -> tuple[Tensor, Tensor]:
        return tf.gather(small, index), tf.gather(classes, index)

    network = _build_classifier(int(classes.max()) + 1)
    network.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(3e-3, num_steps)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    dataset = (
        tf.data.Dataset.from_tensor_slices(_order(len(images), num_steps))
        .batch(_BATCH_SIZE)
        .map(gather)
        .prefetch(2)
    )
    with ProgressBar("Training a classifier") as bar:
        report = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda step, logs: bar.count(step + 1, num_steps)
        )
        network.fit(dataset, shuffle=False, verbose=0, callbacks=[report])
    return network


def _order(num_images: int, num_steps: int) -> np.ndarray:
    """Return int64 `(num_steps * 64,)` indices, shuffled in each epoch."""
    length = num_steps * _BATCH_SIZE
    rng = np.random.default_rng(0)
    num_epochs = -(-length // num_images)
    epochs = [rng.permutation(num_images) for _ in range(num_epochs)]
    return np.concatenate(epochs)[:length]


def _build_classifier(num_classes: int) -> keras.Model:
    seeds = iter(range(5))

    def he_normal() -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(seed=next(seeds))

    network = keras.Sequential(name="classifier")
    network.add(keras.layers.Input((_SIDE, _SIDE, 3)))
    network.add(keras.layers.Rescaling(1 / 127.5, offset=-1))
    for width in (32, 64, 64):
        network.add(
            keras.layers.Conv2D(
                width,
                3,
                strides=2,
                padding="same",
                use_bias=False,
                kernel_initializer=he_normal(),
            )
        )
        # With few steps, the moving averages must adapt quickly.
        network.add(keras.layers.BatchNormalization(momentum=0.9))
        network.add(keras.layers.ReLU())
    network.add(keras.layers.Flatten())
    for size, activation in ((_FEATURES, "relu"), (num_classes, None)):
        network.add(
            keras.layers.Dense(size, activation, kernel_initializer=he_normal())
        )
    return network


def drop_head(network: keras.Model) -> keras.Model:
    """Return a classifier without its last layer."""
    return keras.Model(network.inputs, network.layers[-1].input)

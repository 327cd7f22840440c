"""Networks that turn pictures into features: a given one, or a small own."""

import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pixace_tf.evaluation.nearest import with_mirrored

# The own network: what it sees, gives, and how long it learns. A number of
# steps, no time, so that it comes out the same on every machine.
_SIDE = 32
_FEATURES = 32
_STEPS = 400
_BATCH_SIZE = 64
_EXTRACT_BATCH_SIZE = 64


def load_network(path: str) -> keras.Model:
    """Load a network for features, without running code from its file.

    Args:
        path: A `.keras` file whose model takes float `(N, height, width, 3)`
            pictures of 0 to 255 and gives one tensor.

    Returns:
        The model.

    Raises:
        ValueError: If the file is missing or no such model.
    """
    if not os.path.isfile(path):
        raise ValueError(f"There is no file {path!r} with a Keras model.")
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # A damaged file can raise anything.
        reason = (str(error).strip().splitlines() or ["damaged"])[0]
        raise ValueError(
            f"{path!r} does not load as a .keras model: {reason}"
        ) from None
    inputs = getattr(network, "inputs", None) or []
    outputs = getattr(network, "outputs", None) or []
    shapes = [tuple(tensor.shape) for tensor in inputs]
    is_picture = len(shapes) == 1 and len(shapes[0]) == 4
    if not is_picture or shapes[0][3] != 3 or len(outputs) != 1:
        raise ValueError(
            f"The model of {path!r} must take one tensor (N, height, width, 3) "
            f"and give one. Received: inputs {shapes}, {len(outputs)} outputs"
        )
    return network


def extract(
    network: keras.Model,
    images: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the features of pictures.

    Args:
        network: Takes float32 `(N, height, width, 3)` of 0 to 255; pictures
            are resized to that, antialiased, where it is fixed.
        images: uint8 `(N, any_height, any_width, 3)`.
        progress: Told the pictures done and their number.

    Returns:
        float64 `(N, D)`: a vector as it is, a map as its mean over places.

    Raises:
        ValueError: If the network gives something else, or no finite numbers.
    """
    size = [
        given or own
        for given, own in zip(
            network.inputs[0].shape[1:3], images.shape[1:3], strict=True
        )
    ]
    done = []
    for start in range(0, len(images), _EXTRACT_BATCH_SIZE):
        batch = images[start : start + _EXTRACT_BATCH_SIZE]
        pixels = tf.image.resize(batch, size, antialias=True)
        (output,) = keras.tree.flatten(network(pixels, training=False))
        features = np.asarray(output, np.float64)
        if features.ndim > 2:
            features = features.mean(axis=tuple(range(1, features.ndim - 1)))
        done.append(features)
        if progress is not None:
            progress(start + len(batch), len(images))
    features = np.concatenate(done)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ValueError(
            "The network must give finite features (N, D) or (N, ..., D). "
            f"Received: shape={features.shape}"
        )
    return features


def train_classifier(
    images: np.ndarray,
    classes: np.ndarray,
    flip: bool,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> keras.Model:
    """Train a small convolutional classifier: half a minute on two cores.

    Args:
        images: uint8 `(N, height, width, 3)`, some thousands at most.
        classes: integers `(N,)`, each of 0 to K - 1 at least once, K at least
            2.
        flip: Whether mirrored pictures belong to the same class.
        seed: Of weights and order.
        progress: Told the steps done and their number.

    Returns:
        A model of float32 `(N, 32, 32, 3)` pictures of 0 to 255 that gives
        logits `(N, K)`; `drop_head` gives its features.
    """
    rng = np.random.default_rng(seed)
    if flip:
        images, classes = with_mirrored(images), np.tile(classes, 2)
    num_epochs = -(-_STEPS * _BATCH_SIZE // len(images))
    order = np.concatenate(
        [rng.permutation(len(images)) for _ in range(num_epochs)]
    )[: _STEPS * _BATCH_SIZE]
    small = np.concatenate(
        [
            tf.image.resize(
                images[i : i + 1024], (_SIDE, _SIDE), antialias=True
            )
            for i in range(0, len(images), 1024)
        ]
    )
    network = _build_classifier(int(classes.max()) + 1, seed)
    network.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(3e-3, _STEPS)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def gather(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(small, index), tf.gather(classes, index)

    def report(step: int, logs: object) -> None:
        if progress is not None:
            progress(step + 1, _STEPS)

    network.fit(
        tf.data.Dataset.from_tensor_slices(order)
        .batch(_BATCH_SIZE)
        .map(gather)
        .prefetch(2),
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=report)],
    )
    return network


def drop_head(network: keras.Model) -> keras.Model:
    """Return a classifier without its last layer."""
    return keras.Model(network.inputs, network.layers[-1].input)


def _build_classifier(num_classes: int, seed: int) -> keras.Model:
    seeds = iter(range(seed, seed + 8))

    def he_normal() -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(seed=next(seeds))

    layers: list[keras.Layer] = [
        keras.layers.Input((_SIDE, _SIDE, 3)),
        keras.layers.Rescaling(1 / 127.5, offset=-1),
    ]
    for width in (32, 64, 64):
        layers += [
            keras.layers.Conv2D(
                width,
                3,
                strides=2,
                padding="same",
                use_bias=False,
                kernel_initializer=he_normal(),
            ),
            # Of few steps, the moving averages must be quick.
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    layers += [
        keras.layers.Flatten(),
        keras.layers.Dense(
            _FEATURES, activation="relu", kernel_initializer=he_normal()
        ),
        keras.layers.Dense(num_classes, kernel_initializer=he_normal()),
    ]
    return keras.Sequential(layers, name="classifier")

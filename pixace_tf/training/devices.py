"""Several devices of one machine that share each batch."""

from typing import Any

import keras
import tensorflow as tf

from pixace_tf.errors import UserError
from pixace_tf.training.training_arguments import ALL


def strategy(devices: str) -> tf.distribute.Strategy:
    """Return what spreads a batch over devices.

    Args:
        devices: How many, or "all": GPUs where there are any, else CPUs, of
            which TensorFlow sees one unless it is told otherwise.

    Returns:
        A mirrored strategy; the default one, which does nothing, for a single
        device. A model is made in its scope.

    Raises:
        UserError: If there are not so many.
    """
    if devices == "1":
        return tf.distribute.get_strategy()
    found = tf.config.list_logical_devices("GPU")
    found = found or tf.config.list_logical_devices("CPU")
    count = len(found) if devices == ALL else int(devices)
    if count > len(found):
        raise UserError(
            f"devices must be at most {len(found)}: TensorFlow sees "
            f"{', '.join(device.name for device in found)}. "
            f"Received: devices={devices}"
        )
    if count == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([d.name for d in found[:count]])


class SharedAdamW(keras.optimizers.AdamW):
    """AdamW that is given the gradient of the whole batch on each device.

    Keras clips what one device has computed and adds the gradients up later, so
    that two devices would clip otherwise than one. Here they are added up
    before, by `MirroredStep`.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return list(grads_and_vars)


class MirroredStep:
    """The `train_step` of a model on one of several devices.

    Args:
        model: A compiled model whose loss is a mean over images, with
            `SharedAdamW`; it was made in the scope of the strategy.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def __call__(self, data: Any) -> dict[str, Any]:
        """Take one step.

        Args:
            data: Inputs and targets, this device's share of the batch.

        Returns:
            The metrics by name, such as the mean loss since they were reset.
        """
        model = self._model
        context = tf.distribute.get_replica_context()
        inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            # Keras divides it by the number of devices.
            loss = model.compute_loss(inputs, targets, outputs)
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_weights)
        # Dense, those of the embeddings too.
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        model.optimizer.apply(gradients, model.trainable_weights)
        model.metrics[0].update_state(
            loss * context.num_replicas_in_sync,
            sample_weight=tf.shape(targets)[0],
        )
        return model.get_metrics_result()

"""The devices of a machine, and how they share a batch."""

import contextlib
import subprocess
from typing import Any

import keras
import tensorflow as tf

from pixace_tf.errors import UserError
from pixace_tf.training import schedule
from pixace_tf.training.training_arguments import ALL, ALL_HOSTS


def has_gpu() -> bool:
    """Tell whether the backend of Keras trains on a GPU."""
    if keras.backend.backend() == "jax":
        import jax

        return any(device.platform == "gpu" for device in jax.devices())
    return bool(tf.config.list_physical_devices("GPU"))


def micro_batch_pixels(precision: str) -> int:
    """Return the most pixels of a micro batch in a Keras dtype policy."""
    if not has_gpu():
        return schedule.CPU_MICRO_BATCH_PIXELS
    pixels = _gpu_gigabytes() * schedule.GPU_MICRO_BATCH_PIXELS_PER_GB
    return int(pixels / 2 if precision == "float32" else pixels)


def steps_between_looks() -> int:
    """Return the steps between two reads of the loss; a CPU need not wait."""
    return 20 if has_gpu() else 1


def _gpu_gigabytes() -> float:
    """Return the memory of the smallest GPU, in GB; 10 if it is unknown."""
    query = "--query-gpu=memory.total", "--format=csv,noheader,nounits"
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        answer = subprocess.check_output(
            ["nvidia-smi", *query],
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=20,
        )
        return min(map(float, answer.split())) * 2**20 / 1e9
    return 10.0


def leave_gpu_to_backend() -> None:
    """Keep TensorFlow, which reads the data, off the GPU if JAX trains."""
    if keras.backend.backend() == "jax":
        tf.config.set_visible_devices([], "GPU")


def sync(model: keras.Model) -> None:
    """Update the variables of a model, which JAX keeps elsewhere in `fit`."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def count() -> int:
    """Return the number of devices that share a batch in this `scope`."""
    if keras.backend.backend() == "jax":
        distribution = keras.distribution.distribution()
        return distribution.device_mesh.devices.size if distribution else 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def check_batch_size(batch_size: int) -> None:
    """Raise UserError unless the devices can share a batch evenly."""
    if batch_size % count():
        raise UserError(
            f"batch_size must be a multiple of the {count()} devices. "
            f"Received: batch_size={batch_size}"
        )


def scope(devices: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which to build a model that trains on devices.

    It is the scope of a mirrored strategy of TensorFlow or of a distribution of
    Keras for JAX; for a single device it does nothing.

    Args:
        devices: Their number, or "all": the GPUs, or the CPUs if there are
            none; for JAX also "all-hosts".

    Raises:
        UserError: If there are fewer devices.
    """
    if devices == "1":
        return contextlib.nullcontext()
    is_jax = keras.backend.backend() == "jax"
    if is_jax:
        found = keras.distribution.list_devices()
    else:
        logical = tf.config.list_logical_devices
        found = [d.name for d in logical("GPU") or logical("CPU")]
    count = len(found) if devices in (ALL, ALL_HOSTS) else int(devices)
    if count > len(found):
        raise UserError(
            f"devices must be at most {len(found)}: "
            f"{'JAX' if is_jax else 'TensorFlow'} sees {', '.join(found)}. "
            f"Received: devices={devices}"
        )
    if is_jax:
        # `token_dataset.training_batches` has already split the batches.
        return keras.distribution.DataParallel(
            devices=found[:count], auto_shard_dataset=False
        ).scope()
    if count == 1:
        return contextlib.nullcontext()
    return tf.distribute.MirroredStrategy(found[:count]).scope()


class SharedAdamW(keras.optimizers.AdamW):
    """AdamW that receives the gradient of the whole batch on each device.

    `mirrored_step` adds the gradients of all devices before they are clipped;
    Keras would do so afterwards.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return list(grads_and_vars)


def mirrored_step(model: keras.Model, data: Any) -> dict[str, Any]:
    """Take a training step on one of several devices.

    Args:
        model: A model with `SharedAdamW`, built in the scope of the strategy;
            its loss is a mean over images.
        data: Inputs and targets, this device's share of the batch.

    Returns:
        The metrics by name: the mean loss since they were reset.
    """
    context = tf.distribute.get_replica_context()
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True)
        # Keras has divided it by the number of devices.
        loss = model.compute_loss(inputs, targets, outputs)
        scaled = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, model.trainable_weights)
    # Embeddings have sparse gradients.
    gradients = [tf.convert_to_tensor(g) for g in gradients]
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    model.optimizer.apply(gradients, model.trainable_weights)
    model.metrics[0].update_state(
        loss * context.num_replicas_in_sync,
        sample_weight=tf.shape(targets)[0],
    )
    return model.get_metrics_result()

"""Several devices of one machine that share each batch."""

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
    """Return how many pixels one device computes at a time.

    Args:
        precision: The Keras dtype policy.
    """
    if not has_gpu():
        return schedule.CPU_MICRO_BATCH_PIXELS
    pixels = _gpu_gigabytes() * schedule.GPU_MICRO_BATCH_PIXELS_PER_GB
    return int(pixels / 2 if precision == "float32" else pixels)


def steps_between_looks() -> int:
    """Return how many steps a device may take before its loss is read.

    A CPU is read after each step, which costs nothing there.
    """
    return 20 if has_gpu() else 1


def _gpu_gigabytes() -> float:
    """Return the memory of the smallest GPU, in GB; 10 if it is unknown."""
    command = ["nvidia-smi", "--query-gpu=memory.total"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        told = subprocess.run(
            [*command, "--format=csv,noheader,nounits"],
            capture_output=True,
            check=True,
            text=True,
            timeout=20,
        )
        return min(map(float, told.stdout.split())) * 2**20 / 1e9
    return 10.0


def leave_gpu_to_backend() -> None:
    """Keep TensorFlow, which reads the data, off a GPU that JAX trains on."""
    if keras.backend.backend() == "jax":
        tf.config.set_visible_devices([], "GPU")


def sync(model: keras.Model) -> None:
    """Bring the variables of a model up to date within `model.fit`.

    On the JAX backend, `fit` keeps their values elsewhere, and reads the
    variables again afterwards.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def count() -> int:
    """Return how many devices share a batch, within a `scope`."""
    if keras.backend.backend() == "jax":
        distribution = keras.distribution.distribution()
        if distribution is None:
            return 1
        return int(distribution.device_mesh.devices.size)
    return tf.distribute.get_strategy().num_replicas_in_sync


def check_batch_size(batch_size: int) -> None:
    """Check that the devices of a `scope` can share a batch evenly.

    Raises:
        UserError: If they cannot.
    """
    if batch_size % count():
        raise UserError(
            f"batch_size must be a multiple of the {count()} devices. "
            f"Received: batch_size={batch_size}"
        )


def scope(devices: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context; what is trained in it spreads batches over devices.

    Args:
        devices: How many, or "all": GPUs where there are any, else CPUs, of
            which TensorFlow sees one unless it is told otherwise; for JAX also
            "all-hosts".

    Returns:
        The scope of a mirrored strategy of TensorFlow, or of a distribution of
        Keras for JAX; for a single device it does nothing. Build the model in
        it.

    Raises:
        UserError: If there are fewer.
    """
    if devices == "1":
        return contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        return _jax_scope(devices)
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
        return contextlib.nullcontext()
    names = [device.name for device in found[:count]]
    return tf.distribute.MirroredStrategy(names).scope()


def _jax_scope(devices: str) -> contextlib.AbstractContextManager[Any]:
    found = keras.distribution.list_devices()
    wanted = len(found) if devices in (ALL, ALL_HOSTS) else int(devices)
    if wanted > len(found):
        raise UserError(
            f"devices must be at most {len(found)}: JAX sees "
            f"{', '.join(found)}. Received: devices={devices}"
        )
    # The batches are split already, see `token_dataset.training_batches`.
    return keras.distribution.DataParallel(
        devices=found[:wanted], auto_shard_dataset=False
    ).scope()


class SharedAdamW(keras.optimizers.AdamW):
    """AdamW that receives the gradient of the whole batch on each device.

    Keras clips the gradient of each device before it adds them up, so two
    devices would clip differently from one. Here `MirroredStep` adds them up
    first.
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

"""The loss and the optimizer, for any backend of Keras."""

import functools

import keras

from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.training.loss_scaling import CountingLossScaleOptimizer
from pixace_tf.typing import Tensor


def compile_model(
    model: PixaceCausalLM,
    learning_rate: float,
    jit_compile: bool,
    parts: int = 1,
) -> None:
    """Give a model its loss and optimizer.

    Only the weights of matrix products decay, not biases, norms, or tables.

    Args:
        model: The model to train.
        learning_rate: The peak of the schedule.
        jit_compile: Whether XLA compiles the step; see also `sharded_step`.
        parts: Steps whose gradients make one update.
    """

    def pixel_loss(token_ids: Tensor, logits: Tensor) -> Tensor:
        return model.pixel_nats(token_ids, logits)

    num_devices = 1
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        num_devices = tf.distribute.get_strategy().num_replicas_in_sync
    optimizer_class = keras.optimizers.AdamW
    if num_devices > 1:
        from pixace_tf.training import devices

        optimizer_class = devices.SharedAdamW
    optimizer = optimizer_class(
        learning_rate,
        beta_2=0.99,
        weight_decay=0.05,
        global_clipnorm=1.0,
        gradient_accumulation_steps=parts if parts > 1 else None,
        name="adamw",  # Part of the names in a checkpoint.
    )
    optimizer.exclude_from_weight_decay(
        [v for v in model.trainable_variables if v.name != "kernel"]
    )
    if parts > 1 and model.dtype_policy.name == "mixed_float16":
        # The name that Keras would give its own one.
        optimizer = CountingLossScaleOptimizer(
            optimizer, name="loss_scale_optimizer"
        )
    model.compile(
        optimizer=optimizer,
        loss=pixel_loss,
        # XLA cannot compile a step across devices.
        jit_compile=jit_compile and num_devices == 1,
    )
    model.optimizer.build(model.trainable_variables)
    if num_devices > 1:
        model.train_step = functools.partial(devices.mirrored_step, model)
    elif jit_compile and keras.backend.backend() == "tensorflow":
        from pixace_tf.training import sharded_step

        sharded_step.use(model)

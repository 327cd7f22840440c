"""The loss and the optimizer, in Keras alone, so that any backend can train."""

from typing import Any

import keras

from pixace_tf.model.causal_lm import PixaceCausalLM


def compile_model(
    model: PixaceCausalLM,
    learning_rate: float,
    jit_compile: bool,
    accumulation_steps: int = 1,
) -> None:
    """Give a model its loss and optimizer.

    Args:
        model: The model to train.
        learning_rate: The peak of the schedule.
        jit_compile: Whether XLA compiles the step; on a CPU the batch is then
            cut into shards where it can be, see `sharded_step`.
        accumulation_steps: Steps whose gradients make one update.
    """

    def pixel_loss(token_ids: Any, logits: Any) -> Any:
        return model.pixel_nats(token_ids, logits)

    num_devices = _num_replicas()
    optimizer = keras.optimizers.AdamW
    if num_devices > 1:
        from pixace_tf.training import devices

        optimizer = devices.SharedAdamW
    model.compile(
        optimizer=optimizer(
            learning_rate,
            beta_2=0.99,
            weight_decay=0.05,
            global_clipnorm=1.0,
            gradient_accumulation_steps=(
                accumulation_steps if accumulation_steps > 1 else None
            ),
            name="adamw",  # Part of the names in a checkpoint.
        ),
        loss=pixel_loss,
        # XLA compiles no step that reaches beyond one device.
        jit_compile=jit_compile and num_devices == 1,
    )
    model.optimizer.build(model.trainable_variables)
    if num_devices > 1:
        model.train_step = devices.MirroredStep(model)
    elif jit_compile and keras.backend.backend() == "tensorflow":
        from pixace_tf.training import sharded_step

        sharded_step.use(model)


def _num_replicas() -> int:
    """Return on how many devices TensorFlow mirrors the weights."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync

"""The loss and the optimizer, for any backend of Keras."""

import functools

import keras

from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.training.loss_scaling import CountingLossScaleOptimizer
from pixace_tf.training.training_arguments import WEIGHT_DECAY
from pixace_tf.typing import Tensor


def compile_model(
    model: PixaceCausalLM,
    learning_rate: float,
    jit_compile: bool,
    parts: int = 1,
    weight_decay: float = WEIGHT_DECAY,
) -> None:
    """Give a model its loss and optimizer.

    Only the weights of matrix products decay, not biases, norms, or tables.

    Args:
        model: The model to train.
        learning_rate: The peak of the schedule.
        jit_compile: Whether XLA compiles the step; see also `sharded_step`.
        parts: Steps whose gradients make one update.
        weight_decay: What decays per update, times the learning rate.
    """

    def pixel_loss(token_ids: Tensor, logits: Tensor) -> Tensor:
        return model.pixel_nats(token_ids, logits)

    is_mirrored = False
    if keras.backend.backend() == "tensorflow":
        from pixace_tf.training import devices, sharded_step

        is_mirrored = devices.count() > 1
    adamw = devices.SharedAdamW if is_mirrored else keras.optimizers.AdamW
    optimizer = adamw(
        learning_rate,
        beta_2=0.99,
        weight_decay=weight_decay,
        global_clipnorm=1.0,
        gradient_accumulation_steps=parts if parts > 1 else None,
        name="adamw",  # Part of the names in a checkpoint.
    )
    optimizer.exclude_from_weight_decay(
        [v for v in model.trainable_variables if v.name != "kernel"]
    )
    if parts > 1 and model.dtype_policy.name == "mixed_float16":
        # The name that Keras would give its own one.
        name = "loss_scale_optimizer"
        optimizer = CountingLossScaleOptimizer(optimizer, name=name)
    model.compile(
        optimizer=optimizer,
        loss=pixel_loss,
        # XLA cannot compile a step across devices.
        jit_compile=jit_compile and not is_mirrored,
    )
    model.optimizer.build(model.trainable_variables)
    if is_mirrored:
        model.train_step = functools.partial(devices.mirrored_step, model)
    elif jit_compile and keras.backend.backend() == "tensorflow":
        sharded_step.use(model)

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

    model.compile(
        optimizer=keras.optimizers.AdamW(
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
        jit_compile=jit_compile,
    )
    model.optimizer.build(model.trainable_variables)
    if jit_compile and keras.backend.backend() == "tensorflow":
        from pixace_tf.training import sharded_step

        sharded_step.use(model)

"""The likelihood of images while a model trains on the JAX backend."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pixace_tf.console import ProgressCallback
from pixace_tf.data import batches
from pixace_tf.model.causal_lm import PixaceCausalLM


def bits_with_jax(
    model: PixaceCausalLM, batch_size: int
) -> Callable[..., np.ndarray]:
    """Return a function like `likelihood.Scorer.bits`, without a label."""
    import jax

    @jax.jit
    def nats(weights: Any, others: Any, token_ids: Any) -> Any:
        logits, _ = model.stateless_call(
            weights, others, token_ids, training=False
        )
        return model.pixel_nats(token_ids, logits)

    def bits(
        token_ids: np.ndarray, progress: ProgressCallback | None = None
    ) -> np.ndarray:
        weights = [v.value for v in model.trainable_variables]
        others = [v.value for v in model.non_trainable_variables]
        function = functools.partial(nats, weights, others)
        token_ids = token_ids.astype(np.int32)
        found = batches.apply(
            function, batch_size, token_ids, progress=progress
        )
        return found / np.float32(np.log(2))

    return bits

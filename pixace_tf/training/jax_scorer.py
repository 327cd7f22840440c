"""The likelihood of images while a model trains on the JAX backend.

Shapes: N images, T pixels.
"""

from typing import Any

import numpy as np

from pixace_tf.console import ProgressCallback
from pixace_tf.data import batches
from pixace_tf.model.causal_lm import PixaceCausalLM


class JaxScorer:
    """Computes the bits of whole images; see `likelihood.Scorer`."""

    def __init__(self, model: PixaceCausalLM, batch_size: int) -> None:
        import jax

        self._model, self._batch_size = model, batch_size

        def nats(weights: Any, others: Any, token_ids: Any) -> Any:
            logits, _ = model.stateless_call(
                weights, others, token_ids, training=False
            )
            return model.pixel_nats(token_ids, logits)

        self._nats = jax.jit(nats)

    def bits(
        self, token_ids: np.ndarray, progress: ProgressCallback | None = None
    ) -> np.ndarray:
        """Return minus log2 probability of each pixel, without a label.

        Args:
            token_ids: integers `(N, T)`, canonical codes.
            progress: Receives the number of images done and of all images.

        Returns:
            float32 `(N, T)`.
        """
        weights = [v.value for v in self._model.trainable_variables]
        others = [v.value for v in self._model.non_trainable_variables]
        nats = batches.apply(
            lambda batch: self._nats(weights, others, batch.astype(np.int32)),
            self._batch_size,
            token_ids,
            progress=progress,
        )
        return nats / np.float32(np.log(2))

"""How likely images are, while a model trains on the JAX backend.

Shapes: N images, T pixels.
"""

from typing import Any

import numpy as np

from pixace_tf.console import ProgressCallback
from pixace_tf.model.causal_lm import PixaceCausalLM


class JaxScorer:
    """Computes the cost of whole images; see `likelihood.Scorer`.

    Args:
        model: The model that scores.
        batch_size: Images at a time; the last batch is filled up.
    """

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
        """Return the cost of each pixel, in the plain order without a label.

        Args:
            token_ids: integers `(N, T)`, canonical codes.
            progress: Told the images done and their number.

        Returns:
            float32 `(N, T)`: minus log2 probability.
        """
        weights = [v.value for v in self._model.trainable_variables]
        others = [v.value for v in self._model.non_trainable_variables]
        done = []
        for start in range(0, len(token_ids), self._batch_size):
            batch = token_ids[start : start + self._batch_size]
            missing = self._batch_size - len(batch)
            full = np.pad(batch, ((0, missing), (0, 0)), mode="edge")
            nats = self._nats(weights, others, full.astype(np.int32))
            done.append(np.asarray(nats)[: len(batch)])
            if progress is not None:
                progress(start + len(batch), len(token_ids))
        return np.concatenate(done) / np.float32(np.log(2))

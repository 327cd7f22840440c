"""How good a model and a palette are, in numbers.

Shapes: N pictures, T pixels.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pixace_tf.causal_lm import PixaceCausalLM
from pixace_tf.tokenizer import PixelTokenizer


class Scorer:
    """Computes the cost of whole pictures, compiled once.

    Args:
        model: The model that scores.
        batch_size: Pictures at a time; the last batch is filled up.
        jit_compile: Whether XLA compiles it.
    """

    def __init__(
        self,
        model: PixaceCausalLM,
        batch_size: int = 16,
        jit_compile: bool = True,
    ) -> None:
        self.batch_size = batch_size

        def nats(token_ids: tf.Tensor) -> tf.Tensor:
            logits = model(token_ids, training=False)
            return model.pixel_nats(token_ids, logits)

        self._nats = tf.function(
            nats,
            input_signature=[
                tf.TensorSpec((batch_size, model.sequence_length), tf.int32)
            ],
            jit_compile=jit_compile,
        )

    def bits(
        self,
        token_ids: np.ndarray,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Return the cost of each pixel.

        Args:
            token_ids: integers `(N, T)`, canonical codes.
            progress: Told the pictures done and their number.

        Returns:
            float32 `(N, T)`: minus log2 probability.
        """
        done = []
        for start in range(0, len(token_ids), self.batch_size):
            batch = token_ids[start : start + self.batch_size].astype(np.int32)
            missing = self.batch_size - len(batch)
            full = np.pad(batch, ((0, missing), (0, 0)), mode="edge")
            done.append(self._nats(full).numpy()[: len(batch)])
            if progress is not None:
                progress(start + len(batch), len(token_ids))
        return np.concatenate(done) / np.float32(np.log(2))


def unigram_bits_per_pixel(token_ids: np.ndarray) -> float:
    """Return the entropy of the tokens' own frequencies, bits per pixel.

    Args:
        token_ids: integers `(N, T)`.
    """
    _, counts = np.unique(token_ids, return_counts=True)
    shares = counts / counts.sum()
    return float(-np.sum(shares * np.log2(shares)))


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of 8-bit pictures, in dB.

    Args:
        first: uint8 `(...)`.
        second: uint8 `(...)`, the same shape.

    Returns:
        Infinity where they are equal.
    """
    difference = first.astype(np.float64) - second.astype(np.float64)
    mean_square = float(np.mean(difference**2))
    if mean_square == 0:
        return float("inf")
    return float(10 * np.log10(255**2 / mean_square))


def palette_psnr(images: np.ndarray, tokenizer: PixelTokenizer) -> float:
    """Return the PSNR of small pictures after the palette, in dB.

    Args:
        images: uint8 `(N, height, width, 3)`.
        tokenizer: The palette.
    """
    return psnr(
        images, tokenizer.detokenize(tokenizer.tokenize(images)).numpy()
    )


def count_parameters(model: keras.Model) -> int:
    """Return the number of trainable parameters."""
    return int(sum(np.prod(v.shape) for v in model.trainable_variables))


def summarize(
    model: PixaceCausalLM,
    tokenizer: PixelTokenizer,
    images: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on small pictures.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        images: uint8 `(N, height, width, 3)`, N at least 1.
        progress: Told the pictures done and their number.

    Returns:
        `bits_per_pixel` of the model and its standard error over pictures,
        `unigram_bits_per_pixel` of these tokens' own frequencies,
        `palette_psnr` in dB (None where nothing is lost), and the number of
        `pictures`.
    """
    token_ids = tokenizer.tokenize(images).numpy()
    bits = Scorer(model).bits(token_ids, progress).mean(axis=1)
    quality = palette_psnr(images, tokenizer)
    error = bits.std(ddof=1) / np.sqrt(len(bits)) if len(bits) > 1 else None
    return {
        "bits_per_pixel": float(bits.mean()),
        "bits_per_pixel_standard_error": None
        if error is None
        else float(error),
        "unigram_bits_per_pixel": unigram_bits_per_pixel(token_ids),
        "palette_psnr": None if np.isinf(quality) else quality,
        "pictures": len(images),
    }

"""How likely images are: bits per pixel, per channel and per dimension.

Shapes: N images, T pixels.
"""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback
from pixace_tf.data import batches
from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.data.palette import ALPHA, Palette
from pixace_tf.data.quantization import quantize
from pixace_tf.data.raster_orders import permutations, to_plain
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.typing import Tensor


class Scorer:
    """Computes the cost of whole images with a program that is compiled once.

    Args:
        model: The model that scores.
        batch_size: Images at a time.
        jit_compile: Whether XLA compiles the program.
    """

    def __init__(
        self,
        model: PixaceCausalLM,
        batch_size: int = 16,
        jit_compile: bool = True,
    ) -> None:
        self.batch_size = batch_size
        self._orders = np.array(model.orders)
        self._sequences = permutations(len(model.orders), model.image_size)

        def nats(token_ids: Tensor, condition: Tensor) -> Tensor:
            logits = model((token_ids, condition), training=False)
            return model.channel_nats(token_ids, logits)

        self._nats = tf.function(
            nats,
            input_signature=[
                tf.TensorSpec((batch_size, model.sequence_length), tf.int32),
                tf.TensorSpec((batch_size, 2), tf.int32),
            ],
            autograph=False,
            jit_compile=jit_compile,
        )

    def channel_bits(
        self,
        token_ids: np.ndarray,
        progress: ProgressCallback | None = None,
        labels: Any = NULL_LABEL,
        orders: Any = 0,
    ) -> np.ndarray:
        """Return the cost of each channel of each pixel.

        Args:
            token_ids: integers `(N, T)`, canonical codes, in plain order.
            progress: Told the images done and their number.
            labels: integers, one or `(N,)`, as in `PixaceCausalLM`.
            orders: integers, one or `(N,)`: the raster order in which each
                image is read.

        Returns:
            float32 `(N, T, channels)` in plain order: minus log2 probability of
            each channel, given the channels before it in the order of
            `Palette.channel_names`.
        """
        count = len(token_ids)
        nats = batches.apply(
            self._nats_in_order,
            self.batch_size,
            token_ids,
            np.broadcast_to(labels, count),
            np.broadcast_to(orders, count),
            progress=progress,
        )
        return nats / np.float32(np.log(2))

    def _nats_in_order(
        self, token_ids: np.ndarray, labels: np.ndarray, orders: np.ndarray
    ) -> np.ndarray:
        when = self._sequences[orders]
        tokens = np.take_along_axis(token_ids, when, axis=1)
        condition = np.stack([self._orders[orders], labels], axis=1)
        nats = self._nats(tokens.astype(np.int32), condition.astype(np.int32))
        return to_plain(nats.numpy(), when)

    def bits(
        self,
        token_ids: np.ndarray,
        progress: ProgressCallback | None = None,
        labels: Any = NULL_LABEL,
        orders: Any = 0,
    ) -> np.ndarray:
        """Return minus log2 probability of each pixel, float32 `(N, T)`.

        The arguments are those of `channel_bits`.
        """
        return self.channel_bits(token_ids, progress, labels, orders).sum(-1)


@functools.lru_cache(maxsize=4)
def colors_per_token(palette: Palette) -> np.ndarray:
    """Count how many of the 2**24 8-bit colors become each opaque token.

    Returns:
        int64 `(vocabulary_size,)`, read-only; 0 for codes that no color has,
        such as codes that are not canonical.
    """
    plane = np.zeros((256, 256, 3), np.int32)
    plane[..., 1], plane[..., 2] = np.indices((256, 256))
    counts = np.zeros(palette.vocabulary_size, np.int64)
    for red in range(256):
        plane[..., 0] = red
        token_ids = palette.pack(quantize(plane, palette))
        tokens, times = np.unique(token_ids, return_counts=True)
        counts[tokens] += times
    counts.flags.writeable = False
    return counts


def bits_per_dim(
    bits: np.ndarray, token_ids: np.ndarray, tokenizer: PixelTokenizer
) -> np.ndarray:
    """Bound the cost of the 8-bit images behind tokens.

    A token stands for several colors, taken as equally likely. So a pixel costs
    its token plus log2 of the number of its colors, spread over the channels.
    This is an upper bound for the best model of the 8-bit images that predicts
    these tokens first; for 8 bits per channel it is exact. With alpha, all
    pixels of alpha 0 count as one color.

    Args:
        bits: float `(N, T)` of the tokens, as `Scorer.bits` returns them.
        token_ids: integers `(N, T)`, tokens of 8-bit images.
        tokenizer: Defines the palette.

    Returns:
        float64 `(N,)`: bits per channel and pixel, the mean of each image.
    """
    palette = tokenizer.palette
    within_token = _log2_colors(token_ids, palette)
    mean = np.mean(bits.astype(np.float64) + within_token, axis=1)
    return mean / palette.num_image_channels


def _log2_colors(token_ids: np.ndarray, palette: Palette) -> np.ndarray:
    """Return log2 of the number of 8-bit colors of each token."""
    if not palette.has_alpha:
        return np.log2(colors_per_token(palette)[token_ids])
    opaque = palette.opaque
    *color, alpha = palette.unpack(token_ids)
    rgba = np.zeros((256, 4), np.int32)
    rgba[:, ALPHA] = np.arange(256)
    levels = np.bincount(quantize(rgba, palette)[ALPHA])
    counts = colors_per_token(opaque)[opaque.pack(color)] * levels[alpha]
    num_clear = 1 + (levels[0] - 1) * 2**24
    return np.log2(np.where(alpha == 0, num_clear, counts))

"""Sampling that is limited to some colors, as a graph op."""

import tensorflow as tf

from pixace_tf.data.palette import Palette
from pixace_tf.data.quantization import dequantize
from pixace_tf.typing import Tensor

# Roughly how much the eye notices red, green and blue. Alpha comes first.
_WEIGHTS = (2.0, 4.0, 3.0, 1000.0)


def nearest(token_ids: Tensor, codes: Tensor, palette: Palette) -> Tensor:
    """Return for each token the code that looks most like it.

    So a color has the probability of all colors that are nearest to it. To
    mask all other colors instead would leave it to the tails of the model's
    distribution which color is drawn.

    Args:
        token_ids: int32 `(R,)`.
        codes: int32 `(K,)`, canonical codes.
        palette: Their colors.

    Returns:
        int32 `(R,)`.
    """
    pixels, colors = (
        tf.cast(dequantize(palette.unpack(x), palette, tf), tf.float32)
        for x in (token_ids, codes)
    )
    weights = tf.constant(_WEIGHTS[: palette.num_image_channels])
    distance = (tf.expand_dims(pixels, 1) - colors) ** 2 * weights
    place = tf.argmin(
        tf.reduce_sum(distance, axis=-1), axis=-1, output_type=tf.int32
    )
    return tf.gather(codes, place)

"""Lookup in tables."""

import keras
from keras import ops

from pixace_tf.typing import Tensor


def look_up(table: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Return the entries at indices that are in range.

    It is `ops.take`, which on TensorFlow also counts negative indices from the
    end, by three operators that each step of sampling would pay for.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.take(table, index, axis=axis)
    import tensorflow as tf

    return tf.gather(ops.convert_to_tensor(table), index, axis=axis)

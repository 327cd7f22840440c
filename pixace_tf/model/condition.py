"""The condition of an image: its raster order and its label."""

from typing import Any

import keras
from keras import ops

from pixace_tf.typing import Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class ConditionEmbedding(keras.layers.Layer):
    """Embed the raster order and the label of an image as one vector.

    `num_labels` does not count the null label. Conditions, int32 `(B, 2)`, as
    in `PixaceCausalLM`, become float `(B, condition_dim)`.
    """

    def __init__(
        self,
        num_orders: int,
        num_labels: int,
        condition_dim: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = (num_orders, num_labels + 1)
        # A table of one row would give all images the same vector.
        self.tables = {
            column: self.add_weight(
                name=name,
                shape=(size, condition_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.1),
            )
            for column, (name, size) in enumerate(
                zip(("orders", "labels"), self.sizes, strict=True)
            )
            if size > 1
        }
        self.built = True

    def call(self, condition: Tensor) -> Tensor:
        # A product with one-hot rows has a dense gradient, unlike a lookup.
        return sum(
            ops.matmul(
                ops.one_hot(
                    condition[:, column],
                    self.sizes[column],
                    dtype=self.compute_dtype,
                ),
                table,
            )
            for column, table in self.tables.items()
        )

"""The condition of an image: its raster order and its label."""

from typing import Any

import keras
from keras import ops

from pixace_tf.typing import Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class ConditionEmbedding(keras.layers.Layer):
    """Embed raster orders and labels as learned vectors, added up.

    Args:
        num_orders: Raster orders that are told apart.
        num_labels: Labels beside the null label.
        condition_dim: Width C of the vectors.

    Call arguments:
        condition: int32 `(B, 2)`, order and label; see `PixaceCausalLM`.

    Returns:
        float `(B, C)`.
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
        self.condition_dim = condition_dim
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
        # A product with one-hot rows has a dense gradient; a lookup has not.
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

    def get_config(self) -> dict[str, Any]:
        num_orders, num_label_rows = self.sizes
        return {
            **super().get_config(),
            "num_orders": num_orders,
            "num_labels": num_label_rows - 1,
            "condition_dim": self.condition_dim,
        }

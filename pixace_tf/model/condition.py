"""The condition of an image: its raster order, label and augmentation."""

from typing import Any

import keras
from keras import ops

from pixace_tf.typing import Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class ConditionEmbedding(keras.layers.Layer):
    """Embed raster order, label and augmentation of an image as one vector.

    `num_labels` does not count the null label. Conditions, int32 `(B, 2)` or
    `(B, 3)`, as in `PixaceCausalLM`, become float `(B, condition_dim)`.

    Of the vectors of augmentation, the first is added if the image is shifted,
    another one for each turn of its hues. An image that is as it was, or has a
    condition of two numbers, gets none.
    """

    def __init__(
        self,
        num_orders: int,
        num_labels: int,
        condition_dim: int,
        num_augmentations: int = 0,
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
        self.augmentations = None
        if num_augmentations:
            self.augmentations = self.add_weight(
                name="augmentations",
                shape=(num_augmentations, condition_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.1),
            )
        self.built = True

    def call(self, condition: Tensor) -> Tensor:
        # A product with one-hot rows has a dense gradient, unlike a lookup.
        vectors = [
            ops.matmul(
                self._one_hot(condition[:, column], self.sizes[column]), table
            )
            for column, table in self.tables.items()
        ]
        if self.augmentations is not None:
            number = ops.zeros_like(condition[:, 0])
            if condition.shape[1] > 2:
                number = condition[:, 2]
            num_turns = self.augmentations.shape[0] - 1
            # Of index -1, all are zero.
            is_shifted = self._one_hot(number % 2 - 1, 1)
            turn = self._one_hot(number // 2 - 1, num_turns)
            hots = ops.concatenate([is_shifted, turn], axis=1)
            vectors.append(ops.matmul(hots, self.augmentations))
        return sum(vectors)

    def _one_hot(self, index: Tensor, size: int) -> Tensor:
        return ops.one_hot(index, size, dtype=self.compute_dtype)

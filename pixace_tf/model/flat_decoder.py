"""The flat decoder: one stack over all pixels of the image.

Shapes: as in `decoder`.
"""

from typing import Any

import keras
from keras import ops

from pixace_tf.model.decoder import Decoder, with_condition
from pixace_tf.model.kv_cache import (
    Cache,
    cut_cache,
    extend_cache,
    pad_cache,
    split_cache,
)
from pixace_tf.model.pixel_inputs import RowColumnEmbedding
from pixace_tf.model.reformer.reformer_stack import ReformerStack
from pixace_tf.model.transformer_stack import TransformerStack

STACKS = {"transformer": TransformerStack, "reformer": ReformerStack}
# More patches would mean more programs to compile, fewer a longer tail of the
# cache to rewrite at each step.
NUM_PATCHES = 4


@keras.saving.register_keras_serializable("pixace_tf")
class FlatDecoder(Decoder):
    """One stack over all pixels.

    The cache of finished patches is frozen; a step rewrites only its tail,
    which holds the pixels of the current patch.

    Args:
        image_size: `(height, width)`.
        stack: `"transformer"` or `"reformer"`.
        hidden_dim: Width of the stack.
        name: Name of the layer.
        dtype: Keras dtype policy.
        trainable: Whether the weights are trained.
        **sizes: Further arguments of the stack.
    """

    prefill_stride = 1
    has_growing_cache = True

    def __init__(
        self,
        image_size: tuple[int, int],
        stack: str,
        hidden_dim: int,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        **sizes: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.image_size = tuple(image_size)
        self.stack_name = stack
        self.hidden_dim = self.condition_dim = hidden_dim
        self.sizes = sizes
        self.patch_length = -(-image_size[0] * image_size[1] // NUM_PATCHES)
        policy = self.dtype_policy
        self.project_neighbors = keras.layers.Dense(
            hidden_dim, dtype=policy, name="project_neighbors"
        )
        self.positions = RowColumnEmbedding(
            image_size, hidden_dim, dtype=policy, name="positions"
        )
        self.stack = STACKS[stack](
            hidden_dim=hidden_dim, **sizes, dtype=policy, name="stack"
        )

    def build(self, pixels_shape: Any, neighbors_shape: Any) -> None:
        self.project_neighbors.build(neighbors_shape)
        if not self.stack.built:
            self.stack.build((*neighbors_shape[:-1], self.hidden_dim))
        self.built = True

    def call(
        self,
        pixels: Any,
        neighbors: Any,
        condition: Any = None,
        training: bool | None = None,
    ) -> Any:
        return self.stack(self._read(neighbors, condition), training=training)

    def layer_states(
        self, pixels: Any, neighbors: Any, condition: Any = None
    ) -> list[Any]:
        return self.stack.layer_states(self._read(neighbors, condition))

    def empty_state(
        self, batch_size: Any, condition: Any = None
    ) -> dict[str, Any]:
        return self._state(
            self.stack.empty_cache(batch_size, 0),
            self.stack.empty_cache(batch_size, self.patch_length),
            condition,
        )

    def prefill(
        self,
        pixels: Any,
        neighbors: Any,
        num_patches: int,
        condition: Any = None,
    ) -> dict[str, Any]:
        length = self.patch_length
        x = self._read(neighbors, condition)[:, : num_patches * length]
        frozen, tail = split_cache(
            self.stack.prefill(x), (num_patches - 1) * length
        )
        return self._state(frozen, pad_cache(tail, length), condition)

    def begin_patch(
        self, state: dict[str, Any], last_pixels: Any, patch: Any
    ) -> dict[str, Any]:
        # Of the patch itself, the state may know some pixels, none or all.
        nothing = [tuple(map(ops.zeros_like, layer)) for layer in state["tail"]]
        known = extend_cache(
            state["frozen"], extend_cache(state["tail"], nothing)
        )
        begin = patch * self.patch_length
        frozen, _ = split_cache(known, begin)
        tail = cut_cache(known, begin, self.patch_length)
        return {**state, "frozen": frozen, "tail": tail}

    def step(
        self, state: dict[str, Any], neighbors: Any, position: Any
    ) -> tuple[Any, dict[str, Any]]:
        x = self.project_neighbors(neighbors)
        x = x + ops.cast(self.positions.at(position), x.dtype)
        x = with_condition(x, state.get("condition"))
        index = position % self.patch_length
        x, tail = self.stack.step(x, state["frozen"], state["tail"], index)
        return x[:, 0], {**state, "tail": tail}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "stack": self.stack_name,
            "hidden_dim": self.hidden_dim,
            **self.sizes,
        }

    def _state(
        self, frozen: Cache, tail: Cache, condition: Any
    ) -> dict[str, Any]:
        state: dict[str, Any] = {"frozen": frozen, "tail": tail}
        return state if condition is None else {**state, "condition": condition}

    def _read(self, neighbors: Any, condition: Any) -> Any:
        x = self.positions(self.project_neighbors(neighbors))
        return with_condition(x, condition)

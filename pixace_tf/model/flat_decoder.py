"""The flat decoder: one stack over all pixels of the image.

Shapes: as in `decoder`.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from pixace_tf.model.decoder import Decoder, Inputs, with_condition
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
from pixace_tf.typing import Tensor

STACKS = {"transformer": TransformerStack, "reformer": ReformerStack}
# With more patches, more programs are compiled; with fewer, each step rewrites
# a longer tail of the cache.
NUM_PATCHES = 4


@keras.saving.register_keras_serializable("pixace_tf")
class FlatDecoder(Decoder):
    """One stack, `"transformer"` or `"reformer"`, over all pixels.

    The cache of finished patches is frozen; a step rewrites only the tail,
    which holds the pixels of the current patch. `sizes` are arguments of the
    stack, `hidden_dim` among them.
    """

    prefill_stride = 1
    has_growing_cache = True

    def __init__(
        self,
        image_size: tuple[int, int],
        stack: str,
        sizes: Mapping[str, int],
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = self.condition_dim = sizes["hidden_dim"]
        self.patch_length = -(-image_size[0] * image_size[1] // NUM_PATCHES)
        policy = self.dtype_policy.name
        self.project_neighbors = keras.layers.Dense(
            self.hidden_dim, dtype=policy, name="project_neighbors"
        )
        self.positions = RowColumnEmbedding(
            image_size, self.hidden_dim, dtype=policy, name="positions"
        )
        self.stack = STACKS[stack](
            **sizes, dropout=dropout, dtype=policy, name="stack"
        )

    def build(self, pixels_shape: Any, neighbors_shape: Any) -> None:
        self.project_neighbors.build(neighbors_shape)
        if not self.stack.built:
            self.stack.build((*neighbors_shape[:-1], self.hidden_dim))
        self.built = True

    def call(self, inputs: Inputs, training: bool | None = None) -> Tensor:
        return self.stack(self._read(inputs), training=training)

    def layer_states(self, inputs: Inputs) -> list[Tensor]:
        return self.stack.layer_states(self._read(inputs))

    def empty_state(
        self, batch_size: Tensor, condition: Tensor = None
    ) -> dict[str, Any]:
        return self._state(
            self.stack.empty_cache(batch_size, 0),
            self.stack.empty_cache(batch_size, self.patch_length),
            condition,
        )

    def prefill(self, inputs: Inputs, num_patches: int) -> dict[str, Any]:
        length = self.patch_length
        x = self._read(inputs)[:, : num_patches * length]
        frozen, tail = split_cache(
            self.stack.prefill(x), (num_patches - 1) * length
        )
        return self._state(frozen, pad_cache(tail, length), inputs.condition)

    def begin_patch(
        self, state: dict[str, Any], last_pixels: Tensor, patch: Tensor
    ) -> dict[str, Any]:
        # The state may hold none, some or all pixels of the patch itself.
        nothing = [tuple(map(ops.zeros_like, layer)) for layer in state["tail"]]
        known = extend_cache(
            state["frozen"], extend_cache(state["tail"], nothing)
        )
        begin = patch * self.patch_length
        frozen, _ = split_cache(known, begin)
        tail = cut_cache(known, begin, self.patch_length)
        return {**state, "frozen": frozen, "tail": tail}

    def step(
        self, state: dict[str, Any], neighbors: Tensor, position: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        x = self.project_neighbors(neighbors)
        x = x + ops.cast(self.positions.at(position), x.dtype)
        x = with_condition(x, state.get("condition"))
        index = position % self.patch_length
        # LiteRT cannot attend to no positions: a state may lack the part.
        x, tail = self.stack.step(x, state.get("frozen"), state["tail"], index)
        return x, {**state, "tail": tail}

    def _state(
        self, frozen: Cache, tail: Cache, condition: Tensor
    ) -> dict[str, Any]:
        state: dict[str, Any] = {"frozen": frozen, "tail": tail}
        return state if condition is None else {**state, "condition": condition}

    def _read(self, inputs: Inputs) -> Tensor:
        x = self.positions(self.project_neighbors(inputs.neighbors))
        return with_condition(x, inputs.condition)

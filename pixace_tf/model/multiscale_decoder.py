"""The multiscale decoder: a global stack over patches, a local one inside each.

Shapes: as in `decoder`, and P patches, L patch_length, G width of the global
stack.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from pixace_tf.model.decoder import Decoder, Inputs, with_condition
from pixace_tf.model.kv_cache import Cache, pad_cache
from pixace_tf.model.lookup import look_up
from pixace_tf.model.pixel_inputs import RowColumnEmbedding
from pixace_tf.model.presets import PATCH_LENGTH
from pixace_tf.model.transformer_stack import TransformerStack
from pixace_tf.typing import Tensor


@keras.saving.register_keras_serializable("pixace_tf")
class MultiscaleDecoder(Decoder):
    """A global stack over patches of pixels, a local stack inside each patch.

    The global stack reads the earlier patches and gives each pixel of a patch
    its own context vector; the local stack adds the earlier pixels of the same
    patch (MegaByte, arXiv 2305.07185).

    `sizes` has `num_layers`, `hidden_dim`, `num_heads`, `intermediate_dim` of
    the global stack, the same of the local stack with the prefix `local_`, and
    `patch_length`, the pixels per patch in raster order, 16 by default.
    """

    has_growing_cache = False

    def __init__(
        self,
        image_size: tuple[int, int],
        sizes: Mapping[str, int],
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sequence_length = image_size[0] * image_size[1]
        self.patch_length = sizes.get("patch_length", PATCH_LENGTH)
        self.prefill_stride = self.patch_length
        self.num_patches = -(-self.sequence_length // self.patch_length)
        self.hidden_dim = sizes["local_hidden_dim"]
        global_dim = sizes["hidden_dim"]
        self.condition_dim = global_dim + self.hidden_dim
        policy = self.dtype_policy.name
        self.project_patch = keras.layers.Dense(
            global_dim, dtype=policy, name="project_patch"
        )
        self.patch_positions = self.add_weight(
            name="patch_positions",
            shape=(self.num_patches, global_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.1),
        )
        self.global_stack = self._make_stack("global", sizes, "", dropout)
        self.global_norm = keras.layers.LayerNormalization(
            dtype=policy, name="global_norm"
        )
        self.project_context = keras.layers.Dense(
            self.patch_length * self.hidden_dim,
            dtype=policy,
            name="project_context",
        )
        self.project_neighbors = keras.layers.Dense(
            self.hidden_dim, dtype=policy, name="project_neighbors"
        )
        self.positions = RowColumnEmbedding(
            image_size, self.hidden_dim, dtype=policy, name="positions"
        )
        self.local_stack = self._make_stack("local", sizes, "local_", dropout)

    def _make_stack(
        self, name: str, sizes: Mapping[str, int], prefix: str, dropout: float
    ) -> TransformerStack:
        return TransformerStack(
            sizes[f"{prefix}num_layers"],
            sizes[f"{prefix}hidden_dim"],
            sizes[f"{prefix}num_heads"],
            sizes[f"{prefix}intermediate_dim"],
            dropout,
            dtype=self.dtype_policy.name,
            name=name,
        )

    def build(self, pixels_shape: Any, neighbors_shape: Any) -> None:
        patch_dim = self.patch_length * pixels_shape[-1]
        self.project_patch.build((None, None, patch_dim))
        global_shape = (None, None, self.global_stack.hidden_dim)
        self.global_norm.build(global_shape)
        self.project_context.build(global_shape)
        self.project_neighbors.build(neighbors_shape)
        self.built = True

    def call(self, inputs: Inputs, training: bool | None = None) -> Tensor:
        _, of_local = self._parts(inputs.condition)
        patches = self.global_stack(self._read(inputs), training=training)
        x = self.positions(self.project_neighbors(inputs.neighbors))
        x = self._pad(with_condition(x, of_local))
        x = x + ops.reshape(self._context(patches), ops.shape(x))
        x = ops.reshape(x, (-1, self.patch_length, self.hidden_dim))
        x = self.local_stack(x, training=training)  # (B*P, L, W)
        length = self.num_patches * self.patch_length
        x = ops.reshape(x, (-1, length, self.hidden_dim))
        return x[:, : self.sequence_length]

    def layer_states(self, inputs: Inputs) -> list[Tensor]:
        return self.global_stack.layer_states(self._read(inputs))

    def empty_state(
        self, batch_size: Tensor, condition: Tensor = None
    ) -> dict[str, Any]:
        cache = self.global_stack.empty_cache(batch_size, self.num_patches)
        return self._state(cache, batch_size, condition)

    def prefill(self, inputs: Inputs, num_patches: int) -> dict[str, Any]:
        patches = self._read(inputs)[:, :num_patches]
        cache = pad_cache(self.global_stack.prefill(patches), self.num_patches)
        batch_size = ops.shape(inputs.pixels)[0]
        return self._state(cache, batch_size, inputs.condition)

    def begin_patch(
        self, state: dict[str, Any], last_pixels: Tensor, patch: Tensor
    ) -> dict[str, Any]:
        patch_dim = self.patch_length * last_pixels.shape[-1]
        x = self.project_patch(ops.reshape(last_pixels, (-1, patch_dim)))
        x = ops.where(patch == 0, 0.0, x)
        position = look_up(self.patch_positions, patch)
        x = x + ops.cast(position, x.dtype)
        x = with_condition(x, self._parts(state.get("condition"))[0])
        x, cache = self.global_stack.step(x, None, state["global"], patch)
        context = ops.reshape(
            ops.cast(self._context(x), "float32"),
            (-1, self.patch_length, self.hidden_dim),
        )
        pixels = patch * self.patch_length + ops.arange(self.patch_length)
        # The last patch may reach beyond the image.
        pixels = ops.minimum(pixels, self.sequence_length - 1)
        context = context + self.positions.at(pixels)
        return {**state, "global": cache, "context": context}

    def step(
        self, state: dict[str, Any], neighbors: Tensor, position: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        index = position % self.patch_length
        context = look_up(state["context"], index, axis=1)
        x = self.project_neighbors(neighbors)
        x = x + ops.cast(context, x.dtype)
        x = with_condition(x, self._parts(state.get("condition"))[1])
        x, cache = self.local_stack.step(x, None, state["local"], index)
        return x, {**state, "local": cache}

    def _state(
        self, cache: Cache, batch_size: Tensor, condition: Tensor
    ) -> dict[str, Any]:
        length = self.patch_length
        state = {
            "global": cache,
            "local": self.local_stack.empty_cache(batch_size, length),
            "context": ops.zeros((batch_size, length, self.hidden_dim)),
        }
        return state if condition is None else {**state, "condition": condition}

    def _parts(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Split a condition between the global and the local stack."""
        if condition is None:
            return None, None
        width = self.global_stack.hidden_dim
        return condition[:, :width], condition[:, width:]

    def _read(self, inputs: Inputs) -> Tensor:
        """Project each patch and shift by one patch: `(B, P, G)`."""
        patch_dim = self.patch_length * inputs.pixels.shape[-1]
        pixels = self._pad(inputs.pixels)
        patches = ops.reshape(pixels, (-1, self.num_patches, patch_dim))
        patches = self.project_patch(patches[:, :-1])
        patches = ops.pad(patches, ((0, 0), (1, 0), (0, 0)))
        patches = patches + ops.cast(self.patch_positions, patches.dtype)
        return with_condition(patches, self._parts(inputs.condition)[0])

    def _context(self, patches: Tensor) -> Tensor:
        return self.project_context(self.global_norm(patches))

    def _pad(self, x: Tensor) -> Tensor:
        """Pad the last patch with zeros."""
        missing = self.num_patches * self.patch_length - self.sequence_length
        return ops.pad(x, ((0, 0), (0, missing), (0, 0))) if missing else x

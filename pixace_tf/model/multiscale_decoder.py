"""The multiscale decoder: a global stack over patches, a local one inside each.

Shapes: as in `decoder`, and P patches, L patch_length, G width of the global
stack.
"""

from typing import Any

import keras
from keras import ops

from pixace_tf.model.decoder import Decoder, with_condition
from pixace_tf.model.kv_cache import Cache, pad_cache
from pixace_tf.model.pixel_inputs import RowColumnEmbedding
from pixace_tf.model.transformer_stack import TransformerStack


@keras.saving.register_keras_serializable("pixace_tf")
class MultiscaleDecoder(Decoder):
    """A global stack over patches of pixels, a local stack inside each patch.

    The global stack reads the patches before a patch and gives each of its
    pixels a context vector of its own; the local stack adds the pixels before
    within the patch (MegaByte, arXiv 2305.07185).

    Args:
        image_size: `(height, width)`.
        num_layers: Layers of the global stack.
        hidden_dim: Width of the global stack.
        num_heads: Heads of the global stack.
        intermediate_dim: Feed-forward width of the global stack.
        local_num_layers: Layers of the local stack.
        local_hidden_dim: Width of the local stack.
        local_num_heads: Heads of the local stack.
        local_intermediate_dim: Feed-forward width of the local stack.
        patch_length: Pixels per patch, in raster order.
        dropout: Rate in `[0, 1)`.
    """

    has_growing_cache = False

    def __init__(
        self,
        image_size: tuple[int, int],
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        local_num_layers: int,
        local_hidden_dim: int,
        local_num_heads: int,
        local_intermediate_dim: int,
        patch_length: int = 16,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = tuple(image_size)
        self.sequence_length = image_size[0] * image_size[1]
        self.patch_length = self.prefill_stride = patch_length
        self.num_patches = -(-self.sequence_length // patch_length)
        self.hidden_dim = local_hidden_dim
        self.condition_dim = hidden_dim + local_hidden_dim
        self.dropout = dropout
        policy = self.dtype_policy
        self.project_patch = keras.layers.Dense(
            hidden_dim, dtype=policy, name="project_patch"
        )
        self.patch_positions = self.add_weight(
            name="patch_positions",
            shape=(self.num_patches, hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.1),
        )
        self.global_stack = TransformerStack(
            num_layers,
            hidden_dim,
            num_heads,
            intermediate_dim,
            dropout,
            dtype=policy,
            name="global",
        )
        self.global_norm = keras.layers.LayerNormalization(
            dtype=policy, name="global_norm"
        )
        self.project_context = keras.layers.Dense(
            patch_length * local_hidden_dim,
            dtype=policy,
            name="project_context",
        )
        self.project_neighbors = keras.layers.Dense(
            local_hidden_dim, dtype=policy, name="project_neighbors"
        )
        self.positions = RowColumnEmbedding(
            image_size, local_hidden_dim, dtype=policy, name="positions"
        )
        self.local_stack = TransformerStack(
            local_num_layers,
            local_hidden_dim,
            local_num_heads,
            local_intermediate_dim,
            dropout,
            dtype=policy,
            name="local",
        )

    def build(self, pixels_shape: Any, neighbors_shape: Any) -> None:
        patch_dim = self.patch_length * pixels_shape[-1]
        self.project_patch.build((None, None, patch_dim))
        global_shape = (None, None, self.global_stack.hidden_dim)
        self.global_norm.build(global_shape)
        self.project_context.build(global_shape)
        self.project_neighbors.build(neighbors_shape)
        self.built = True

    def call(
        self,
        pixels: Any,
        neighbors: Any,
        condition: Any = None,
        training: bool | None = None,
    ) -> Any:
        of_global, of_local = self._parts(condition)
        patches = self._read(pixels, of_global)
        patches = self.global_stack(patches, training=training)
        x = self.positions(self.project_neighbors(neighbors))
        x = self._pad(with_condition(x, of_local))
        x = x + ops.reshape(self._context(patches), ops.shape(x))
        x = ops.reshape(x, (-1, self.patch_length, self.hidden_dim))
        x = self.local_stack(x, training=training)  # (B*P, L, W)
        length = self.num_patches * self.patch_length
        x = ops.reshape(x, (-1, length, self.hidden_dim))
        return x[:, : self.sequence_length]

    def layer_states(
        self, pixels: Any, neighbors: Any, condition: Any = None
    ) -> list[Any]:
        of_global, _ = self._parts(condition)
        return self.global_stack.layer_states(self._read(pixels, of_global))

    def empty_state(
        self, batch_size: Any, condition: Any = None
    ) -> dict[str, Any]:
        cache = self.global_stack.empty_cache(batch_size, self.num_patches)
        return self._state(cache, batch_size, condition)

    def prefill(
        self,
        pixels: Any,
        neighbors: Any,
        num_patches: int,
        condition: Any = None,
    ) -> dict[str, Any]:
        of_global, _ = self._parts(condition)
        patches = self._read(pixels, of_global)[:, :num_patches]
        cache = pad_cache(self.global_stack.prefill(patches), self.num_patches)
        return self._state(cache, ops.shape(pixels)[0], condition)

    def begin_patch(
        self, state: dict[str, Any], last_pixels: Any, patch: Any
    ) -> dict[str, Any]:
        patch_dim = self.patch_length * last_pixels.shape[-1]
        x = self.project_patch(ops.reshape(last_pixels, (-1, 1, patch_dim)))
        x = ops.where(patch == 0, ops.zeros_like(x), x)
        position = ops.take(self.patch_positions, patch, axis=0)
        x = x + ops.cast(position, x.dtype)
        x = with_condition(x, self._parts(state.get("condition"))[0])
        x, cache = self.global_stack.step(x, None, state["global"], patch)
        context = ops.reshape(
            ops.cast(self._context(x), "float32"),
            (-1, self.patch_length, self.hidden_dim),
        )
        return {**state, "global": cache, "context": context}

    def step(
        self, state: dict[str, Any], neighbors: Any, position: Any
    ) -> tuple[Any, dict[str, Any]]:
        index = position % self.patch_length
        context = ops.take(state["context"], index, axis=1)[:, None]
        x = self.project_neighbors(neighbors)
        x = x + ops.cast(self.positions.at(position) + context, x.dtype)
        x = with_condition(x, self._parts(state.get("condition"))[1])
        x, cache = self.local_stack.step(x, None, state["local"], index)
        return x[:, 0], {**state, "local": cache}

    def get_config(self) -> dict[str, Any]:
        names = ("num_layers", "hidden_dim", "num_heads", "intermediate_dim")
        return {
            **super().get_config(),
            "image_size": self.image_size,
            **{name: getattr(self.global_stack, name) for name in names},
            **{f"local_{n}": getattr(self.local_stack, n) for n in names},
            "patch_length": self.patch_length,
            "dropout": self.dropout,
        }

    def _state(
        self, cache: Cache, batch_size: Any, condition: Any
    ) -> dict[str, Any]:
        length = self.patch_length
        state = {
            "global": cache,
            "local": self.local_stack.empty_cache(batch_size, length),
            "context": ops.zeros((batch_size, length, self.hidden_dim)),
        }
        return state if condition is None else {**state, "condition": condition}

    def _parts(self, condition: Any) -> tuple[Any, Any]:
        """Return what of a condition the global and the local stack take."""
        if condition is None:
            return None, None
        width = self.global_stack.hidden_dim
        return condition[:, :width], condition[:, width:]

    def _read(self, pixels: Any, condition: Any) -> Any:
        """Project each patch, and shift by one patch: `(B, P, G)`."""
        patch_dim = self.patch_length * pixels.shape[-1]
        patches = ops.reshape(
            self._pad(pixels), (-1, self.num_patches, patch_dim)
        )
        patches = self.project_patch(patches[:, :-1])
        patches = ops.pad(patches, ((0, 0), (1, 0), (0, 0)))
        patches = patches + ops.cast(self.patch_positions, patches.dtype)
        return with_condition(patches, condition)

    def _context(self, patches: Any) -> Any:
        return self.project_context(self.global_norm(patches))

    def _pad(self, x: Any) -> Any:
        """Fill the last patch up with zeros."""
        missing = self.num_patches * self.patch_length - self.sequence_length
        return ops.pad(x, ((0, 0), (0, missing), (0, 0))) if missing else x

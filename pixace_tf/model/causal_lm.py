"""The model: a language model over the pixels of small images."""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.model.color_head import ChainHead, Choose, PackedHead
from pixace_tf.model.decoder import Decoder
from pixace_tf.model.flat_decoder import FlatDecoder
from pixace_tf.model.multiscale_decoder import MultiscaleDecoder
from pixace_tf.model.pixel_inputs import (
    MARGIN,
    NEIGHBORS,
    PixelEmbedding,
    gather_neighbors,
    neighbor_tokens,
    pad_grid,
)
from pixace_tf.model.presets import HEADS

DECODERS: dict[str, Callable[..., Decoder]] = {
    "multiscale": MultiscaleDecoder,
    "transformer": functools.partial(FlatDecoder, stack="transformer"),
    "reformer": functools.partial(FlatDecoder, stack="reformer"),
}


@keras.saving.register_keras_serializable("pixace_tf")
class PixaceCausalLM(keras.Model):
    """A decoder-only language model over the pixels of small images.

    Args:
        image_size: `(height, width)` in pixels.
        palette: The colors, or their text, such as `"hsv 5,4,4"`.
        decoder: `"multiscale"`, `"transformer"` or `"reformer"`.
        decoder_config: Sizes for the decoder's constructor, as in `presets`.
        head: `"chain"` (one softmax per channel) or `"packed"` (one over all
            codes).
        embedding_dim: Width of an embedded pixel.
        dropout: Rate in `[0, 1)`.
        **kwargs: For `keras.Model`, such as the dtype policy.

    Call arguments:
        token_ids: int32 `(B, height*width)`, canonical codes.

    Returns:
        float32 logits `(B, height*width, L)` of the head, teacher-forced: row
        t depends on the tokens before t, and for the chain head on the
        channels of pixel t before the one it scores.

    Raises:
        UserError: If a name is unknown.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        palette: Palette | str,
        decoder: str,
        decoder_config: dict[str, int],
        head: str = "chain",
        embedding_dim: int = 64,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if decoder not in DECODERS or head not in HEADS:
            raise UserError(
                f"decoder must be one of {', '.join(DECODERS)}, head one of "
                f"{', '.join(HEADS)}. Received: decoder={decoder!r}, "
                f"head={head!r}"
            )
        self.image_size = image_size[0], image_size[1]
        self.palette = Palette.get(palette)
        self.sequence_length = image_size[0] * image_size[1]
        self._config = {
            "image_size": list(image_size),
            "palette": str(self.palette),
            "decoder": decoder,
            "decoder_config": dict(decoder_config),
            "head": head,
            "embedding_dim": embedding_dim,
            "dropout": dropout,
        }
        policy = self.dtype_policy
        self.embed = PixelEmbedding(
            self.palette, embedding_dim, dtype=policy, name="embed"
        )
        self.decoder = DECODERS[decoder](
            image_size=self.image_size,
            **decoder_config,
            dropout=dropout,
            dtype=policy,
            name="decoder",
        )
        width = self.decoder.hidden_dim
        self.head: ChainHead | PackedHead = (
            ChainHead(self.palette, width, dtype=policy, name="head")
            if head == "chain"
            else PackedHead(self.palette, dtype=policy, name="head")
        )
        sequence = (None, self.sequence_length)
        self.decoder.build(
            (*sequence, embedding_dim),
            (*sequence, len(NEIGHBORS) * embedding_dim),
        )
        self.head.build((*sequence, width))
        self.built = True

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(math.prod(v.shape) for v in self.trainable_variables)

    def call(self, token_ids: Any, training: bool | None = None) -> Any:
        pixels, neighbors = self._inputs(token_ids)
        hidden = self.decoder(pixels, neighbors, training=training)
        return self.head(hidden, token_ids)

    def pixel_nats(self, token_ids: Any, logits: Any) -> Any:
        """Return the cost of each pixel: the loss before its mean.

        Args:
            token_ids: int32 `(B, T)`.
            logits: float32 `(B, T, L)` as returned by the call.

        Returns:
            float32 `(B, T)`, nats.
        """
        return self.head.nats(ops.cast(token_ids, "int32"), logits)

    def channel_nats(self, token_ids: Any, logits: Any) -> Any:
        """Return the cost of each channel of each pixel.

        Args:
            token_ids: int32 `(B, T)`.
            logits: float32 `(B, T, L)` as returned by the call.

        Returns:
            float32 `(B, T, 3)`, nats, in the order of
            `palette.channel_names`.
        """
        return self.head.channel_nats(ops.cast(token_ids, "int32"), logits)

    def layer_states(self, token_ids: Any) -> list[Any]:
        """Return what each layer of the decoder makes of whole images.

        Args:
            token_ids: int32 `(B, T)`.

        Returns:
            float `(B, positions, width)` for each layer of the stack that reads
            the whole image: its positions are the T pixels of a flat decoder,
            or the patches of the multiscale one.
        """
        return self.decoder.layer_states(*self._inputs(token_ids))

    def empty_state(self, batch_size: Any) -> Any:
        """Return the decoder's state before the first pixel."""
        return self.decoder.empty_state(batch_size)

    def prefill(self, token_ids: Any, num_patches: int) -> Any:
        """Return the decoder's state after the first patches, in one pass.

        Args:
            token_ids: int32 `(B, T)`; later patches are not read.
            num_patches: At least 1.

        Returns:
            A structure of tensors; see `Decoder`.
        """
        return self.decoder.prefill(*self._inputs(token_ids), num_patches)

    def begin_patch(self, state: Any, token_ids: Any, patch: Any) -> Any:
        """Prepare the state for the pixels of a patch; see `Decoder`.

        Args:
            state: A state that holds all pixels before the patch.
            token_ids: int32 `(B, T)`, filled up to the patch.
            patch: int32 scalar.

        Returns:
            The new state.
        """
        length = self.decoder.patch_length
        start = ops.maximum(patch - 1, 0) * length
        # An image may be smaller than its first patch.
        index = ops.minimum(
            start + ops.arange(length), self.sequence_length - 1
        )
        last = ops.take(token_ids, index, axis=1)
        return self.decoder.begin_patch(state, self.embed(last), patch)

    def step(self, state: Any, token_ids: Any, position: Any) -> Any:
        """Decode one position.

        Args:
            state: As returned by `begin_patch` or the step before.
            token_ids: int32 `(B, T)`, filled up to `position`.
            position: int32 scalar.

        Returns:
            float `(B, W)` for `sample`, and the new state.
        """
        around = neighbor_tokens(
            token_ids, position, self.image_size, self.palette.start_token_id
        )
        features = len(NEIGHBORS) * self.embed.embedding_dim
        neighbors = ops.reshape(self.embed(around), (-1, 1, features))
        return self.decoder.step(state, neighbors, position)

    def sample(self, hidden: Any, choose: Choose) -> Any:
        """Sample the token of one position; see `ChainHead.sample`."""
        return self.head.sample(hidden, choose)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON-ready values."""
        return {**super().get_config(), **self._config}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "PixaceCausalLM":
        """Build a model from what `get_config` returns."""
        return cls(**config)

    def _inputs(self, token_ids: Any) -> tuple[Any, Any]:
        """Embed pixels `(B, T, E)` and their neighbors `(B, T, N*E)`."""
        token_ids = ops.cast(token_ids, "int32")
        grid = self.embed(
            pad_grid(token_ids, self.image_size, self.palette.start_token_id)
        )
        neighbors = gather_neighbors(grid)
        pixels = grid[:, MARGIN:, MARGIN:-MARGIN]
        shape = (-1, self.sequence_length, grid.shape[-1])
        return ops.reshape(pixels, shape), neighbors

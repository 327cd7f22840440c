"""The model: a language model over the pixels of small images."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.model.color_head import ChainHead, ColorHead, PackedHead
from pixace_tf.model.condition import ConditionEmbedding
from pixace_tf.model.copy_head import CopyHead
from pixace_tf.model.decoder import Decoder, Inputs
from pixace_tf.model.flat_decoder import FlatDecoder
from pixace_tf.model.lookup import look_up
from pixace_tf.model.multiscale_decoder import MultiscaleDecoder
from pixace_tf.model.pixel_inputs import (
    EMBEDDING_DIM,
    MARGIN,
    NEIGHBORS,
    PARTNERS,
    PixelEmbedding,
    gather_neighbors,
    gather_partners,
    neighbor_tokens,
    pad_grid,
    partner_tokens,
)
from pixace_tf.model.presets import COPY, HEADS
from pixace_tf.typing import Tensor

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
        decoder_config: Sizes of the decoder, as in `presets`.
        head: `"chain"` (one softmax per channel), `"mixture"` (the same, but
            mixtures of logistic distributions for channels of many levels),
            `"packed"` (one softmax over all codes) or `"copy"` (a mixture of
            earlier colors and a new one).
        dropout: Rate in `[0, 1)`.
        head_hidden_dim: Width of the chain head's hidden layers; by default
            that of the decoder.
        orders: For each raster order that the model knows, the row of its
            learned vector; see `raster_orders`.
        labels: Names of the labels that the model knows. Label k+1 of a
            condition is `labels[k]`; 0 is the null label.
        num_augmentations: Vectors that tell how a training image was changed;
            see `ConditionEmbedding`.
        pairs: Whether an image is two pictures of half its height. The decoder
            is then given the pixels of the first picture at the same place.
        **kwargs: For `keras.Model`, such as the dtype policy.

    Call arguments:
        inputs: int32 `(B, height*width)`, canonical codes; or a pair of these
            and of conditions, int32 `(B, 2)`: the row of the order's vector and
            the label, by default row 0 and the null label. For training, a
            third number tells the augmentation, 0 if there is none; and a third
            item may be what the decoder reads instead of the codes, int32
            `(B, height*width)`.

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
        dropout: float = 0.0,
        head_hidden_dim: int | None = None,
        orders: Sequence[int] = (0,),
        labels: Sequence[str] = (),
        num_augmentations: int = 0,
        pairs: bool = False,
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
        self.orders, self.labels = tuple(orders), tuple(labels)
        self.num_augmentations = num_augmentations
        self.pairs = pairs
        self._config = {
            "image_size": list(image_size),
            "palette": str(self.palette),
            "decoder": decoder,
            "decoder_config": dict(decoder_config),
            "head": head,
            "dropout": dropout,
            "head_hidden_dim": head_hidden_dim,
            "orders": list(orders),
            "labels": list(labels),
            "num_augmentations": num_augmentations,
            "pairs": pairs,
        }
        policy = self.dtype_policy.name
        self.embed = PixelEmbedding(
            str(self.palette), EMBEDDING_DIM, dtype=policy, name="embed"
        )
        self.decoder = DECODERS[decoder](
            image_size=self.image_size,
            sizes=decoder_config,
            dropout=dropout,
            dtype=policy,
            name="decoder",
        )
        self.head = self._make_head(head, head_hidden_dim)
        self.condition = self._make_condition()
        sequence = (None, self.sequence_length)
        self.decoder.build(
            (*sequence, EMBEDDING_DIM),
            (*sequence, self._num_neighbors * EMBEDDING_DIM),
        )
        self.head.build((*sequence, self.decoder.hidden_dim))
        self.built = True

    @property
    def _num_neighbors(self) -> int:
        return len(NEIGHBORS) + (len(PARTNERS) if self.pairs else 0)

    def _make_head(self, name: str, hidden_dim: int | None) -> ColorHead:
        palette, policy = str(self.palette), self.dtype_policy.name
        width = hidden_dim or self.decoder.hidden_dim
        if name == "packed":
            return PackedHead(palette, dtype=policy, name="head")
        if name == COPY:
            return CopyHead(
                palette, width, self.image_size, dtype=policy, name="head"
            )
        return ChainHead(
            palette,
            width,
            use_mixtures=name == "mixture",
            dtype=policy,
            name="head",
        )

    def _make_condition(self) -> ConditionEmbedding | None:
        """Return None if all images have the same condition."""
        num_orders = max(self.orders) + 1
        is_told_more = self.labels or self.num_augmentations
        if num_orders == 1 and not is_told_more:
            return None
        return ConditionEmbedding(
            num_orders,
            len(self.labels),
            self.decoder.condition_dim,
            self.num_augmentations,
            dtype=self.dtype_policy.name,
            name="condition",
        )

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(math.prod(v.shape) for v in self.trainable_variables)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        has_more = isinstance(inputs, list | tuple)
        token_ids, *more = inputs if has_more else (inputs, None)
        condition, *read = more
        inputs = self._inputs(read[0] if read else token_ids, condition)
        hidden = self.decoder(inputs, training=training)
        return self.head(hidden, token_ids)

    def pixel_nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        """Return the loss of each pixel, float32 `(B, T)`, in nats.

        `token_ids` are int32 `(B, T)`, `logits` what the call returned.
        """
        return self.head.nats(ops.cast(token_ids, "int32"), logits)

    def channel_nats(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        """Return the loss of each channel, float32 `(B, T, channels)`, in nats.

        They are in the order of `palette.channel_names`; see `pixel_nats`.
        """
        return self.head.channel_nats(ops.cast(token_ids, "int32"), logits)

    def layer_states(self, token_ids: Tensor) -> list[Tensor]:
        """Return the output of each layer for int32 `(B, T)`.

        They are float `(B, positions, width)`, of the stack that reads the
        whole image; a position is a pixel, or a patch if multiscale.
        """
        return self.decoder.layer_states(self._inputs(token_ids))

    def empty_state(
        self, batch_size: Tensor, condition: Tensor = None
    ) -> Tensor:
        """Return the decoder's state before the first pixel.

        The condition is int32 `(B, 2)` or None, as in a call.
        """
        condition = self._embed_condition(condition, batch_size)
        return self.decoder.empty_state(batch_size, condition)

    def prefill(
        self, token_ids: Tensor, num_patches: int, condition: Tensor = None
    ) -> Tensor:
        """Return the decoder's state after the first patches, in one pass.

        `token_ids` are int32 `(B, T)`; later patches, after at least one, are
        not read. The condition is as in a call.
        """
        inputs = self._inputs(token_ids, condition)
        return self.decoder.prefill(inputs, num_patches)

    def begin_patch(self, state: Any, token_ids: Tensor, patch: Tensor) -> Any:
        """Prepare the state for a patch; see `Decoder.begin_patch`.

        `token_ids` are int32 `(B, T)`, filled up to the patch.
        """
        length = self.decoder.patch_length
        start = ops.maximum(patch - 1, 0) * length
        # An image may be smaller than its first patch.
        index = ops.minimum(
            start + ops.arange(length), self.sequence_length - 1
        )
        last = self.embed.look_up(look_up(token_ids, index, axis=1))
        return self.decoder.begin_patch(state, last, patch)

    def step(self, state: Any, token_ids: Tensor, position: Tensor) -> Any:
        """Decode one position; see `Decoder.step`.

        `token_ids` are int32 `(B, T)`, filled up to the position. Return float
        `(B, W)` for the head's `sample`, and the new state.
        """
        options = position, self.image_size, self.palette.start_token_id
        around = neighbor_tokens(token_ids, *options)
        if self.pairs:
            partners = partner_tokens(token_ids, *options)
            around = ops.concatenate([around, partners], axis=1)
        features = self._num_neighbors * self.embed.embedding_dim
        neighbors = ops.reshape(self.embed.look_up(around), (-1, features))
        return self.decoder.step(state, neighbors, position)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON-ready values."""
        return {**super().get_config(), **self._config}

    def _embed_condition(self, condition: Tensor, batch_size: Tensor) -> Tensor:
        """Return the vectors of conditions, None if the model has none."""
        if self.condition is None:
            return None
        if condition is None:
            plain = ops.convert_to_tensor([[0, NULL_LABEL]], "int32")
            condition = ops.broadcast_to(plain, (batch_size, 2))
        return self.condition(condition)

    def _inputs(self, token_ids: Tensor, condition: Tensor = None) -> Inputs:
        condition = self._embed_condition(condition, ops.shape(token_ids)[0])
        token_ids = ops.cast(token_ids, "int32")
        grid = self.embed(
            pad_grid(token_ids, self.image_size, self.palette.start_token_id)
        )
        neighbors = gather_neighbors(grid)
        if self.pairs:
            partners = gather_partners(grid)
            neighbors = ops.concatenate([neighbors, partners], axis=-1)
        pixels = grid[:, MARGIN:, MARGIN:-MARGIN]
        shape = (-1, self.sequence_length, grid.shape[-1])
        return Inputs(ops.reshape(pixels, shape), neighbors, condition)

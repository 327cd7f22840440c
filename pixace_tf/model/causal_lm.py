"""The model: pixels in, the cost or the draw of the next pixel out."""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from pixace_tf.data.bit_widths import BitWidths
from pixace_tf.model.color_head import (
    CHAIN_ORDERS,
    ChainHead,
    Choose,
    PackedHead,
)
from pixace_tf.model.decoders import FlatDecoder, MultiscaleDecoder
from pixace_tf.model.pixel_inputs import (
    NEIGHBORS,
    PixelEmbedding,
    gather_neighbors,
    neighbor_tokens,
    pad_grid,
)
from pixace_tf.model.recompute import recompute
from pixace_tf.model.reformer import ReformerStack
from pixace_tf.model.transformer_stack import TransformerStack

DECODERS: dict[str, Callable[..., Any]] = {
    "multiscale": MultiscaleDecoder,
    "transformer": functools.partial(FlatDecoder, stack=TransformerStack),
    "reformer": functools.partial(FlatDecoder, stack=ReformerStack),
}
HEADS = ("chain", "packed")


class PixaceCausalLM(keras.Model):
    """A decoder-only language model over the pixels of small pictures.

    Args:
        image_size: `(height, width)` in pixels.
        bit_widths: Bits per channel of the tokens.
        color_space: `"hsv"` or `"rgb"`.
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
        ValueError: If a name is unknown.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        bit_widths: BitWidths,
        color_space: str,
        decoder: str,
        decoder_config: dict[str, int],
        head: str = "chain",
        embedding_dim: int = 64,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if decoder not in DECODERS or head not in HEADS:
            raise ValueError(
                f"decoder must be one of {', '.join(DECODERS)}, head one of "
                f"{', '.join(HEADS)}. Received: decoder={decoder!r}, "
                f"head={head!r}"
            )
        self.image_size = image_size
        self.bit_widths = bit_widths
        self.color_space = color_space
        self.start_token_id = 1 << sum(self.bit_widths)
        self.sequence_length = image_size[0] * image_size[1]
        self._config = {
            "image_size": list(image_size),
            "bit_widths": list(bit_widths),
            "color_space": color_space,
            "decoder": decoder,
            "decoder_config": dict(decoder_config),
            "head": head,
            "embedding_dim": embedding_dim,
            "dropout": dropout,
        }
        policy = self.dtype_policy
        self.embed = PixelEmbedding(
            self.bit_widths, embedding_dim, dtype=policy, name="embed"
        )
        self.decoder = DECODERS[decoder](
            self.image_size,
            **decoder_config,
            dropout=dropout,
            dtype=policy,
            name="decoder",
        )
        width = self.decoder.hidden_dim
        self.head: ChainHead | PackedHead = (
            ChainHead(
                self.bit_widths, color_space, width, dtype=policy, name="head"
            )
            if head == "chain"
            else PackedHead(
                self.bit_widths, color_space, dtype=policy, name="head"
            )
        )
        sequence = (None, self.sequence_length)
        self.decoder.build(
            (*sequence, embedding_dim),
            (*sequence, len(NEIGHBORS) * embedding_dim),
        )
        self.head.build((*sequence, width))
        self.built = True

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the color channels, in the order of the chain."""
        names = {
            "hsv": ("hue", "saturation", "value"),
            "rgb": ("red", "green", "blue"),
        }[self.color_space]
        return tuple(names[c] for c in CHAIN_ORDERS[self.color_space])

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(math.prod(v.shape) for v in self.trainable_variables)

    def call(self, token_ids: Any, training: bool | None = None) -> Any:
        pixels, neighbors = self._inputs(token_ids)
        hidden = self.decoder(pixels, neighbors, training=training)
        return recompute(self.head, [self.head], hidden, token_ids)

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
            float32 `(B, T, 3)`, nats, in the order of `channel_names`.
        """
        return self.head.channel_nats(ops.cast(token_ids, "int32"), logits)

    def layer_states(self, token_ids: Any) -> list[Any]:
        """Return what each layer of the decoder makes of whole pictures.

        Args:
            token_ids: int32 `(B, T)`.

        Returns:
            float `(B, positions, width)` after each layer of the stack that
            reads the whole picture: T positions of the flat decoders, the runs
            of the multiscale one.
        """
        return self.decoder.layer_states(*self._inputs(token_ids))

    def empty_state(self, batch_size: Any) -> Any:
        """Return the decoder's state before the first pixel."""
        return self.decoder.empty_state(batch_size)

    def prefill(self, token_ids: Any, num_segments: int) -> Any:
        """Return the decoder's state after the first segments, in one pass.

        The last of them is still open: decoding may go on within it, at any
        multiple of `decoder.prefill_stride` up to which pixels are given, or
        behind it, after `end_segment`.

        Args:
            token_ids: int32 `(B, T)`; later segments are not read.
            num_segments: At least 1.

        Returns:
            An opaque structure of tensors.
        """
        return self.decoder.prefill(*self._inputs(token_ids), num_segments)

    def begin_run(self, state: Any, token_ids: Any, run: Any) -> Any:
        """Prepare the state for the pixels of a run.

        Args:
            state: As left by the call before.
            token_ids: int32 `(B, T)`, filled up to the run.
            run: int32 scalar.

        Returns:
            The new state.
        """
        length = self.decoder.run_length
        start = ops.maximum(run - 1, 0) * length
        # A picture may be smaller than its first run.
        index = ops.minimum(
            start + ops.arange(length), self.sequence_length - 1
        )
        last = ops.take(token_ids, index, axis=1)
        return self.decoder.begin_run(state, self.embed(last), run)

    def step(self, state: Any, token_ids: Any, position: Any) -> Any:
        """Decode one position.

        Args:
            state: As left by the call before.
            token_ids: int32 `(B, T)`, filled up to `position`.
            position: int32 scalar.

        Returns:
            float `(B, W)` for `draw`, and the new state.
        """
        around = neighbor_tokens(
            token_ids, position, self.image_size, self.start_token_id
        )
        features = len(NEIGHBORS) * self.embed.embedding_dim
        neighbors = ops.reshape(self.embed(around), (-1, 1, features))
        return self.decoder.step(state, neighbors, position)

    def end_segment(self, state: Any) -> Any:
        """Close a segment whose pixels have all been decoded."""
        return self.decoder.end_segment(state)

    def rewind(self, state: Any, position: Any) -> Any:
        """Return a closed segment's state as it was where a segment began."""
        return self.decoder.rewind(state, position)

    def draw(self, hidden: Any, choose: Choose) -> Any:
        """Draw the token of one position; see `ChainHead.draw`."""
        return self.head.draw(hidden, choose)

    def get_config(self) -> dict[str, Any]:
        """Return the architecture as JSON-ready constructor arguments."""
        return dict(self._config)

    def _inputs(self, token_ids: Any) -> tuple[Any, Any]:
        """Embed pixels `(B, T, E)` and their neighbors `(B, T, N*E)`."""
        token_ids = ops.cast(token_ids, "int32")
        grid = self.embed(
            pad_grid(token_ids, self.image_size, self.start_token_id)
        )
        neighbors = gather_neighbors(grid)
        margin = (grid.shape[1] - self.image_size[0]), 2
        pixels = grid[:, margin[0] :, margin[1] : -margin[1]]
        shape = (-1, self.sequence_length, grid.shape[-1])
        return ops.reshape(pixels, shape), neighbors

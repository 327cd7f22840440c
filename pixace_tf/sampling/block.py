"""The arguments of decoding, and the values passed from step to step.

Shapes: R rows of a block, T pixels.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from pixace_tf.data import batches
from pixace_tf.sampling.sampling_config import has_filters
from pixace_tf.typing import Tensor

# What decoding does. "plain" only draws, the fastest; "weighed" also adds up
# the costs of what is known; "full" also filters, guides, and limits the number
# of colors; "limited" does all of that, and draws only some colors.
Program = Literal["plain", "weighed", "full", "limited"]
# A mask of channels in which all are set; see `Block.mask`.
ALL_CHANNELS = 0b1111


class Block(NamedTuple):
    """Images to decode in step, each read in its own raster order.

    Attributes:
        token_ids: int32 `(R, T)`, with zeros for hidden channels.
        mask: int32 `(R, T)`, the channels to be sampled: bit c is set for
            channel c of the palette. It is 0 for known pixels, `ALL_CHANNELS`
            for hidden ones.
        seeds: int64 `(R,)`.
        condition: int32 `(R, 2)`, as in `PixaceCausalLM`.
        config: `(R,)` arrays by name, as in `SamplingConfig`; `guidance`, which
            is 1 for images without guidance; and `max_colors`, int32: with so
            many colors an image gets no new one, 0 for any number.
        codes: int32 `(NUM_CODES,)`, the colors that may be sampled; `()` for
            all.
    """

    token_ids: np.ndarray
    mask: np.ndarray
    seeds: np.ndarray
    condition: np.ndarray
    config: dict[str, np.ndarray]
    codes: Any = ()

    @property
    def is_guided(self) -> bool:
        """Whether the images are guided, as all are or none."""
        return bool(np.any(self.config["guidance"] > 1))

    @property
    def has_known_channels(self) -> bool:
        """Whether only some channels of a pixel are known."""
        return bool(np.any((self.mask > 0) & (self.mask < ALL_CHANNELS)))

    @property
    def has_max_colors(self) -> bool:
        """Whether the number of colors of an image is limited."""
        return bool(np.any(self.config["max_colors"] > 0))

    def program(self, is_weighed: bool) -> Program:
        """Return the fastest program that does what the images need.

        `is_weighed` tells whether particles are.
        """
        if len(self.codes):
            return "limited"
        if self.is_guided or self.has_max_colors or has_filters(self.config):
            return "full"
        return "weighed" if is_weighed or self.has_known_channels else "plain"

    def take(self, index: Any) -> "Block":
        """Return the images at `index`."""
        return self._map(lambda array: array[index])

    def padded(self, rows: int) -> "Block":
        """Repeat the last image until there are `rows`."""
        return self._map(lambda array: batches.pad(array, rows))

    def repeat(self, times: int) -> "Block":
        """Repeat each image, so that equal images are side by side."""
        return self._map(lambda array: np.repeat(array, times, axis=0))

    def tile(self, times: int) -> "Block":
        """Repeat the images, one time after the other."""
        return self.take(np.tile(np.arange(len(self.seeds)), times))

    def _map(self, change: Callable[[np.ndarray], np.ndarray]) -> "Block":
        return Block(
            change(self.token_ids),
            change(self.mask),
            change(self.seeds),
            change(self.condition),
            {name: change(value) for name, value in self.config.items()},
            self.codes,
        )


class Carry(NamedTuple):
    """The values that each step of decoding hands to the next.

    Attributes:
        state: The decoder's state, as the engine holds it.
        token_ids: int32 `(R, T)`, known before the position and wherever
            pixels are not hidden.
        nats: float32 `(R,)`, the cost of the known pixels for each particle
            since the last resampling; zeros without particles.
    """

    state: Tensor
    token_ids: Tensor
    nats: Tensor


class Drawing(NamedTuple):
    """The values that decoding reads but never changes.

    Attributes:
        mask: int32 `(R, T)`, the channels to be sampled; see `Block`.
        noise: float32 `(R, T, num_draws)` in `[0, 1)`.
        config: `(R,)` tensors by name, as in `Block`.
        codes: int32 `(NUM_CODES,)`, the colors that the program "limited" may
            sample; otherwise `()`.
    """

    mask: Tensor
    noise: Tensor
    config: dict[str, Tensor]
    codes: Tensor = ()

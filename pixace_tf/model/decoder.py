"""The interface of the decoders over the pixels of an image.

Shapes: B batch, T pixels, E embedding_dim, N neighbors, W hidden_dim, C
condition_dim.
"""

import abc
from typing import Any, NamedTuple

import keras

from pixace_tf.typing import Tensor


class Inputs(NamedTuple):
    """The inputs of a decoder for whole images.

    Attributes:
        pixels: float `(B, T, E)`, the embedded pixels.
        neighbors: float `(B, T, N*E)`, the embedded neighbors of each pixel.
        condition: float `(B, C)`, or None.
    """

    pixels: Tensor
    neighbors: Tensor
    condition: Tensor = None


class Decoder(keras.layers.Layer, abc.ABC):
    """A causal decoder over pixels in raster order; abstract.

    A call runs over whole images, for training and likelihoods. Sampling goes
    patch by patch: `begin_patch` first, then one `step` per pixel of the patch.
    Both take and return a state, a structure of tensors that only the decoder
    understands. `empty_state` is the state before the first pixel; `prefill`
    computes the state after given pixels in one pass. Decoding may then begin
    at any multiple of `prefill_stride`, after `begin_patch` for that patch;
    later positions in the state are masked.

    The condition of an image is None or one vector, which is added to the
    inputs of each stack and kept in the state.

    Attributes:
        hidden_dim: Width W of the output.
        condition_dim: Width C of the condition: the widths of the stacks added.
        patch_length: Pixels of a patch.
        prefill_stride: A divisor of `patch_length`.
        has_growing_cache: Whether `begin_patch` changes the shapes of the
            state, so that a program compiled by XLA covers one patch only.

    Call arguments:
        inputs: See `Inputs`.
        training: Whether dropout acts.

    Returns:
        float `(B, T, W)`: row t depends on the pixels before t only.
    """

    hidden_dim: int
    condition_dim: int
    patch_length: int
    prefill_stride: int
    has_growing_cache: bool

    @abc.abstractmethod
    def layer_states(self, inputs: Inputs) -> list[Tensor]:
        """Return float `(B, positions, width)` after each layer.

        The layers are those of the stack that reads the whole image.
        """

    @abc.abstractmethod
    def empty_state(
        self, batch_size: Tensor, condition: Tensor = None
    ) -> Tensor:
        """Return the state before the first pixel."""

    @abc.abstractmethod
    def prefill(self, inputs: Inputs, num_patches: int) -> Tensor:
        """Return the state after some patches of images, at least one."""

    @abc.abstractmethod
    def begin_patch(
        self, state: Any, last_pixels: Tensor, patch: Tensor
    ) -> Any:
        """Prepare the state of all earlier pixels for a patch; idempotent.

        `patch` is its number, an int32 scalar, and `last_pixels` the patch
        before, float `(B, patch_length, E)`; the first patch ignores it.
        """

    @abc.abstractmethod
    def step(
        self, state: Any, neighbors: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode the pixel at `position`, an int32 scalar in `[0, T)`.

        The state is that of `begin_patch` or the previous step, `neighbors` are
        float `(B, N*E)`. Return float `(B, W)`, and the new state.
        """


def with_condition(x: Tensor, condition: Tensor) -> Tensor:
    """Add a condition, `(B, width)` or None, to each position.

    `x` is `(B, positions, width)`, or `(B, width)` for one position.
    """
    if condition is None:
        return x
    if len(x.shape) == 3:
        condition = condition[:, None]
    return x + keras.ops.cast(condition, x.dtype)

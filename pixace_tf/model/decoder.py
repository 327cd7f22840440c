"""The interface of the decoders over the pixels of an image.

Shapes: B batch, T pixels, E embedding_dim, N neighbors, W hidden_dim, C
condition_dim.
"""

import abc
from typing import Any

import keras

from pixace_tf.typing import Tensor


class Decoder(keras.layers.Layer, abc.ABC):
    """A causal decoder over pixels in raster order; abstract.

    A call runs over whole images, for training and likelihoods. For sampling,
    an image is decoded patch by patch: `begin_patch` comes before the pixels of
    a patch, then one `step` per pixel. Both take and return a state, a
    structure of tensors that only the decoder understands. The state before
    the first pixel is `empty_state`; `prefill` computes that of given pixels in
    one pass. Decoding may then begin at any multiple of `prefill_stride`, after
    `begin_patch` for the patch in which it begins; positions that the state
    holds from there on are masked.

    The condition of an image is one vector, added to the inputs of each stack,
    or None. The state holds it.

    Attributes:
        hidden_dim: Width W of the output.
        condition_dim: Width C of the condition, the sum of those of the stacks.
        patch_length: Pixels of a patch.
        prefill_stride: A divisor of `patch_length`.
        has_growing_cache: Whether `begin_patch` changes the shapes of the
            state; a program that XLA compiles then ends with each patch.

    Call arguments:
        pixels: float `(B, T, E)`, the embedded pixels.
        neighbors: float `(B, T, N*E)`, the embedded neighbors of each pixel.
        condition: float `(B, C)`, or None.
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
    def layer_states(
        self, pixels: Tensor, neighbors: Tensor, condition: Tensor = None
    ) -> list[Tensor]:
        """Return what each layer makes of whole images.

        Args:
            pixels: float `(B, T, E)`.
            neighbors: float `(B, T, N*E)`.
            condition: float `(B, C)`, or None.

        Returns:
            float `(B, positions, width)` after each layer of the stack that
            reads the whole image.
        """

    @abc.abstractmethod
    def empty_state(
        self, batch_size: Tensor, condition: Tensor = None
    ) -> Tensor:
        """Return the state before the first pixel.

        Args:
            batch_size: B.
            condition: float `(B, C)`, or None.
        """

    @abc.abstractmethod
    def prefill(
        self,
        pixels: Tensor,
        neighbors: Tensor,
        num_patches: int,
        condition: Tensor = None,
    ) -> Tensor:
        """Return the state after the first patches.

        Args:
            pixels: float `(B, T, E)`.
            neighbors: float `(B, T, N*E)`.
            num_patches: The patches to read, at least 1.
            condition: float `(B, C)`, or None.
        """

    @abc.abstractmethod
    def begin_patch(
        self, state: Any, last_pixels: Tensor, patch: Tensor
    ) -> Any:
        """Prepare a state for the pixels of a patch.

        Doing so again within the patch changes nothing.

        Args:
            state: A state that holds all pixels before the patch.
            last_pixels: float `(B, patch_length, E)`, the patch before;
                ignored for the first patch.
            patch: int32 scalar, the number of the patch.
        """

    @abc.abstractmethod
    def step(
        self, state: Any, neighbors: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode one pixel.

        Args:
            state: As returned by the step before, or by `begin_patch`.
            neighbors: float `(B, 1, N*E)` of this position.
            position: int32 scalar in `[0, T)`.

        Returns:
            float `(B, W)`, and the new state.
        """


def with_condition(x: Tensor, condition: Tensor) -> Tensor:
    """Add a condition, if there is one, to all positions.

    Args:
        x: float `(B, positions, width)`.
        condition: float `(B, width)`, or None.
    """
    if condition is None:
        return x
    return x + keras.ops.cast(condition[:, None], x.dtype)

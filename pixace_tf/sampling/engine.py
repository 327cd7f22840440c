"""The loop over the pixels of a block of images, for every runtime.

A runtime only advances a block; this module decides how far, when particles are
resampled, and what a caller sees. It needs no TensorFlow.

Shapes: R rows of a block, T pixels.
"""

import abc
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from pixace_tf.data.palette import Palette
from pixace_tf.sampling import noise, particles
from pixace_tf.sampling.block import Block, Carry, Drawing

# Largest number of spans of an image.
NUM_SPANS = 4


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What sampling needs to know of a model.

    Attributes:
        image_size: `(height, width)` in pixels.
        palette: The text of the palette, such as `"hsv 5,4,4"`.
        orders: See `PixaceCausalLM`.
        labels: See `PixaceCausalLM`.
        patch_length: See `Decoder`.
        prefill_stride: See `Decoder`.
        num_draws: Random numbers for each pixel.
    """

    image_size: tuple[int, int]
    palette: str
    orders: tuple[int, ...]
    labels: tuple[str, ...]
    patch_length: int
    prefill_stride: int
    num_draws: int

    @classmethod
    def of(cls, model: Any) -> "ModelFacts":
        """Return the facts of a `PixaceCausalLM`."""
        return cls(
            model.image_size,
            str(model.palette),
            model.orders,
            model.labels,
            model.decoder.patch_length,
            model.decoder.prefill_stride,
            model.head.num_draws,
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ModelFacts":
        """Undo `dataclasses.asdict`, after a way through JSON."""
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})

    @property
    def sequence_length(self) -> int:
        """The number of pixels, T."""
        return self.image_size[0] * self.image_size[1]

    @property
    def vocabulary_size(self) -> int:
        """The number of color codes."""
        return Palette.get(self.palette).vocabulary_size

    @property
    def patches_per_span(self) -> int:
        """Patches that a call of `Stepper.advance` decodes at most."""
        num_patches = -(-self.sequence_length // self.patch_length)
        return -(-num_patches // NUM_SPANS)

    @property
    def span_length(self) -> int:
        """The most pixels of a call; spans begin at multiples of it."""
        return self.patches_per_span * self.patch_length

    def span_end(self, position: int) -> int:
        """Return where the span of a position ends."""
        return (position // self.span_length + 1) * self.span_length

    def row_end(self, position: int) -> int:
        """Return where the row of pixels that begins at a position ends.

        It is a multiple of `prefill_stride`, and at most the end of the span.
        """
        stride = self.prefill_stride
        row = -(-self.image_size[1] // stride) * stride
        return min(position + row, self.span_end(position))


class Stepper(abc.ABC):
    """Advances one block of images; abstract.

    Attributes:
        rows: Images in the block, R.
    """

    rows: int

    @abc.abstractmethod
    def begin(
        self, token_ids: np.ndarray, position: int, condition: np.ndarray
    ) -> Carry:
        """Return the carry before the first step.

        Args:
            token_ids: int32 `(R, T)`, given before the position and wherever
                pixels are not hidden.
            position: A multiple of `prefill_stride`.
            condition: int32 `(R, 2)`, as in `PixaceCausalLM`.
        """

    @abc.abstractmethod
    def advance(
        self, carry: Carry, start: int, stop: int, drawing: Drawing
    ) -> Carry:
        """Decode some pixels, keeping those that are not hidden.

        Args:
            carry: From `begin`, or from the previous call.
            start: A multiple of `prefill_stride`.
            stop: Like `start`, or T; at most the end of the span.
            drawing: Which pixels to sample, and how.

        Returns:
            The carry at `stop`; for particles, `nats` has grown by the costs of
            the known pixels on the way.
        """

    @abc.abstractmethod
    def take(self, carry: Carry, index: np.ndarray) -> Carry:
        """Return the rows in `index`, integers `(R,)`, with no costs."""


class Engine(abc.ABC):
    """Decodes blocks of images with one model; abstract.

    Attributes:
        facts: Facts of the model.
        num_workers: How many blocks to decode at the same time.
    """

    facts: ModelFacts
    num_workers: int

    @abc.abstractmethod
    def block_rows(self, num_images: int) -> int:
        """Return how many images of so many to decode in one block."""

    @abc.abstractmethod
    def stepper(
        self, block: Block, num_particles: int, start: int, is_alone: bool
    ) -> contextlib.AbstractContextManager[Stepper]:
        """Return what advances a block; see `decode`."""

    @abc.abstractmethod
    def bits(
        self, token_ids: np.ndarray, labels: Any = 0, orders: Any = 0
    ) -> np.ndarray:
        """Return minus log2 probability of each pixel; see `Scorer.bits`."""

    def decode(
        self,
        block: Block,
        num_particles: int,
        start: int,
        end: int,
        is_watched: bool,
        is_alone: bool = False,
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Decode a block from one position to another.

        Args:
            block: At most `block_rows` images; one for particles. Its
                configuration has `guidance` if it is guided.
            num_particles: Ways to fill the image, or 0; see `particles`.
            start: The first pixel, a multiple of `prefill_stride`.
            end: Where to stop: a multiple of `prefill_stride`, or T.
            is_watched: Whether to yield after each row of pixels.
            is_alone: Whether no other block is decoded at the same time.

        Returns:
            An iterator that decodes some pixels at a time; it yields int32
            `(R, T)`, whose first rows are the images of the block, and the
            next position.
        """
        # Iterators advance in threads; programs are traced here.
        stepper = self.stepper(block, num_particles, start, is_alone)
        return self._decode(
            stepper, block, num_particles, start, end, is_watched
        )

    def _decode(
        self,
        opening: contextlib.AbstractContextManager[Stepper],
        block: Block,
        num_particles: int,
        position: int,
        end: int,
        is_watched: bool,
    ) -> Iterator[tuple[np.ndarray, int]]:
        facts = self.facts
        row_by_row = is_watched or num_particles > 0
        with opening as stepper:
            # Padding all blocks beforehand would fill the memory.
            token_ids, mask, seeds, condition, config = block.padded(
                stepper.rows
            )
            if num_particles:
                seed = int(seeds[0])
                length = facts.sequence_length
                choices = noise.uniform(seed, noise.CHOICES, length + 1)
                seeds = noise.particle_seeds(seed, num_particles)
            numbers = noise.uniform_noise(
                seeds, facts.sequence_length, facts.num_draws
            )
            drawing = Drawing(mask, numbers, config)
            carry = stepper.begin(token_ids, position, condition)
            while position < end:
                next_end = facts.row_end if row_by_row else facts.span_end
                stop = min(next_end(position), end)
                carry = stepper.advance(carry, position, stop, drawing)
                position = stop
                token_ids = np.asarray(carry.token_ids)
                if num_particles:
                    nats = np.asarray(carry.nats)
                    if position == end:
                        index = particles.choose(nats, choices[-1])
                        token_ids = token_ids[index][None]
                    else:
                        is_needed, index = particles.copies(
                            nats, choices[position]
                        )
                        if is_needed:
                            carry = stepper.take(carry, index)
                            token_ids = token_ids[index]
                yield token_ids, position

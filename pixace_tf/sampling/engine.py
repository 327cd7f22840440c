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

from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.data.palette import Palette
from pixace_tf.sampling import noise, particles
from pixace_tf.sampling.block import Block, Carry, Drawing, Program

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
        copies_colors: Whether the head tells new colors from copied ones.
    """

    image_size: tuple[int, int]
    palette: str
    orders: tuple[int, ...]
    labels: tuple[str, ...]
    patch_length: int
    prefill_stride: int
    num_draws: int
    copies_colors: bool = False

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
            model.head.copies_colors,
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
    def token_range(self) -> range:
        """The integers that are tokens of a color."""
        return Palette.get(self.palette).token_range

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
        self,
        token_ids: np.ndarray,
        position: int,
        condition: np.ndarray,
        copies: int,
    ) -> Carry:
        """Return the carry before the first step.

        Args:
            token_ids: int32 `(R / copies, T)`, given before the position and
                wherever pixels are not hidden.
            position: A multiple of `prefill_stride`.
            condition: int32 `(R / copies, 2)`, as in `PixaceCausalLM`.
            copies: How often the rows are repeated.
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
        """Return some rows, with no costs.

        `index` are integers `(R,)` in ascending order; see `particles.copies`.
        """


class Engine(abc.ABC):
    """Decodes blocks of images with one model; abstract.

    Attributes:
        facts: Facts of the model.
        num_workers: How many blocks to decode at the same time.
        fixed_rows: Images to which blocks are padded, or None for any number.
    """

    facts: ModelFacts
    num_workers: int
    fixed_rows: int | None = None

    @abc.abstractmethod
    def block_rows(self, num_images: int) -> int:
        """Return how many images of so many to decode in one block."""

    @abc.abstractmethod
    def stepper(
        self, rows: int, program: Program, start: int, is_alone: bool
    ) -> contextlib.AbstractContextManager[Stepper]:
        """Return what advances a block.

        Args:
            rows: Rows of the block.
            program: What `Stepper.advance` is to do.
            start: The first pixel, a multiple of `prefill_stride`.
            is_alone: Whether no other block is decoded at the same time.
        """

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
            block: At most `block_rows` images; one for particles. All of them
                are guided, or none.
            num_particles: Ways to fill the image, or 0; see `particles`.
            start: The first pixel, a multiple of `prefill_stride`.
            end: Where to stop: a multiple of `prefill_stride`, or T.
            is_watched: Whether to yield after each row of pixels.
            is_alone: Whether no other block is decoded at the same time.

        Returns:
            An iterator that decodes some pixels at a time; it yields int32
            `(N, T)`, whose first rows are the images of the block, and the
            next position.
        """
        images = num_particles or self.fixed_rows or len(block.seeds)
        # Iterators advance in threads; programs are traced here.
        stepper = self.stepper(
            images * (1 + block.is_guided),
            block.program(num_particles > 0),
            start,
            is_alone,
        )
        is_watched |= num_particles > 0
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
        is_row_by_row: bool,
    ) -> Iterator[tuple[np.ndarray, int]]:
        facts = self.facts
        length = facts.sequence_length
        next_end = facts.row_end if is_row_by_row else facts.span_end
        with opening as stepper:
            each = 1 + block.is_guided
            copies = num_particles or 1
            first = block.padded(stepper.rows // each // copies).repeat(each)
            if each == 2:
                first.condition[1::2, 1] = NULL_LABEL
            block = first.tile(copies)
            seeds = block.seeds[::each]
            if num_particles:
                seed = int(seeds[0])
                choices = noise.uniform(seed, noise.CHOICES, length + 1)
                seeds = noise.particle_seeds(seed, num_particles)
            numbers = noise.uniform_noise(seeds, length, facts.num_draws)
            numbers = np.repeat(numbers, each, axis=0)
            drawing = Drawing(block.mask, numbers, block.config, block.codes)
            carry = stepper.begin(
                first.token_ids, position, first.condition, copies
            )
            while position < end:
                stop = min(next_end(position), end)
                carry = stepper.advance(carry, position, stop, drawing)
                position = stop
                token_ids = np.asarray(carry.token_ids)[::each]
                if num_particles:
                    nats = np.asarray(carry.nats)[::each]
                    if position == end:
                        chosen = particles.choose(nats, choices[-1])
                        token_ids = token_ids[chosen][None]
                    else:
                        is_needed, index = particles.copies(
                            nats, choices[position]
                        )
                        if is_needed:
                            token_ids = token_ids[index]
                            rows = np.add.outer(each * index, np.arange(each))
                            carry = stepper.take(carry, rows.reshape(-1))
                yield token_ids, position

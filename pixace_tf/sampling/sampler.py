"""Sampling from Python: whole batches, on every core, with progress.

All noise is drawn before the loop from each image's own seed, so an image does
not depend on the rest of its batch. This module needs no TensorFlow.

Shapes: B batch, T pixels.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from pixace_tf.console import ProgressCallback
from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.data.palette import Palette
from pixace_tf.data.raster_orders import best_orders, permutations, to_plain
from pixace_tf.errors import UserError
from pixace_tf.sampling import NUM_CODES, NUM_PARTICLES
from pixace_tf.sampling.block import Block
from pixace_tf.sampling.engine import Engine
from pixace_tf.sampling.region import known_part, spans
from pixace_tf.sampling.sampling_config import (
    SamplingConfig,
    check_integer,
    check_integers,
    check_setting,
    is_guided,
    per_image,
)

# Indices of a block's images, and an iterator over their int32 tokens `(R, T)`
# and the next position.
Job = tuple[np.ndarray, Iterator[tuple[np.ndarray, int]]]
# Called with int32 token_ids `(B, T)`, and bool `(B, T)`: True where missing.
Watch = Callable[[np.ndarray, np.ndarray], None]


class Sampler:
    """Samples images with an engine.

    Args:
        engine: Decodes blocks of images, such as `GraphEngine(model)`.

    Attributes:
        facts: Facts of the model; see `ModelFacts`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.facts = engine.facts

    def generate(
        self,
        seeds: Any,
        config: SamplingConfig | None = None,
        progress: ProgressCallback | None = None,
        watch: Watch | None = None,
        labels: Any = NULL_LABEL,
        guidance: Any = 1.0,
        only_codes: Any = (),
        max_colors: Any = 0,
    ) -> np.ndarray:
        """Sample new images, int32 `(B, T)`; see `fill` for the arguments."""
        shape = len(seeds), self.facts.sequence_length
        return self.fill(
            np.zeros(shape, np.int32),
            np.ones(shape, bool),
            seeds,
            config,
            progress=progress,
            watch=watch,
            labels=labels,
            guidance=guidance,
            only_codes=only_codes,
            max_colors=max_colors,
        )

    def complete(
        self,
        token_ids: Any,
        prefix_length: Any,
        seeds: Any,
        config: SamplingConfig | None = None,
        progress: ProgressCallback | None = None,
        watch: Watch | None = None,
    ) -> np.ndarray:
        """Keep the first pixels of each image and sample the rest; see `fill`.

        Tokens behind a prefix are ignored. `prefix_length` is one integer in
        `[0, T]`, or one for each image.
        """
        length = self.facts.sequence_length
        prefix = check_integers("prefix_length", prefix_length, 0, length)
        prefix = per_image("prefix_length", prefix, len(token_ids))
        return self.fill(
            token_ids,
            np.arange(length) >= prefix[:, None],
            seeds,
            config,
            progress=progress,
            watch=watch,
        )

    def fill(
        self,
        token_ids: Any,
        mask: Any,
        seeds: Any,
        config: SamplingConfig | None = None,
        num_particles: int = NUM_PARTICLES,
        progress: ProgressCallback | None = None,
        watch: Watch | None = None,
        labels: Any = NULL_LABEL,
        guidance: Any = 1.0,
        only_codes: Any = (),
        max_colors: Any = 0,
        given: Sequence[str] = (),
    ) -> np.ndarray:
        """Sample the hidden pixels of each image, given all others.

        Each image is read in the raster order that leaves the fewest known
        pixels behind hidden ones. Known pixels condition the hidden pixels
        behind them exactly, and those before them by `particles`.

        Args:
            token_ids: Integers `(B, T)`, canonical codes; ignored where pixels
                are hidden, unless channels are `given`.
            mask: bool `(B, T)`, True where pixels are to be sampled.
            seeds: Integers `(B,)`.
            config: Temperature and filters.
            num_particles: For images with known pixels behind hidden ones; 1
                ignores these pixels.
            progress: Called with the pixels sampled so far and in total.
            watch: Called with the images after each row of pixels.
            labels: Integers, one or `(B,)`; 0 is none of the model's labels.
            guidance: Numbers, one or `(B,)`; see `Request`.
            only_codes: At most `NUM_CODES` canonical codes to sample alone.
            max_colors: Integers, one or `(B,)`: an image that has so many
                colors gets no new one; 0 for any number.
            given: Names of channels of the palette that the hidden pixels
                keep, such as `"value"`; without `only_codes`.

        Returns:
            int32 `(B, T)`.

        Raises:
            UserError: If a shape or a value is out of range.
        """
        block = self._check(
            token_ids, mask, seeds, config, labels, guidance, given
        )
        block = self._with_codes(block, only_codes)
        block.config["max_colors"] = self._max_colors(max_colors, len(mask))
        num_particles = check_integer("num_particles", num_particles, 1, 2**20)
        order = self.orders(block.mask > 0)
        when = self._sequences[order]
        block = self._in_order(block, order, when)
        tokens, mask = block.token_ids, block.mask > 0
        starts, ends, is_weighed = spans(self.facts, block.mask, num_particles)
        counts = np.where(is_weighed, num_particles, 0)
        jobs = self._jobs(block, starts, ends, counts, watch is not None)
        done, total = starts.copy(), int(np.sum(ends - starts))
        position = np.arange(self.facts.sequence_length)
        for rows, sampled, stop in self._in_parallel(jobs):
            tokens[rows] = sampled[: len(rows)]
            done[rows] = np.minimum(stop, ends[rows])
            if progress is not None:
                progress(int(np.sum(done - starts)), total)
            if watch is not None:
                is_missing = mask & (position >= done[:, None])
                watch(to_plain(tokens, when), to_plain(is_missing, when))
        return to_plain(tokens, when)

    def orders(self, mask: np.ndarray) -> np.ndarray:
        """Return the raster orders in which `fill` reads images.

        Args:
            mask: bool `(B, T)`, True where pixels are to be sampled.

        Returns:
            Integers `(B,)`, indices of `facts.orders`.
        """
        return best_orders(mask, self._sequences)

    def bits(
        self, token_ids: np.ndarray, labels: Any = NULL_LABEL, orders: Any = 0
    ) -> np.ndarray:
        """Return minus log2 probability of each pixel, float32 `(B, T)`.

        Args:
            token_ids: Integers `(B, T)`, canonical codes, in plain order.
            labels: Integers, one or `(B,)`; see `fill`.
            orders: Integers, one or `(B,)`: the raster order in which each
                image is read; see `orders`.
        """
        return self._engine.bits(token_ids, labels, orders)

    @functools.cached_property
    def _sequences(self) -> np.ndarray:
        return permutations(len(self.facts.orders), self.facts.image_size)

    def _in_order(
        self, block: Block, order: np.ndarray, when: np.ndarray
    ) -> Block:
        """Rearrange a block of images in plain order."""
        condition = block.condition.copy()
        condition[:, 0] = np.array(self.facts.orders)[order]
        return block._replace(
            token_ids=np.take_along_axis(block.token_ids, when, axis=1),
            mask=np.take_along_axis(block.mask, when, axis=1),
            condition=condition,
        )

    def _jobs(
        self,
        block: Block,
        starts: np.ndarray,
        ends: np.ndarray,
        counts: np.ndarray,
        is_watched: bool,
    ) -> list[Job]:
        """Split images into blocks: the indices of each block, its iterator.

        All images of a block have the same start, so the result for an image
        does not depend on the others. Images with a count of 0 need no
        particles.
        """
        guided = is_guided(block.condition[:, 1], block.config["guidance"])
        kinds = np.stack([starts, counts, guided], axis=1)
        groups = []
        for kind in np.unique(kinds, axis=0):
            same = np.flatnonzero(np.all(kinds == kind, axis=1))
            _, count, with_guidance = kind.tolist()
            size = 1 if count else self._engine.block_rows(len(same))
            groups += [
                (same[first : first + size], count, with_guidance)
                for first in range(0, len(same), size)
            ]
        jobs = []
        for rows, count, with_guidance in groups:
            own = block.take(rows)
            if not with_guidance:
                own.config["guidance"][:] = 1
            start, end = int(starts[rows[0]]), int(ends[rows].max())
            iterator = self._engine.decode(
                own, count, start, end, is_watched, len(groups) == 1
            )
            jobs.append((rows, iterator))
        return jobs

    def _check(
        self,
        token_ids: Any,
        mask: Any,
        seeds: Any,
        config: SamplingConfig | None,
        labels: Any,
        guidance: Any,
        given: Sequence[str],
    ) -> Block:
        """Check the arguments of `fill`; return all images as a block."""
        count, length = len(token_ids), self.facts.sequence_length
        seeds = check_integers("seeds", seeds, -(2**63), 2**63 - 1)
        mask, tokens = np.asarray(mask), np.asarray(token_ids)
        for name, array, shape in (
            ("seeds", seeds, (count,)),
            ("token_ids", tokens, (count, length)),
            ("mask", mask, (count, length)),
        ):
            if array.shape != shape:
                raise UserError(
                    f"{name} must have the shape {shape} for {count} images. "
                    f"Received: shape={array.shape}"
                )
        if mask.dtype != bool:
            raise UserError(f"mask must be bool. Received: {mask.dtype}")
        colors = self.facts.token_range
        kept = tokens if given else tokens[~mask]
        is_color = (kept >= colors.start) & (kept < colors.stop)
        if tokens.dtype.kind not in "iu" or not is_color.all():
            raise UserError(
                f"token_ids must be integers from {colors[0]} to {colors[-1]} "
                "where they are kept."
            )
        palette = Palette.get(self.facts.palette)
        tokens, channels = known_part(
            palette, tokens, mask, palette.channels_named(given)
        )
        labels = check_integers("labels", labels, 0, len(self.facts.labels))
        labels = per_image("labels", labels, count)
        arrays = (config or SamplingConfig()).arrays(count)
        arrays["guidance"] = per_image(
            "guidance", check_setting("guidance", guidance), count
        )
        condition = np.stack([np.zeros_like(labels), labels], axis=1)
        return Block(
            tokens.astype(np.int32),
            channels.astype(np.int32),
            seeds,
            condition.astype(np.int32),
            arrays,
        )

    def _with_codes(self, block: Block, codes: Any) -> Block:
        """Return a block that is limited to some codes, if there are any."""
        palette = Palette.get(self.facts.palette)
        colors = palette.token_range
        codes = np.unique(
            check_integers("only_codes", codes, colors[0], colors[-1])
        )
        if len(codes) > NUM_CODES or not np.all(palette.is_canonical(codes)):
            raise UserError(
                f"only_codes must be at most {NUM_CODES} canonical codes of "
                f"{palette.name}. Received: {len(codes)} codes"
            )
        if not len(codes):
            return block
        if block.has_known_channels:
            raise UserError(
                "only_codes would change the channels in given; leave one of "
                f"them out. Received: {len(codes)} codes"
            )
        padded = np.pad(codes, (0, NUM_CODES - len(codes)), "edge")
        return block._replace(codes=padded.astype(np.int32))

    def _max_colors(self, max_colors: Any, count: int) -> np.ndarray:
        most = check_integers("max_colors", max_colors, 0, 2**31 - 1)
        if np.any(most) and not self.facts.copies_colors:
            raise UserError(
                "max_colors needs a model that copies colors: a run of fit "
                "with --pixel-art or --head copy. "
                f"Received: max_colors={max_colors!r}"
            )
        return per_image("max_colors", most, count).astype(np.int32)

    def _in_parallel(
        self, jobs: Iterable[Job]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Advance the blocks, as many at once as there are workers.

        Yields:
            The indices of a block's images and the values of its iterator, in
            the caller's thread, where an exception stops all blocks.
        """
        waiting = iter(jobs)
        with ThreadPoolExecutor(self._engine.num_workers) as pool:
            running = {
                pool.submit(next, job[1], None): job
                for job in itertools.islice(waiting, self._engine.num_workers)
            }
            while running:
                for future in wait(running, None, FIRST_COMPLETED).done:
                    rows, iterator = running.pop(future)
                    passed = future.result()
                    is_done = passed is None
                    job = next(waiting, None) if is_done else (rows, iterator)
                    if job is not None:
                        running[pool.submit(next, job[1], None)] = job
                    if passed is not None:
                        yield rows, *passed

"""Sampling from Python: whole batches, on every core, with progress.

All noise is drawn before the loop from each image's own seed, so an image does
not depend on what else is sampled. Images are decoded in blocks of a fixed
number of rows: matrix kernels round differently for other shapes, and one image
in 300 would come out otherwise alone than in a batch. On a CPU a block is one
image, whose cache stays near the core, and every core has a block of its own;
on a GPU a step of many rows takes hardly longer than one of a single row.

Shapes: B batch, T pixels.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback
from pixace_tf.data import raster_orders
from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.errors import UserError
from pixace_tf.machine import num_cores
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling import MAX_GUIDANCE, NUM_PARTICLES, particles
from pixace_tf.sampling.decode_loop import DecodeLoop
from pixace_tf.sampling.draws import has_filters
from pixace_tf.sampling.sampling_config import SamplingConfig

ROWS_ON_GPU = 32
# The particles are weighed by so many rows of known pixels behind the last
# hidden one; those further away differ little between them.
ROWS_BEHIND = 3

# Which images have been decoded, their tokens, and up to where.
Decoded = tuple[np.ndarray, np.ndarray, int]
# Called with int32 token_ids `(B, T)` and which of them are still missing, bool
# `(B, T)`.
Watch = Callable[[np.ndarray, np.ndarray], None]


class Sampler:
    """Samples images from a model, with everything compiled once.

    Args:
        model: The model to sample from.
        rows: Images of a block, decoded in step; by default 1 on a CPU.
        jit_compile: Whether XLA compiles the loop.
    """

    def __init__(
        self,
        model: PixaceCausalLM,
        rows: int | None = None,
        jit_compile: bool = True,
    ) -> None:
        if keras.backend.backend() != "tensorflow":
            raise UserError(
                "Only TensorFlow paints. Do without KERAS_BACKEND="
                f"{keras.backend.backend()}."
            )
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        self.model = model
        self.num_workers = 1 if has_gpu else num_cores()
        self._rows = rows or (ROWS_ON_GPU if has_gpu else 1)
        self._loop = functools.cache(
            lambda rows, has_particles, is_guided: DecodeLoop(
                model, rows, jit_compile, has_particles, is_guided
            )
        )

    def generate(
        self,
        seeds: Any,
        config: SamplingConfig | None = None,
        progress: ProgressCallback | None = None,
        watch: Watch | None = None,
        labels: Any = NULL_LABEL,
        guidance: Any = 1.0,
    ) -> np.ndarray:
        """Sample new images.

        Args:
            seeds: Integers `(B,)`, one for each image.
            config: How freely to sample.
            progress: Told the pixels sampled and their number.
            watch: Shown the images, row by row.
            labels: See `fill`.
            guidance: See `fill`.

        Returns:
            int32 `(B, T)`.
        """
        shape = len(seeds), self.model.sequence_length
        return self.fill(
            *(np.zeros(shape, np.int32), np.ones(shape, bool), seeds, config),
            progress=progress,
            watch=watch,
            labels=labels,
            guidance=guidance,
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
        """Keep the first pixels of each image and sample the rest.

        Args:
            token_ids: Integers `(B, T)`, canonical codes; read up to each
                prefix only.
            prefix_length: Integers, one or `(B,)`, in `[0, T]`.
            seeds: Integers `(B,)`.
            config: How freely to sample.
            progress: Told the pixels sampled and their number.
            watch: Shown the images, row by row.

        Returns:
            int32 `(B, T)`.

        Raises:
            UserError: If a shape or a value is out of range.
        """
        length = self.model.sequence_length
        prefix = np.broadcast_to(np.asarray(prefix_length), len(token_ids))
        if prefix.size and not 0 <= prefix.min() <= prefix.max() <= length:
            raise UserError(
                f"prefix_length must lie in [0, {length}]. "
                f"Received: {prefix_length}"
            )
        mask = np.arange(length) >= prefix[:, None]
        return self.fill(
            *(token_ids, mask, seeds, config),
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
    ) -> np.ndarray:
        """Sample the hidden pixels of each image, given all others.

        Each image is read in that raster order of the model which leaves least
        known behind what is hidden. What is known before a hidden pixel is then
        given exactly; what is known behind it by `num_particles`, see
        `particles`.

        Args:
            token_ids: Integers `(B, T)`, canonical codes; not read where pixels
                are hidden.
            mask: bool `(B, T)`, True where pixels are to be sampled.
            seeds: Integers `(B,)`.
            config: How freely to sample.
            num_particles: For images with known pixels behind hidden ones; 1
                does without their help.
            progress: Told the pixels sampled and their number.
            watch: Shown the images, row by row.
            labels: Integers, one or `(B,)`: numbers of the model's labels from
                1 on, or 0 for none.
            guidance: Numbers from 1 on, one or `(B,)`: how strongly the label
                is preferred to all images; 1 leaves it as the model has it.

        Returns:
            int32 `(B, T)`.

        Raises:
            UserError: If a shape or a value is out of range.
        """
        token_ids, mask, seeds = self._check(token_ids, mask, seeds)
        if num_particles < 1:
            raise UserError(
                f"num_particles must be positive. Received: {num_particles}"
            )
        labels, guidance = self._check_labels(labels, guidance, len(seeds))
        arrays = (config or SamplingConfig()).arrays(len(seeds))
        arrays["guidance"] = guidance
        order = raster_orders.best_orders(
            mask, self.model.image_size, len(self.model.orders)
        )
        when = self._permutations[order]
        mask = np.take_along_axis(mask, when, axis=1)
        tokens = np.take_along_axis(token_ids, when, axis=1)
        vector_rows = np.array(self.model.orders)[order]
        condition = np.stack([vector_rows, labels], axis=1).astype(np.int32)
        starts, ends, is_weighed = self._spans(mask, num_particles > 1)
        is_guided = (guidance != 1) & (labels != NULL_LABEL)
        done = starts.copy()
        # The images of a block have one start: what is computed for an image
        # does not depend on the others.
        blocks = []
        kinds = np.stack([starts, is_weighed, is_guided], axis=1)
        for start, weighed, guided in np.unique(kinds, axis=0).tolist():
            loop = self._loop(
                num_particles if weighed else self._rows,
                bool(weighed),
                bool(guided),
            )
            same = np.all(kinds == (start, weighed, guided), axis=1)
            for rows in _cut(np.flatnonzero(same), 1 if weighed else loop.rows):
                own = {name: value[rows] for name, value in arrays.items()}
                if not guided:
                    del own["guidance"]
                is_filtered = bool(has_filters(own))
                # Here, since the blocks run in threads.
                loop.trace(is_filtered, start)
                block = _Block(
                    loop,
                    rows,
                    tokens[rows],
                    mask[rows],
                    seeds[rows],
                    condition[rows],
                    own,
                    is_filtered,
                )
                end = int(ends[rows].max())
                blocks.append(block.decode(start, end, watch is not None))
        total = int(np.sum(ends - starts))
        position = np.arange(self.model.sequence_length)
        for rows, sampled, stop in self._in_parallel(blocks):
            tokens[rows] = sampled[: len(rows)]
            done[rows] = np.minimum(stop, ends[rows])
            if progress is not None:
                progress(int(np.sum(done - starts)), total)
            if watch is not None:
                is_missing = mask & (position >= done[:, None])
                watch(_put(tokens, when), _put(is_missing, when))
        return _put(tokens, when)

    @functools.cached_property
    def _permutations(self) -> np.ndarray:
        """The raster orders of the model, int32 `(orders, T)`."""
        return raster_orders.permutations(
            len(self.model.orders), self.model.image_size
        )

    def _check_labels(
        self, labels: Any, guidance: Any, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a label int32 and a guidance float32 for each image."""
        num_labels = len(self.model.labels)
        labels = np.asarray(labels)
        if np.any((labels < 0) | (labels > num_labels)):
            raise UserError(
                f"labels must lie in [0, {num_labels}]. Received: {labels}"
            )
        guidance = np.asarray(guidance, np.float32)
        if not np.all((guidance >= 1) & (guidance <= MAX_GUIDANCE)):
            raise UserError(
                f"guidance must lie in [1, {MAX_GUIDANCE}]. "
                f"Received: {guidance}"
            )
        return (
            np.broadcast_to(labels, count).astype(np.int32),
            np.broadcast_to(guidance, count),
        )

    def _spans(
        self, mask: np.ndarray, has_particles: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what of each image to decode, and whether by particles.

        Returns:
            int `(B,)`, the first pixel and the end, multiples of the decoder's
            `prefill_stride` or T; and bool `(B,)`.
        """
        length = self.model.sequence_length
        stride = self.model.decoder.prefill_stride
        position = np.arange(length)
        first = np.where(mask, position, length).min(1, initial=length)
        end = np.where(mask, position + 1, 0).max(1, initial=0)
        is_weighed = np.any(~mask & (position > first[:, None]), axis=1)
        is_weighed &= has_particles
        behind = ROWS_BEHIND * self.model.image_size[1]
        end += np.where(is_weighed, behind, 0)
        start = np.where(first < length, first // stride * stride, length)
        end = np.minimum(-(-end // stride) * stride, length)
        return start, np.maximum(start, end), is_weighed

    def _check(
        self, token_ids: Any, mask: Any, seeds: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tokens with zeros where they are hidden, mask and seeds."""
        token_ids = np.array(token_ids, np.int32)
        mask = np.asarray(mask, bool)
        count, length = len(token_ids), self.model.sequence_length
        for name, array in {
            "token_ids": token_ids,
            "mask": mask,
        }.items():
            if array.shape != (count, length):
                raise UserError(
                    f"{name} must have the shape ({count}, {length}). "
                    f"Received: shape={array.shape}"
                )
        token_ids[mask] = 0
        vocabulary_size = self.model.palette.vocabulary_size
        if np.any((token_ids < 0) | (token_ids >= vocabulary_size)):
            raise UserError(
                f"token_ids must lie in [0, {vocabulary_size}) where they are "
                "kept."
            )
        seeds = np.asarray(seeds, np.int64)
        if seeds.shape != (count,):
            raise UserError(
                f"seeds must be one for each of the {count} images. "
                f"Received: shape={seeds.shape}"
            )
        return token_ids, mask, seeds

    def _in_parallel(
        self, blocks: Iterable[Iterator[Decoded]]
    ) -> Iterator[Decoded]:
        """Advance the blocks, as many at once as there are workers.

        Yields:
            What a block yields, in the thread of the caller: what it raises
            there stops all blocks after their chunk.
        """
        waiting = iter(blocks)
        with ThreadPoolExecutor(self.num_workers) as pool:
            running = {
                pool.submit(next, block, None): block
                for block in itertools.islice(waiting, self.num_workers)
            }
            while running:
                for future in wait(running, None, FIRST_COMPLETED).done:
                    block: Iterator[Decoded] | None = running.pop(future)
                    passed = future.result()
                    if passed is None:
                        block = next(waiting, None)
                    if block is not None:
                        running[pool.submit(next, block, None)] = block
                    if passed is not None:
                        yield passed


class _Block:
    """Images that are decoded in step, or one image in several particles.

    Args:
        loop: What decodes them.
        rows: Their places among all images, at most as many as `loop` has; one
            for particles.
        token_ids: int32 `(rows, T)`.
        mask: bool `(rows, T)`, True where pixels are to be sampled.
        seeds: int64 `(rows,)`.
        condition: int32 `(rows, 2)`.
        config: `(rows,)` arrays by name, as in `SamplingConfig`.
        is_filtered: Whether the filters act.
    """

    def __init__(
        self,
        loop: DecodeLoop,
        rows: np.ndarray,
        token_ids: np.ndarray,
        mask: np.ndarray,
        seeds: np.ndarray,
        condition: np.ndarray,
        config: dict[str, np.ndarray],
        is_filtered: bool,
    ) -> None:
        self._loop, self._rows, self._is_filtered = loop, rows, is_filtered
        self._arrays = token_ids, mask, seeds, condition
        self._config = config

    def decode(
        self, position: int, end: int, is_watched: bool
    ) -> Iterator[Decoded]:
        """Decode from a position on.

        Args:
            position: The first pixel.
            end: Where to end.
            is_watched: Whether to yield each row of pixels.

        Yields:
            After each chunk of pixels `rows`, as many or more rows of tokens,
            and where the next chunk begins.
        """
        loop = self._loop
        # The block is filled up with its last image. This is done here, not
        # before: the particles of many images would fill the memory.
        full = np.minimum(np.arange(loop.rows), len(self._rows) - 1)
        tokens, mask, seeds, condition = (
            tf.constant(values[full]) for values in self._arrays
        )
        config = {name: value[full] for name, value in self._config.items()}
        nats = tf.zeros(loop.rows)
        if loop.has_particles:
            uniform = particles.choice_noise(seeds[0], tokens.shape[1])
            seeds = particles.seeds(seeds[0], loop.rows)
        noise = loop.noise(seeds)
        state = loop.state_at(tokens, position, condition)
        while position < end:
            stop = (position // loop.span_length + 1) * loop.span_length
            if is_watched or loop.has_particles:
                stop = loop.chunk_end(position)
            stop = min(stop, end)
            tokens, nats, state = loop.advance(
                *(self._is_filtered, state, tokens, nats, position, stop),
                *(mask, noise, config),
            )
            position = stop
            if loop.has_particles and position < end:
                tokens, nats, state = loop.resample(
                    *(state, tokens, nats, uniform[position], loop.rows)
                )
            elif loop.has_particles:
                tokens = particles.choose(tokens, nats, uniform[-1], loop.rows)
            yield self._rows, tokens.numpy(), stop


def _put(values: np.ndarray, when: np.ndarray) -> np.ndarray:
    """Return values `(B, T)` in plain order, from those in other orders."""
    plain = np.empty_like(values)
    np.put_along_axis(plain, when, values, axis=1)
    return plain


def _cut(rows: np.ndarray, length: int) -> list[np.ndarray]:
    """Return pieces of at most some length."""
    return [rows[i : i + length] for i in range(0, len(rows), length)]

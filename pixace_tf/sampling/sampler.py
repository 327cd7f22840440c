"""Sampling from Python: whole batches, on every core, with progress.

All noise is drawn before the loop from each image's own seed, so an image does
not depend on where its prefix ends. Images are decoded in blocks of a fixed
number of rows: matrix kernels round differently for other shapes, and one image
in 300 would come out otherwise alone than in a batch. On a CPU a block is one
image, whose cache stays near the core, and every core has a block of its own;
on a GPU a step of many rows takes hardly longer than one of a single row.

Shapes: B batch, T pixels.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.console import ProgressCallback
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling.decode_loop import DecodeLoop
from pixace_tf.sampling.draws import has_filters
from pixace_tf.sampling.sampling_config import SamplingConfig

ROWS_ON_GPU = 32

# Which images have been decoded, their tokens, and up to where.
Decoded = tuple[np.ndarray, np.ndarray, int]
# Called with int32 token_ids `(B, T)` and how many of each are done, `(B,)`.
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
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        self.model = model
        self.num_workers = 1 if has_gpu else os.cpu_count() or 1
        self._loop = DecodeLoop(
            model, rows or (ROWS_ON_GPU if has_gpu else 1), jit_compile
        )

    def generate(
        self,
        seeds: Any,
        config: SamplingConfig | None = None,
        progress: ProgressCallback | None = None,
        watch: Watch | None = None,
    ) -> np.ndarray:
        """Sample new images.

        Args:
            seeds: Integers `(B,)`, one for each image.
            config: How freely to sample.
            progress: Told the pixels sampled and their number.
            watch: Shown the images, row by row.

        Returns:
            int32 `(B, T)`.
        """
        count = len(seeds)
        empty = np.zeros((count, self.model.sequence_length), np.int32)
        return self.complete(empty, 0, seeds, config, progress, watch)

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
        token_ids, prefix, seeds = self._check(token_ids, prefix_length, seeds)
        arrays = (config or SamplingConfig()).arrays(len(token_ids))
        length = self.model.sequence_length
        stride = self.model.decoder.prefill_stride
        starts = np.where(prefix < length, prefix // stride * stride, length)
        done = starts.copy()
        chunk = self._chunk_length(watch is not None)
        # The images of a block have one start: what is computed for an image
        # does not depend on the others.
        blocks = []
        for start in np.unique(starts).tolist():
            for rows in _cut(np.flatnonzero(starts == start), self._loop.rows):
                own = {name: value[rows] for name, value in arrays.items()}
                is_filtered = bool(has_filters(own))
                # Here, since the blocks run in threads.
                self._loop.trace(is_filtered, start)
                blocks.append(
                    self._decode_block(
                        *(token_ids[rows], rows, start, chunk, prefix[rows]),
                        *(seeds[rows], own, is_filtered),
                    )
                )
        total = int(np.sum(length - starts))
        for rows, tokens, stop in self._in_parallel(blocks):
            token_ids[rows], done[rows] = tokens[: len(rows)], stop
            if progress is not None:
                progress(int(np.sum(done - starts)), total)
            if watch is not None:
                watch(token_ids, done)
        return token_ids

    def _chunk_length(self, is_watched: bool) -> int:
        """Return how many pixels to decode between two reports."""
        if not is_watched:
            return self._loop.span_length
        # This is about a row.
        stride = self.model.decoder.prefill_stride
        return -(-self.model.image_size[1] // stride) * stride

    def _check(
        self, token_ids: Any, prefix_length: Any, seeds: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return prefixes with zeros behind them, their lengths, the seeds."""
        token_ids = np.array(token_ids, np.int32)
        count, length = len(token_ids), self.model.sequence_length
        if token_ids.shape != (count, length):
            raise UserError(
                f"token_ids must have the shape (batch, {length}). "
                f"Received: shape={token_ids.shape}"
            )
        prefix = np.broadcast_to(np.asarray(prefix_length), count)
        if count and not 0 <= prefix.min() <= prefix.max() <= length:
            raise UserError(
                f"prefix_length must lie in [0, {length}]. "
                f"Received: {prefix_length}"
            )
        token_ids[np.arange(length) >= prefix[:, None]] = 0
        vocabulary_size = self.model.palette.vocabulary_size
        if np.any((token_ids < 0) | (token_ids >= vocabulary_size)):
            raise UserError(
                f"token_ids must lie in [0, {vocabulary_size}) within the "
                "prefix."
            )
        seeds = np.asarray(seeds, np.int64)
        if seeds.shape != (count,):
            raise UserError(
                f"seeds must be one for each of the {count} images. "
                f"Received: shape={seeds.shape}"
            )
        return token_ids, prefix.astype(np.int32), seeds

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

    def _decode_block(
        self,
        token_ids: np.ndarray,
        rows: np.ndarray,
        position: int,
        chunk_length: int,
        prefix_length: np.ndarray,
        seeds: np.ndarray,
        config: dict[str, np.ndarray],
        is_filtered: bool,
    ) -> Iterator[Decoded]:
        """Decode some images from a position on.

        Yields:
            After each chunk of pixels `rows`, as many or more rows of tokens,
            and where the next chunk begins.
        """
        length, loop = self.model.sequence_length, self._loop
        # The block is filled up with its last image.
        full = np.minimum(np.arange(loop.rows), len(rows) - 1)
        tokens = tf.constant(token_ids[full])
        noise = loop.noise(seeds[full])
        config = {name: value[full] for name, value in config.items()}
        state = loop.state_at(tokens, position)
        while position < length:
            end = (position // loop.span_length + 1) * loop.span_length
            stop = min(position + chunk_length, end, length)
            tokens, state = loop.advance(
                *(is_filtered, state, tokens, position, stop),
                *(prefix_length[full], noise, config),
            )
            position = stop
            yield rows, tokens.numpy(), stop


def _cut(rows: np.ndarray, length: int) -> list[np.ndarray]:
    """Return pieces of at most some length."""
    return [rows[i : i + length] for i in range(0, len(rows), length)]

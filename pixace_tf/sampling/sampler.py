"""Sampling: the loop that draws pixel after pixel.

The model knows one step; this module owns the loop and the randomness. All
noise is drawn before the loop from each picture's own seed, so a picture does
not depend on where its prefix ends. Pictures are drawn in blocks of a fixed
number of rows: matrix kernels round differently for other shapes, and one
picture in 300 would come out otherwise alone than in a batch. On a CPU a block
is one picture, whose cache stays near the core, and every core has its own; on
a GPU a step of many rows takes hardly longer than one of a single row.

Shapes: B batch, T pixels, n choices of one draw.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling.sampling_config import Filters

ROWS_ON_GPU = 32

# Called with the pixels drawn so far and the pixels to draw, in all.
ProgressUpdate = Callable[[int, int], None]
# Which pictures have been drawn, their tokens, and up to where.
Drawn = tuple[np.ndarray, np.ndarray, int]
# Called with int32 token_ids `(B, T)` and how many of each are drawn, `(B,)`.
Watch = Callable[[np.ndarray, np.ndarray], None]


class Sampler:
    """Draws pixels from a model, with everything compiled once.

    Args:
        model: The model to draw from.
        rows: Pictures of a block, drawn in step; by default 1 on a CPU.
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
        self.rows = rows or (ROWS_ON_GPU if has_gpu else 1)
        self.num_workers = 1 if has_gpu else os.cpu_count() or 1
        length, num_draws = model.sequence_length, model.head.num_draws
        tokens = tf.TensorSpec((self.rows, length), tf.int32)
        scalar = tf.TensorSpec((), tf.int32)
        lengths = tf.TensorSpec((self.rows,), tf.int32)
        noise = tf.TensorSpec((self.rows, length, num_draws), tf.float32)
        filters = {
            name: tf.TensorSpec((self.rows,), value.dtype)
            for name, value in Filters().arrays(1).items()
        }
        state = tf.nest.map_structure(_relax, model.empty_state(self.rows))
        # With the filters off, their program does not even hold them.
        self._segment = {
            is_filtered: tf.function(
                functools.partial(self._decode_segment, is_filtered),
                input_signature=[
                    *(state, tokens, scalar, scalar),
                    *(lengths, noise, filters),
                ],
                jit_compile=jit_compile,
            )
            for is_filtered in (False, True)
        }
        # One program for each number of segments.
        self._prefill = functools.cache(
            lambda num_segments: tf.function(
                lambda token_ids: model.prefill(token_ids, num_segments),
                # Of no fixed batch: in pieces, it would need an XLA op.
                input_signature=[tf.TensorSpec((None, length), tf.int32)],
            )
        )
        self._noise = tf.function(
            lambda seeds: uniform_noise(seeds, length, num_draws),
            input_signature=[tf.TensorSpec((self.rows,), tf.int64)],
        )

    def generate(
        self,
        seeds: Any,
        filters: Filters | None = None,
        progress: ProgressUpdate | None = None,
        watch: Watch | None = None,
    ) -> np.ndarray:
        """Draw new pictures.

        Args:
            seeds: Integers `(B,)`, one picture each.
            filters: How freely to draw.
            progress: Told how far the drawing is.
            watch: Shown the pictures, row by row.

        Returns:
            int32 `(B, T)`.
        """
        count = len(seeds)
        empty = np.zeros((count, self.model.sequence_length), np.int32)
        return self.complete(empty, 0, seeds, filters, progress, watch)

    def complete(
        self,
        token_ids: Any,
        prefix_length: Any,
        seeds: Any,
        filters: Filters | None = None,
        progress: ProgressUpdate | None = None,
        watch: Watch | None = None,
    ) -> np.ndarray:
        """Keep the first pixels of each picture and draw the rest.

        Args:
            token_ids: Integers `(B, T)`, canonical codes; read up to each
                prefix only.
            prefix_length: Integers, one or `(B,)`, in `[0, T]`.
            seeds: Integers `(B,)`.
            filters: How freely to draw.
            progress: Told how far the drawing is.
            watch: Shown the pictures, row by row.

        Returns:
            int32 `(B, T)`.

        Raises:
            ValueError: If a shape or a value is out of range.
        """
        token_ids, prefix, seeds = self._check(token_ids, prefix_length, seeds)
        arrays = (filters or Filters()).arrays(len(token_ids))
        length = self.model.sequence_length
        stride = self.model.decoder.prefill_stride
        starts = np.where(prefix < length, prefix // stride * stride, length)
        drawn = starts.copy()
        chunk = self._chunk_length(watch is not None)
        # Blocks of one start: what is computed for a picture does not depend
        # on the others.
        blocks = [
            self._draw_block(
                token_ids[rows],
                rows,
                int(start),
                chunk,
                prefix[rows],
                seeds[rows],
                {name: value[rows] for name, value in arrays.items()},
            )
            for start in np.unique(starts)
            for rows in _cut(np.flatnonzero(starts == start), self.rows)
        ]
        total = int(np.sum(length - starts))
        for rows, tokens, stop in self._advance(blocks):
            token_ids[rows], drawn[rows] = tokens[: len(rows)], stop
            if progress is not None:
                progress(int(np.sum(drawn - starts)), total)
            if watch is not None:
                watch(token_ids, drawn)
        return token_ids

    def _chunk_length(self, is_watched: bool) -> int:
        """Return how many pixels to draw between two looks at them."""
        if not is_watched:
            return self.model.decoder.segment_length
        # About a row.
        stride = self.model.decoder.prefill_stride
        return -(-self.model.image_size[1] // stride) * stride

    def draw_rows(
        self,
        first_segment: tf.Tensor,
        token_ids: tf.Tensor,
        prefix_length: tf.Tensor,
        seeds: tf.Tensor,
        filters: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """Draw a block from the beginning of a segment on, all of it a graph.

        What is computed for a picture depends on its own arguments and on
        `first_segment` only, not on the rest of the block.

        Args:
            first_segment: int32 scalar, a segment in which, or behind which,
                every prefix ends.
            token_ids: int32 `(rows, T)`, zeros behind each prefix.
            prefix_length: int32 `(rows,)`.
            seeds: int64 `(rows,)`.
            filters: `(rows,)` tensors, named as in `Filters`.

        Returns:
            int32 `(rows, T)`.
        """
        length = self.model.sequence_length
        segment_length = self.model.decoder.segment_length
        noise = self._noise(seeds)
        specs = tf.nest.map_structure(_relax, self.model.empty_state(self.rows))
        begin = first_segment * segment_length
        # One program for every beginning.
        last_start = (length - 1) // segment_length * segment_length
        state = self.model.rewind(self._state_at(token_ids, last_start), begin)

        def draw(is_filtered: bool) -> tf.Tensor:
            def body(start: tf.Tensor, tokens: tf.Tensor, state: Any) -> Any:
                stop = tf.minimum(start + segment_length, length)
                tokens, state = self._segment[is_filtered](
                    *(_shaped(state, specs), tokens, start, stop),
                    *(prefix_length, noise, filters),
                )
                return stop, tokens, self.model.end_segment(state)

            scalar = tf.TensorSpec((), tf.int32)
            rows = tf.TensorSpec(token_ids.shape, tf.int32)
            _, tokens, _ = tf.while_loop(
                lambda start, *_: start < length,
                body,
                (begin, token_ids, state),
                shape_invariants=(scalar, rows, specs),
            )
            return tokens

        return tf.cond(
            _are_on(filters), lambda: draw(True), lambda: draw(False)
        )

    def _check(
        self, token_ids: Any, prefix_length: Any, seeds: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return prefixes with zeros behind them, their lengths, the seeds."""
        token_ids = np.array(token_ids, np.int32)
        count, length = len(token_ids), self.model.sequence_length
        if token_ids.shape != (count, length):
            raise ValueError(
                f"token_ids must have the shape (batch, {length}). "
                f"Received: shape={token_ids.shape}"
            )
        prefix = np.broadcast_to(np.asarray(prefix_length), count)
        if count and not 0 <= prefix.min() <= prefix.max() <= length:
            raise ValueError(
                f"prefix_length must lie in [0, {length}]. "
                f"Received: {prefix_length}"
            )
        token_ids[np.arange(length) >= prefix[:, None]] = 0
        if np.any((token_ids < 0) | (token_ids >= self.model.start_token_id)):
            raise ValueError(
                f"token_ids must lie in [0, {self.model.start_token_id}) "
                "within the prefix."
            )
        seeds = np.asarray(seeds, np.int64)
        if seeds.shape != (count,):
            raise ValueError(
                f"seeds must be one for each of the {count} pictures. "
                f"Received: shape={seeds.shape}"
            )
        return token_ids, prefix.astype(np.int32), seeds

    def _advance(self, blocks: Iterable[Iterator[Drawn]]) -> Iterator[Drawn]:
        """Advance the blocks, as many at once as there are workers.

        Yields:
            What a block yields, in the thread of the caller: what it raises
            there stops all blocks after their segment.
        """
        waiting = iter(blocks)
        with ThreadPoolExecutor(self.num_workers) as pool:
            running = {
                pool.submit(next, block, None): block
                for block in itertools.islice(waiting, self.num_workers)
            }
            while running:
                for future in wait(running, None, FIRST_COMPLETED).done:
                    block: Iterator[Drawn] | None = running.pop(future)
                    passed = future.result()
                    if passed is None:
                        block = next(waiting, None)
                    if block is not None:
                        running[pool.submit(next, block, None)] = block
                    if passed is not None:
                        yield passed

    def _draw_block(
        self,
        token_ids: np.ndarray,
        rows: np.ndarray,
        position: int,
        chunk_length: int,
        prefix_length: np.ndarray,
        seeds: np.ndarray,
        filters: dict[str, np.ndarray],
    ) -> Iterator[Drawn]:
        """Draw some pictures from a position on.

        Yields:
            After each chunk of pixels `rows`, as many or more rows of tokens,
            and where the next chunk begins.
        """
        length = self.model.sequence_length
        segment_length = self.model.decoder.segment_length
        program = self._segment[bool(_are_on(filters))]
        # The block is filled up with its last picture.
        full = np.minimum(np.arange(self.rows), len(rows) - 1)
        tokens = tf.constant(token_ids[full])
        noise = self._noise(seeds[full])
        filters = {name: value[full] for name, value in filters.items()}
        state = self._state_at(tokens, position)
        while position < length:
            end = (position // segment_length + 1) * segment_length
            stop = min(position + chunk_length, end, length)
            tokens, state = program(
                *(state, tokens, position, stop),
                *(prefix_length[full], noise, filters),
            )
            if stop == end < length:
                state = self.model.end_segment(state)
            position = stop
            yield rows, tokens.numpy(), stop

    def _state_at(self, tokens: tf.Tensor, position: int) -> Any:
        """Return the state before a position, all pixels before it given."""
        if not 0 < position < self.model.sequence_length:
            return self.model.empty_state(self.rows)
        segment_length = self.model.decoder.segment_length
        state = self._prefill(-(-position // segment_length))(tokens)
        is_between = position % segment_length == 0
        return self.model.end_segment(state) if is_between else state

    def _decode_segment(
        self,
        is_filtered: bool,
        state: Any,
        token_ids: tf.Tensor,
        start: tf.Tensor,
        stop: tf.Tensor,
        prefix_length: tf.Tensor,
        noise: tf.Tensor,
        filters: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, Any]:
        """Draw a part of a segment, keeping the pixels of the prefix.

        Args:
            is_filtered: Whether the filters act.
            state: As the model's `prefill`, or the segment before, left it.
            token_ids: int32 `(B, T)`, filled up to `start`.
            start: int32 scalar, a position where a run may begin.
            stop: int32 scalar, another, in the same segment or at its end.
            prefix_length: int32 `(B,)`, pixels to keep.
            noise: float32 `(B, T, num_draws)`, from `uniform_noise`.
            filters: `(B,)` tensors, named as in `Filters`.

        Returns:
            int32 `(B, T)`, filled up to `stop`, and the state there.
        """
        length = self.model.sequence_length
        decoder = self.model.decoder

        def step(position: tf.Tensor, tokens: tf.Tensor, state: Any) -> Any:
            hidden, state = self.model.step(state, tokens, position)
            uniform = tf.gather(noise, position, axis=1)

            def choose(logits: tf.Tensor, draw: int) -> tf.Tensor:
                logits /= filters["temperature"][:, None]
                if is_filtered:
                    logits = filter_logits(logits, filters)
                return inverse_transform(logits, uniform[:, draw])

            drawn = self.model.draw(hidden, choose)
            here = tf.range(length) == position
            is_free = here & (position >= prefix_length[:, None])
            tokens = tf.where(is_free, drawn[:, None], tokens)
            return position + 1, tokens, state

        def run(position: tf.Tensor, tokens: tf.Tensor, state: Any) -> Any:
            number = position // decoder.run_length
            state = self.model.begin_run(state, tokens, number)
            end = tf.minimum((number + 1) * decoder.run_length, stop)
            return tf.while_loop(
                lambda position, *_: position < end,
                step,
                (position, tokens, state),
            )

        _, token_ids, state = tf.while_loop(
            lambda position, *_: position < stop,
            run,
            (start, token_ids, state),
        )
        return token_ids, state


def uniform_noise(seeds: tf.Tensor, length: int, num_draws: int) -> tf.Tensor:
    """Draw all noise of each picture from its own seed.

    Args:
        seeds: int64 `(B,)`.
        length: Pixels per picture.
        num_draws: Draws per pixel.

    Returns:
        float32 `(B, length, num_draws)` in `[0, 1)`.
    """
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform(
            (length, num_draws), seed=tf.stack([seed, 0]), alg="philox"
        ),
        seeds,
        fn_output_signature=tf.TensorSpec((length, num_draws), tf.float32),
    )


def inverse_transform(logits: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Draw from `softmax(logits)` by where the noise falls in its sum.

    Args:
        logits: float32 `(B, n)`; minus infinity is never drawn.
        uniform: float32 `(B,)`, multiples of 2**-23 in `[0, 1)`: their product
            with a sum is below the sum, so the draw exists.

    Returns:
        int32 `(B,)` in `[0, n)`.
    """
    top = tf.reduce_max(logits, axis=-1, keepdims=True)
    cumulative = tf.cumsum(tf.exp(logits - top), axis=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return tf.reduce_sum(tf.cast(cumulative <= threshold, tf.int32), axis=-1)


def filter_logits(
    logits: tf.Tensor, filters: dict[str, tf.Tensor]
) -> tf.Tensor:
    """Remove unlikely choices: top-k, then top-p of the rest, and min-p.

    Args:
        logits: float32 `(B, n)`, temperature applied.
        filters: `top_k`, `top_p`, `min_p`, each `(B,)`, as in `Filters`.

    Returns:
        float32 `(B, n)` with minus infinity for what is removed; the likeliest
        choice stays.
    """
    count = tf.shape(logits)[-1]
    ranked = tf.sort(logits, direction="DESCENDING")
    k = tf.where(filters["top_k"] > 0, filters["top_k"], count)
    in_top_k = tf.range(count) < k[:, None]
    probabilities = tf.nn.softmax(tf.where(in_top_k, ranked, -np.inf))
    before = tf.cumsum(probabilities, axis=-1, exclusive=True)
    top_p = filters["top_p"][:, None]
    # Rounded up, a sum may reach 1 before the end.
    in_top_p = (before < top_p) | (top_p >= 1)
    floor = filters["min_p"][:, None] * probabilities[:, :1]
    kept = in_top_k & in_top_p & (probabilities >= floor)
    # Kept choices are the first of the ranking: the last one is the bar.
    last = tf.reduce_sum(tf.cast(kept, tf.int32), axis=-1) - 1
    bar = tf.gather(ranked, tf.maximum(last, 0), batch_dims=1)
    return tf.where(logits >= bar[:, None], logits, -np.inf)


def _cut(rows: np.ndarray, length: int) -> list[np.ndarray]:
    """Return pieces of at most some length."""
    return [rows[i : i + length] for i in range(0, len(rows), length)]


def _are_on(filters: dict[str, Any]) -> tf.Tensor:
    """Return whether any filter removes anything."""
    return tf.reduce_any(
        [
            tf.reduce_any(filters[name] != getattr(Filters, name))
            for name in ("top_k", "top_p", "min_p")
        ]
    )


def _shaped(state: Any, specs: Any) -> Any:
    """Return a state whose shapes are known as far as the specs say."""
    return tf.nest.map_structure(
        lambda tensor, spec: tf.ensure_shape(tensor, spec.shape), state, specs
    )


def _relax(tensor: Any) -> tf.TensorSpec:
    """Return a spec where a dimension of 0 may grow."""
    return tf.TensorSpec([n or None for n in tensor.shape], tensor.dtype)

"""Sampling: the loop that draws pixel after pixel.

The model knows one step; this module owns the loop and the randomness. All
noise is drawn before the loop from each picture's own seed, so a picture does
not depend on where its prefix ends. Pictures are drawn in blocks of a fixed
number of rows: matrix kernels round differently for other shapes, and one
picture in 300 would come out otherwise alone than in a batch.

Shapes: B batch, T pixels, n choices of one draw.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.causal_lm import PixaceCausalLM

ROWS = 8

# Called with the pixels drawn so far and the pixels to draw, in all.
ProgressUpdate = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Filters:
    """How freely to draw; each is one value or one per picture.

    For the chain head they act on each color channel in turn.

    Attributes:
        temperature: From 0.001 to 1000; below 1 is bolder on what is likely.
        top_k: Keep the k likeliest choices; 0 keeps all.
        top_p: Keep the likeliest choices up to this probability, in `(0, 1]`.
        min_p: Keep what has this share of the likeliest one's probability, in
            `[0, 1]`.
    """

    temperature: Any = 1.0
    top_k: Any = 0
    top_p: Any = 1.0
    min_p: Any = 0.0

    def arrays(self, count: int) -> dict[str, np.ndarray]:
        """Return one value per picture, checked.

        Args:
            count: Number of pictures.

        Returns:
            float32 `(count,)` arrays, `top_k` int32.

        Raises:
            ValueError: If a value is out of range.
        """
        rules = {
            "temperature": ("from 0.001 to 1000", _is_temperature),
            "top_k": (
                "0 (off) or a positive integer",
                lambda x: (x >= 0) & (x == np.floor(x)),
            ),
            "top_p": ("above 0 and at most 1", lambda x: (x > 0) & (x <= 1)),
            "min_p": ("from 0 to 1", lambda x: (x >= 0) & (x <= 1)),
        }
        arrays = {}
        for name, (rule, is_good) in rules.items():
            value = np.asarray(getattr(self, name), np.float64)
            if not np.all(np.isfinite(value) & is_good(value)):
                raise ValueError(
                    f"{name} must be {rule}. Received: {getattr(self, name)}"
                )
            dtype = np.int32 if name == "top_k" else np.float32
            arrays[name] = np.broadcast_to(value, count).astype(dtype)
        return arrays


class Sampler:
    """Draws pixels from a model, with everything compiled once.

    Args:
        model: The model to draw from.
    """

    def __init__(self, model: PixaceCausalLM) -> None:
        self.model = model
        state_spec = tf.nest.map_structure(_relax, model.empty_state(ROWS))
        length = model.sequence_length
        vector = {
            name: tf.TensorSpec((ROWS,), dtype)
            for name, dtype in (
                ("temperature", tf.float32),
                ("top_k", tf.int32),
                ("top_p", tf.float32),
                ("min_p", tf.float32),
            )
        }
        tokens = tf.TensorSpec((ROWS, length), tf.int32)
        scalar = tf.TensorSpec((), tf.int32)
        noise = tf.TensorSpec((ROWS, length, model.head.num_draws), tf.float32)
        lengths = tf.TensorSpec((ROWS,), tf.int32)
        self._segment = tf.function(
            self._decode_segment,
            input_signature=[
                state_spec,
                tokens,
                scalar,
                lengths,
                noise,
                vector,
            ],
        )
        self._prefill = tf.function(
            model.prefill, input_signature=[tokens, scalar]
        )
        self._noise = tf.function(
            lambda seeds: uniform_noise(seeds, length, model.head.num_draws),
            input_signature=[tf.TensorSpec((ROWS,), tf.int64)],
        )

    def generate(
        self,
        seeds: Any,
        filters: Filters | None = None,
        progress: ProgressUpdate | None = None,
    ) -> np.ndarray:
        """Draw new pictures.

        Args:
            seeds: Integers `(B,)`, one picture each.
            filters: How freely to draw.
            progress: Told how far the drawing is.

        Returns:
            int32 `(B, T)`.
        """
        count = len(seeds)
        empty = np.zeros((count, self.model.sequence_length), np.int32)
        return self.complete(empty, 0, seeds, filters, progress)

    def complete(
        self,
        token_ids: Any,
        prefix_length: Any,
        seeds: Any,
        filters: Filters | None = None,
        progress: ProgressUpdate | None = None,
    ) -> np.ndarray:
        """Keep the first pixels of each picture and draw the rest.

        Args:
            token_ids: Integers `(B, T)`, canonical codes; read up to each
                prefix only.
            prefix_length: Integers, one or `(B,)`, in `[0, T]`.
            seeds: Integers `(B,)`.
            filters: How freely to draw.
            progress: Told how far the drawing is.

        Returns:
            int32 `(B, T)`.

        Raises:
            ValueError: If a shape or a value is out of range.
        """
        token_ids = np.asarray(token_ids, np.int32)
        count, length = len(token_ids), self.model.sequence_length
        if token_ids.shape != (count, length):
            raise ValueError(
                f"token_ids must have the shape (batch, {length}). "
                f"Received: shape={token_ids.shape}"
            )
        prefix = np.broadcast_to(np.asarray(prefix_length), count)
        if prefix.size and not 0 <= prefix.min() <= prefix.max() <= length:
            raise ValueError(
                f"prefix_length must lie in [0, {length}]. "
                f"Received: {prefix_length}"
            )
        seeds = np.asarray(seeds, np.int64)
        arrays = (filters or Filters()).arrays(count)
        done = []
        for start in range(0, count, ROWS):
            # The last block is filled up with its last picture.
            rows = np.minimum(np.arange(start, start + ROWS), count - 1)
            block = self._complete_block(
                token_ids[rows],
                prefix[rows].astype(np.int32),
                seeds[rows],
                {name: value[rows] for name, value in arrays.items()},
                _share(progress, start, min(start + ROWS, count), count),
            )
            done.append(block[: count - start])
        return np.concatenate(done) if done else token_ids

    def _complete_block(
        self,
        token_ids: np.ndarray,
        prefix_length: np.ndarray,
        seeds: np.ndarray,
        filters: dict[str, np.ndarray],
        progress: ProgressUpdate,
    ) -> np.ndarray:
        length = self.model.sequence_length
        segment_length = self.model.decoder.segment_length
        first = int(prefix_length.min()) // segment_length
        num_segments = -(-length // segment_length)
        given = np.arange(length) < prefix_length[:, None]
        is_color = (token_ids >= 0) & (token_ids < self.model.start_token_id)
        if not np.all(is_color | ~given):
            raise ValueError(
                f"token_ids must lie in [0, {self.model.start_token_id}) "
                "within the prefix."
            )
        tokens = tf.constant(np.where(given, token_ids, 0))
        state = (
            self._prefill(tokens, first)
            if first
            else self.model.empty_state(ROWS)
        )
        noise = self._noise(seeds)
        for segment in range(first, num_segments):
            tokens, state = self._segment(
                state, tokens, segment, prefix_length, noise, filters
            )
            progress(segment - first + 1, num_segments - first)
        return tokens.numpy()

    def _decode_segment(
        self,
        state: Any,
        token_ids: tf.Tensor,
        segment: tf.Tensor,
        prefix_length: tf.Tensor,
        noise: tf.Tensor,
        filters: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, Any]:
        """Draw the pixels of one segment, keeping those of the prefix."""
        length = self.model.sequence_length
        segment_length = self.model.decoder.segment_length
        is_filtered = tf.reduce_any(
            (filters["top_k"] > 0)
            | (filters["top_p"] < 1)
            | (filters["min_p"] > 0)
        )
        state = self.model.begin_segment(state, token_ids, segment)

        def step(position: tf.Tensor, tokens: tf.Tensor, state: Any) -> Any:
            hidden, state = self.model.step(state, tokens, position)
            uniform = tf.gather(noise, position, axis=1)

            def choose(logits: tf.Tensor, draw: int) -> tf.Tensor:
                logits /= filters["temperature"][:, None]
                logits = tf.cond(
                    is_filtered,
                    lambda: filter_logits(logits, filters),
                    lambda: logits,
                )
                return inverse_transform(logits, uniform[:, draw])

            drawn = self.model.draw(hidden, choose)
            here = tf.range(length) == position
            is_free = here & (position >= prefix_length[:, None])
            tokens = tf.where(is_free, drawn[:, None], tokens)
            return position + 1, tokens, state

        start = segment * segment_length
        stop = tf.minimum(start + segment_length, length)
        _, token_ids, state = tf.while_loop(
            lambda position, *_: position < stop,
            step,
            (start, token_ids, state),
        )
        return token_ids, self.model.end_segment(state)


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
    cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)
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
    in_top_p = before < filters["top_p"][:, None]
    floor = filters["min_p"][:, None] * probabilities[:, :1]
    kept = in_top_k & in_top_p & (probabilities >= floor)
    # Kept choices are the first of the ranking: the last one is the bar.
    last = tf.reduce_sum(tf.cast(kept, tf.int32), axis=-1) - 1
    bar = tf.gather(ranked, tf.maximum(last, 0), batch_dims=1)
    return tf.where(logits >= bar[:, None], logits, -np.inf)


def _is_temperature(value: np.ndarray) -> np.ndarray:
    return (value >= 1e-3) & (value <= 1e3)


def _relax(tensor: Any) -> tf.TensorSpec:
    """Return a spec where a dimension of 0 may grow."""
    return tf.TensorSpec([n or None for n in tensor.shape], tensor.dtype)


def _share(
    progress: ProgressUpdate | None, start: int, stop: int, count: int
) -> ProgressUpdate:
    """Turn the progress of one batch into that of all pictures."""

    def update(done: int, total: int) -> None:
        if progress is not None:
            drawn = start * total + (stop - start) * done
            progress(drawn, count * total)

    return update

"""The loop over the pixels of a block of images, as graph functions.

The model knows one step; this module owns the loop over steps. It is driven
from Python, some pixels at a time, or from within a graph; both use `advance`.

Shapes: R rows of a block, T pixels.
"""

import functools
from typing import Any

import tensorflow as tf

from pixace_tf import compile_cache
from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling import particles
from pixace_tf.sampling.draws import (
    filter_logits,
    guide,
    inverse_transform,
    uniform_noise,
)
from pixace_tf.sampling.sampling_config import SamplingConfig

# An image is decoded in so many spans, or fewer.
NUM_SPANS = 4


class DecodeLoop:
    """Decodes a block of images, with everything compiled once.

    Attributes:
        rows: Images of a block.
        has_particles: Whether the rows are particles of one image.
        span_length: Pixels that one call of `advance` decodes at most; spans
            begin at its multiples.

    Args:
        model: The model to sample from.
        rows: Images of a block.
        jit_compile: Whether XLA compiles the loop.
        has_particles: Whether the rows are particles of one image; then the
            loop adds up what the known pixels cost, see `particles`.
        is_guided: Whether each row is decoded both with its label and with the
            null label, side by side in the state; see `draws.guide`.
    """

    def __init__(
        self,
        model: PixaceCausalLM,
        rows: int,
        jit_compile: bool,
        has_particles: bool = False,
        is_guided: bool = False,
    ) -> None:
        self._model = model
        self.rows = rows
        self.has_particles = has_particles
        self.is_guided = is_guided
        patch_length = model.decoder.patch_length
        num_patches = -(-model.sequence_length // patch_length)
        self._patches_per_span = -(-num_patches // NUM_SPANS)
        self.span_length = self._patches_per_span * patch_length
        length, num_draws = model.sequence_length, model.head.num_draws
        tokens = tf.TensorSpec((rows, length), tf.int32)
        nats = tf.TensorSpec((rows,), tf.float32)
        scalar = tf.TensorSpec((), tf.int32)
        self._state_spec = tf.nest.map_structure(
            _relax, model.empty_state(rows * (1 + is_guided))
        )
        config = {
            name: tf.TensorSpec((rows,), value.dtype)
            for name, value in SamplingConfig().arrays(1).items()
        }
        if is_guided:
            config["guidance"] = tf.TensorSpec((rows,), tf.float32)
        # Where no filter is on, the program does not hold them. To convert
        # Python's control flow would take most of the time of tracing.
        self._programs = {
            is_filtered: tf.function(
                functools.partial(self._decode, is_filtered),
                input_signature=[
                    *(self._state_spec, tokens, nats, scalar, scalar),
                    tf.TensorSpec((rows, length), tf.bool),
                    tf.TensorSpec((rows, length, num_draws), tf.float32),
                    config,
                ],
                autograph=False,
                jit_compile=jit_compile,
            )
            for is_filtered in (False, True)
        }
        self._begin_patch = tf.function(
            lambda state, token_ids, patch: model.begin_patch(
                state, self._in_state(token_ids), patch
            ),
            input_signature=[self._state_spec, tokens, scalar],
            autograph=False,
        )
        # There is one program for each number of patches.
        self._prefill = functools.cache(
            lambda num_patches: tf.function(
                lambda token_ids, condition: model.prefill(
                    self._in_state(token_ids), num_patches, condition
                ),
                input_signature=[
                    tf.TensorSpec((None, length), tf.int32),
                    tf.TensorSpec((None, 2), tf.int32),
                ],
                autograph=False,
            )
        )
        self.noise = tf.function(
            lambda seeds: uniform_noise(seeds, length, num_draws),
            input_signature=[tf.TensorSpec((rows,), tf.int64)],
            autograph=False,
        )
        self.resample = tf.function(
            particles.resample,
            input_signature=[
                *(self._state_spec, tokens, nats),
                *(tf.TensorSpec((), tf.float32), scalar),
            ],
            autograph=False,
        )
        self._traced: set[Any] = set()

    def trace(self, is_filtered: bool, position: int) -> None:
        """Trace what decodes from a position on, unless that was done.

        Threads that trace at the same time would do so several times, and
        number their functions by chance; see `compile_cache.align_names`.

        Args:
            is_filtered: Whether the filters act.
            position: A multiple of the decoder's `prefill_stride`.
        """
        functions = [self.noise, self._programs[is_filtered]]
        if self.has_particles:
            functions.append(self.resample)
        if self._model.decoder.has_growing_cache:
            functions.append(self._begin_patch)
        if 0 < position < self._model.sequence_length:
            functions.append(self._prefill(self._patches_before(position)))
        new = [f for f in functions if f not in self._traced]
        if new:
            compile_cache.align_names()
        for function in new:
            function.get_concrete_function()
            self._traced.add(function)

    def state_at(
        self, token_ids: tf.Tensor, position: int, condition: tf.Tensor
    ) -> Any:
        """Return a state that holds all pixels before a position.

        Args:
            token_ids: int32 `(R, T)`, filled up to the position.
            position: A multiple of the decoder's `prefill_stride`.
            condition: int32 `(R, 2)`, as in `PixaceCausalLM`.

        Returns:
            The state for `advance` from this position on, or from the
            beginning of an earlier span.
        """
        condition = self._in_state(condition)
        if self.is_guided:
            is_null = tf.range(tf.shape(condition)[0]) % 2 == 1
            label = tf.where(is_null, NULL_LABEL, condition[:, 1])
            condition = tf.stack([condition[:, 0], label], axis=1)
        if not 0 < position < self._model.sequence_length:
            return self._model.empty_state(condition.shape[0], condition)
        prefill = self._prefill(self._patches_before(position))
        if not self.has_particles:
            return prefill(token_ids, condition)
        # Before the first hidden pixel the particles are the same.
        first = tf.zeros(self.rows, tf.int32)
        state = prefill(token_ids[:1], condition[: 1 + self.is_guided])
        return particles.take_rows(state, first, 1)

    def advance(
        self,
        is_filtered: bool,
        state: Any,
        token_ids: tf.Tensor,
        nats: tf.Tensor,
        start: Any,
        stop: Any,
        mask: tf.Tensor,
        noise: tf.Tensor,
        config: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """Decode some pixels, keeping those that are not hidden.

        Args:
            is_filtered: Whether the filters act.
            state: From `state_at`, or from the call before.
            token_ids: int32 `(R, T)`, filled up to `start`, and where pixels
                are not hidden.
            nats: float32 `(R,)`, what the known pixels have cost so far.
            start: int32 scalar, a multiple of the decoder's `prefill_stride`.
            stop: int32 scalar, another one, or T, in the same span or its end.
            mask: bool `(R, T)`, the pixels to sample.
            noise: float32 `(R, T, num_draws)`, from `noise`.
            config: `(R,)` tensors by name, as in `SamplingConfig`.

        Returns:
            int32 `(R, T)`, filled up to `stop`; `nats`, to which the loop of
            particles has added what the known pixels on the way cost; and the
            state at `stop`.
        """
        if self._model.decoder.has_growing_cache:
            # XLA wants fixed shapes, so this stays outside of its program.
            patch = start // self._model.decoder.patch_length
            state = self._begin_patch(state, token_ids, patch)
        return self._programs[is_filtered](
            *(state, token_ids, nats, start, stop, mask, noise, config)
        )

    def run(
        self,
        is_filtered: bool,
        state: Any,
        token_ids: tf.Tensor,
        start: tf.Tensor,
        *arguments: Any,
    ) -> tf.Tensor:
        """Decode from the beginning of a span to the end, all of it a graph.

        Args:
            is_filtered: See `advance`.
            state: See `advance`.
            token_ids: See `advance`.
            start: int32 scalar, a multiple of `span_length`.
            *arguments: `mask`, `noise` and `config` of `advance`.

        Returns:
            int32 `(R, T)`.
        """
        length = self._model.sequence_length

        def body(start: tf.Tensor, token_ids: tf.Tensor, state: Any) -> Any:
            stop = tf.minimum(start + self.span_length, length)
            state = tf.nest.map_structure(_set_shape, state, self._state_spec)
            nats = tf.zeros(self.rows)
            token_ids, _, state = self.advance(
                *(is_filtered, state, token_ids, nats, start, stop), *arguments
            )
            return stop, token_ids, state

        tokens = tf.TensorSpec((self.rows, length), tf.int32)
        _, token_ids, _ = tf.while_loop(
            lambda start, *_: start < length,
            body,
            (start, token_ids, state),
            shape_invariants=(
                tf.TensorSpec((), tf.int32),
                tokens,
                self._state_spec,
            ),
        )
        return token_ids

    def run_particles(
        self,
        state: Any,
        token_ids: tf.Tensor,
        span: tuple[tf.Tensor, tf.Tensor],
        uniform: tf.Tensor,
        count: tf.Tensor,
        *arguments: Any,
    ) -> tf.Tensor:
        """Fill one image by particles, all of it a graph; filters act.

        Args:
            state: See `advance`.
            token_ids: See `advance`.
            span: int32 scalars, the first pixel and the end; multiples of the
                decoder's `prefill_stride`, or T.
            uniform: float32 `(T + 1,)`, from `particles.choice_noise`.
            count: int32 scalar from 1 to R; the rows behind are no particles.
            *arguments: `mask`, `noise` and `config` of `advance`.

        Returns:
            int32 `(1, T)`.
        """
        start, end = span

        def body(
            position: tf.Tensor, tokens: tf.Tensor, nats: tf.Tensor, state: Any
        ) -> Any:
            stop = tf.minimum(self.chunk_end(position), end)
            state = tf.nest.map_structure(_set_shape, state, self._state_spec)
            tokens, nats, state = self.advance(
                *(True, state, tokens, nats, position, stop), *arguments
            )
            tokens, nats, state = tf.cond(
                stop < end,
                lambda: self.resample(
                    *(state, tokens, nats, uniform[stop], count)
                ),
                lambda: (tokens, nats, state),
            )
            return stop, tokens, nats, state

        rows = tf.TensorSpec((self.rows,), tf.float32)
        tokens = tf.TensorSpec(token_ids.shape, tf.int32)
        _, token_ids, nats, _ = tf.while_loop(
            lambda position, *_: position < end,
            body,
            (start, token_ids, tf.zeros(self.rows), state),
            shape_invariants=(
                *(tf.TensorSpec((), tf.int32), tokens, rows),
                self._state_spec,
            ),
        )
        return particles.choose(token_ids, nats, uniform[-1], count)

    def chunk_end(self, position: Any) -> Any:
        """Return where the row of pixels that begins at a position ends.

        Args:
            position: An integer, or an int32 scalar.

        Returns:
            The same, a multiple of the decoder's `prefill_stride`, in the same
            span or at its end.
        """
        stride = self._model.decoder.prefill_stride
        row = -(-self._model.image_size[1] // stride) * stride
        span_end = (position // self.span_length + 1) * self.span_length
        if isinstance(position, tf.Tensor):
            return tf.minimum(position + row, span_end)
        return min(position + row, span_end)

    def _in_state(self, tensor: tf.Tensor) -> tf.Tensor:
        """Return the rows of the state for those of the block."""
        return tf.repeat(tensor, 2, axis=0) if self.is_guided else tensor

    def _patches_before(self, position: int) -> int:
        """Return how many patches the state at a position holds."""
        num_spans = -(-position // self.span_length)
        return num_spans * self._patches_per_span

    def _decode(
        self,
        is_filtered: bool,
        state: Any,
        token_ids: tf.Tensor,
        nats: tf.Tensor,
        start: tf.Tensor,
        stop: tf.Tensor,
        mask: tf.Tensor,
        noise: tf.Tensor,
        config: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """Decode as `advance` does; XLA can compile this."""
        model, decoder = self._model, self._model.decoder

        def step(
            position: tf.Tensor, tokens: tf.Tensor, nats: tf.Tensor, state: Any
        ) -> Any:
            hidden, state = model.step(state, self._in_state(tokens), position)
            uniform = tf.gather(noise, position, axis=1)
            is_free = tf.gather(mask, position, axis=1)
            if self.has_particles:
                known = model.head.choices(tf.gather(tokens, position, axis=1))

            def choose(logits: tf.Tensor, draw: int) -> tf.Tensor:
                nonlocal nats
                scores = logits
                if self.is_guided:
                    scores, null = logits[::2], logits[1::2]
                    logits = guide(scores, null, config["guidance"])
                logits /= config["temperature"][:, None]
                if is_filtered:
                    logits = filter_logits(logits, config)
                chosen = inverse_transform(logits, uniform[:, draw])
                if self.has_particles:
                    cost = particles.cost(scores, known[draw])
                    nats += tf.where(is_free, 0.0, cost)
                    here = tf.maximum(known[draw], 0)
                    chosen = tf.where(is_free, chosen, here)
                return self._in_state(chosen)

            sampled = model.sample(hidden, choose)[:: 1 + self.is_guided]
            is_here = tf.range(model.sequence_length) == position
            is_here &= is_free[:, None]
            tokens = tf.where(is_here, sampled[:, None], tokens)
            return position + 1, tokens, nats, state

        def decode_patch(
            position: tf.Tensor, tokens: tf.Tensor, nats: tf.Tensor, state: Any
        ) -> Any:
            patch = position // decoder.patch_length
            if not decoder.has_growing_cache:
                state = model.begin_patch(state, self._in_state(tokens), patch)
            end = tf.minimum((patch + 1) * decoder.patch_length, stop)
            return tf.while_loop(
                lambda position, *_: position < end,
                step,
                (position, tokens, nats, state),
            )

        _, token_ids, nats, state = tf.while_loop(
            lambda position, *_: position < stop,
            decode_patch,
            (start, token_ids, nats, state),
        )
        return token_ids, nats, state


def _set_shape(tensor: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """Return a tensor whose shape is known as far as the spec says."""
    return tf.ensure_shape(tensor, spec.shape)


def _relax(tensor: Any) -> tf.TensorSpec:
    """Return a spec in which a dimension of 0 may grow."""
    return tf.TensorSpec([n or None for n in tensor.shape], tensor.dtype)

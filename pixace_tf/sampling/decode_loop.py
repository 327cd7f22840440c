"""The loop over the pixels of a block of images, as graph functions.

The model computes one step; this module owns the loop over steps. An `Engine`
calls `advance` for some pixels at a time; `run` and `run_particles` decode
whole images within the graph of a SavedModel.

Shapes: R rows of a block, T pixels.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import numpy as np
import tensorflow as tf

from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling import NUM_CODES, particles
from pixace_tf.sampling.block import Carry, Drawing, Program
from pixace_tf.sampling.draws import (
    cost,
    filter_logits,
    guide_pairs,
    inverse_transform,
)
from pixace_tf.sampling.engine import ModelFacts
from pixace_tf.sampling.limit import nearest
from pixace_tf.sampling.sampling_config import SamplingConfig
from pixace_tf.typing import Tensor


class DecodeLoop:
    """Decodes blocks of images; each program is compiled once.

    With guidance, each image has two rows, one with its label and then one with
    the null label; both are given the same pixels.

    Attributes:
        rows: Number of rows R of a block.
        span_length: The most pixels that one call of `advance` decodes; spans
            begin at multiples of it.

    Args:
        model: The model to sample from.
        rows: Number of rows of a block.
        jit_compile: Whether XLA compiles the loop.
    """

    def __init__(
        self, model: PixaceCausalLM, rows: int, jit_compile: bool
    ) -> None:
        self._model = model
        self.rows = rows
        facts = ModelFacts.of(model)
        self._patches_per_span = facts.patches_per_span
        self.span_length = facts.span_length
        carry, drawing = self._carry_spec, self._drawing_spec
        scalar = tf.TensorSpec((), tf.int32)
        codes = tf.TensorSpec((NUM_CODES,), tf.int32)
        self._programs = {
            program: _graph_function(
                functools.partial(self.decode, program),
                carry,
                scalar,
                scalar,
                drawing._replace(codes=codes if program == "limited" else ()),
                jit_compile=jit_compile,
            )
            for program in get_args(Program)
        }
        self._begin_patch = _graph_function(self._begin, carry, scalar)
        self._prefill = functools.cache(self._prefill_program)
        self.take = _graph_function(
            self._take, carry, tf.TensorSpec((rows,), tf.int32)
        )

    @functools.cached_property
    def _carry_spec(self) -> Carry:
        state = self._model.empty_state(self.rows)
        return Carry(
            tf.nest.map_structure(_relax, state),
            tf.TensorSpec((self.rows, self._model.sequence_length), tf.int32),
            tf.TensorSpec((self.rows,), tf.float32),
        )

    @functools.cached_property
    def _drawing_spec(self) -> Drawing:
        shape = self.rows, self._model.sequence_length
        config = {
            name: tf.TensorSpec((self.rows,), value.dtype)
            for name, value in SamplingConfig().arrays(1).items()
        }
        config["guidance"] = tf.TensorSpec((self.rows,), tf.float32)
        config["max_colors"] = tf.TensorSpec((self.rows,), tf.int32)
        return Drawing(
            tf.TensorSpec(shape, tf.int32),
            tf.TensorSpec((*shape, self._model.head.num_draws), tf.float32),
            config,
        )

    def _prefill_program(self, num_patches: int) -> Any:
        """Return the program that reads the first patches."""
        length = self._model.sequence_length
        return _graph_function(
            lambda token_ids, condition: self._model.prefill(
                token_ids, num_patches, condition
            ),
            tf.TensorSpec((None, length), tf.int32),
            tf.TensorSpec((None, 2), tf.int32),
        )

    def programs(self, program: Program, position: int) -> list[Any]:
        """Return the graph functions that decode from a position on."""
        functions = [self._programs[program]]
        if program != "plain":
            functions.append(self.take)
        if self._model.decoder.has_growing_cache:
            functions.append(self._begin_patch)
        if 0 < position < self._model.sequence_length:
            functions.append(self._prefill(self._patches_before(position)))
        return functions

    def begin(
        self,
        token_ids: Tensor,
        position: int,
        condition: Tensor,
        copies: int = 1,
    ) -> Carry:
        """Return the carry before the first step; see `Stepper.begin`.

        It serves this position, and the beginnings of earlier spans.
        """
        if 0 < position < self._model.sequence_length:
            prefill = self._prefill(self._patches_before(position))
            state = prefill(token_ids, condition)
        else:
            state = self._model.empty_state(condition.shape[0], condition)
        if copies > 1:
            count = self.rows // copies
            index = tf.range(self.rows) % count
            state = _take_rows(state, index, count)
            token_ids = tf.gather(token_ids, index)
        return Carry(state, token_ids, tf.zeros(self.rows))

    def advance(
        self,
        program: Program,
        carry: Carry,
        start: int | Tensor,
        stop: int | Tensor,
        drawing: Drawing,
    ) -> Carry:
        """Decode some pixels, keeping those that are not hidden.

        Args:
            program: What to do.
            carry: From `begin`, or from the previous call.
            start: int32 scalar, a multiple of the decoder's `prefill_stride`.
            stop: int32 scalar: a multiple of `prefill_stride`, or T, at most
                the end of the span.
            drawing: Which pixels to sample, and how.

        Returns:
            The carry at `stop`; unless the program is plain, `nats` has grown
            by the costs of the known pixels on the way.
        """
        if self._model.decoder.has_growing_cache:
            # XLA needs fixed shapes, so this is not part of the program.
            patch = start // self._model.decoder.patch_length
            carry = carry._replace(state=self._begin_patch(carry, patch))
        return self._programs[program](carry, start, stop, drawing)

    def run(
        self, program: Program, carry: Carry, start: Tensor, drawing: Drawing
    ) -> Tensor:
        """Decode from a multiple of `span_length` to the end, within a graph.

        The arguments are those of `advance`; returns int32 `(R, T)`.
        """
        length = self._model.sequence_length

        def body(position: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
            stop = tf.minimum(position + self.span_length, length)
            return stop, self.advance(program, carry, position, stop, drawing)

        return self._while(body, start, length, carry).token_ids

    def run_particles(
        self,
        carry: Carry,
        start: Tensor,
        end: Tensor,
        drawing: Drawing,
        uniform: Tensor,
        count: Tensor,
        num_particles: int,
    ) -> Tensor:
        """Fill one image with particles, within a graph.

        Args:
            carry: See `advance`.
            start: See `advance`.
            end: int32 scalar, a multiple of `prefill_stride`, or T.
            drawing: See `advance`.
            uniform: float32 `(T + 1,)`, from `draws.choice_noise`.
            count: int32 scalar from 1 to `num_particles`; later ones are none.
            num_particles: R, or R / 2 with guidance.

        Returns:
            int32 `(1, T)`.
        """
        each = self.rows // num_particles

        def body(position: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
            stop = tf.minimum(self._row_end(position), end)
            carry = self.advance("full", carry, position, stop, drawing)
            is_needed, index = particles.copies(
                carry.nats[::each], uniform[stop], count, tf.experimental.numpy
            )
            index = tf.cast(index, tf.int32)[:, None] * each + tf.range(each)
            return stop, tf.cond(
                is_needed & (stop < end),
                lambda: self.take(carry, tf.reshape(index, (-1,))),
                lambda: carry,
            )

        carry = self._while(body, start, end, carry)
        chosen = particles.choose(
            carry.nats[::each], uniform[-1], count, tf.experimental.numpy
        )
        return tf.gather(carry.token_ids, chosen * each)[None]

    def _while(
        self,
        body: Callable[[Tensor, Carry], tuple[Tensor, Carry]],
        start: Tensor,
        end: int | Tensor,
        carry: Carry,
    ) -> Carry:
        """Repeat `body` while its position is below `end`, within a graph."""

        def with_shapes(position: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
            carry = tf.nest.map_structure(
                lambda tensor, spec: tf.ensure_shape(tensor, spec.shape),
                carry,
                self._carry_spec,
            )
            return body(position, carry)

        _, carry = tf.while_loop(
            lambda position, _: position < end,
            with_shapes,
            (start, carry),
            shape_invariants=(tf.TensorSpec((), tf.int32), self._carry_spec),
        )
        return carry

    def _row_end(self, position: Tensor) -> Tensor:
        """Do as `ModelFacts.row_end`, within a graph."""
        stride = self._model.decoder.prefill_stride
        row = -(-self._model.image_size[1] // stride) * stride
        span_end = (position // self.span_length + 1) * self.span_length
        return tf.minimum(position + row, span_end)

    def _take(self, carry: Carry, index: Tensor) -> Carry:
        """Return the rows in `index`, int32 `(R,)`, with no costs."""
        return Carry(
            _take_rows(carry.state, index, self.rows),
            tf.gather(carry.token_ids, index),
            tf.zeros_like(carry.nats),
        )

    def _patches_before(self, position: int) -> int:
        """Return how many patches the state at a position holds."""
        num_spans = -(-position // self.span_length)
        return num_spans * self._patches_per_span

    def _begin(self, carry: Carry, patch: Tensor) -> Tensor:
        """Return the state for the pixels of a patch."""
        return self._model.begin_patch(carry.state, carry.token_ids, patch)

    def decode(
        self,
        program: Program,
        carry: Carry,
        start: Tensor,
        stop: Tensor,
        drawing: Drawing,
    ) -> Carry:
        """Do the part of `advance` that XLA can compile; see there.

        There may be any number of rows, even unknown.
        """
        decoder, head = self._model.decoder, self._model.head
        max_colors = drawing.config.get("max_colors")
        Values = tuple[Tensor, Carry, Any]

        def step(position: Tensor, carry: Carry, seen: Any) -> Values:
            carry, seen = self._step(program, carry, seen, position, drawing)
            return position + 1, carry, seen

        def decode_patch(position: Tensor, carry: Carry, seen: Any) -> Values:
            patch = position // decoder.patch_length
            if not decoder.has_growing_cache:
                carry = carry._replace(state=self._begin(carry, patch))
            end = tf.minimum((patch + 1) * decoder.patch_length, stop)
            return tf.while_loop(
                lambda position, *_: position < end,
                step,
                (position, carry, seen),
            )

        _, carry, _ = tf.while_loop(
            lambda position, *_: position < stop,
            decode_patch,
            (start, carry, head.begin(carry.token_ids, start, max_colors)),
        )
        return carry

    def _step(
        self,
        program: Program,
        carry: Carry,
        seen: Any,
        position: Tensor,
        drawing: Drawing,
    ) -> tuple[Carry, Any]:
        """Decode one pixel."""
        head, config = self._model.head, drawing.config
        state, tokens, nats = carry
        hidden, state = self._model.step(state, tokens, position)
        free = tf.gather(drawing.mask, position, axis=1)
        given = tf.gather(tokens, position, axis=1)
        choose = _Choose(
            program != "plain",
            program in ("full", "limited"),
            tf.unstack(tf.gather(drawing.noise, position, axis=1), axis=1),
            config,
            bool(self._model.labels),
            head.alpha_draw,
        )
        sampled, costs = head.sample(
            hidden, given, free, choose, seen, position
        )
        if program == "limited":
            sampled = nearest(sampled, drawing.codes, self._model.palette)
        if costs:
            nats += tf.add_n(costs)
        # On a CPU, products are faster than a choice for each token.
        change = tf.where(free > 0, sampled - given, 0)
        seen = head.remember(seen, given + change, position)
        here = tf.one_hot(position, tokens.shape[1], dtype=tf.int32)
        tokens += here * tf.expand_dims(change, 1)
        return Carry(state, tokens, nats), seen


class _Choose(NamedTuple):
    """Chooses by noise; see `color_head.Choose`."""

    weighs: bool
    filters: bool
    uniform: list[Tensor]
    config: dict[str, Tensor]
    has_labels: bool
    alpha_draw: int | None

    def __call__(
        self,
        logits: Tensor,
        draw: int,
        choice: Tensor,
        is_free: Tensor,
        may_draw: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        temperature = tf.expand_dims(self.config["temperature"], 1)
        uniform = self.uniform[draw]
        if not self.weighs:
            return inverse_transform(logits / temperature, uniform), None
        spent = cost(logits, choice, is_free, may_draw)
        if may_draw is not None:
            logits = tf.where(may_draw, logits, -np.inf)
        # A shape begins with a pixel that is unlikely at any one place. Without
        # such pixels, images would stay empty.
        is_alpha = draw == self.alpha_draw
        if self.filters and self.has_labels:
            guidance = self.config["guidance"]
            logits = guide_pairs(logits, guidance, keeps_rare=is_alpha)
        logits = logits / temperature
        if self.filters and not is_alpha:
            logits = filter_logits(logits, self.config)
        chosen = inverse_transform(logits, uniform)
        # A known channel decides what the later ones cost.
        return tf.where(is_free, chosen, choice), spent


def _graph_function(
    function: Callable[..., Any], *signature: Any, jit_compile: bool = False
) -> Any:
    # AutoGraph would take most of the time of tracing.
    return tf.function(
        function,
        input_signature=signature,
        autograph=False,
        jit_compile=jit_compile,
    )


def _take_rows(state: Tensor, index: Tensor, count: int) -> Tensor:
    """Return the state of the rows in `index`.

    Args:
        state: A structure of tensors, each with a multiple of `count` rows:
            attention, for example, has one for each head.
        index: int32 `(R,)` in `[0, count)`.
        count: Number of images in the state.
    """

    def take(tensor: Tensor) -> Tensor:
        each = tensor.shape[0] // count
        rows = index[:, None] * each + tf.range(each)
        return tf.gather(tensor, tf.reshape(rows, (-1,)))

    return tf.nest.map_structure(take, state)


def _relax(tensor: Tensor) -> tf.TensorSpec:
    """Return a spec in which a dimension of 0 may grow."""
    return tf.TensorSpec([n or None for n in tensor.shape], tensor.dtype)

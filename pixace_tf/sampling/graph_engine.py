"""The engine of a model in memory: TensorFlow's graphs, with XLA or without.

Images are decoded in blocks of a fixed number of rows: matrix kernels round
differently for other shapes, and 1 image in 300 would differ between alone and
in a batch. On a CPU, each core decodes one image at a time, whose cache stays
near the core; on a GPU, a step of many rows takes hardly longer than a step of
a single row.
"""

import contextlib
import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pixace_tf import compile_cache
from pixace_tf.errors import UserError
from pixace_tf.machine import num_cores
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling.block import Carry, Drawing, Program
from pixace_tf.sampling.decode_loop import DecodeLoop
from pixace_tf.sampling.engine import Engine, ModelFacts, Stepper
from pixace_tf.sampling.likelihood import Scorer

ROWS_ON_GPU = 32


class GraphEngine(Engine):
    """Decodes with a Keras model; each program is compiled once.

    Args:
        model: The model to sample from.
        rows: Images in a block; by default 1 on a CPU, 32 on a GPU.
        jit_compile: Whether XLA compiles the programs.
    """

    def __init__(
        self,
        model: PixaceCausalLM,
        rows: int | None = None,
        jit_compile: bool = True,
    ) -> None:
        if keras.backend.backend() != "tensorflow":
            raise UserError(
                "Painting needs the TensorFlow backend of Keras. Unset "
                f"KERAS_BACKEND={keras.backend.backend()}."
            )
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        self.facts = ModelFacts.of(model)
        self.num_workers = 1 if has_gpu else num_cores()
        self._model, self._jit_compile = model, jit_compile
        self.fixed_rows = rows or (ROWS_ON_GPU if has_gpu else 1)
        self._loop = functools.cache(
            functools.partial(DecodeLoop, model, jit_compile=jit_compile)
        )
        self._traced: set[Any] = set()

    def block_rows(self, num_images: int) -> int:
        assert self.fixed_rows is not None
        return self.fixed_rows

    def stepper(
        self, rows: int, program: Program, start: int, is_alone: bool
    ) -> contextlib.AbstractContextManager[Stepper]:
        loop = self._loop(rows)
        self._trace(loop.programs(program, start))
        return contextlib.nullcontext(GraphStepper(loop, program))

    def bits(
        self, token_ids: np.ndarray, labels: Any = 0, orders: Any = 0
    ) -> np.ndarray:
        return self._scorer.bits(token_ids, labels=labels, orders=orders)

    @functools.cached_property
    def _scorer(self) -> Scorer:
        return Scorer(self._model, jit_compile=self._jit_compile)

    def _trace(self, functions: list[Any]) -> None:
        """Trace graph functions, once.

        Threads that traced at the same time would trace programs twice and
        name them at random; see `compile_cache.align_names`.
        """
        new = [f for f in functions if f not in self._traced]
        if new:
            compile_cache.align_names()
        for function in new:
            function.get_concrete_function()
            self._traced.add(function)


class GraphStepper(Stepper):
    """A `Stepper` with the programs of a `DecodeLoop`."""

    def __init__(self, loop: DecodeLoop, program: Program) -> None:
        self.rows = loop.rows
        self._loop, self._program = loop, program

    def begin(
        self,
        token_ids: np.ndarray,
        position: int,
        condition: np.ndarray,
        copies: int,
    ) -> Carry:
        tokens, condition = tf.constant(token_ids), tf.constant(condition)
        return self._loop.begin(tokens, position, condition, copies)

    def advance(
        self, carry: Carry, start: int, stop: int, drawing: Drawing
    ) -> Carry:
        return self._loop.advance(self._program, carry, start, stop, drawing)

    def take(self, carry: Carry, index: np.ndarray) -> Carry:
        return self._loop.take(carry, index.astype(np.int32))

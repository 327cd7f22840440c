"""The engine of a painter file: LiteRT on the cores of a CPU.

It needs no TensorFlow. LiteRT's kernels sum in the same order for any number of
rows, so an image does not depend on the size of its block.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pixace_tf.data import batches
from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.data.raster_orders import permutations, to_plain
from pixace_tf.machine import num_cores
from pixace_tf.sampling.block import Block, Carry, Drawing
from pixace_tf.sampling.engine import Engine, ModelFacts, Stepper
from pixace_tf.sampling.painter_file import PainterFile
from pixace_tf.sampling.sampling_config import has_filters

# More rows read the weights less often, but their caches leave the core.
MAX_ROWS = 16
# Images that are scored at a time.
_SCORED_ROWS = 8


class LiteEngine(Engine):
    """Decodes with the signatures of `converter`.

    Args:
        facts: Facts of the model.
        open_interpreter: Takes a number of threads, and returns an interpreter
            or anything else with a `get_signature_runner`.
    """

    def __init__(
        self, facts: ModelFacts, open_interpreter: Callable[[int], Any]
    ) -> None:
        self.facts = facts
        self.num_workers = num_cores()
        self._open_interpreter = open_interpreter
        # Interpreters that no block uses, by their number of threads.
        self._idle: dict[int, list[Any]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, painter: PainterFile) -> "LiteEngine":
        """Return an engine with the painter file of a run."""
        open_file = functools.partial(_open_interpreter, painter.path)
        return cls(painter.facts, open_file)

    def block_rows(self, num_images: int) -> int:
        return min(-(-num_images // self.num_workers), MAX_ROWS)

    @contextlib.contextmanager
    def stepper(
        self, block: Block, num_particles: int, start: int, is_alone: bool
    ) -> Iterator[Stepper]:
        is_guided = "guidance" in block.config
        name = "advance"
        if is_guided:
            name = "advance_guided"
        elif num_particles or has_filters(block.config):
            name = "advance_filtered"
        rows = num_particles or len(block.seeds)
        num_threads = self.num_workers if is_alone else 1
        with self._interpreter(num_threads) as interpreter:
            yield LiteStepper(interpreter, name, rows, is_guided)

    def bits(
        self, token_ids: np.ndarray, labels: Any = 0, orders: Any = 0
    ) -> np.ndarray:
        facts, count = self.facts, len(token_ids)
        sequences = permutations(len(facts.orders), facts.image_size)
        orders = np.broadcast_to(orders, count)
        labels = np.broadcast_to(labels, count)
        when = sequences[orders]
        tokens = np.take_along_axis(token_ids, when, axis=1).astype(np.int32)
        condition = np.stack([np.array(facts.orders)[orders], labels], axis=1)
        with self._interpreter(self.num_workers) as interpreter:
            score = interpreter.get_signature_runner("score")

            def nats(tokens: np.ndarray, condition: np.ndarray) -> np.ndarray:
                return score(token_ids=tokens, condition=condition)["nats"]

            costs = batches.apply(
                nats,
                min(count, _SCORED_ROWS),
                tokens,
                condition.astype(np.int32),
            )
        return to_plain(costs, when) / np.float32(np.log(2))

    @contextlib.contextmanager
    def _interpreter(self, num_threads: int) -> Iterator[Any]:
        """Yield an interpreter that nobody else uses."""
        with self._lock:
            idle = self._idle.setdefault(num_threads, [])
            interpreter = idle.pop() if idle else None
        if interpreter is None:
            interpreter = self._open_interpreter(num_threads)
        yield interpreter
        with self._lock:
            idle.append(interpreter)


class LiteStepper(Stepper):
    """A `Stepper` with a signature of a painter file."""

    def __init__(
        self, interpreter: Any, name: str, rows: int, is_guided: bool
    ) -> None:
        self.rows = rows
        self._is_guided = is_guided
        self._signature = functools.cache(interpreter.get_signature_runner)
        self._name = name

    def begin(
        self, token_ids: np.ndarray, position: int, condition: np.ndarray
    ) -> Carry:
        given = token_ids
        if self._is_guided:
            given = np.repeat(given, 2, axis=0)
            condition = np.repeat(condition, 2, axis=0)
            condition[1::2, 1] = NULL_LABEL
        if position in (0, given.shape[1]):
            state = self._signature("empty")(condition=condition)
        else:
            # It reads the whole image; decoding overwrites what is behind.
            state = self._signature("prefill")(
                token_ids=given, condition=condition
            )
        return Carry(state, token_ids, np.zeros(self.rows, np.float32))

    def advance(
        self, carry: Carry, start: int, stop: int, drawing: Drawing
    ) -> Carry:
        config = drawing.config
        if self._name == "advance":
            config = {"temperature": config["temperature"]}
        found = self._signature(self._name)(
            token_ids=carry.token_ids,
            nats=carry.nats,
            start=np.int32(start),
            stop=np.int32(stop),
            mask=drawing.mask.astype(np.int32),
            noise=drawing.noise,
            **config,
            **carry.state,
        )
        return Carry(
            token_ids=found.pop("token_ids"),
            nats=found.pop("nats"),
            state=found,
        )

    def take(self, carry: Carry, index: np.ndarray) -> Carry:
        state = {}
        for name, array in carry.state.items():
            by_row = array.reshape(self.rows, -1)
            state[name] = by_row[index].reshape(array.shape)
        return Carry(state, carry.token_ids[index], np.zeros_like(carry.nats))


def _open_interpreter(path: str, num_threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(path, num_threads=num_threads)

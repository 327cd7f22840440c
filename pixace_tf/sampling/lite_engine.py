"""The engine of a painter file: LiteRT on the cores of a CPU.

It needs no TensorFlow. LiteRT's kernels sum in the same order for any number of
rows, so an image does not depend on the size of its block.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pixace_tf import console
from pixace_tf.data import batches
from pixace_tf.data.raster_orders import permutations, to_plain
from pixace_tf.machine import num_cores
from pixace_tf.sampling.block import Carry, Drawing, Program
from pixace_tf.sampling.engine import Engine, ModelFacts, Stepper
from pixace_tf.sampling.painter_file import PainterFile

# More rows read the weights less often, but their caches leave the core.
MAX_ROWS = 16
# Particles of one image are shared out among interpreters of at least so many.
MIN_ROWS = 8
# Images that are scored at a time.
_SCORED_ROWS = 8
# The signatures of the programs.
SIGNATURES: dict[Program, str] = {
    "plain": "advance",
    "weighed": "advance_weighed",
    "full": "advance_full",
    "limited": "advance_limited",
}


class LiteEngine(Engine):
    """Decodes with the signatures of `converter`.

    Args:
        facts: Facts of the model.
        open_interpreter: Returns an interpreter, or anything else with a
            `get_signature_runner`.
    """

    def __init__(
        self, facts: ModelFacts, open_interpreter: Callable[[], Any]
    ) -> None:
        self.facts = facts
        self.num_workers = num_cores()
        self._open_interpreter = open_interpreter
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    @classmethod
    def of(cls, painter: PainterFile) -> "LiteEngine":
        """Return an engine with the painter file of a run."""
        open_file = functools.partial(open_interpreter, painter.content)
        return cls(painter.facts, open_file)

    def prepare(self) -> None:
        """Open an interpreter, without its log; call it in one thread."""
        with console.silent_stderr(), self._interpreter() as interpreter:
            interpreter.allocate_tensors()

    def block_rows(self, num_images: int) -> int:
        return min(-(-num_images // self.num_workers), MAX_ROWS)

    @contextlib.contextmanager
    def stepper(
        self, rows: int, program: Program, start: int, is_alone: bool
    ) -> Iterator[Stepper]:
        # Threads within a kernel gain nothing, so rows are shared out.
        count = min(self.num_workers, rows // MIN_ROWS) if is_alone else 1
        with contextlib.ExitStack() as stack:
            interpreters = [
                stack.enter_context(self._interpreter())
                for _ in range(max(count, 1))
            ]
            run: Any = map
            if count > 1:
                run = stack.enter_context(ThreadPoolExecutor(count)).map
            yield LiteStepper(interpreters, run, rows, program)

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
        with self._interpreter() as interpreter:
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
    def _interpreter(self) -> Iterator[Any]:
        """Yield an interpreter that nobody else uses."""
        with self._lock:
            interpreter = self._idle.pop() if self._idle else None
        if interpreter is None:
            interpreter = self._open_interpreter()
        yield interpreter
        with self._lock:
            self._idle.append(interpreter)


class LiteStepper(Stepper):
    """A `Stepper` with signatures; each interpreter has a part of the rows.

    The state is a list of the parts, each with its arrays by name.
    """

    def __init__(
        self,
        interpreters: Sequence[Any],
        run: Callable[..., Any],
        rows: int,
        program: Program,
    ) -> None:
        self.rows = rows
        self._program = program
        self._map = run
        self._interpreters = interpreters
        # Pairs of guided rows stay together.
        pairs = np.linspace(0, -(-rows // 2), len(interpreters) + 1)
        cuts = np.minimum(2 * pairs.astype(int), rows)
        self._parts = [np.arange(*ends) for ends in itertools.pairwise(cuts)]

    def begin(
        self,
        token_ids: np.ndarray,
        position: int,
        condition: np.ndarray,
        copies: int,
    ) -> Carry:
        call = self._interpreters[0].get_signature_runner
        if position in (0, token_ids.shape[1]):
            state = call("empty")(condition=condition)
        else:
            # It reads the whole image; decoding overwrites what is behind.
            state = call("prefill")(token_ids=token_ids, condition=condition)
        count = self.rows // copies
        parts = [_take(state, part % count, count) for part in self._parts]
        tokens = np.tile(token_ids, (copies, 1))
        return Carry(parts, tokens, np.zeros(self.rows, np.float32))

    def advance(
        self, carry: Carry, start: int, stop: int, drawing: Drawing
    ) -> Carry:
        def advance(number: int) -> dict[str, np.ndarray]:
            part = self._parts[number]
            call = self._interpreters[number].get_signature_runner(
                SIGNATURES[self._program]
            )
            config = {name: x[part] for name, x in drawing.config.items()}
            if self._program in ("plain", "weighed"):
                config = {"temperature": config["temperature"]}
            elif self._program == "limited":
                config["codes"] = drawing.codes
            found: dict[str, np.ndarray] = call(
                token_ids=carry.token_ids[part],
                nats=carry.nats[part],
                start=np.int32(start),
                stop=np.int32(stop),
                mask=drawing.mask[part],
                noise=drawing.noise[part],
                **config,
                **carry.state[number],
            )
            return found

        parts = list(self._map(advance, range(len(self._parts))))
        tokens, nats = (
            np.concatenate([part.pop(name) for part in parts])
            for name in ("token_ids", "nats")
        )
        return Carry(parts, tokens, nats)

    def take(self, carry: Carry, index: np.ndarray) -> Carry:
        starts = [own[0] for own in self._parts]

        def take(part: np.ndarray) -> dict[str, np.ndarray]:
            """Return the rows of one part, which come from all parts."""
            chosen = index[part]
            cuts = np.searchsorted(chosen, starts[1:])
            sources = np.split(chosen, cuts)
            state = {}
            for name, array in carry.state[0].items():
                shape = len(array) // len(self._parts[0]), *array.shape[1:]
                taken = np.empty((len(part), *shape), array.dtype)
                for own, start, rows, place in zip(
                    carry.state,
                    starts,
                    sources,
                    np.split(taken, cuts),
                    strict=True,
                ):
                    # With another mode, it would copy once more.
                    np.take(
                        own[name].reshape(-1, *shape),
                        rows - start,
                        axis=0,
                        out=place,
                        mode="clip",
                    )
                state[name] = taken.reshape(-1, *array.shape[1:])
            return state

        parts = list(self._map(take, self._parts))
        return Carry(parts, carry.token_ids[index], np.zeros_like(carry.nats))


def _take(
    state: dict[str, np.ndarray], index: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """Return the rows in `index` of a state with `count` rows.

    Each array has a multiple of `count` rows: attention one for each head.
    """
    return {
        name: array.reshape(count, -1, *array.shape[1:])[index].reshape(
            -1, *array.shape[1:]
        )
        for name, array in state.items()
    }


def open_interpreter(content: bytes) -> Any:
    """Open a LiteRT model."""
    from ai_edge_litert.interpreter import Interpreter

    # Interpreters share these bytes.
    return Interpreter(model_content=content, num_threads=1)

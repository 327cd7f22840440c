"""The two decoders over raster-order pixels: flat and multiscale.

A decoder has two faces. `call` runs over whole pictures, for training and
likelihoods. For sampling, the sequence is cut into segments and these into
runs: `begin_run` before the pixels of a run, one `step` per pixel,
`end_segment` after a segment, with a state that only the decoder understands.
Its shapes change between segments only. `prefill` makes the state of a given
prefix; decoding then begins at a multiple of `prefill_stride`. `rewind` goes
back to the beginning of a segment.

Shapes: B batch, T pixels, E embedding_dim, N neighbors, W hidden_dim,
H heads, D head_dim, R runs.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from pixace_tf.model.kv_cache import Cache, extend_cache, pad_cache, split_cache
from pixace_tf.model.transformer_stack import TransformerStack

# Of a sequence. More would mean more programs to compile for the flat decoder,
# fewer a longer tail of the cache to rewrite at each step.
NUM_SEGMENTS = 4


class RowColumnEmbedding(keras.layers.Layer):
    """One learned vector per row plus one per column of the picture.

    Args:
        image_size: `(height, width)`.
        hidden_dim: Width of the vectors.
    """

    def __init__(
        self, image_size: tuple[int, int], hidden_dim: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        initializer = keras.initializers.RandomNormal(stddev=0.1)
        self.rows, self.columns = (
            self.add_weight(
                name=name, shape=(n, hidden_dim), initializer=initializer
            )
            for name, n in zip(("rows", "columns"), image_size, strict=True)
        )
        self.built = True

    def call(self, x: Any) -> Any:
        """Add the positions to a whole sequence, float `(B, T, W)`."""
        table = self.rows[:, None] + self.columns[None, :]
        table = ops.reshape(table, (-1, table.shape[-1]))
        return x + ops.cast(table, x.dtype)

    def at(self, position: Any) -> Any:
        """Return the vector of one position, float `(W,)`."""
        row, column = (
            position // self.image_size[1],
            position % self.image_size[1],
        )
        return ops.take(self.rows, row, axis=0) + ops.take(
            self.columns, column, axis=0
        )


class FlatDecoder(keras.layers.Layer):
    """One stack over all pixels of the picture.

    Args:
        image_size: `(height, width)`.
        stack: Makes the stack: `TransformerStack` or `ReformerStack`.
        hidden_dim: Width of the stack.
        dtype: Keras dtype policy.
        name: Name of the layer.
        **sizes: For the stack.
    """

    prefill_stride = 1

    def __init__(
        self,
        image_size: tuple[int, int],
        stack: Callable[..., Any],
        hidden_dim: int,
        dtype: Any = None,
        name: str | None = None,
        **sizes: Any,
    ) -> None:
        super().__init__(dtype=dtype, name=name)
        length = image_size[0] * image_size[1]
        self.segment_length = self.run_length = -(-length // NUM_SEGMENTS)
        self.hidden_dim = hidden_dim
        policy = self.dtype_policy
        self.project = keras.layers.Dense(
            hidden_dim, dtype=policy, name="project"
        )
        self.positions = RowColumnEmbedding(
            image_size, hidden_dim, dtype=policy, name="positions"
        )
        self.stack = stack(
            hidden_dim=hidden_dim, **sizes, dtype=policy, name="stack"
        )

    def build(self, pixels_shape: Any, neighbors_shape: Any) -> None:
        self.project.build(neighbors_shape)
        if not self.stack.built:
            self.stack.build((*neighbors_shape[:-1], self.hidden_dim))
        self.built = True

    def call(
        self, pixels: Any, neighbors: Any, training: bool | None = None
    ) -> Any:
        """Decode whole pictures.

        Args:
            pixels: float `(B, T, E)`, unused here.
            neighbors: float `(B, T, N*E)`.
            training: Whether dropout acts.

        Returns:
            float `(B, T, W)`: row t depends on pixels before t only.
        """
        x = self.positions(self.project(neighbors))
        return self.stack(x, training=training)

    def layer_states(self, pixels: Any, neighbors: Any) -> list[Any]:
        """Return float `(B, T, W)` after each layer; see `call`."""
        return self.stack.layer_states(self.positions(self.project(neighbors)))

    def empty_state(self, batch_size: Any) -> dict[str, Any]:
        """Return the state before the first pixel."""
        return {
            "frozen": self.stack.empty_cache(batch_size, 0),
            "tail": self.stack.empty_cache(batch_size, self.segment_length),
        }

    def prefill(
        self, pixels: Any, neighbors: Any, num_segments: int
    ) -> dict[str, Any]:
        """Return the state at the end of a segment, before it is closed.

        Args:
            pixels: float `(B, T, E)`, unused here.
            neighbors: float `(B, T, N*E)`.
            num_segments: The segments to read, at least 1.
        """
        x = self.positions(self.project(neighbors))
        length = self.segment_length
        cache = self.stack.prefill(x[:, : num_segments * length])
        frozen, tail = split_cache(cache, (num_segments - 1) * length)
        return {"frozen": frozen, "tail": pad_cache(tail, length)}

    def begin_run(
        self, state: dict[str, Any], last_pixels: Any, run: Any
    ) -> dict[str, Any]:
        """Do nothing: a flat decoder knows no runs."""
        return state

    def step(
        self, state: dict[str, Any], neighbors: Any, position: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Decode one pixel.

        Args:
            state: As left by the call before.
            neighbors: float `(B, 1, N*E)` of this position.
            position: int32 scalar in `[0, T)`.

        Returns:
            float `(B, W)`, and the new state.
        """
        x = self.project(neighbors)
        x = x + ops.cast(self.positions.at(position), x.dtype)
        index = position % self.segment_length
        x, tail = self.stack.step(x, state["frozen"], state["tail"], index)
        return x[:, 0], {**state, "tail": tail}

    def end_segment(self, state: dict[str, Any]) -> dict[str, Any]:
        """Move the filled tail behind the frozen part of the cache."""
        frozen = extend_cache(state["frozen"], state["tail"])
        return {**state, "frozen": frozen}

    def rewind(self, state: dict[str, Any], position: Any) -> dict[str, Any]:
        """Return the state that was before a position where a segment began.

        Args:
            state: Between two segments, or at the beginning or end.
            position: int32 scalar.
        """
        frozen, _ = split_cache(state["frozen"], position)
        return {**state, "frozen": frozen}


class MultiscaleDecoder(keras.layers.Layer):
    """An outer stack over runs of pixels, an inner stack inside each run.

    The outer stack reads the runs before a run and hands every pixel of it a
    context vector of its own; the inner stack adds what came before within
    the run (MegaByte, arXiv 2305.07185).

    Args:
        image_size: `(height, width)`.
        num_layers: Layers of the outer stack.
        hidden_dim: Width of the outer stack.
        num_heads: Heads of the outer stack.
        intermediate_dim: Feed-forward width of the outer stack.
        inner_num_layers: Layers of the inner stack.
        inner_hidden_dim: Width of the inner stack.
        inner_num_heads: Heads of the inner stack.
        inner_intermediate_dim: Feed-forward width of the inner stack.
        run_length: Pixels per run, in raster order.
        dropout: Rate in `[0, 1)`.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        inner_num_layers: int,
        inner_hidden_dim: int,
        inner_num_heads: int,
        inner_intermediate_dim: int,
        run_length: int = 16,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sequence_length = image_size[0] * image_size[1]
        self.run_length = self.prefill_stride = run_length
        self.num_runs = -(-self.sequence_length // run_length)
        self.segment_length = -(-self.num_runs // NUM_SEGMENTS) * run_length
        self.hidden_dim = inner_hidden_dim
        policy = self.dtype_policy
        self.read_run = keras.layers.Dense(
            hidden_dim, dtype=policy, name="read_run"
        )
        self.run_positions = self.add_weight(
            name="run_positions",
            shape=(self.num_runs, hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.1),
        )
        self.outer = TransformerStack(
            num_layers,
            hidden_dim,
            num_heads,
            intermediate_dim,
            dropout,
            dtype=policy,
            name="outer",
        )
        self.outer_norm = keras.layers.LayerNormalization(
            dtype=policy, name="outer_norm"
        )
        self.write_context = keras.layers.Dense(
            run_length * inner_hidden_dim, dtype=policy, name="write_context"
        )
        self.project = keras.layers.Dense(
            inner_hidden_dim, dtype=policy, name="project"
        )
        self.positions = RowColumnEmbedding(
            image_size, inner_hidden_dim, dtype=policy, name="positions"
        )
        self.inner = TransformerStack(
            inner_num_layers,
            inner_hidden_dim,
            inner_num_heads,
            inner_intermediate_dim,
            dropout,
            dtype=policy,
            name="inner",
        )

    def build(self, pixels_shape: Any, neighbors_shape: Any) -> None:
        run_dim = self.run_length * pixels_shape[-1]
        self.read_run.build((None, None, run_dim))
        outer_shape = (None, None, self.run_positions.shape[-1])
        self.outer_norm.build(outer_shape)
        self.write_context.build(outer_shape)
        self.project.build(neighbors_shape)
        self.built = True

    def call(
        self, pixels: Any, neighbors: Any, training: bool | None = None
    ) -> Any:
        """Decode whole pictures.

        Args:
            pixels: float `(B, T, E)`.
            neighbors: float `(B, T, N*E)`.
            training: Whether dropout acts.

        Returns:
            float `(B, T, W)`: row t depends on pixels before t only.
        """
        outer = self.outer(self._read_runs(pixels), training=training)
        x = self.positions(self.project(neighbors))
        x = self._pad(x)
        x = x + ops.reshape(self._context(outer), ops.shape(x))
        runs = ops.reshape(x, (-1, self.run_length, self.hidden_dim))
        runs = self.inner(runs, training=training)
        x = ops.reshape(
            runs, (-1, self.num_runs * self.run_length, self.hidden_dim)
        )
        return x[:, : self.sequence_length]

    def layer_states(self, pixels: Any, neighbors: Any) -> list[Any]:
        """Return float `(B, R, W_outer)` after each outer layer; see `call`."""
        return self.outer.layer_states(self._read_runs(pixels))

    def empty_state(self, batch_size: Any) -> dict[str, Any]:
        """Return the state before the first pixel."""
        outer = self.outer.empty_cache(batch_size, self.num_runs)
        return self._state(outer, batch_size)

    def prefill(
        self, pixels: Any, neighbors: Any, num_segments: int
    ) -> dict[str, Any]:
        """Return the state at the end of a segment, before it is closed.

        Args:
            pixels: float `(B, T, E)`.
            neighbors: float `(B, T, N*E)`, unused here.
            num_segments: The segments to read, at least 1.
        """
        num_runs = num_segments * self.segment_length // self.run_length
        outer = self.outer.prefill(self._read_runs(pixels)[:, :num_runs])
        outer = pad_cache(outer, self.num_runs)
        return self._state(outer, ops.shape(pixels)[0])

    def begin_run(
        self, state: dict[str, Any], last_pixels: Any, run: Any
    ) -> dict[str, Any]:
        """Run the outer stack once, for the context of a new run.

        Args:
            state: As left by the call before.
            last_pixels: float `(B, run_length, E)`, the run before;
                ignored before the first.
            run: int32 scalar, the number of the run.

        Returns:
            The new state.
        """
        run_dim = self.run_length * last_pixels.shape[-1]
        x = self.read_run(ops.reshape(last_pixels, (-1, 1, run_dim)))
        x = ops.where(run == 0, ops.zeros_like(x), x)
        position = ops.take(self.run_positions, run, axis=0)
        x = x + ops.cast(position, x.dtype)
        x, outer = self.outer.step(x, None, state["outer"], run)
        context = ops.reshape(
            ops.cast(self._context(x), "float32"),
            (-1, self.run_length, self.hidden_dim),
        )
        return {**state, "outer": outer, "context": context}

    def step(
        self, state: dict[str, Any], neighbors: Any, position: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Decode one pixel.

        Args:
            state: As left by the call before.
            neighbors: float `(B, 1, N*E)` of this position.
            position: int32 scalar in `[0, T)`.

        Returns:
            float `(B, W)`, and the new state.
        """
        index = position % self.run_length
        context = ops.take(state["context"], index, axis=1)[:, None]
        x = self.project(neighbors)
        x = x + ops.cast(self.positions.at(position) + context, x.dtype)
        x, tail = self.inner.step(x, None, state["tail"], index)
        return x[:, 0], {**state, "tail": tail}

    def end_segment(self, state: dict[str, Any]) -> dict[str, Any]:
        """Do nothing: the next `begin_run` reads the finished run."""
        return state

    def rewind(self, state: dict[str, Any], position: Any) -> dict[str, Any]:
        """Do nothing: what lies behind a position is never looked at."""
        return state

    def _state(self, outer: Cache, batch_size: Any) -> dict[str, Any]:
        length = self.run_length
        return {
            "outer": outer,
            "tail": self.inner.empty_cache(batch_size, length),
            "context": ops.zeros((batch_size, length, self.hidden_dim)),
        }

    def _read_runs(self, pixels: Any) -> Any:
        """Project each run and hand it to the run after: `(B, R, W_outer)`."""
        run_dim = self.run_length * pixels.shape[-1]
        runs = ops.reshape(self._pad(pixels), (-1, self.num_runs, run_dim))
        runs = self.read_run(runs[:, :-1])
        runs = ops.pad(runs, ((0, 0), (1, 0), (0, 0)))
        return runs + ops.cast(self.run_positions, runs.dtype)

    def _context(self, outer: Any) -> Any:
        return self.write_context(self.outer_norm(outer))

    def _pad(self, x: Any) -> Any:
        missing = self.num_runs * self.run_length - self.sequence_length
        return ops.pad(x, ((0, 0), (0, missing), (0, 0))) if missing else x

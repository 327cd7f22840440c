"""The two decoders over raster-order pixels: flat and multiscale.

A decoder has two faces. `call` runs over whole pictures, for training and
likelihoods. For sampling, the sequence is cut into segments of
`segment_length` pixels: `begin_segment`, one `step` per pixel, `end_segment`,
with a state that only the decoder understands.

Shapes: B batch, T pixels, E embedding_dim, N neighbors, W hidden_dim,
H heads, D head_dim, R runs.
"""

from typing import Any

import keras
import keras_nlp
from keras import ops

from pixace_tf.attention import (
    BLOCK_LENGTH,
    causal_attention,
    masked_attention,
    merge_heads,
    split_heads,
)

Cache = list[tuple[Any, Any]]


class CausalDecoderLayer(keras_nlp.layers.TransformerDecoder):
    """A pre-norm `TransformerDecoder` with blockwise attention and a cache.

    The weights and the mathematics are those of `keras_nlp`; only the way to
    compute them differs: queries, keys and values come from one product,
    attention goes block by block, and a step touches only its own row.
    Attention weights are not dropped out, `dropout` acts on the two residual
    branches.

    Args:
        intermediate_dim: Width of the feed-forward layer.
        num_heads: Attention heads.
        dropout: Rate in `[0, 1)` on the residual branches.
        **kwargs: For `keras_nlp.layers.TransformerDecoder`.
    """

    def __init__(
        self,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("normalize_first", True)
        kwargs.setdefault("activation", "gelu")
        super().__init__(intermediate_dim, num_heads, dropout, **kwargs)

    def call(
        self, x: Any, training: bool | None = None, return_cache: bool = False
    ) -> Any:
        """Run over a whole sequence.

        Args:
            x: float `(B, T, W)`.
            training: Whether dropout acts.
            return_cache: Whether keys and values are returned too.

        Returns:
            float `(B, T, W)`, or that and `(keys, values)`, each
            `(B, H, T, D)`.
        """
        query, key, value = self._project(x)
        x = self._finish(x, causal_attention(query, key, value), training)
        return (x, (key, value)) if return_cache else x

    def step(
        self,
        x: Any,
        frozen: tuple[Any, Any] | None,
        tail: tuple[Any, Any],
        index: Any,
    ) -> tuple[Any, tuple[Any, Any]]:
        """Run one position, given the keys and values of those before.

        Args:
            x: float `(B, 1, W)`.
            frozen: Keys and values `(B, H, S, D)`, all of them visible.
            tail: Keys and values `(B, H, L, D)`, visible below `index`.
            index: int32 scalar, where in the tail this position stands.

        Returns:
            float `(B, 1, W)`, and the tail with this position filled in.
        """
        query, key, value = self._project(x)
        slots = ops.arange(tail[0].shape[2])
        here = ops.reshape(slots == index, (1, 1, -1, 1))
        keys = ops.where(here, ops.cast(key, tail[0].dtype), tail[0])
        values = ops.where(here, ops.cast(value, tail[1].dtype), tail[1])
        visible = slots <= index
        tail = keys, values
        if frozen is not None:
            past = ops.ones((ops.shape(frozen[0])[2],), "bool")
            visible = ops.concatenate([past, visible])
            keys = ops.concatenate([frozen[0], keys], axis=2)
            values = ops.concatenate([frozen[1], values], axis=2)
        query = ops.cast(query, keys.dtype)
        attended = masked_attention(query, keys, values, visible)
        attended = ops.cast(attended, x.dtype)
        return self._finish(x, attended, False), tail

    def _project(self, x: Any) -> list[Any]:
        attention = self._self_attention_layer
        denses = (
            attention._query_dense,
            attention._key_dense,
            attention._value_dense,
        )
        x = self._self_attention_layer_norm(x)
        width, num_heads, head_dim = denses[0].kernel.shape
        scales = (head_dim**-0.5, 1.0, 1.0)
        kernel = ops.concatenate(
            [d.kernel * s for d, s in zip(denses, scales, strict=True)], axis=1
        )
        bias = ops.concatenate(
            [d.bias * s for d, s in zip(denses, scales, strict=True)], axis=0
        )
        kernel = ops.cast(ops.reshape(kernel, (width, -1)), x.dtype)
        x = ops.matmul(x, kernel) + ops.cast(ops.reshape(bias, (-1,)), x.dtype)
        return ops.split(split_heads(x, 3 * num_heads), 3, axis=1)

    def _finish(self, x: Any, attended: Any, training: bool | None) -> Any:
        dense = self._self_attention_layer._output_dense
        num_heads, head_dim, width = dense.kernel.shape
        kernel = ops.reshape(dense.kernel, (num_heads * head_dim, width))
        attended = merge_heads(attended)
        attended = ops.matmul(attended, ops.cast(kernel, attended.dtype))
        attended = attended + ops.cast(dense.bias, attended.dtype)
        x = x + self._self_attention_dropout(attended, training=training)
        hidden = self._feedforward_layer_norm(x)
        hidden = self._feedforward_intermediate_dense(hidden)
        hidden = self._feedforward_output_dense(hidden)
        return x + self._feedforward_dropout(hidden, training=training)


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


class TransformerStack(keras.layers.Layer):
    """Decoder layers over a whole sequence, or one position at a time."""

    def __init__(
        self,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        dropout: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.blocks = [
            CausalDecoderLayer(
                intermediate_dim,
                num_heads,
                dropout,
                decoder_sequence_shape=(None, None, hidden_dim),
                dtype=self.dtype_policy,
                # Unique in the model: it names the weights in the run folder.
                name=f"{self.name}_layer_{i}",
            )
            for i in range(num_layers)
        ]
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        for block in self.blocks:
            x = block(x, training=training)
        return x

    def prefill(self, x: Any) -> tuple[Any, Cache]:
        """Run a whole sequence; return its output and every layer's cache."""
        cache = []
        for block in self.blocks:
            x, (keys, values) = block(x, return_cache=True)
            # Sampling is float32 under every dtype policy.
            cache.append(
                (ops.cast(keys, "float32"), ops.cast(values, "float32"))
            )
        return x, cache

    def empty_cache(self, batch_size: Any, length: int) -> Cache:
        """Return zero keys and values `(B, H, length, D)` for each layer."""
        shape = (
            batch_size,
            self.num_heads,
            length,
            self.hidden_dim // self.num_heads,
        )
        return [(ops.zeros(shape), ops.zeros(shape)) for _ in self.blocks]

    def step(
        self, x: Any, frozen: Cache | None, tail: Cache, index: Any
    ) -> tuple[Any, Cache]:
        """Run one position through every layer; see `CausalDecoderLayer`."""
        filled = []
        for i, block in enumerate(self.blocks):
            past = None if frozen is None else frozen[i]
            x, keys_values = block.step(x, past, tail[i], index)
            filled.append(keys_values)
        return x, filled


class FlatDecoder(keras.layers.Layer):
    """One stack over all pixels of the picture.

    Args:
        image_size: `(height, width)`.
        num_layers: Decoder layers.
        hidden_dim: Width of the stack.
        num_heads: Attention heads.
        intermediate_dim: Width of the feed-forward layers.
        dropout: Rate in `[0, 1)`.
    """

    segment_length = BLOCK_LENGTH

    def __init__(
        self,
        image_size: tuple[int, int],
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        policy = self.dtype_policy
        self.project = keras.layers.Dense(
            hidden_dim, dtype=policy, name="project"
        )
        self.positions = RowColumnEmbedding(
            image_size, hidden_dim, dtype=policy, name="positions"
        )
        self.stack = TransformerStack(
            num_layers,
            hidden_dim,
            num_heads,
            intermediate_dim,
            dropout,
            dtype=policy,
            name="stack",
        )

    def build(self, pixels_shape: Any, neighbors_shape: Any) -> None:
        self.project.build(neighbors_shape)
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

    def empty_state(self, batch_size: Any) -> dict[str, Any]:
        """Return the state before the first pixel."""
        return {
            "frozen": self.stack.empty_cache(batch_size, 0),
            "tail": self.stack.empty_cache(batch_size, self.segment_length),
        }

    def prefill(
        self, pixels: Any, neighbors: Any, num_segments: Any
    ) -> dict[str, Any]:
        """Return the state after `num_segments` segments of a sequence."""
        state = self.empty_state(ops.shape(neighbors)[0])
        _, cache = self.stack.prefill(self.positions(self.project(neighbors)))
        stop = num_segments * self.segment_length
        state["frozen"] = [
            (keys[:, :, :stop], values[:, :, :stop]) for keys, values in cache
        ]
        return state

    def begin_segment(
        self, state: dict[str, Any], last_pixels: Any, segment: Any
    ) -> dict[str, Any]:
        """Do nothing: a flat decoder has no work per segment here."""
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
        frozen = [
            tuple(
                ops.concatenate(pair, axis=2)
                for pair in zip(*both, strict=True)
            )
            for both in zip(state["frozen"], state["tail"], strict=True)
        ]
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
        self.segment_length = run_length
        self.num_runs = -(-self.sequence_length // run_length)
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
        run_dim = self.segment_length * pixels_shape[-1]
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
        runs = ops.reshape(x, (-1, self.segment_length, self.hidden_dim))
        runs = self.inner(runs, training=training)
        x = ops.reshape(
            runs, (-1, self.num_runs * self.segment_length, self.hidden_dim)
        )
        return x[:, : self.sequence_length]

    def empty_state(self, batch_size: Any) -> dict[str, Any]:
        """Return the state before the first pixel."""
        length = self.segment_length
        return {
            "outer": self.outer.empty_cache(batch_size, 0),
            "tail": self.inner.empty_cache(batch_size, length),
            "context": ops.zeros((batch_size, length, self.hidden_dim)),
        }

    def prefill(
        self, pixels: Any, neighbors: Any, num_segments: Any
    ) -> dict[str, Any]:
        """Return the state after `num_segments` segments of a sequence."""
        state = self.empty_state(ops.shape(pixels)[0])
        _, cache = self.outer.prefill(self._read_runs(pixels))
        state["outer"] = [
            (keys[:, :, :num_segments], values[:, :, :num_segments])
            for keys, values in cache
        ]
        return state

    def begin_segment(
        self, state: dict[str, Any], last_pixels: Any, segment: Any
    ) -> dict[str, Any]:
        """Run the outer stack once, for the context of a new run.

        Args:
            state: As left by the call before.
            last_pixels: float `(B, segment_length, E)`, the run before;
                ignored before the first.
            segment: int32 scalar, the number of the run.

        Returns:
            The new state.
        """
        run_dim = self.segment_length * last_pixels.shape[-1]
        x = self.read_run(ops.reshape(last_pixels, (-1, 1, run_dim)))
        x = ops.where(segment == 0, ops.zeros_like(x), x)
        position = ops.take(self.run_positions, segment, axis=0)
        x = x + ops.cast(position, x.dtype)
        slot = self.outer.empty_cache(ops.shape(x)[0], 1)
        x, filled = self.outer.step(x, state["outer"], slot, 0)
        outer = [
            tuple(
                ops.concatenate(pair, axis=2)
                for pair in zip(*both, strict=True)
            )
            for both in zip(state["outer"], filled, strict=True)
        ]
        context = ops.reshape(
            ops.cast(self._context(x), "float32"),
            (-1, self.segment_length, self.hidden_dim),
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
        index = position % self.segment_length
        context = ops.take(state["context"], index, axis=1)[:, None]
        x = self.project(neighbors)
        x = x + ops.cast(self.positions.at(position) + context, x.dtype)
        x, tail = self.inner.step(x, None, state["tail"], index)
        return x[:, 0], {**state, "tail": tail}

    def end_segment(self, state: dict[str, Any]) -> dict[str, Any]:
        """Do nothing: the next `begin_segment` reads the finished run."""
        return state

    def _read_runs(self, pixels: Any) -> Any:
        """Project each run and hand it to the run after: `(B, R, W_outer)`."""
        run_dim = self.segment_length * pixels.shape[-1]
        runs = ops.reshape(self._pad(pixels), (-1, self.num_runs, run_dim))
        runs = self.read_run(runs[:, :-1])
        runs = ops.pad(runs, ((0, 0), (1, 0), (0, 0)))
        return runs + ops.cast(self.run_positions, runs.dtype)

    def _context(self, outer: Any) -> Any:
        return self.write_context(self.outer_norm(outer))

    def _pad(self, x: Any) -> Any:
        missing = self.num_runs * self.segment_length - self.sequence_length
        return ops.pad(x, ((0, 0), (0, missing), (0, 0))) if missing else x

"""Time for memory: keep what goes in, compute again what the gradient needs.

Wide activations of a large batch are computed for a piece of it at a time, in
a loop, so that only one piece of them exists at any moment. A batch that fits
into one piece is computed as if this module did not exist. In eager mode the
results are the same, but nothing is saved: TensorFlow's tape keeps it all.

Shapes: B batch, T positions, W width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

# Enough rows for matrix products to be efficient: 8 pictures of 32x32.
PIECE_POSITIONS = 8192


def num_pieces(x: Any) -> int:
    """Return into how many equal pieces to cut a batch.

    Args:
        x: `(B, ..., T, W)`. Where B is not known, there is one piece.
    """
    batch_size, length = x.shape[0], x.shape[-2]
    if batch_size is None:
        return 1
    return next(
        n
        for n in range(1, batch_size + 1)
        if batch_size % n == 0
        and (batch_size // n * length <= PIECE_POSITIONS or n == batch_size)
    )


def recompute(
    function: Callable[..., Any],
    layers: Sequence[keras.layers.Layer],
    x: Any,
    *constants: Any,
) -> Any:
    """Apply a function without keeping its activations, where that pays.

    Args:
        function: Takes `x` and the constants, or the same rows of each;
            returns one tensor with those rows.
        layers: Those whose weights it uses.
        x: float `(B, T, W)`.
        *constants: Tensors `(B, ...)` without a gradient.

    Returns:
        What the function returns.
    """
    if num_pieces(x) == 1:
        return function(x, *constants)
    variables = [v for layer in layers for v in float_weights(layer)]

    def call(x: Any, values: Any, constants: Any) -> Any:
        with using(variables, values):
            return function(x, *constants)

    @ops.custom_gradient
    def run(x: Any, *values: Any) -> Any:
        output = map_pieces(
            lambda x, constants: call(x, values, constants), x, constants
        )

        def gradient(upstream: Any) -> Any:
            _, of_x, of_values = vjp_in_pieces(
                call, x, values, constants, upstream
            )
            return of_x, *of_values

        return output, gradient

    return _AsStored()(
        x, function=lambda x: run(x, *(v.value for v in variables))
    )


class _AsStored(keras.layers.Layer):
    """Runs a function with weights as they are stored, not autocast."""

    def __init__(self) -> None:
        super().__init__(dtype="float32", autocast=False)

    def call(self, x: Any, function: Callable[[Any], Any]) -> Any:
        return function(x)


def float_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights of a layer, frozen ones too, but no random states."""
    return [v for v in layer.weights if keras.backend.is_float_dtype(v.dtype)]


def using(
    variables: Sequence[keras.Variable], values: Sequence[Any]
) -> keras.StatelessScope:
    """Return a scope in which variables have other values."""
    return keras.StatelessScope(list(zip(variables, values, strict=True)))


def map_pieces(
    function: Callable[[Any, Any], Any], x: Any, constants: Any = ()
) -> Any:
    """Apply a function to one piece of a batch after the other.

    Args:
        function: Takes the same rows of `x` and of the constants; returns a
            structure of tensors with those rows.
        x: `(B, ..., T, W)`.
        constants: Structure of tensors `(B, ...)`, or with one row per piece.

    Returns:
        What the function returns for all rows.
    """
    count = num_pieces(x)
    if count == 1:
        return function(x, constants)
    pieces = _cut((x, constants), count)
    # Only for its shapes; the compiler removes it.
    first = function(*_take(pieces, 0))
    # Bare zeros would be laid out for all loops before the first of them.
    empty = keras.tree.map_structure(
        lambda one: after(ops.zeros((count, *one.shape), one.dtype), x), first
    )

    def body(i: Any, outputs: Any) -> Any:
        rows, fixed = _take(pieces, i)
        # Without XLA, rounds that do not need each other would run at once.
        rows = after(rows, keras.tree.flatten(outputs)[0])
        return _put(outputs, i, function(rows, fixed))

    return _join(ops.fori_loop(0, count, body, empty))


def vjp_in_pieces(
    function: Callable[[Any, Any, Any], Any],
    x: Any,
    values: Sequence[Any],
    constants: Any,
    upstream: Any,
) -> tuple[Any, Any, list[Any]]:
    """Return a function's value and its vector-Jacobian products.

    Args:
        function: Takes `x`, `values` and `constants`.
        x: float `(B, T, W)`.
        values: Weights of the function.
        constants: As for `map_pieces`.
        upstream: Gradient of the value, and of its shape.

    Returns:
        The value, the gradient of `x`, those of `values`.
    """
    # Without this the compiler would find that the forward pass has computed
    # the same, and keep it.
    x = after(x, upstream)
    values = list(values)
    count = num_pieces(x)
    if count == 1:
        value, pull = vjp(lambda x, v: function(x, v, constants), x, values)
        return value, *pull(upstream)
    pieces = _cut(constants, count)

    def body(i: Any, carry: Any) -> Any:
        # What has been read is overwritten: inputs by gradients, and those by
        # the values.
        arrays, of_values = carry
        rows, given = _take(arrays, i)
        fixed = _take(pieces, i)
        value, pull = vjp(lambda x, v: function(x, v, fixed), rows, values)
        of_rows, more = pull(given)
        sums = [a + b for a, b in zip(of_values, more, strict=True)]
        return _put(arrays, i, (of_rows, value)), sums

    carry = _cut((x, upstream), count), [ops.zeros_like(v) for v in values]
    (of_x, value), of_values = ops.fori_loop(0, count, body, carry)
    return _join(value), _join(of_x), of_values


def vjp(
    function: Callable[..., Any], *inputs: Any
) -> tuple[Any, Callable[[Any], Any]]:
    """Return a function's value and what turns its gradient into the inputs'.

    `keras.ops` has no such operation; this is the one place that asks which
    backend runs.

    Args:
        function: Of tensors or structures of them, all float.
        *inputs: What to call it with.

    Raises:
        NotImplementedError: On a backend other than TensorFlow and JAX.
    """
    if keras.backend.backend() == "jax":
        import jax

        value, pull = jax.vjp(function, *inputs)
        return value, pull
    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError(
            "Recomputed gradients need the TensorFlow or JAX backend. "
            f"Received: {keras.backend.backend()}"
        )
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        value = function(*inputs)
    return value, lambda upstream: tape.gradient(
        value, inputs, upstream, tf.UnconnectedGradients.ZERO
    )


def after(x: Any, earlier: Any) -> Any:
    """Return `x`, but not before `earlier` has been computed.

    No optimization barrier exists for all backends, so this adds a zero that
    depends on an element of `earlier`; not a number becomes not a number.
    """
    element = ops.reshape(earlier, (-1,))[0]
    zero = ops.where(ops.isnan(element), element, ops.zeros_like(element))
    return x + ops.cast(zero, x.dtype)


def _cut(arrays: Any, count: int) -> Any:
    return keras.tree.map_structure(
        lambda x: ops.reshape(x, (count, x.shape[0] // count, *x.shape[1:])),
        arrays,
    )


def _join(arrays: Any) -> Any:
    return keras.tree.map_structure(
        lambda x: ops.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:])),
        arrays,
    )


def _take(arrays: Any, i: Any) -> Any:
    return keras.tree.map_structure(lambda x: ops.take(x, i, axis=0), arrays)


def _put(arrays: Any, i: Any, pieces: Any) -> Any:
    return keras.tree.map_structure(
        lambda x, piece: ops.slice_update(
            x, (i,) + (0,) * (len(x.shape) - 1), piece[None]
        ),
        arrays,
        pieces,
    )

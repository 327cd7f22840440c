"""Time for memory: the parts of a backward pass that computes things again.

In eager mode the results are the same, but no memory is saved: the tape of
TensorFlow keeps everything.
"""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from pixace_tf.typing import Tensor


def float_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights of a layer, frozen ones too, but no random states."""
    return [v for v in layer.weights if keras.backend.is_float_dtype(v.dtype)]


def using(
    variables: Sequence[keras.Variable], values: Sequence[Tensor]
) -> keras.StatelessScope:
    """Return a scope in which variables have other values."""
    return keras.StatelessScope(list(zip(variables, values, strict=True)))


def vjp(
    function: Callable[..., Tensor], *inputs: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return a function's value and its vector-Jacobian product.

    `keras.ops` has no such operation; this is the one place that asks which
    backend runs.

    Args:
        function: Of tensors or structures of them, all float.
        *inputs: Its arguments.

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


def after(x: Tensor, earlier: Tensor) -> Tensor:
    """Return `x`, but not before `earlier` has been computed.

    No optimization barrier exists for all backends, so this adds a zero that
    depends on an element of `earlier`; not a number becomes not a number.
    """
    element = ops.reshape(earlier, (-1,))[0]
    zero = ops.where(ops.isnan(element), element, ops.zeros_like(element))
    return x + ops.cast(zero, x.dtype)

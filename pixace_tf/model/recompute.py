"""Parts of a backward pass that recomputes activations to save memory.

In eager mode no memory is saved: the tape of TensorFlow keeps everything.
"""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from pixace_tf.typing import Tensor


def float_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights of a layer, frozen or not, without random states."""
    return [v for v in layer.weights if keras.backend.is_float_dtype(v.dtype)]


def using(
    variables: Sequence[keras.Variable], values: Sequence[Tensor]
) -> keras.StatelessScope:
    """Return a scope in which variables have the given values."""
    return keras.StatelessScope(list(zip(variables, values, strict=True)))


def vjp(
    function: Callable[..., Tensor], *inputs: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return a function's value and its vector-Jacobian product.

    The inputs are float tensors or structures of them. `keras.ops` has no such
    operation.

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
    """Return `x`, computed only after `earlier`.

    Not all backends have an optimization barrier, so this adds a zero that
    depends on an element of `earlier`, or NaN if that is NaN.
    """
    element = ops.reshape(earlier, (-1,))[0]
    zero = ops.where(ops.isnan(element), element, ops.zeros_like(element))
    return x + ops.cast(zero, x.dtype)

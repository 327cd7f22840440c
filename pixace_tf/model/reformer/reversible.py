"""Reversible residual layers: the backward pass recomputes their inputs.

Two streams pass through the branches in turn, `a, b = b, a + branch(b)`; two
such steps are `y1 = x1 + f(x2)`, `y2 = x2 + g(y1)` of RevNet
(arXiv 1707.04585) and the Reformer (arXiv 2001.04451). Each step can be undone,
so only the last two streams and the plans of the branches are kept, however
deep the stack. This saves memory in graphs and under XLA.

Shapes: B batch, T positions, W width.
"""

import functools
from typing import Any

import keras
from keras import ops

from pixace_tf.model.recompute import after, float_weights, using, vjp
from pixace_tf.typing import Tensor


class Branch(keras.layers.Layer):
    """A function that a reversible stack adds to a stream; abstract.

    The backward pass calls it again on the same input up to rounding. Random
    masks and discrete choices must not differ then, so they are made once: by
    the `seed` and the `plan`. Streams are float32; `dtype` is the policy of the
    layers inside, `dropout` a rate in `[0, 1)` on the output.

    Call arguments:
        x: float32 `(B, T, W)`.
        plan: The result of `plan`, or None to make it here.
        seed: For `drop`; None turns dropout off.

    Returns:
        float `(B, T, W)`; rows of the batch do not affect each other.
    """

    def __init__(self, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.dropout = dropout
        self.seed_generator = keras.random.SeedGenerator(0)

    def plan(self, x: Tensor) -> Tensor:
        """Return integer tensors `(B, ...)`, used by all calls on `x`."""
        return ()

    def drop(self, x: Tensor, seed: Tensor) -> Tensor:
        """Drop out elements by a seed `(2,)` of a `SeedGenerator`, or none."""
        if seed is None or not self.dropout:
            return x
        with using([self.seed_generator.state], [seed]):
            return keras.random.dropout(
                x, self.dropout, seed=self.seed_generator
            )


@keras.saving.register_keras_serializable("pixace_tf")
class ReversibleStack(keras.layers.Layer):
    """Branches between two streams; only one keeps its activations at a time.

    A call maps two streams, float `(B, T, W)`, T known when it is built, to the
    streams after all branches, float32 `(B, T, W)` each.

    Args:
        branches: An even number of `Branch` layers, usually attention and
            feed-forward in turn.
        **kwargs: For `keras.layers.Layer`; `dtype` is ignored, since streams
            are float32 and branches have their own dtype.

    Raises:
        ValueError: If the number of branches is odd.
    """

    def __init__(self, branches: list[Branch], **kwargs: Any) -> None:
        super().__init__(autocast=False, **{**kwargs, "dtype": "float32"})
        if len(branches) % 2:
            raise ValueError(
                "branches must be an even number of layers. Received: "
                f"{len(branches)} layers"
            )
        self.branches = list(branches)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, first_shape: Any, second_shape: Any) -> None:
        for branch in self.branches:
            if not branch.built:
                branch.build(first_shape)
        self.built = True

    def call(
        self, first: Tensor, second: Tensor, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        variables = [float_weights(b) for b in self.branches]
        seeds = self._seeds(training)

        def add(i: int, x: Tensor, values: Tensor, plan: Tensor) -> Tensor:
            with using(variables[i], values):
                change = self.branches[i](x, plan=plan, seed=seeds[i])
            return ops.cast(change, "float32")

        def decide(i: int, x: Tensor, values: Tensor) -> Tensor:
            with using(variables[i], values):
                return self.branches[i].plan(x)

        @ops.custom_gradient
        def run(a: Tensor, b: Tensor, *flat: Tensor) -> Tensor:
            values = keras.tree.pack_sequence_as(variables, list(flat))
            plans = []
            for i in range(len(values)):
                plans.append(decide(i, b, values[i]))
                a, b = b, a + add(i, b, values[i], plans[i])
            streams = a, b

            def gradient(*upstream: Tensor) -> Tensor:
                a, b = streams
                of_a, of_b = keras.tree.flatten(upstream)
                of_values: list[Tensor] = []
                for i in reversed(range(len(values))):
                    # Otherwise the compiler would reuse, and so keep, what the
                    # forward pass computed.
                    x = after(a, of_b)
                    change, pull = vjp(
                        functools.partial(add, i, plan=plans[i]),
                        x,
                        list(values[i]),
                    )
                    of_x, of_weights = pull(of_b)
                    a, b = b - change, a
                    of_a, of_b = of_b, of_a + of_x
                    of_values = [*of_weights, *of_values]
                return of_a, of_b, *of_values

            return streams, gradient

        flat = [v.value for group in variables for v in group]
        first, second = run(
            ops.cast(first, "float32"), ops.cast(second, "float32"), *flat
        )
        return first, second

    def get_config(self) -> dict[str, Any]:
        branches = [
            keras.saving.serialize_keras_object(b) for b in self.branches
        ]
        return {**super().get_config(), "branches": branches}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ReversibleStack":
        branches = [
            keras.saving.deserialize_keras_object(b) for b in config["branches"]
        ]
        return cls(**{**config, "branches": branches})

    def _seeds(self, training: bool | None) -> list[Tensor]:
        """Return a seed `(2,)` for each branch, or None without dropout."""
        if not training or not any(b.dropout for b in self.branches):
            return [None] * len(self.branches)
        seed = self.seed_generator.next()
        step = ops.convert_to_tensor([1, 0], dtype=seed.dtype)
        return [seed + i * step for i in range(len(self.branches))]

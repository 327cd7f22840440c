"""Train a run of `pixace-tf fit` on a GPU with JAX, where TensorFlow is not.

The run folder is made by `fit` elsewhere (`--max-minutes 0.1` will do): its
architecture, tokens, orders and labels are used; its weights are replaced by
those that this script learns from nothing, the best ones by validation. The
tokens lie in the memory of the GPU, and many steps are one program.

Command:  python pipelines/fit_with_jax.py saved_models/NAME --minutes 6
Hardware: one NVIDIA GPU with JAX; also a CPU, for a trial
Time:     as many minutes as it is told, and one to compile
Expected: pixace_tf/box/*/README.md
"""

import json
import math
import os
import pathlib
import sys
import time
from typing import Any

import click
import numpy as np

os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

NUM_VALIDATED = 1000
VALIDATION_BATCH = 50
STEPS_AT_ONCE = 100
# So much of the time may go to validation.
VALIDATION_SHARE = 0.05


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.option("--minutes", type=float, required=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--learning-rate", type=float, help="[default: the preset's]")
@click.option("--precision", default="mixed_bfloat16", show_default=True)
@click.option("--out", help="Folder for the weights.  [default: RUN]")
@click.option("--seed", default=0, show_default=True)
def main(
    run: str,
    minutes: float,
    batch_size: int,
    learning_rate: float | None,
    precision: str,
    out: str | None,
    seed: int,
) -> None:
    """Train the model of RUN; write weights.npz and history.json."""
    import keras

    from pixace_tf.data import labels
    from pixace_tf.model.causal_lm import PixaceCausalLM
    from pixace_tf.model.presets import LEARNING_RATES
    from pixace_tf.runs import run_config
    from pixace_tf.storage import read_npz, write_json, write_npz

    keras.utils.set_random_seed(seed)
    config = run_config.read_config(run)
    size = tuple(config["tokenizer"]["image_size"])
    model = PixaceCausalLM(
        image_size=size,
        palette=config["tokenizer"]["palette"],
        **config["model"],
        dtype=precision,
        name="pixace",  # Part of the names of the weights.
    )
    arrays, meta = read_npz(os.path.join(run, run_config.TOKENS_FILE))
    numbers = labels.numbers(
        model.labels, meta["label_names"], arrays["train_labels"]
    )
    peak = learning_rate or LEARNING_RATES[config["arguments"]["preset"]]
    training = Training(
        model, size, arrays["train"], numbers, batch_size, peak, seed
    )
    validation = Validation(model, arrays["validation"])
    out = out or run
    history: list[dict[str, float]] = []
    best = math.inf
    begin, spent = time.monotonic(), 0.0
    while not history or history[-1]["seconds"] < 60 * minutes:
        elapsed = time.monotonic() - begin
        loss = training.advance(min(elapsed / 60 / minutes, 1.0))
        seconds = time.monotonic() - begin
        is_last = seconds >= 60 * minutes
        if not is_last and spent > VALIDATION_SHARE * seconds:
            continue
        bits = validation.bits(training.weights)
        spent += time.monotonic() - begin - seconds
        pictures = training.steps * batch_size
        entry = {
            "epoch": pictures / len(arrays["train"]),
            "seconds": seconds,
            "bits_per_pixel": loss,
            "val_bits_per_pixel": bits,
        }
        history.append(entry)
        write_json(os.path.join(out, run_config.HISTORY_FILE), history)
        rate = pictures * model.sequence_length / seconds
        click.echo(json.dumps({**entry, "pixels_per_second": round(rate)}))
        if bits < best:
            best = bits
            names = [variable.path for variable in model.trainable_variables]
            values = [np.asarray(w, np.float32) for w in training.weights]
            write_npz(
                os.path.join(out, run_config.WEIGHTS_FILE),
                dict(zip(names, values, strict=True)),
                entry,
            )


class Training:
    """Steps of the model over tokens that lie on the device."""

    def __init__(
        self,
        model: Any,
        image_size: tuple[int, int],
        token_ids: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        import jax
        import jax.numpy as jnp

        from pixace_tf.data import raster_orders
        from pixace_tf.data.labels import NULL_LABEL, NULL_SHARE
        from pixace_tf.training.compile import compile_model

        compile_model(model, learning_rate, jit_compile=True)
        optimizer = model.optimizer
        self.weights = [v.value for v in model.trainable_variables]
        self._others = [v.value for v in model.non_trainable_variables]
        self._state = [v.value for v in optimizer.variables]
        self._peak, self.steps = learning_rate, 0
        self._batch_size, self._num_images = batch_size, len(token_ids)
        self._rng = np.random.default_rng(seed)
        self._order = np.zeros(0, np.int32)
        self._shares = raster_orders.shares(model.orders)
        tokens, numbers = jnp.asarray(token_ids), jnp.asarray(labels)
        rows = jnp.asarray(model.orders, jnp.int32)
        permutations = jnp.asarray(
            raster_orders.permutations(len(model.orders), image_size)
        )
        names = [variable.path for variable in optimizer.variables]
        (rate_at,) = (
            i for i, n in enumerate(names) if n.endswith("/learning_rate")
        )

        def loss_of(weights: Any, others: Any, inputs: Any) -> Any:
            outputs, others = model.stateless_call(
                weights, others, inputs, training=True
            )
            return jnp.mean(model.pixel_nats(inputs[0], outputs)), others

        gradient_of = jax.value_and_grad(loss_of, has_aux=True)

        def step(carry: Any, drawn: Any) -> Any:
            weights, others, state = carry
            index, order, has_label, rate = drawn
            batch = tokens[index].astype(jnp.int32)
            batch = jnp.take_along_axis(batch, permutations[order], axis=1)
            label = jnp.where(has_label, numbers[index], NULL_LABEL)
            condition = jnp.stack([rows[order], label], axis=1)
            (loss, others), gradients = gradient_of(
                weights, others, (batch, condition)
            )
            state = [*state[:rate_at], rate, *state[rate_at + 1 :]]
            weights, state = optimizer.stateless_apply(
                state, gradients, weights
            )
            return (weights, others, state), loss

        self._run = jax.jit(
            lambda carry, drawn: jax.lax.scan(step, carry, drawn)
        )
        self._null_share = NULL_SHARE

    def advance(self, share: float) -> float:
        """Take `STEPS_AT_ONCE` steps; return their mean loss in bits.

        Args:
            share: Spent share of the budget, for the learning rate.
        """
        from pixace_tf.training.schedule import learning_rate_share

        shape = STEPS_AT_ONCE, self._batch_size
        count = math.prod(shape)
        while len(self._order) < count:
            more = self._rng.permutation(self._num_images).astype(np.int32)
            self._order = np.concatenate([self._order, more])
        index, self._order = self._order[:count], self._order[count:]
        orders = self._rng.choice(len(self._shares), shape, p=self._shares)
        has_label = self._rng.random(shape) >= self._null_share
        rates = [
            self._peak * learning_rate_share(share, self.steps + i)
            for i in range(STEPS_AT_ONCE)
        ]
        carry, losses = self._run(
            (self.weights, self._others, self._state),
            (
                index.reshape(shape),
                orders.astype(np.int32),
                has_label,
                np.array(rates, np.float32),
            ),
        )
        self.weights, self._others, self._state = carry
        self.steps += STEPS_AT_ONCE
        loss = float(losses.mean()) / math.log(2)
        if not math.isfinite(loss):
            raise SystemExit(f"The loss is not a number: {loss}")
        return loss


class Validation:
    """Bits per pixel of held-out pictures, in the plain order, no label."""

    def __init__(self, model: Any, token_ids: np.ndarray) -> None:
        import jax
        import jax.numpy as jnp

        num_batches = min(len(token_ids), NUM_VALIDATED) // VALIDATION_BATCH
        num_images = num_batches * VALIDATION_BATCH or len(token_ids)
        chosen = np.linspace(0, len(token_ids) - 1, num_images).astype(int)
        some = token_ids[chosen].astype(np.int32)
        self._batches = np.split(some, max(1, num_batches))
        others = [v.value for v in model.non_trainable_variables]

        @jax.jit
        def nats(weights: Any, batch: Any) -> Any:
            outputs, _ = model.stateless_call(weights, others, batch)
            return jnp.mean(model.pixel_nats(batch, outputs))

        self._nats = nats

    def bits(self, weights: Any) -> float:
        """Return their mean."""
        costs = [float(self._nats(weights, b)) for b in self._batches]
        return float(np.mean(costs)) / math.log(2)


if __name__ == "__main__":
    main()

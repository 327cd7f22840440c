"""The training itself: `model.fit` and its callbacks, until the budget ends."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework import ops

from pixace_tf import compile_cache, console
from pixace_tf.console import Say
from pixace_tf.data import token_dataset
from pixace_tf.data.augmentation import Augmentation
from pixace_tf.data.pairing import single
from pixace_tf.data.token_dataset import Dataset
from pixace_tf.painting.sheets import save_learning_curve
from pixace_tf.runs.run_config import CHECKPOINT_FILE
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling.likelihood import Scorer
from pixace_tf.training import devices, hosts
from pixace_tf.training.callbacks import (
    BudgetSchedule,
    EpochBoard,
    EpochEnd,
    ProgressReport,
    StepCallbacks,
)
from pixace_tf.training.checkpoint import Checkpoint
from pixace_tf.training.compile import compile_model
from pixace_tf.training.interruption import InterruptedTraining, StopRequest
from pixace_tf.training.jax_scorer import bits_with_jax
from pixace_tf.training.losses import Losses
from pixace_tf.training.previews import Previews
from pixace_tf.training.schedule import (
    Budget,
    Training,
    TrainingState,
    micro_batch_size,
)
from pixace_tf.training.training_arguments import TrainingArguments


def train(
    run: Run,
    data: Dataset,
    arguments: TrainingArguments,
    say: Say,
) -> None:
    """Train from the last checkpoint until the budget is spent.

    Of the arguments, those that an older run does not record count, and those
    that may change: the budget, and the seconds between checkpoints.

    Raises:
        InterruptedTraining: If a signal stopped it, after a checkpoint.
        UserError: If the loss is no longer finite.
    """
    budget, micro = _plan(run, data, arguments)
    peak, decay = run.arguments["learning_rate"], arguments.weight_decay
    compile_model(run.model, peak, run.jit_compile, budget.parts, decay)
    state, stop = TrainingState(parts=budget.parts), StopRequest()
    training = Training(run, budget, state, stop)
    losses = Losses(state, run.path, devices.steps_between_looks())
    checkpoint = Checkpoint(training, losses, arguments.checkpoint_seconds)
    if _is_finished(training, checkpoint, say):
        return
    say(_describe(run))
    compile_cache.align_names()
    with (
        _forgetting_gradients(),
        console.ProgressBar("Training") as bar,
        stop.listening(),
    ):
        report = ProgressReport(training, losses, bar, say)
        validate = _validation(run, data, micro, stop)
        paint = Previews(run, data, stop).update
        listeners = [report.say_epoch, paint]
        callbacks = [
            BudgetSchedule(training, peak),
            losses,
            checkpoint,
            report,
            EpochEnd(training, checkpoint, report, validate, listeners),
            EpochBoard(run.file("tensorboard"), write_graph=False),
        ]
        try:
            changes = _changes(run, arguments)
            _fit_epochs(training, data, changes, callbacks)
            checkpoint.save()
            save_learning_curve(state.history, run.file("learning_curve.png"))
            paint(state.history[-1], is_last=True)
        except InterruptedTraining:  # Only between two steps.
            checkpoint.save()
            say(f"Saved in {run.path}; the same command resumes from here.")
            raise
    bits = [e.get("val_bits_per_pixel", math.inf) for e in state.history]
    if min(bits) < math.inf:
        say(f"Best validation: {min(bits):.3f} bits/pixel.")
    say(f"The run is in {run.path}.")


def _changes(run: Run, arguments: TrainingArguments) -> Augmentation:
    """Return how the training images are changed."""
    tokenizer = single(run.tokenizer) if run.are_pairs else run.tokenizer
    return Augmentation(
        tokenizer.palette,
        tokenizer.image_size,
        arguments.hue_turns,
        arguments.shifts,
        arguments.input_noise,
    )


def _plan(
    run: Run, data: Dataset, arguments: TrainingArguments
) -> tuple[Budget, int]:
    """Return the budget and the size of a micro batch."""
    batch_size = run.arguments["batch_size"]
    pixels = devices.micro_batch_pixels(run.model.dtype_policy.name)
    micro = micro_batch_size(batch_size, run.model.sequence_length, pixels)
    # Several devices compute a whole batch at once.
    parts = math.ceil(batch_size / micro) if devices.count() == 1 else 1
    steps = len(data.train) // batch_size * parts
    budget = Budget(arguments.epochs, arguments.minutes, steps, parts)
    return budget, micro


def _is_finished(training: Training, checkpoint: Checkpoint, say: Say) -> bool:
    """Restore the checkpoint, if any; tell whether the budget is spent."""
    run, state = training.run, training.state
    if not os.path.exists(run.file(CHECKPOINT_FILE)):
        return False
    checkpoint.restore()
    if training.is_spent and training.has_entry:
        say(f"{run.path} has finished this budget; give more to go on.")
        return True
    say(f"Going on at epoch {state.epoch + 1}, step {state.step + 1}.")
    return False


def _fit_epochs(
    training: Training,
    data: Dataset,
    changes: Augmentation,
    callbacks: list[Any],
) -> None:
    """Finish the current epoch, if it has begun, then run the others."""
    run, state, budget = training.run, training.state, training.budget
    steps = budget.steps_per_epoch
    is_due = state.step >= steps or training.is_spent
    if is_due and not training.has_entry:  # It stopped in the validation.
        ends = (c for c in callbacks if isinstance(c, EpochEnd))
        next(ends).on_epoch_end(state.epoch)
    while not training.is_spent:
        last = state.epoch + 1 if state.step else budget.epochs
        rows = data.rows(run.model.labels)
        batches = token_dataset.training_batches(
            rows,
            run.tokenizer.image_size,
            run.arguments["batch_size"],
            run.arguments["seed"],
            run.model.orders,
            state.epoch,
            state.step,
            hosts.place(),
            budget.parts,
            changes,
        )
        try:
            run.model.fit(
                batches,
                initial_epoch=state.epoch,
                epochs=last or 10**9,  # Without `epochs`, the clock ends it.
                steps_per_epoch=steps - state.step,
                callbacks=StepCallbacks(
                    callbacks, add_history=True, model=run.model
                ),
                shuffle=False,  # The batches are shuffled already.
                verbose=0,
            )
        except tf.errors.OpError:
            if rows.failure is None:
                raise
            raise rows.failure from None


@contextlib.contextmanager
def _forgetting_gradients() -> Iterator[None]:
    """Forget the gradient functions of graphs that are traced in this context.

    TensorFlow would keep them, the weights and the optimizer for good.
    """
    # The registry is private; see `tests/test_private_parts.py`.
    known = ops.gradient_registry._registry
    before = set(known)
    try:
        yield
    finally:
        for name in known.keys() - before:
            if name.startswith("CustomGradient"):
                del known[name]


def _validation(
    run: Run, data: Dataset, batch_size: int, stop: StopRequest
) -> Callable[[], float | None]:
    """Return the function that computes the validation bits per pixel."""
    if keras.backend.backend() == "jax":
        bits = bits_with_jax(run.model, batch_size)
    else:
        bits = Scorer(run.model, batch_size, run.jit_compile).bits

    def validate() -> float | None:
        if not len(data.validation):
            return None
        return float(bits(data.validation, stop.check).mean())

    return validate


def _describe(run: Run) -> str:
    height, width = run.tokenizer.image_size
    arguments = run.arguments
    num_labels = f"{len(run.model.labels)} labels, " if run.model.labels else ""
    return (
        f"{run.tokenizer.palette.name} at {height}x{width}, {num_labels}"
        f"{arguments['preset']} {run.model.get_config()['decoder']}, "
        f"{run.model.num_parameters:,} parameters, batches of "
        f"{arguments['batch_size']}. The first step compiles and takes a while."
    )

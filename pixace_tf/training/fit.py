"""Training: from a folder of pictures to a run folder, under `model.fit`."""

import contextlib
import fcntl
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf

from pixace_tf import console, storage
from pixace_tf.data import image_files, token_dataset
from pixace_tf.data.sources import TFDS_PREFIX
from pixace_tf.data.token_dataset import TokenDataset
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import (
    LEARNING_RATES,
    decoder_config,
    picture_bytes,
)
from pixace_tf.painting.sheets import save_learning_curve
from pixace_tf.runs import run_folder
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling.likelihood import Scorer
from pixace_tf.training.callbacks import (
    Budget,
    Checkpoint,
    EpochEnd,
    InterruptedTraining,
    Pace,
    Progress,
    StopRequest,
)
from pixace_tf.training.previews import Gallery
from pixace_tf.training.report import Report

DEFAULT_MAX_MINUTES = 10.0
DRAWING_PRECISION = "float32"
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
# Shown by name when files are skipped; the rest is counted.
MAX_NAMED_SKIPS = 20
_GPU_MEMORY_BYTES = 10 * 10**9
_CPU_BATCH_PIXELS = 4096


class RunInUseError(ValueError):
    """Another process is training the same run."""


def fit(
    source: str,
    *,
    name: str | None = None,
    runs_dir: str = "saved_models",
    preset: str = "nano",
    decoder: str = "multiscale",
    num_layers: int | None = None,
    hidden_dim: int | None = None,
    num_hashes: int = 0,
    head: str = "chain",
    image_size: tuple[int, int] = (32, 32),
    bit_widths: tuple[int, int, int] = (5, 4, 4),
    color_space: str = "hsv",
    resize: str = "crop",
    epochs: int | None = None,
    max_minutes: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    dropout: float = 0.0,
    flip: bool = True,
    seed: int = 0,
    precision: str = "auto",
    jit_compile: bool = True,
    max_megapixels: float = 64.0,
    checkpoint_seconds: float = 60.0,
    download: bool = False,
    say: Callable[[str], None] = print,
) -> Run:
    """Train a model on a folder of pictures, or go on where it was.

    Args:
        source: A folder, or `tfds:NAME[/CONFIG][:SPLIT]`.
        name: Name of the run; by default that of the source.
        runs_dir: Folder that holds the runs.
        preset: Size of the model: "pico", "nano", "small" or "base".
        decoder: "multiscale", "transformer" or "reformer".
        num_layers: Layers of the (outer) stack; by default the preset's.
        hidden_dim: Width of the (outer) stack; by default the preset's.
        num_hashes: Rounds of LSH attention of the reformer, for big pictures;
            0 is exact attention.
        head: "chain" or "packed".
        image_size: `(height, width)` in pixels.
        bit_widths: Bits per color channel.
        color_space: "hsv" or "rgb".
        resize: "crop", "squash" or "pad".
        epochs: Passes over the pictures; or give `max_minutes`.
        max_minutes: Wall time of training, compilation included; 10 where
            neither is given. The last validation and pictures come on top.
        batch_size: Pictures per step; by default 4 of 32x32, and 64 on a GPU,
            or what fits the memory.
        learning_rate: The peak of the schedule; by default 3e-3 for nano, 1e-3
            for base.
        dropout: Rate in `[0, 1)`.
        flip: Whether half of the pictures are mirrored, anew in each epoch.
        seed: Of weights, order, flips and dropout.
        precision: "auto" is mixed_float16 where a GPU is, else float32.
        jit_compile: Whether XLA compiles the training step.
        max_megapixels: Larger pictures are skipped.
        checkpoint_seconds: Time between two checkpoints.
        download: Whether a TensorFlow data set may be downloaded.
        say: Takes each line of the report.

    Returns:
        The run with its best weights.

    Raises:
        ValueError: If an argument is out of range, there is no usable picture,
            or the run exists with other arguments or other pictures.
        InterruptedTraining: If a signal stopped it; the checkpoint is written.
    """
    _check(epochs, max_minutes, batch_size, learning_rate, dropout, precision)
    if epochs is None and max_minutes is None:
        max_minutes = DEFAULT_MAX_MINUTES
    tokenizer = PixelTokenizer(image_size, bit_widths, color_space, resize)
    model_config: dict[str, Any] = {
        "decoder": decoder,
        "decoder_config": decoder_config(
            preset,
            decoder,
            tokenizer.image_size[1],
            num_hashes,
            num_layers,
            hidden_dim,
        ),
        "head": head,
        "dropout": dropout,
    }
    arguments: dict[str, Any] = {
        "source": os.path.abspath(source) if os.path.isdir(source) else source,
        "preset": preset,
        "batch_size": batch_size,
        "learning_rate": learning_rate or LEARNING_RATES[preset],
        "flip": flip,
        "seed": seed,
        "precision": precision,
    }
    path = os.path.join(runs_dir, name or default_name(source))
    is_new = not os.path.exists(os.path.join(path, storage.RUN_FILE))
    if not is_new:
        _check_same(path, tokenizer, model_config, arguments)
    cache_path = os.path.join(path, run_folder.TOKENS_FILE)
    data = token_dataset.load(
        source,
        tokenizer,
        cache_path=cache_path,
        max_pixels=int(max_megapixels * 1e6),
        download=download,
        progress=console.track("Reading pictures"),
    )
    _report_data(data, say)
    if is_new:
        _choose(arguments, model_config, tokenizer, data)
    os.makedirs(path, exist_ok=True)
    with _lock(path):
        keras.utils.set_random_seed(seed)
        if is_new:
            run = run_folder.create_run(
                path, tokenizer, model_config, arguments, arguments["precision"]
            )
        else:
            run = _reopen(path, data)
        token_dataset.save_cache(data, cache_path)
        budget = Budget(
            epochs, max_minutes, len(data.train) // run.arguments["batch_size"]
        )
        _train(run, data, budget, jit_compile, checkpoint_seconds, say)
    if run.arguments["precision"] != DRAWING_PRECISION:
        return run_folder.load_run(path)
    return run_folder.load_weights(run)  # With what it has compiled to draw.


def _train(
    run: Run,
    data: TokenDataset,
    budget: Budget,
    jit_compile: bool,
    checkpoint_seconds: float,
    say: Callable[[str], None],
) -> None:
    model, arguments = run.model, run.arguments
    compile_model(model, arguments["learning_rate"], jit_compile)
    progress, stop = Progress(), StopRequest()
    steps = budget.steps_per_epoch
    checkpoint = Checkpoint(run, progress, steps, checkpoint_seconds, stop)
    if os.path.exists(run.file(run_folder.CHECKPOINT_FILE)):
        checkpoint.restore()
        if budget.is_spent(progress) and progress.is_closed(steps):
            say(f"{run.path} has finished this budget; give more to go on.")
            return
        say(
            f"Going on at epoch {progress.epoch + 1}, step {progress.step + 1}."
        )
    say(
        f"{run.tokenizer.name} at {_size(run)}, {arguments['preset']} "
        f"{model.get_config()['decoder']}, {model.num_parameters:,} "
        f"parameters, batches of {arguments['batch_size']}. The first step "
        "compiles and takes a while."
    )
    with console.ProgressBar("Training") as bar, stop.listening():
        gallery = Gallery(run, data, stop)
        report = Report(bar, progress, budget, arguments["batch_size"], say)
        epoch_end = EpochEnd(
            run,
            progress,
            steps,
            checkpoint,
            _validation(
                model, data, arguments["batch_size"], jit_compile, stop
            ),
            [report.say_epoch, gallery.update],
        )
        callbacks = [
            Pace(progress, budget, arguments["learning_rate"]),
            checkpoint,
            report,
            epoch_end,
            keras.callbacks.TensorBoard(
                run.file("tensorboard"), write_graph=False
            ),
        ]
        try:
            _fit_epochs(run, data, budget, progress, callbacks, epoch_end)
            checkpoint.save()
            save_learning_curve(
                progress.history, run.file("learning_curve.png")
            )
            gallery.update(progress.history[-1], is_last=True)
        except InterruptedTraining:  # Between two steps: the state is whole.
            checkpoint.save()
            say(f"Saved in {run.path}; the same command goes on from here.")
            raise
    best = min(
        progress.history, key=lambda e: e.get("val_bits_per_pixel", np.inf)
    )
    if "val_bits_per_pixel" in best:
        say(f"Best validation: {best['val_bits_per_pixel']:.3f} bits/pixel.")
    say(f"The run lies in {run.path}.")


def _fit_epochs(
    run: Run,
    data: TokenDataset,
    budget: Budget,
    progress: Progress,
    callbacks: list[Any],
    epoch_end: EpochEnd,
) -> None:
    """Finish the running epoch, if there is one, then run the others."""
    steps = budget.steps_per_epoch
    is_due = progress.step >= steps or budget.is_spent(progress)
    if is_due and not progress.is_closed(steps):  # Stopped in the validation.
        epoch_end.on_epoch_end(progress.epoch)
    for is_partial in (True, False):
        if (is_partial and not progress.step) or budget.is_spent(progress):
            continue
        last = progress.epoch + 1 if is_partial else budget.epochs
        batches = token_dataset.training_batches(
            data.train,
            run.tokenizer.image_size,
            run.arguments["batch_size"],
            run.arguments["seed"],
            run.arguments["flip"],
            progress.epoch,
            progress.step,
        )
        run.model.fit(
            batches,
            initial_epoch=progress.epoch,
            epochs=last or 10**9,  # The clock stops it.
            steps_per_epoch=steps - progress.step,
            callbacks=callbacks,
            shuffle=False,  # The batches are shuffled already.
            verbose=0,
        )


def _validation(
    model: keras.Model,
    data: TokenDataset,
    batch_size: int,
    jit_compile: bool,
    stop: StopRequest,
) -> Callable[[], float | None]:
    scorer = Scorer(model, batch_size, jit_compile)

    def validate() -> float | None:
        if not len(data.validation):
            return None
        return float(scorer.bits(data.validation, stop.check).mean())

    return validate


def compile_model(
    model: PixaceCausalLM, learning_rate: float, jit_compile: bool
) -> None:
    """Give a model its loss and optimizer.

    Args:
        model: The model to train.
        learning_rate: The peak of the schedule.
        jit_compile: Whether XLA compiles the step.
    """

    def pixel_loss(token_ids: Any, logits: Any) -> Any:
        return model.pixel_nats(token_ids, logits)

    model.compile(
        optimizer=keras.optimizers.AdamW(
            learning_rate,
            beta_2=0.99,
            weight_decay=0.05,
            global_clipnorm=1.0,
        ),
        loss=pixel_loss,
        jit_compile=jit_compile,
    )
    model.optimizer.build(model.trainable_variables)


def _choose(
    arguments: dict[str, Any],
    model_config: dict[str, Any],
    tokenizer: PixelTokenizer,
    data: TokenDataset,
) -> None:
    """Fill in what depends on the machine and the pictures."""
    if arguments["precision"] == "auto":
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        arguments["precision"] = "mixed_float16" if has_gpu else "float32"
    if arguments["batch_size"] is None:
        length = tokenizer.sequence_length
        needed = picture_bytes(
            model_config["decoder"], model_config["decoder_config"], length
        )
        arguments["batch_size"] = _default_batch_size(
            length, needed, len(data.train)
        )
    if arguments["batch_size"] > len(data.train):
        raise ValueError(
            f"batch_size must be at most the {len(data.train)} training "
            f"pictures. Received: batch_size={arguments['batch_size']}"
        )
    arguments["pictures"] = data.digest()


def _check_same(
    path: str,
    tokenizer: PixelTokenizer,
    model_config: dict[str, Any],
    arguments: dict[str, Any],
) -> None:
    """Raise ValueError if a run was begun with other arguments."""
    config = run_folder.read_config(path)
    before = {**config["tokenizer"], **config["model"], **config["arguments"]}
    now = {**tokenizer.get_config(), **model_config, **arguments}
    for values in (before, now):
        sizes = values.get("decoder_config", {})
        for size in ("num_layers", "hidden_dim", "num_hashes"):
            values[size] = sizes.get(size, 0)
    # A folder may move; the pictures are compared when they are read.
    free = {"source", "decoder_config"}
    if now["batch_size"] is None:
        free.add("batch_size")
    if now["precision"] == "auto":
        free.add("precision")
    differ = [
        f"{key} was {before.get(key)!r}, now {now[key]!r}"
        for key in now
        if key not in free and before.get(key) != now[key]
    ]
    if differ:
        raise ValueError(
            f"{path} exists with other arguments: {'; '.join(differ)}. Go on "
            "with the old ones, or start a new run with --name."
        )


def _reopen(path: str, data: TokenDataset) -> Run:
    """Open a run to go on with it, if the pictures are the same."""
    before = run_folder.read_config(path)["arguments"]
    if before["pictures"] != data.digest():
        raise ValueError(
            f"{path} was trained on other pictures (those of "
            f"{before['source']} as they were). Start a new run with --name."
        )
    return run_folder.open_run(path, before["precision"])


@contextlib.contextmanager
def _lock(path: str) -> Iterator[None]:
    """Hold the run folder, so that no two trainings write into it."""
    with open(os.path.join(path, ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUseError(f"Another training is using {path}.") from None
        storage.remove_unfinished(path)
        yield


def default_name(source: str) -> str:
    """Return the name of a run that is given none: that of its source."""
    if source.startswith(TFDS_PREFIX):
        return source.removeprefix(TFDS_PREFIX).translate(
            str.maketrans("/:", "--")
        )
    return os.path.basename(os.path.abspath(source)) or "pictures"


def _default_batch_size(length: int, needed: float, num_pictures: int) -> int:
    """Choose a power of two that fits into half of the memory.

    On a CPU small batches learn fastest per minute: 4,096 pixels are enough.
    """
    if tf.config.list_physical_devices("GPU"):
        most, memory = 64, _GPU_MEMORY_BYTES
    else:
        most = max(1, _CPU_BATCH_PIXELS // length)
        memory = psutil.virtual_memory().available
    fitting = max(1, int(memory / 2 / needed))
    batch_size = min(most, num_pictures, fitting)
    return 1 << (batch_size.bit_length() - 1)


def _check(
    epochs: int | None,
    max_minutes: float | None,
    batch_size: int | None,
    learning_rate: float | None,
    dropout: float,
    precision: str,
) -> None:
    if epochs is not None and max_minutes is not None:
        raise ValueError("Give epochs or max_minutes, not both.")
    for name, value in (
        ("epochs", epochs),
        ("max_minutes", max_minutes),
        ("batch_size", batch_size),
        ("learning_rate", learning_rate),
    ):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive. Received: {value}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1). Received: {dropout}")
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(PRECISIONS)}. "
            f"Received: {precision!r}"
        )


def _report_data(data: TokenDataset, say: Callable[[str], None]) -> None:
    for skipped in data.skipped[:MAX_NAMED_SKIPS]:
        say(f"skipped {image_files.printable(skipped.path)}: {skipped.reason}")
    if len(data.skipped) > MAX_NAMED_SKIPS:
        say(f"... and {len(data.skipped) - MAX_NAMED_SKIPS} more.")
    say(
        f"{len(data.train):,} pictures to train on, {len(data.validation):,} "
        f"to validate, {len(data.skipped):,} skipped."
    )


def _size(run: Run) -> str:
    height, width = run.tokenizer.image_size
    return f"{height}x{width}"

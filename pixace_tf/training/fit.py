"""Training from a folder of images to a run folder: settle, read, train."""

import collections
import contextlib
import dataclasses
import glob
import math
import os
import re
import shlex
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from pixace_tf import console, storage
from pixace_tf.console import Say
from pixace_tf.data import (
    image_files,
    labels,
    parts,
    raster_orders,
    token_dataset,
    token_shards,
    transparency,
)
from pixace_tf.data.augmentation import NUM_VECTORS
from pixace_tf.data.palette import MAX_ALPHA_BITS
from pixace_tf.data.pixel_art import is_likely
from pixace_tf.data.sources import TFDS_PREFIX, open_source
from pixace_tf.data.token_dataset import Dataset, ShardedDataset
from pixace_tf.data.token_shards import Shards
from pixace_tf.data.tokenizer import NATIVE
from pixace_tf.data.transparency import find_alpha
from pixace_tf.errors import UserError
from pixace_tf.model import presets
from pixace_tf.runs import catalog, model_weights, run_config, run_folder
from pixace_tf.runs.arguments import AUTO, refuse_changes
from pixace_tf.runs.run_folder import Run
from pixace_tf.storage import StrPath
from pixace_tf.training import (
    devices,
    hosts,
    pixel_art,
    recipe,
    size_law,
    warm_start,
)
from pixace_tf.training.loop import train
from pixace_tf.training.training_arguments import TrainingArguments

SAMPLING_PRECISION = "float32"
# Fewer images are memorized within minutes.
FEW_IMAGES = 200
_GPU_BATCH_SIZE = 64
_CPU_BATCH_PIXELS = 4096


class RunInUseError(UserError):
    """Another process is training the same run."""


def fit(
    source: StrPath,
    arguments: TrainingArguments | None = None,
    *,
    start_from: StrPath | None = None,
    name: str | None = None,
    runs_dir: StrPath = catalog.RUNS_DIR,
    say: Say = print,
    **fields: Any,
) -> Run:
    """Train a model on a folder of images, or resume a run.

    A run keeps the arguments that it was started with. An argument that is
    given again must have the same value, unless it is in
    `training_arguments.FREE`, such as the budget.

    Args:
        source: A folder of images or of token shards (see `tokenize`), which
            determine image size and colors, or `tfds:NAME[/CONFIG][:SPLIT]`.
        arguments: Such as `TrainingArguments(max_minutes=60)`.
        start_from: A run, as `locate` takes it, that gives a new run its
            weights, image size, colors and model sizes.
        name: Name of the run; by default that of the source.
        runs_dir: Folder of all runs.
        say: Receives each line of the report.
        **fields: They override `arguments`: `fit("cats", max_minutes=60)`.

    Returns:
        The run with its best weights.

    Raises:
        UserError: If there is no usable image, or the run has other arguments
            or other images.
        InterruptedTraining: If a signal stopped it, after a checkpoint.
    """
    source = os.fspath(source)
    arguments = (arguments or TrainingArguments()).replaced(**fields)
    devices.leave_gpu_to_backend()
    hosts.join(arguments)
    path = folder_below(runs_dir, name, source)
    with hosts.ending_together(), hosts.own_folder(path) as folder:
        return _fit(source, arguments, start_from, folder, hosts.quietly(say))


def _fit(
    source: str,
    given: TrainingArguments,
    start_from: StrPath | None,
    path: str,
    say: Say,
) -> Run:
    is_new = not _is_run(path)
    arguments = _settled_by_shards(given, source)
    if is_new:
        arguments, start = _settled_by_start(arguments, path, start_from, say)
        arguments = pixel_art.settled(arguments, say)
    else:
        arguments = _settled_by_run(arguments, path, start_from, say)
    arguments = _settled_by_images(arguments, source, say)
    data = _load_data(source, path, arguments, say)
    hosts.check_alike("images", data.digest())
    if is_new and _may_be_pixel_art(source, arguments):
        say(pixel_art.suggestion(source))
    if not is_new:
        _check_images(path, data)
    else:
        arguments = _settled_by_budget(arguments, data, say)
    with devices.scope(arguments.devices):
        if is_new:
            model_config = _model_config(arguments, data, start, say)
            arguments = _resolved(arguments, model_config, len(data.train))
        assert arguments.batch_size is not None
        devices.check_batch_size(arguments.batch_size)
        with _holding(path, is_new):
            keras.utils.set_random_seed(arguments.seed)
            precision, jit_compile = arguments.precision, arguments.jit_compile
            if is_new:
                run = run_folder.create_run(
                    path,
                    arguments.tokenizer(),
                    model_config,
                    _recorded(arguments, source, start, data),
                    precision,
                    jit_compile,
                    given.given,
                )
            else:
                run = run_folder.open_run(path, precision, jit_compile)
            warm_start.load_unless_begun(run)
            data.save(run.file(run_config.TOKENS_FILE))
            train(run, data, arguments, say)
    if precision != SAMPLING_PRECISION:
        return run_folder.load_run(path, jit_compile)
    # The sampler of this run is already compiled.
    model_weights.load(run.model, run_config.weights_file(path))
    return run


@contextlib.contextmanager
def _holding(path: str, is_new: bool) -> Iterator[None]:
    """Lock a run folder and remove what a killed `fit` left in it."""
    in_use = f"Another training is using {path}."
    os.makedirs(path, exist_ok=True)
    with storage.lock(path, in_use, error=RunInUseError):
        if is_new and _is_run(path):  # Another process has just made it.
            raise RunInUseError(in_use)
        storage.remove_unfinished(path)
        yield


def folder_below(parent: StrPath, name: str | None, source: str) -> str:
    """Return the folder of a run or a sweep in the folder of all, `parent`.

    Without a name, it is named after the source of the images.

    Raises:
        UserError: If the name is not a plain name of a folder.
    """
    if name is None and source.startswith(TFDS_PREFIX):
        name = re.sub("[/:]", "-", source.removeprefix(TFDS_PREFIX))
    elif name is None:
        name = os.path.basename(os.path.abspath(source)) or "images"
    if name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise UserError(
            "The name must be a plain name for a new folder in "
            f"{os.fspath(parent)}, without slashes. Received: name={name!r}"
        )
    return os.path.join(parent, name)


def _is_run(path: str) -> bool:
    return os.path.exists(os.path.join(path, storage.RUN_FILE))


def _settled_by_shards(
    arguments: TrainingArguments, source: str
) -> TrainingArguments:
    """Apply the arguments that the tokenizer of shards determines."""
    if not token_shards.is_shards(source):
        return arguments
    if arguments.pairs is not None:
        raise UserError(
            f"{source} holds tokens of single pictures. Give --pairs the "
            "folders of the pictures themselves."
        )
    config = Shards.open(source).manifest["tokenizer"]
    is_native = config["resize"] == NATIVE
    if arguments.cutting or (arguments.pixel_art and not is_native):
        raise UserError(
            f"{source} holds tokens. Leave out --pixel-art, --tiles and "
            "--frames, or give them to pixace-tf tokenize."
        )
    return arguments.settled(
        TrainingArguments.of_tokenizer(config),
        f"The folder of shards {source}",
        "Leave that out, or make other shards with pixace-tf tokenize.",
    )


def _settled_by_start(
    arguments: TrainingArguments,
    path: str,
    start_from: StrPath | None,
    say: Say,
) -> tuple[TrainingArguments, str | None]:
    """Apply what the start of a new run determines; also return its folder."""
    # `glob` skips hidden files, which a killed `fit` may leave.
    if glob.glob("*", root_dir=path):
        raise UserError(
            f"{path} is not empty and not a run. Choose another --name or "
            "--runs-dir."
        )
    if start_from is None:
        return arguments, None
    start = os.path.abspath(catalog.locate(start_from, say))
    theirs = TrainingArguments.of_run(run_config.read_config(start))
    if (theirs.pairs is None) != (arguments.pairs is None):
        raise UserError(
            f"{start} {'paints no' if theirs.pairs is None else 'paints'} "
            "pairs. Start from a run of the same kind."
        )
    shared = {n: v for n, v in theirs.given.items() if n in warm_start.SHARED}
    advice = "Leave that out, or start from another run."
    settled = arguments.settled(TrainingArguments(**shared), start, advice)
    return settled, start


def _settled_by_run(
    arguments: TrainingArguments,
    path: str,
    start_from: StrPath | None,
    say: Say,
) -> TrainingArguments:
    """Apply the arguments that the run was started with."""
    config = run_config.read_config(path)
    if start_from is not None:
        origin = config["arguments"].get("start_from")
        if origin is None:
            raise UserError(
                f"{path} did not start from another run. Leave out --from, or "
                "start a new run with --name."
            )
        say(f"This run was already started from {origin}.")
    theirs = TrainingArguments.of_run(config)
    advice = "Leave that out to go on, or start a new run with --name."
    for name in ("tiles", "pairs"):  # These can be None.
        before, now = getattr(theirs, name), getattr(arguments, name)
        if before is None and now is not None:
            refuse_changes(path, {name: None}, {name: now}, advice)
    return arguments.settled(theirs, path, advice)


def _settled_by_images(
    arguments: TrainingArguments, source: str, say: Say
) -> TrainingArguments:
    """Choose the bits of alpha, if they are open."""
    if arguments.alpha is not None:
        return arguments
    # With all bits, images are read as they are.
    exact = arguments.replaced(alpha=MAX_ALPHA_BITS)
    opened = open_source(
        source,
        exact.tokenizer(),
        exact.max_pixels,
        exact.download,
        cutting=exact.cutting,
        pairs=exact.pairs,
    )
    bits = find_alpha(opened, is_exact=arguments.resize == NATIVE)
    if bits:
        say(transparency.describe(bits))
    return arguments.replaced(alpha=bits)


def _model_config(
    arguments: TrainingArguments, data: Dataset, start: str | None, say: Say
) -> dict[str, Any]:
    """Return the arguments of a new model, and report its labels."""
    size = arguments.preset, arguments.decoder
    is_native = arguments.resize == NATIVE
    head = arguments.head or presets.default_head(arguments.palette, is_native)
    orders = arguments.whole_size, arguments.flip, arguments.orders
    counts = data.label_counts()
    config: dict[str, Any] = {
        "decoder": arguments.decoder,
        "decoder_config": arguments.decoder_config(),
        "head": head,
        "dropout": arguments.dropout,
        "head_hidden_dim": presets.head_hidden_dim(head, *size),
        "orders": raster_orders.vector_rows(*orders),
        "labels": labels.choose(counts, arguments.labels),
    }
    if arguments.hue_turns or arguments.shifts:
        config["num_augmentations"] = NUM_VECTORS
    if arguments.pairs is not None:
        config["pairs"] = True
    if start is not None:
        theirs = run_config.read_config(start)["model"]
        for name in ("decoder_config", "head_hidden_dim"):
            config[name] = theirs[name]
    line = labels.describe(counts, config["labels"])
    if line and arguments.labels is not False:
        say(line)
    return config


def _resolved(
    arguments: TrainingArguments, model_config: dict[str, Any], num_images: int
) -> TrainingArguments:
    """Return the arguments of a new run with all defaults resolved."""
    precision = arguments.precision
    if precision == AUTO:
        precision = "mixed_float16" if devices.has_gpu() else "float32"
    batch_size = arguments.batch_size
    if batch_size is None:
        batch_size = _default_batch_size(arguments, num_images)
    if batch_size > num_images:
        raise UserError(
            f"batch_size must be at most the {num_images} training images. "
            f"Received: batch_size={batch_size}"
        )
    sizes = model_config["decoder_config"]
    rate = arguments.learning_rate or presets.LEARNING_RATES[arguments.preset]
    return arguments.replaced(
        num_layers=sizes["num_layers"],
        hidden_dim=sizes["hidden_dim"],
        head=model_config["head"],
        max_minutes=arguments.minutes,
        batch_size=batch_size,
        learning_rate=rate,
        labels=bool(model_config["labels"]),
        precision=precision,
    )


def _recorded(
    arguments: TrainingArguments, source: str, start: str | None, data: Dataset
) -> dict[str, Any]:
    is_folder = os.path.isdir(source)
    pairs = arguments.pairs
    return {
        "source": os.path.abspath(source) if is_folder else source,
        **({} if start is None else {"start_from": start}),
        **dataclasses.asdict(arguments),
        "pairs": None if pairs is None else os.path.abspath(pairs),
        "images": data.digest(),
    }


def _settled_by_budget(
    arguments: TrainingArguments, data: Dataset, say: Say
) -> TrainingArguments:
    """Choose size and recipe of a new run, if they are open."""
    if arguments.preset == AUTO:
        preset = _choose_preset(arguments, data, say)
        arguments = arguments.replaced(preset=preset)
    return recipe.settled(arguments, len(data.train), say)


def _choose_preset(options: TrainingArguments, data: Dataset, say: Say) -> str:
    """Choose a size by the budget, unless part of the size is given."""
    if options.num_layers is not None or options.hidden_dim is not None:
        return presets.FALLBACK_PRESET
    seconds = options.minutes and 60 * options.minutes
    pixels = (options.epochs or 0) * data.train.size
    preset, reason = size_law.choose(
        options.decoder, options.whole_size, seconds, pixels
    )
    say(reason)
    return preset


def _default_batch_size(options: TrainingArguments, num_images: int) -> int:
    """Choose a power of two, rounded down to a multiple of the devices.

    On a CPU, small batches learn fastest per minute: 4,096 pixels are enough.
    """
    most = _GPU_BATCH_SIZE
    if not devices.has_gpu():
        most = max(1, _CPU_BATCH_PIXELS // math.prod(options.whole_size))
    batch_size = 1 << (min(most, num_images).bit_length() - 1)
    num_devices = devices.count()
    return max(1, batch_size // num_devices) * num_devices


def _load_data(
    source: str, path: str, arguments: TrainingArguments, say: Say
) -> Dataset:
    """Read the tokens, and report the skipped files."""
    data: Dataset
    if token_shards.is_shards(source):
        data = ShardedDataset(Shards.open(source))
    else:
        with console.ProgressBar("Reading images") as bar:
            data = token_dataset.load(
                source,
                arguments.tokenizer(),
                cache_path=os.path.join(path, run_config.TOKENS_FILE),
                max_pixels=arguments.max_pixels,
                download=arguments.download,
                progress=bar.count,
                cutting=arguments.cutting,
                pairs=arguments.pairs,
            )
    if data.parts:
        say(f"Parts: {parts.describe(data.parts)}.")
    console.say_some(say, data.notes)
    skipped = [
        f"skipped {image_files.printable(s.path)}: {s.reason}"
        for s in data.skipped
    ]
    console.say_some(say, skipped)
    say(
        f"{len(data.train):,} images to train on, {len(data.validation):,} "
        f"to validate, {len(data.skipped):,} skipped."
    )
    if len(data.train) < FEW_IMAGES:
        say(
            "So few images will be memorized. --from another run helps; "
            "evaluate --report shows the nearest training image of each new "
            "one."
        )
    return data


def _may_be_pixel_art(source: str, arguments: TrainingArguments) -> bool:
    """Return whether to suggest --pixel-art for the images of a new run."""
    is_open = not arguments.pixel_art and "resize" not in arguments.given
    is_folder = os.path.isdir(source) and not token_shards.is_shards(source)
    return is_open and is_folder and is_likely(source)


def _check_images(path: str, data: Dataset) -> None:
    """Refuse to resume a run with other images or without its labels."""
    config = run_config.read_config(path)
    changes = []
    if config["arguments"]["images"] != data.digest():
        changes.append(_changes(path, data))
    known, now = config["model"]["labels"], data.label_names
    missing = sorted(
        {*map(labels.label_name, known)} - {*map(labels.label_name, now)}
    )
    if missing:
        named = ", ".join(map(image_files.printable, missing))
        changes.append(f"the folders no longer contain the labels {named}")
    if changes:
        raise UserError(
            f"{path} was trained on other images: {'; '.join(changes)}. Start "
            "a new run with --name NEW, or begin a new one with these weights: "
            f"--name NEW --from {shlex.quote(path)}."
        )


def _counted(*rows: np.ndarray) -> collections.Counter[bytes]:
    return collections.Counter(row.tobytes() for row in np.concatenate(rows))


def _changes(path: str, data: Dataset) -> str:
    """Say how many images were added to and removed from those of a run."""
    try:
        before, _ = storage.read_npz(os.path.join(path, run_config.TOKENS_FILE))
    except UserError:  # The tokens are missing or damaged.
        before = {}
    if not before or isinstance(data, ShardedDataset):
        return "they have changed since"
    then = _counted(before["train"], before["validation"])
    now = _counted(data.train, data.validation)
    counts = (("added", now - then), ("removed", then - now))
    changes = [
        f"{n:,} image{'s were' if n > 1 else ' was'} {verb}"
        for verb, images in counts
        if (n := images.total())
    ]
    return " and ".join(changes) or "their order or split has changed"

"""Training from a folder of images to a run folder: resolve, open, train."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import keras

from pixace_tf import console, storage
from pixace_tf.data import (
    image_files,
    labels,
    raster_orders,
    token_dataset,
    token_shards,
)
from pixace_tf.data.palette import Palette
from pixace_tf.data.sources import TFDS_PREFIX
from pixace_tf.data.token_dataset import ShardedDataset, TokenDataset
from pixace_tf.data.token_shards import Shards
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.presets import FALLBACK_PRESET
from pixace_tf.runs import catalog, run_config, run_folder
from pixace_tf.runs.arguments import refuse_changes
from pixace_tf.runs.run_folder import Run
from pixace_tf.training import devices, hosts, size_law, warm_start
from pixace_tf.training.loop import train
from pixace_tf.training.training_arguments import AUTO, TrainingArguments

SAMPLING_PRECISION = "float32"
# Shown by name when files are skipped; the rest is counted.
MAX_NAMED_SKIPS = 20
# Fewer are learned by heart within minutes.
FEW_IMAGES = 200
_GPU_BATCH_SIZE = 64
_SIZES = ("num_layers", "hidden_dim", "num_hashes")
_CPU_BATCH_PIXELS = 4096


class RunInUseError(UserError):
    """Another process is training the same run."""


def fit(
    source: str | os.PathLike[str],
    *,
    start_from: str | os.PathLike[str] | None = None,
    name: str | None = None,
    runs_dir: str | os.PathLike[str] = catalog.RUNS_DIR,
    say: Callable[[str], None] = print,
    **arguments: Any,
) -> Run:
    """Train a model on a folder of images, or go on where it was.

    Args:
        source: A folder of images or of token shards (see `tokenize`), or
            `tfds:NAME[/CONFIG][:SPLIT]`. Image size and colors of shards are
            taken over.
        start_from: A run whose weights a new run begins with, as `locate`
            takes it. It has the same image size, palette and decoder; its
            preset is taken over.
        name: Name of the run; by default that of the source.
        runs_dir: Folder that holds the runs.
        say: Takes each line of the report.
        **arguments: Fields of `TrainingArguments`, such as `max_minutes=60`.

    Returns:
        The run with its best weights.

    Raises:
        UserError: If an argument is out of range, there is no usable image, or
            the run exists with other arguments or other images.
        InterruptedTraining: If a signal stopped it; the checkpoint is written.
    """
    source = os.fspath(source)
    devices.leave_gpu_to_backend()
    options = _with_tokenizer_of(source, TrainingArguments(**arguments))
    hosts.join(options)
    path = os.path.join(runs_dir, name or default_name(source))
    with hosts.ending_together(), hosts.own_folder(path) as folder:
        return _fit(source, options, start_from, folder, hosts.quietly(say))


def _fit(
    source: str,
    options: TrainingArguments,
    start_from: str | os.PathLike[str] | None,
    path: str,
    say: Callable[[str], None],
) -> Run:
    """Train in a run folder; see `fit`."""
    tokenizer = PixelTokenizer(
        options.image_size, options.palette, options.resize, options.trim
    )
    is_new = not os.path.exists(os.path.join(path, storage.RUN_FILE))
    start = _locate_start(start_from, path, say)
    if options.preset == AUTO and not (is_new and start is None):
        begun = run_config.read_config(str(start) if is_new else path)
        options = options.with_preset(begun["arguments"]["preset"])
    if start is not None:
        ours = _model_config(options)
        if options.head is None:  # That of the other run, then.
            del ours["head"]
        warm_start.check_fits(start, tokenizer, ours, options.preset)
    if not is_new:
        _refuse_changes(path, tokenizer, options, start)
    data = _load_data(source, path, tokenizer, options, say)
    if options.preset == AUTO:
        options = options.with_preset(_choose_preset(options, data, say))
    in_use = f"Another training is using {path}."
    with devices.scope(options.devices):
        model_config, recorded = _model_config(options, start), {}
        if is_new:
            recorded = _resolve(source, options, data, start)
            model_config["labels"] = labels.choose(
                data.label_counts(), options.labels
            )
        os.makedirs(path, exist_ok=True)
        with storage.lock(path, in_use, error=RunInUseError):
            if is_new and os.path.exists(os.path.join(path, storage.RUN_FILE)):
                raise RunInUseError(in_use)  # It has begun since.
            storage.remove_unfinished(path)
            keras.utils.set_random_seed(options.seed)
            run = (
                run_folder.create_run(
                    *(path, tokenizer, model_config, recorded),
                    *(recorded["precision"], options.jit_compile),
                )
                if is_new
                else _reopen(path, data, options.jit_compile)
            )
            warm_start.load_unless_begun(run)
            data.save(run.file(run_config.TOKENS_FILE))
            train(
                *(run, data, options.epochs, options.minutes),
                *(options.checkpoint_seconds, say),
            )
    if run.arguments["precision"] != SAMPLING_PRECISION:
        return run_folder.load_run(path, options.jit_compile)
    # This run has compiled what samples already.
    return run_folder.load_weights(run)


def _locate_start(
    start_from: str | os.PathLike[str] | None,
    path: str,
    say: Callable[[str], None],
) -> str | None:
    """Return the folder that a run starts from, None for nothing.

    A run with a checkpoint no longer needs it.
    """
    if start_from is None:
        return None
    begun = (storage.RUN_FILE, run_config.CHECKPOINT_FILE)
    if not all(os.path.exists(os.path.join(path, name)) for name in begun):
        return os.path.abspath(catalog.locate(start_from, say))
    origin = run_config.read_config(path)["arguments"].get("start_from")
    if origin is None:
        raise UserError(
            f"{path} did not start from another run. Leave out --from, or "
            "start a new run with --name."
        )
    say(f"This run has begun already, from {origin}.")
    return None


def _with_tokenizer_of(
    source: str, options: TrainingArguments
) -> TrainingArguments:
    """Return the options with what the tokenizer of shards says."""
    if not token_shards.is_shards(source):
        return options
    config = Shards.open(source).manifest["tokenizer"]
    palette = Palette.get(config["palette"])
    given = {
        "image_size": tuple(config["image_size"]),
        "bit_widths": palette.bit_widths,
        "color_space": palette.color_space,
        "resize": config["resize"],
        "trim": config["trim"],
    }
    defaults = TrainingArguments()
    for name, value in given.items():
        wanted = getattr(options, name)
        if wanted not in (value, getattr(defaults, name)):
            raise UserError(
                f"The shards in {source} have the {name} {value}. "
                f"Received: {name}={wanted}"
            )
    return dataclasses.replace(options, **given)


def default_name(source: str) -> str:
    """Return the name of a run that is given none: that of its source."""
    if source.startswith(TFDS_PREFIX):
        return source.removeprefix(TFDS_PREFIX).translate(
            str.maketrans("/:", "--")
        )
    return os.path.basename(os.path.abspath(source)) or "images"


def _model_config(
    options: TrainingArguments, start_from: str | None = None
) -> dict[str, Any]:
    """Return the arguments of the model, as far as options tell them."""
    config: dict[str, Any] = {
        "decoder": options.decoder,
        "decoder_config": options.decoder_config(),
        "head": options.model_head,
        "dropout": options.dropout,
        "head_hidden_dim": options.head_hidden_dim,
        "orders": raster_orders.vector_rows(
            options.image_size, options.flip, options.orders
        ),
    }
    if start_from is not None:
        config.update(warm_start.sizes_of(start_from))
        for name in _SIZES:
            size = config["decoder_config"].get(name)
            if getattr(options, name) not in (None, 0, size):
                raise UserError(
                    f"The sizes are those of {start_from}, whose {name} is "
                    f"{size}. Received: {name}={getattr(options, name)}"
                )
    return config


def _recorded(
    options: TrainingArguments, start_from: str | None
) -> dict[str, Any]:
    """Return the arguments that a run keeps, as they were given."""
    return {
        **({} if start_from is None else {"start_from": start_from}),
        "preset": options.preset,
        "batch_size": options.batch_size,
        "learning_rate": options.peak_learning_rate,
        "flip": options.flip,
        "seed": options.seed,
        "precision": options.precision,
    }


def _resolve(
    source: str,
    options: TrainingArguments,
    data: TokenDataset | ShardedDataset,
    start_from: str | None,
) -> dict[str, Any]:
    """Return the arguments that a new run keeps.

    What was left open is chosen here, by the machine and the images.
    """
    recorded = _recorded(options, start_from)
    if options.precision == "auto":
        precision = "mixed_float16" if devices.has_gpu() else "float32"
        recorded["precision"] = precision
    if options.batch_size is None:
        recorded["batch_size"] = _default_batch_size(options, len(data.train))
    if recorded["batch_size"] > len(data.train):
        raise UserError(
            f"batch_size must be at most the {len(data.train)} training "
            f"images. Received: batch_size={recorded['batch_size']}"
        )
    devices.check_batch_size(recorded["batch_size"])
    is_folder = os.path.isdir(source)
    return {
        "source": os.path.abspath(source) if is_folder else source,
        **recorded,
        "images": data.digest(),
    }


def _choose_preset(
    options: TrainingArguments,
    data: TokenDataset | ShardedDataset,
    say: Callable[[str], None],
) -> str:
    """Choose a size by the budget, unless a part of it is given."""
    if options.num_layers is not None or options.hidden_dim is not None:
        return FALLBACK_PRESET
    minutes = options.minutes
    preset, reason = size_law.choose(
        options.decoder,
        options.image_size,
        None if minutes is None else 60 * minutes,
        (options.epochs or 0) * data.train.size,
    )
    say(reason)
    return preset


def _default_batch_size(options: TrainingArguments, num_images: int) -> int:
    """Choose a power of two.

    On a CPU small batches learn fastest per minute: 4,096 pixels are enough.
    """
    if devices.has_gpu():
        most = _GPU_BATCH_SIZE
    else:
        height, width = options.image_size
        most = max(1, _CPU_BATCH_PIXELS // (height * width))
    batch_size = 1 << (min(most, num_images).bit_length() - 1)
    # A multiple of the devices, which may be three.
    num_devices = devices.count()
    return max(1, batch_size // num_devices) * num_devices


def _load_data(
    source: str,
    path: str,
    tokenizer: PixelTokenizer,
    options: TrainingArguments,
    say: Callable[[str], None],
) -> TokenDataset | ShardedDataset:
    """Read the tokens, and say what was skipped."""
    data: TokenDataset | ShardedDataset
    if token_shards.is_shards(source):
        data = ShardedDataset(Shards.open(source))
        _say_counts(data, say)
        return data
    with console.ProgressBar("Reading images") as bar:
        data = token_dataset.load(
            source,
            tokenizer,
            cache_path=os.path.join(path, run_config.TOKENS_FILE),
            max_pixels=options.max_pixels,
            download=options.download,
            progress=bar.count,
        )
    for skipped in data.skipped[:MAX_NAMED_SKIPS]:
        say(f"skipped {image_files.printable(skipped.path)}: {skipped.reason}")
    if len(data.skipped) > MAX_NAMED_SKIPS:
        say(f"... and {len(data.skipped) - MAX_NAMED_SKIPS} more.")
    _say_counts(data, say)
    return data


def _say_counts(
    data: TokenDataset | ShardedDataset, say: Callable[[str], None]
) -> None:
    say(
        f"{len(data.train):,} images to train on, {len(data.validation):,} "
        f"to validate, {len(data.skipped):,} skipped."
    )
    if len(data.train) < FEW_IMAGES:
        say(
            "So few will be learned by heart. --from another run and --dropout "
            "0.1 help; evaluate --report shows the nearest training picture "
            "of each new one."
        )


def _refuse_changes(
    path: str,
    tokenizer: PixelTokenizer,
    options: TrainingArguments,
    start_from: str | None,
) -> None:
    """Refuse to go on with a run that was begun with other arguments."""
    config = run_config.read_config(path)
    now = {
        **tokenizer.get_config(),
        **_model_config(options, start_from),
        **_recorded(options, start_from),
    }
    before = {**config["tokenizer"], **config["model"], **config["arguments"]}
    now["labels"] = options.labels
    for values in (before, now):
        sizes = values.pop("decoder_config", {})
        for size in ("num_layers", "hidden_dim", "num_hashes"):
            values[size] = sizes.get(size, 0)
        values["orders"] = len(set(values["orders"])) > 1
        values["labels"] = bool(values["labels"])
    # A folder may move; the images are compared when they are read. What is no
    # option stays as it was.
    free = {"source", "images", "head_hidden_dim"}
    free |= {"labels"} if options.labels is None else set()
    if start_from is None:
        free |= {"start_from"}
        if "start_from" in before:  # It has the sizes of that.
            free |= {name for name in _SIZES if not getattr(options, name)}
    free |= {"batch_size"} if options.batch_size is None else set()
    free |= {"head"} if options.head is None else set()
    free |= {"precision"} if options.precision == "auto" else set()
    for values in (before, now):
        for name in free:
            values.pop(name, None)
    refuse_changes(
        path,
        before,
        now,
        "Go on with the old ones, or start a new run with --name.",
    )


def _reopen(
    path: str, data: TokenDataset | ShardedDataset, jit_compile: bool
) -> Run:
    """Open a run to go on with it, if the images are the same."""
    before = run_config.read_config(path)["arguments"]
    if before["images"] != data.digest():
        raise UserError(
            f"{path} was trained on other images (those of "
            f"{before['source']} as they were). Start a new run with --name."
        )
    devices.check_batch_size(before["batch_size"])
    run = run_folder.open_run(path, before["precision"], jit_compile)
    missing = set(run.model.labels) - set(data.label_names)
    if missing:
        raise UserError(
            f"{path} was trained with the labels {', '.join(run.model.labels)},"
            " of which the images have not all now. Start a new run with "
            "--name."
        )
    return run

"""A sweep from its arguments to its report."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from pixace_tf import console, storage
from pixace_tf.data.sources import SmallImages, load_images
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.presets import FALLBACK_PRESET
from pixace_tf.runs.arguments import refuse_changes
from pixace_tf.training.fit import folder_below
from pixace_tf.training.interruption import StopRequest
from pixace_tf.training.training_arguments import PLAIN, TrainingArguments
from pixace_tf.tuning import results
from pixace_tf.tuning.oracles import propose
from pixace_tf.tuning.palettes import measure_palettes
from pixace_tf.tuning.space import (
    SWEEP_FILE,
    Sweep,
    load_sweep,
    trial_arguments,
)
from pixace_tf.tuning.sweep_arguments import FREE, SHARED, SweepArguments
from pixace_tf.tuning.trials import Search
from pixace_tf.tuning.workers import Limits, work

DEFAULT_MAX_MINUTES = 5.0
# With fewer epochs, no trial continues a shorter one.
MIN_HYPERBAND_EPOCHS = 3
_MEMORY_SHARE = 0.8


def tune(
    source: str | os.PathLike[str],
    arguments: SweepArguments = SweepArguments(),
    training: TrainingArguments = TrainingArguments(),
    *,
    name: str | None = None,
    sweeps_dir: str | os.PathLike[str] = "sweeps",
    say: Callable[[str], None] = print,
) -> str:
    """Train a model for each choice of palette and size, and compare them.

    An existing sweep is continued, even while other processes work on it.
    Arguments given again must have the same values, except for those in
    `sweep_arguments.FREE`.

    Args:
        source: A folder of images, or a TensorFlow data set as for `fit`.
        arguments: The values to try, and how.
        training: Arguments that all trials share, only those in
            `sweep_arguments.SHARED`. A trial takes 5 minutes by default.
        name: Name of the sweep; by default the name of the source.
        sweeps_dir: Folder that holds the sweeps.
        say: Takes each line of the report.

    Returns:
        The folder of the sweep, which contains the report.

    Raises:
        UserError: If arguments contradict each other, the sweep exists with
            other arguments or images, or no palette is good enough.
        InterruptedTraining: If a signal stopped the sweep.
    """
    folder = folder_below(sweeps_dir, name, os.fspath(source))
    source = os.path.abspath(source) if os.path.isdir(source) else str(source)
    given = {**training.given, **arguments.given}
    if os.path.exists(os.path.join(folder, SWEEP_FILE)):
        sweep = _join(folder, source, given)
        say(f"Continuing {folder}.")
    else:
        sweep = _resolve(source, arguments, training)
    is_bayesian = sweep.arguments.tuner == "bayesian"
    if is_bayesian and not importlib.util.find_spec("sklearn"):
        raise UserError("bayesian needs: pip install 'pixace-tf[evaluate]'")
    limits = _limits(arguments, sweep.training.max_minutes)
    sweep = _open(folder, sweep, given, training.download, say)
    search = Search(folder, functools.partial(propose, sweep))
    program = [sys.executable, "-m", "pixace_tf.tuning.trial", folder, source]

    def command(trial_id: str) -> list[str]:
        return [*program, trial_id]

    stop = StopRequest()
    with stop.listening(), _progress(folder, sweep, say) as update:
        work(search, command, arguments.workers, limits, stop, update)
    _finish(folder, sweep, say)
    return folder


def _join(folder: str, source: str, given: dict[str, Any]) -> Sweep:
    """Return the sweep of a folder; refuse other arguments."""
    # The images may be in another place on this machine.
    sweep = dataclasses.replace(load_sweep(folder), source=source)
    before = {**vars(sweep.training), **vars(sweep.arguments)}
    refuse_changes(
        folder,
        {name: before[name] for name in given if name not in FREE},
        {name: given[name] for name in given if name not in FREE},
        "Leave that out to continue, or start a new sweep with --name.",
    )
    return sweep


def _resolve(
    source: str, arguments: SweepArguments, training: TrainingArguments
) -> Sweep:
    """Return a new sweep with all defaults; refuse impossible trials."""
    given = training.given
    foreign = set(given) - set(SHARED)
    if foreign:
        raise UserError(f"A sweep does not take {', '.join(sorted(foreign))}.")
    given.pop("download", None)  # Only `tune` downloads.
    given.setdefault("preset", FALLBACK_PRESET)  # Trials of one size compare.
    given["recipe"] = PLAIN  # Those of Hyperband are not equally long.
    if "epochs" not in given:
        given.setdefault("max_minutes", DEFAULT_MAX_MINUTES)
    sweep = Sweep(source, arguments, TrainingArguments(**given))
    epochs = given.get("epochs", 0)
    if arguments.tuner == "hyperband" and epochs < MIN_HYPERBAND_EPOCHS:
        raise UserError(
            "hyperband needs epochs, the length of its longest trials, of at "
            f"least {MIN_HYPERBAND_EPOCHS}."
        )
    for chosen in itertools.product(*sweep.space.values()):
        trial_arguments(sweep, dict(zip(sweep.space, chosen, strict=True)))
    return sweep


def _limits(arguments: SweepArguments, max_minutes: float | None) -> Limits:
    """Return the limits of each trial; refuse a time that is too short."""
    minutes, gigabytes = arguments.time_limit, arguments.memory_limit
    if minutes is None and max_minutes is not None:
        minutes = 3 * max_minutes + 10
    if minutes is not None and minutes <= (max_minutes or 0):
        raise UserError(
            f"time_limit must be more than max_minutes={max_minutes:g}, or "
            "every trial fails."
        )
    if gigabytes is None:
        share = _MEMORY_SHARE / arguments.workers
        gigabytes = share * psutil.virtual_memory().total / 1e9
    seconds = None if minutes is None else 60 * minutes
    return Limits(seconds, int(gigabytes * 1e9))


def _finish(folder: str, sweep: Sweep, say: Callable[[str], None]) -> None:
    say(results.write_report(folder, sweep))
    trials = results.read_trials(folder, sweep)
    if not any(trial.is_completed for trial in trials):
        raise UserError(
            f"All trials failed, the first one with: {trials[0].message} Fix "
            f"the cause, remove {folder}, and start again."
        )
    say(f"The sweep is in {folder}.")


def _open(
    folder: str,
    sweep: Sweep,
    given: dict[str, Any],
    download: bool,
    say: Callable[[str], None],
) -> Sweep:
    """Begin a new sweep, or check the images of an existing one.

    The arguments `given` count if another machine begins the sweep first.
    """
    images = {}
    for size in sweep.arguments.image_size:
        tokenizer = PixelTokenizer(size, resize=sweep.training.resize)
        max_pixels = sweep.training.max_pixels
        with console.ProgressBar("Reading images") as bar:
            images[size] = load_images(
                sweep.source, tokenizer, max_pixels, download, bar.count
            )
    digest = _digest(images)
    if not sweep.images:
        _check_images(sweep, next(iter(images.values())))
        palettes = _measure(sweep, images, say)
        sweep = dataclasses.replace(sweep, images=digest, palettes=palettes)
        os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
        try:
            with storage.new_folder(folder) as new:
                storage.mark_folder(new)
                sweep.save(new)
        except FileExistsError:  # Another machine has begun it meanwhile.
            sweep = _join(folder, sweep.source, given)
    if sweep.images != digest:
        raise UserError(
            f"{folder} was begun with other images. Start a new sweep with "
            "--name."
        )
    return sweep


def _measure(
    sweep: Sweep,
    images: dict[tuple[int, int], SmallImages],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure the palettes and report them; refuse if all are too poor."""
    min_psnr = sweep.arguments.min_psnr
    palettes = measure_palettes(
        {size: small.images for size, small in images.items()},
        sweep.space["palette"],
        min_psnr,
    )
    for row in palettes:
        psnr = "exact" if row["psnr"] is None else f"{row['psnr']:.2f} dB"
        verdict = ", skipped" if row["is_excluded"] else ""
        say(
            f"{row['palette']} at {row['image_size']}: {psnr}, "
            f"{row['colors']:,} colors{verdict}"
        )
    if all(row["is_excluded"] for row in palettes):
        raise UserError(
            f"No palette reaches min_psnr={min_psnr:g} dB (see above). Lower "
            "it, or give --bit-widths with more bits."
        )
    return palettes


def _digest(images: dict[tuple[int, int], SmallImages]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for small in images.values():
        digest.update(small.images.tobytes())
        digest.update(small.in_train().tobytes())
    return digest.hexdigest()


def _check_images(sweep: Sweep, images: SmallImages) -> None:
    """Refuse images on which every trial would fail."""
    num_train = int(images.in_train().sum())
    if num_train in (0, len(images.images)):
        raise UserError(
            f"{sweep.source!r} has {num_train} training and "
            f"{len(images.images) - num_train} validation images; a sweep "
            "needs both. Add more images, or folders train/ and val/."
        )
    if (sweep.training.batch_size or 1) > num_train:
        raise UserError(
            f"batch_size must be at most the {num_train} training images. "
            f"Received: batch_size={sweep.training.batch_size}"
        )


@contextlib.contextmanager
def _progress(
    folder: str, sweep: Sweep, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Yield a function that reports the trials that have ended since."""
    objective = sweep.arguments.objective
    total = math.prod(len(values) for values in sweep.space.values())
    total = min(total, sweep.arguments.max_trials or total)

    def ended() -> list[results.Trial]:
        return [t for t in results.read_trials(folder, sweep) if t.is_ended]

    reported = {trial.trial_id for trial in ended()}
    with console.ProgressBar("Trials") as bar:

        def update() -> None:
            trials = ended()
            for trial in trials:
                if trial.trial_id not in reported:
                    reported.add(trial.trial_id)
                    with bar.above():
                        say(results.line(trial, objective))
            note = f"{len(trials)}/{total}"
            for best in results.best_trials(trials, objective):
                bits = best.figures[objective]
                note += f", best {bits:.3f} with {best.name}"
            bar.update(min(len(trials) / total, 1.0), note)

        yield update

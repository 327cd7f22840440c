"""The whole way of a sweep: palettes, trials, report."""

import contextlib
import dataclasses
import glob
import hashlib
import importlib.util
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from pixace_tf import console, storage
from pixace_tf.data.palette import Palette
from pixace_tf.data.sources import SmallImages, load_images
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.presets import FALLBACK_PRESET
from pixace_tf.runs.arguments import refuse_changes
from pixace_tf.training.fit import default_name
from pixace_tf.training.training_arguments import AUTO, TrainingArguments
from pixace_tf.tuning import launcher, results
from pixace_tf.tuning.palettes import DEFAULT_BIT_WIDTHS, measure_palettes
from pixace_tf.tuning.space import (
    SWEEP_FILE,
    Sweep,
    load_sweep,
    parse_size,
    trial_arguments,
)
from pixace_tf.tuning.sweep_arguments import SHARED, SweepArguments

DEFAULT_MAX_MINUTES = 5.0
# With fewer, no trial goes on from a shorter one.
MIN_HYPERBAND_EPOCHS = 3
_MEMORY_SHARE = 0.8
# What may change when a sweep is resumed.
_FREE = ("time_limit_s", "memory_limit_bytes", "palettes", "download")
_WAIT_S = 300.0


def tune(
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    sweeps_dir: str | os.PathLike[str] = "sweeps",
    say: Callable[[str], None] = print,
    **arguments: Any,
) -> str:
    """Find the palette, and what else is asked for, that learns best.

    A sweep that was stopped or killed goes on with the same arguments.

    Args:
        source: A folder of images, or a TensorFlow data set as for `fit`.
        name: Name of the sweep; by default that of the source.
        sweeps_dir: Folder that holds the sweeps.
        say: Takes each line of the report.
        **arguments: Fields of `SweepArguments`, and those of
            `TrainingArguments` that all trials share (`SHARED`). The budget
            is 5 minutes for each trial where none is given.

    Returns:
        The folder of the sweep, with the report in it.

    Raises:
        UserError: If an argument is out of range, the sweep exists with other
            arguments, or no palette is good enough.
    """
    source = os.fspath(source)
    options, shared = _split_arguments(arguments)
    sweep = _resolve(source, options, shared)
    folder = os.path.join(sweeps_dir, name or default_name(source))
    if glob.has_magic(os.path.abspath(folder)):
        raise UserError(
            f"The name of a sweep may not have *, ? or [ in it, as {folder!r} "
            "has; give another --name."
        )
    names, variables = launcher.local_roles(options.workers)
    if launcher.is_distributed() and "chief" not in names[0]:
        _wait_for(folder, say)
        with _progress(folder, load_sweep(folder), say) as update:
            launcher.launch(folder, names, variables, update)
        return folder
    with _opened(folder, sweep, say) as sweep:
        with _progress(folder, sweep, say) as update:
            if options.workers == 1 and not launcher.is_distributed():
                _search(folder, update)
            else:
                launcher.launch(folder, names, variables, update)
        _finish(folder, sweep, say)
    return folder


def _split_arguments(
    arguments: dict[str, Any],
) -> tuple[SweepArguments, dict[str, Any]]:
    """Return the arguments of the sweep, and all those of its trainings."""
    names = {field.name for field in dataclasses.fields(SweepArguments)}
    own = {k: v for k, v in arguments.items() if k in names}
    for key, value in own.items():
        if isinstance(value, list):
            own[key] = tuple(value)
    given = {k: v for k, v in arguments.items() if k not in names}
    unknown = set(given) - set(SHARED)
    if unknown:
        raise TypeError(f"tune has no arguments {', '.join(sorted(unknown))}")
    if given.get("epochs") is None and given.get("max_minutes") is None:
        given["max_minutes"] = DEFAULT_MAX_MINUTES
    training = TrainingArguments(**given)
    if training.preset == AUTO:  # Trials of one size compare.
        training = training.with_preset(FALLBACK_PRESET)
    return SweepArguments(**own), {k: getattr(training, k) for k in SHARED}


def _resolve(
    source: str, options: SweepArguments, shared: dict[str, Any]
) -> Sweep:
    """Return the sweep that is asked for, checked as far as possible."""
    sweep = Sweep(
        source=os.path.abspath(source) if os.path.isdir(source) else source,
        space=_space(options),
        fixed=shared,
        tuner=options.tuner,
        objective=options.objective,
        max_trials=options.max_trials,
        seed=shared["seed"],
        min_psnr=options.min_psnr,
        time_limit_s=_time_limit_s(options.time_limit, shared["max_minutes"]),
        memory_limit_bytes=_memory_limit_bytes(
            options.memory_limit, options.workers
        ),
    )
    _check_tuner(sweep)
    _check_limits(sweep, options.workers)
    _check_trials(sweep)
    return sweep


@contextlib.contextmanager
def _opened(
    folder: str, sweep: Sweep, say: Callable[[str], None]
) -> Iterator[Sweep]:
    """Hold the folder of a sweep that is begun or resumed; yield the sweep."""
    is_new = not os.path.exists(folder)
    os.makedirs(folder, exist_ok=True)
    with storage.lock(folder, f"Another sweep is using {folder}."):
        try:
            sweep = _prepare(folder, sweep, say)
        except BaseException:
            if is_new:
                shutil.rmtree(folder)
            raise
        yield sweep


def _finish(folder: str, sweep: Sweep, say: Callable[[str], None]) -> None:
    """Write the report of a sweep that is over."""
    say(results.write_report(folder, sweep))
    trials = results.read_trials(folder, sweep)
    if not any(trial.is_completed for trial in trials):
        raise UserError(
            f"All trials failed, the first with: {trials[0].message} Mend "
            f"that, remove {folder}, and begin again."
        )
    say(f"The sweep lies in {folder}.")


def _search(folder: str, update: Callable[[], None]) -> None:
    """Run one trial after the other from this process."""
    from pixace_tf.tuning.tuner import SweepTuner

    tuner = SweepTuner(folder, update)
    for tuner_id in tuner.oracle.busy_workers():  # Of a launch before.
        if tuner_id != tuner.tuner_id:
            tuner.oracle.release(tuner_id)
    tuner.search()


def _space(options: SweepArguments) -> dict[str, list[Any]]:
    """Return the values to try, by name; what is not given is left out."""
    palettes = [
        str(Palette(space, widths))
        for space in options.color_space
        for widths in options.bit_widths
        or DEFAULT_BIT_WIDTHS.get(space, ((8, 8, 8),))
    ]
    space: dict[str, list[Any]] = {
        "palette": palettes,
        "image_size": [f"{h}x{w}" for h, w in options.image_size],
        "num_layers": list(options.num_layers),
        "hidden_dim": list(options.hidden_dim),
        "learning_rate": [float(rate) for rate in options.learning_rate],
    }
    return {key: list(dict.fromkeys(v)) for key, v in space.items() if v}


def _prepare(folder: str, sweep: Sweep, say: Callable[[str], None]) -> Sweep:
    """Begin a sweep, or check that it is the one that lies there."""
    pictures = {size: _read(sweep, size) for size in sweep.space["image_size"]}
    sweep = dataclasses.replace(sweep, pictures=_digest(pictures))
    if os.path.exists(os.path.join(folder, SWEEP_FILE)):
        before = load_sweep(folder)
        now = sweep.with_palettes(before.palettes)
        _refuse_changes(folder, before, now)
        now.save(folder)  # Limits may change.
        say(f"Going on with {folder}.")
        return now
    _check_pictures(sweep, next(iter(pictures.values())))
    palettes = measure_palettes(
        {size: small.images for size, small in pictures.items()},
        sweep.space["palette"],
        sweep.min_psnr,
    )
    for row in palettes:
        psnr = "exact" if row["psnr"] is None else f"{row['psnr']:.2f} dB"
        verdict = ", left out" if row["is_excluded"] else ""
        say(
            f"{row['palette']} at {row['image_size']}: {psnr}, "
            f"{row['colors']:,} colors{verdict}"
        )
    sweep = sweep.with_palettes(palettes)
    if not sweep.space["palette"]:
        raise UserError(
            f"No palette reaches min_psnr={sweep.min_psnr:g} dB (see above). "
            "Lower it, or give --bit-widths with more bits."
        )
    # Only now: a folder that holds no sweep may be somebody's images.
    storage.mark_folder(folder)
    sweep.save(folder)
    return sweep


def _read(sweep: Sweep, size: str) -> SmallImages:
    tokenizer = PixelTokenizer(parse_size(size), resize=sweep.fixed["resize"])
    with console.ProgressBar("Reading images") as bar:
        return load_images(
            sweep.source,
            tokenizer,
            int(sweep.fixed["max_megapixels"] * 1e6),
            sweep.fixed["download"],
            bar.count,
        )


def _digest(pictures: dict[str, SmallImages]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for small in pictures.values():
        digest.update(small.images.tobytes())
        digest.update(small.in_train().tobytes())
    return digest.hexdigest()


def _check_pictures(sweep: Sweep, pictures: SmallImages) -> None:
    """Raise UserError if every trial would fail on them."""
    num_train = int(pictures.in_train().sum())
    if num_train in (0, len(pictures.images)):
        raise UserError(
            f"{sweep.source!r} has {num_train} training and "
            f"{len(pictures.images) - num_train} validation pictures; a sweep "
            "needs both. Give it more, or folders train/ and val/."
        )
    if (sweep.fixed["batch_size"] or 1) > num_train:
        raise UserError(
            f"batch_size must be at most the {num_train} training pictures. "
            f"Received: batch_size={sweep.fixed['batch_size']}"
        )


def _check_tuner(sweep: Sweep) -> None:
    """Raise UserError if the tuner lacks what it needs."""
    if sweep.tuner == "hyperband":
        if (sweep.fixed["epochs"] or 0) < MIN_HYPERBAND_EPOCHS:
            raise UserError(
                "hyperband needs epochs, those of its longest trials, of at "
                f"least {MIN_HYPERBAND_EPOCHS}."
            )
        if sweep.max_trials is not None:
            raise UserError("hyperband chooses the number of trials itself.")
    if sweep.tuner in ("random", "bayesian") and sweep.max_trials is None:
        raise UserError(f"{sweep.tuner} needs max_trials.")
    if sweep.tuner == "bayesian" and not importlib.util.find_spec("sklearn"):
        raise UserError("bayesian needs: pip install 'pixace-tf[evaluate]'")


def _check_limits(sweep: Sweep, workers: int) -> None:
    """Raise UserError if no trial could come to an end."""
    minutes, limit = sweep.fixed["max_minutes"], sweep.time_limit_s
    if minutes is not None and limit is not None and limit <= 60 * minutes:
        raise UserError(
            f"time_limit must be more than max_minutes={minutes:g}, or every "
            "trial would fail."
        )
    if workers == 0 and not launcher.is_distributed():
        raise UserError(f"workers must be positive. Received: {workers}")


def _check_trials(sweep: Sweep) -> None:
    """Raise UserError if the arguments of some trial are out of range."""
    names, values = zip(*sweep.space.items(), strict=True)
    for chosen in itertools.product(*values):
        given = dict(zip(names, chosen, strict=True))
        TrainingArguments(**trial_arguments(sweep, given))


def _refuse_changes(folder: str, before: Sweep, now: Sweep) -> None:
    """Refuse to go on with a sweep that was begun with other arguments."""
    old, new = dataclasses.asdict(before), dataclasses.asdict(now)
    for state in (old, new):
        state.update(state.pop("fixed"), **state.pop("space"))
        for free in _FREE:
            state.pop(free, None)
    if old.pop("pictures") != new.pop("pictures"):
        raise UserError(
            f"{folder} was begun with other pictures. Start a new sweep with "
            "--name."
        )
    advice = "Go on with the old ones, or start a new sweep with --name."
    refuse_changes(folder, old, new, advice)


def _time_limit_s(
    minutes: float | None, max_minutes: float | None
) -> float | None:
    if minutes is not None:
        return 60 * minutes
    return None if max_minutes is None else 60 * (3 * max_minutes + 10)


def _memory_limit_bytes(gigabytes: float | None, workers: int) -> int:
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    total = psutil.virtual_memory().total
    return int(_MEMORY_SHARE * total / max(workers, 1))


@contextlib.contextmanager
def _progress(
    folder: str, sweep: Sweep, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Yield what shows how many trials have ended, and what came of them."""
    total = 1
    for values in sweep.space.values():
        total *= len(values)
    total = min(total, sweep.max_trials or total)
    told = {
        t.trial_id for t in results.read_trials(folder, sweep) if t.is_ended
    }
    with console.ProgressBar("Trials") as bar:

        def update() -> None:
            trials = results.read_trials(folder, sweep)
            ended = [t for t in trials if t.is_ended]
            for trial in ended:
                if trial.trial_id not in told:
                    told.add(trial.trial_id)
                    with bar.above():
                        say(results.line(trial, sweep.objective))
            note = f"{len(ended)}/{total}"
            for best in results.best_trials(trials, sweep.objective):
                bits = best.figures[sweep.objective]
                note += f", best {bits:.3f} with {best.name}"
            # Hyperband's number of trials is not known beforehand.
            bar.update(min(len(ended) / max(total, len(trials)), 1.0), note)

        yield update


def _wait_for(folder: str, say: Callable[[str], None]) -> None:
    """Wait until the chief has begun the sweep in the shared folder."""
    end = time.monotonic() + _WAIT_S
    if not os.path.exists(os.path.join(folder, SWEEP_FILE)):
        say(f"Waiting for the chief to begin {folder}.")
    while not os.path.exists(os.path.join(folder, SWEEP_FILE)):
        if time.monotonic() > end:
            raise UserError(
                f"The chief has not begun {folder} within "
                f"{_WAIT_S / 60:g} minutes; is the folder shared?"
            )
        time.sleep(1)

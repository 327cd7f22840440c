"""The whole way of a sweep: palettes, trials, report."""

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
from pixace_tf.data.palette import Palette
from pixace_tf.data.sources import SmallImages, load_images
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.presets import FALLBACK_PRESET
from pixace_tf.runs.arguments import AUTO, refuse_changes
from pixace_tf.training.fit import folder_below
from pixace_tf.training.interruption import StopRequest
from pixace_tf.training.training_arguments import TrainingArguments
from pixace_tf.tuning import results
from pixace_tf.tuning.oracles import propose
from pixace_tf.tuning.palettes import DEFAULT_BIT_WIDTHS, measure_palettes
from pixace_tf.tuning.space import (
    SWEEP_FILE,
    Sweep,
    load_sweep,
    parse_size,
    trial_arguments,
)
from pixace_tf.tuning.sweep_arguments import SHARED, SweepArguments
from pixace_tf.tuning.trials import Search
from pixace_tf.tuning.workers import Limits, work

DEFAULT_MAX_MINUTES = 5.0
# With fewer, no trial goes on from a shorter one.
MIN_HYPERBAND_EPOCHS = 3
_MEMORY_SHARE = 0.8


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
    download = shared.pop("download")  # The trials find what this downloads.
    sweep = _resolve(source, options, shared)
    limits = _limits(options, shared["max_minutes"])
    folder = folder_below(sweeps_dir, name, source)
    sweep = _open(folder, sweep, download, say)
    search = Search(folder, functools.partial(propose, sweep))
    stop = StopRequest()
    with stop.listening(), _progress(folder, sweep, say) as update:
        work(
            search,
            functools.partial(_command, folder),
            options.workers,
            limits,
            stop,
            update,
        )
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
        training = training.replaced(preset=FALLBACK_PRESET)
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
    )
    _check_tuner(sweep)
    _check_trials(sweep)
    return sweep


def _limits(options: SweepArguments, max_minutes: float | None) -> Limits:
    """Return the limits of each trial on this machine.

    Raises:
        UserError: If no trial could finish in the time.
    """
    minutes, gigabytes = options.time_limit, options.memory_limit
    if minutes is None and max_minutes is not None:
        minutes = 3 * max_minutes + 10
    if minutes is not None and minutes <= (max_minutes or 0):
        raise UserError(
            f"time_limit must be more than max_minutes={max_minutes:g}, or "
            "every trial would fail."
        )
    if gigabytes is None:
        share = _MEMORY_SHARE / options.workers
        gigabytes = share * psutil.virtual_memory().total / 1e9
    return Limits(
        None if minutes is None else 60 * minutes, int(gigabytes * 1e9)
    )


def _command(folder: str, trial_id: str) -> list[str]:
    """Return the command line that trains a trial."""
    return [sys.executable, "-m", "pixace_tf.tuning.trial", folder, trial_id]


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


def _open(
    folder: str, sweep: Sweep, download: bool, say: Callable[[str], None]
) -> Sweep:
    """Begin a sweep, or join the one in the folder if it is the same."""
    images = {
        size: _read(sweep, size, download) for size in sweep.space["image_size"]
    }
    sweep = dataclasses.replace(sweep, pictures=_digest(images))
    if not os.path.exists(os.path.join(folder, SWEEP_FILE)):
        _check_images(sweep, next(iter(images.values())))
        sweep = _measured(sweep, images, say)
        os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
        try:
            with storage.new_folder(folder) as new:
                storage.mark_folder(new)
                sweep.save(new)
            return sweep
        except FileExistsError:  # Another machine has begun it meanwhile.
            if not os.path.exists(os.path.join(folder, SWEEP_FILE)):
                raise UserError(
                    f"{folder} is no sweep; give another --name."
                ) from None
    before = load_sweep(folder)
    _refuse_changes(folder, before, sweep)
    say(f"Continuing {folder}.")
    return before


def _measured(
    sweep: Sweep,
    images: dict[str, SmallImages],
    say: Callable[[str], None],
) -> Sweep:
    """Return a sweep without the palettes that are too poor."""
    palettes = measure_palettes(
        {size: small.images for size, small in images.items()},
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
    return sweep


def _read(sweep: Sweep, size: str, download: bool) -> SmallImages:
    tokenizer = PixelTokenizer(parse_size(size), resize=sweep.fixed["resize"])
    with console.ProgressBar("Reading images") as bar:
        return load_images(
            sweep.source,
            tokenizer,
            int(sweep.fixed["max_megapixels"] * 1e6),
            download,
            bar.count,
        )


def _digest(images: dict[str, SmallImages]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for small in images.values():
        digest.update(small.images.tobytes())
        digest.update(small.in_train().tobytes())
    return digest.hexdigest()


def _check_images(sweep: Sweep, images: SmallImages) -> None:
    """Raise UserError if every trial would fail on them."""
    num_train = int(images.in_train().sum())
    if num_train in (0, len(images.images)):
        raise UserError(
            f"{sweep.source!r} has {num_train} training and "
            f"{len(images.images) - num_train} validation images; a sweep "
            "needs both. Give it more, or folders train/ and val/."
        )
    if (sweep.fixed["batch_size"] or 1) > num_train:
        raise UserError(
            f"batch_size must be at most the {num_train} training images. "
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


def _check_trials(sweep: Sweep) -> None:
    """Raise UserError if the arguments of some trial are out of range."""
    names, values = zip(*sweep.space.items(), strict=True)
    for chosen in itertools.product(*values):
        given = dict(zip(names, chosen, strict=True))
        TrainingArguments(**trial_arguments(sweep, given))


def _refuse_changes(folder: str, before: Sweep, now: Sweep) -> None:
    """Refuse to continue a sweep that was begun with other arguments."""
    now = now.with_palettes(before.palettes)
    old, new = dataclasses.asdict(before), dataclasses.asdict(now)
    for state in (old, new):
        state.update(state.pop("fixed"), **state.pop("space"))
    if old.pop("pictures") != new.pop("pictures"):
        raise UserError(
            f"{folder} was begun with other images. Start a new sweep with "
            "--name."
        )
    advice = "Continue with the old ones, or start a new sweep with --name."
    refuse_changes(folder, old, new, advice)


@contextlib.contextmanager
def _progress(
    folder: str, sweep: Sweep, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Yield a function that shows the trials that have ended since."""
    total = math.prod(len(values) for values in sweep.space.values())
    total = min(total, sweep.max_trials or total)

    def ended() -> list[results.Trial]:
        return [t for t in results.read_trials(folder, sweep) if t.is_ended]

    told = {trial.trial_id for trial in ended()}
    with console.ProgressBar("Trials") as bar:

        def update() -> None:
            trials = ended()
            for trial in trials:
                if trial.trial_id not in told:
                    told.add(trial.trial_id)
                    with bar.above():
                        say(results.line(trial, sweep.objective))
            note = f"{len(trials)}/{total}"
            for best in results.best_trials(trials, sweep.objective):
                bits = best.figures[sweep.objective]
                note += f", best {bits:.3f} with {best.name}"
            bar.update(min(len(trials) / total, 1.0), note)

        yield update

"""The whole way of a sweep: palettes, trials, report."""

import contextlib
import dataclasses
import glob
import hashlib
import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil

from pixace_tf import console, storage
from pixace_tf.data.palette import Palette
from pixace_tf.data.sources import SmallImages, load_images
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.presets import decoder_config
from pixace_tf.runs.arguments import refuse_changes
from pixace_tf.training.fit import default_name
from pixace_tf.tuning import launcher, results
from pixace_tf.tuning.palettes import DEFAULT_BIT_WIDTHS, measure_palettes
from pixace_tf.tuning.space import (
    OBJECTIVES,
    SWEEP_FILE,
    TUNERS,
    Sweep,
    load_sweep,
    parse_size,
)

DEFAULT_MAX_MINUTES = 5.0
# With fewer, no trial goes on from a shorter one.
MIN_HYPERBAND_EPOCHS = 3
_MEMORY_SHARE = 0.8
# What may change when a sweep is resumed.
_FREE = ("time_limit_s", "memory_limit_bytes", "palettes", "download")
_WAIT_S = 300.0


def tune(
    source: str,
    *,
    name: str | None = None,
    sweeps_dir: str = "sweeps",
    bit_widths: Sequence[tuple[int, int, int]] = (),
    color_space: Sequence[str] = ("hsv",),
    image_size: Sequence[tuple[int, int]] = ((32, 32),),
    num_layers: Sequence[int] = (),
    hidden_dim: Sequence[int] = (),
    learning_rate: Sequence[float] = (),
    preset: str = "nano",
    decoder: str = "multiscale",
    resize: str = "crop",
    epochs: int | None = None,
    max_minutes: float | None = None,
    batch_size: int | None = None,
    flip: bool = True,
    jit_compile: bool = True,
    seed: int = 0,
    tuner: str = "grid",
    max_trials: int | None = None,
    objective: str = "bits_per_pixel",
    min_psnr: float = 32.0,
    workers: int = 1,
    time_limit: float | None = None,
    memory_limit: float | None = None,
    max_megapixels: float = 64.0,
    download: bool = False,
    say: Callable[[str], None] = print,
) -> str:
    """Find the palette, and what else is asked for, that learns best.

    A sweep that was stopped or killed goes on with the same arguments.

    Args:
        source: A folder of pictures, or a TensorFlow data set as for `fit`.
        name: Name of the sweep; by default that of the source.
        sweeps_dir: Folder that holds the sweeps.
        bit_widths: Bits per channel to try; by default some for each space.
        color_space: "hsv", "rgb" or both.
        image_size: `(height, width)` in pixels to try.
        num_layers: Depths to try; by default the preset's.
        hidden_dim: Widths to try; by default the preset's.
        learning_rate: Peaks to try; by default the preset's.
        preset: See `fit`, like the next two.
        decoder: See `fit`.
        resize: See `fit`.
        epochs: Passes over the pictures of each trial; hyperband's longest.
        max_minutes: Of each trial, instead; 5 where neither is given.
        batch_size: See `fit`, like the next.
        flip: See `fit`.
        jit_compile: See `fit`; tiny trials are quicker without.
        seed: Of the trials, and of what is tried where that is random.
        tuner: "grid", "random", "hyperband" or "bayesian".
        max_trials: At most so many; must be given for "random" and "bayesian".
        objective: "bits_per_pixel", or "bits_per_dim".
        min_psnr: Palettes below, in dB, are not trained at all.
        workers: Trials at a time on this machine.
        time_limit: Minutes after which a trial counts as failed; by default
            10 more than three times `max_minutes`.
        memory_limit: Gigabytes after which a trial counts as failed; by
            default four fifths of what is there, over the workers.
        max_megapixels: Larger pictures are skipped.
        download: Whether a TensorFlow data set may be downloaded.
        say: Takes each line of the report.

    Returns:
        The folder of the sweep, with the report in it.

    Raises:
        UserError: If an argument is out of range, the sweep exists with other
            arguments, or no palette is good enough.
    """
    if epochs is None and max_minutes is None:
        max_minutes = DEFAULT_MAX_MINUTES
    sweep = Sweep(
        source=os.path.abspath(source) if os.path.isdir(source) else source,
        space=_space(
            bit_widths,
            color_space,
            image_size,
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            learning_rate=[float(rate) for rate in learning_rate],
        ),
        fixed={
            "preset": preset,
            "decoder": decoder,
            "resize": resize,
            "epochs": epochs,
            "max_minutes": max_minutes,
            "batch_size": batch_size,
            "flip": flip,
            "jit_compile": jit_compile,
            "seed": seed,
            "max_megapixels": max_megapixels,
            "download": download,
        },
        tuner=tuner,
        objective=objective,
        max_trials=max_trials,
        seed=seed,
        min_psnr=min_psnr,
        time_limit_s=_time_limit_s(time_limit, max_minutes),
        memory_limit_bytes=_memory_limit_bytes(memory_limit, workers),
    )
    _check(sweep, workers)
    folder = os.path.join(sweeps_dir, name or default_name(source))
    if glob.has_magic(os.path.abspath(folder)):
        raise UserError(
            f"The name of a sweep may not have *, ? or [ in it, as {folder!r} "
            "has; give another --name."
        )
    names, variables = launcher.local_roles(workers)
    is_helper = launcher.is_distributed() and "chief" not in names[0]
    if is_helper:
        _wait_for(folder, say)
        with _progress(folder, load_sweep(folder), say) as update:
            launcher.launch(folder, names, variables, update)
        return folder
    is_new = not os.path.exists(folder)
    os.makedirs(folder, exist_ok=True)
    storage.mark_folder(folder)
    with storage.lock(folder, f"Another sweep is using {folder}."):
        try:
            sweep = _prepare(folder, sweep, say)
        except BaseException:
            if is_new:
                shutil.rmtree(folder)
            raise
        with _progress(folder, sweep, say) as update:
            if workers == 1 and not launcher.is_distributed():
                _search(folder, update)
            else:
                launcher.launch(folder, names, variables, update)
        say(results.write_report(folder, sweep))
        trials = results.read_trials(folder, sweep)
        if not any(trial.is_completed for trial in trials):
            raise UserError(
                f"All trials failed, the first with: {trials[0].message} Mend "
                f"that, remove {folder}, and begin again."
            )
        say(f"The sweep lies in {folder}.")
    return folder


def _search(folder: str, update: Callable[[], None]) -> None:
    """Run one trial after the other from this process."""
    from pixace_tf.tuning.tuner import SweepTuner

    tuner = SweepTuner(folder, update)
    for tuner_id in tuner.oracle.busy_workers():  # Of a launch before.
        if tuner_id != tuner.tuner_id:
            tuner.oracle.release(tuner_id)
    tuner.search()


def _space(
    bit_widths: Sequence[tuple[int, int, int]],
    color_space: Sequence[str],
    image_size: Sequence[tuple[int, int]],
    **others: Sequence[Any],
) -> dict[str, list[Any]]:
    palettes = [
        str(Palette(space, widths))
        for space in color_space
        for widths in bit_widths or DEFAULT_BIT_WIDTHS.get(space, [(8, 8, 8)])
    ]
    if not palettes or not image_size:
        raise UserError("Give at least one color_space and one image_size.")
    sizes = [f"{height}x{width}" for height, width in image_size]
    space = {"palette": palettes, "image_size": sizes, **others}
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


def _check(sweep: Sweep, workers: int) -> None:
    """Raise UserError if an argument is out of range."""
    fixed = sweep.fixed
    if sweep.tuner not in TUNERS or sweep.objective not in OBJECTIVES:
        raise UserError(
            f"tuner must be one of {', '.join(TUNERS)}, objective one of "
            f"{', '.join(OBJECTIVES)}. Received: tuner={sweep.tuner!r}, "
            f"objective={sweep.objective!r}"
        )
    if fixed["epochs"] is not None and fixed["max_minutes"] is not None:
        raise UserError("Give epochs or max_minutes, not both.")
    numbers = {
        "epochs": fixed["epochs"],
        "max_minutes": fixed["max_minutes"],
        "batch_size": fixed["batch_size"],
        "max_trials": sweep.max_trials,
        "time_limit": sweep.time_limit_s,
        **{
            f"learning_rate {r}": r
            for r in sweep.space.get("learning_rate", [])
        },
    }
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:
            raise UserError(f"{name} must be positive and finite.")
    if not math.isfinite(sweep.min_psnr):
        raise UserError("min_psnr must be finite.")
    minutes, limit = fixed["max_minutes"], sweep.time_limit_s
    if minutes is not None and limit is not None and limit <= 60 * minutes:
        raise UserError(
            f"time_limit must be more than max_minutes={minutes:g}, or every "
            "trial would fail."
        )
    if sweep.tuner == "hyperband":
        if (fixed["epochs"] or 0) < MIN_HYPERBAND_EPOCHS:
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
    if workers < 0 or (workers == 0 and not launcher.is_distributed()):
        raise UserError(f"workers must be positive. Received: {workers}")
    for layers in sweep.space.get("num_layers", [None]):
        for width in sweep.space.get("hidden_dim", [None]):
            decoder_config(
                fixed["preset"],
                fixed["decoder"],
                num_layers=layers,
                hidden_dim=width,
            )


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
        if not 0 < gigabytes < math.inf:
            raise UserError("memory_limit must be positive and finite.")
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

"""The process of one trial: train, measure, draw.

    python -m pixace_tf.tuning.trial SWEEP_FOLDER IMAGES TRIAL_ID

The run is SWEEP_FOLDER/runs/TRIAL_ID. Its file `figures.json`, written last,
completes the trial.
"""

import functools
import math
import os
import shutil
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.painting import local, sheets
from pixace_tf.runs.run_config import HISTORY_FILE, TOKENS_FILE
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling.likelihood import bits_per_dim
from pixace_tf.training.fit import RunInUseError, fit
from pixace_tf.training.interruption import InterruptedTraining
from pixace_tf.tuning.space import (
    FIGURES_FILE,
    RUNS,
    STRIP_FILE,
    Sweep,
    load_sweep,
    trial_arguments,
)
from pixace_tf.tuning.trials import read_trial
from pixace_tf.tuning.workers import end_with_parent

# The strip shows this many completed images, and as many new ones.
NUM_STRIP = 4
_BUSY_S = 5.0


def run_trial(folder: str, source: str, trial_id: str) -> None:
    """Train and measure a trial of a sweep, or continue a killed one."""
    sweep = load_sweep(folder)
    values = read_trial(folder, trial_id).values
    runs_dir = os.path.join(folder, RUNS)
    if "tuner/trial_id" in values:  # Hyperband continues a shorter run.
        before = os.path.join(runs_dir, values["tuner/trial_id"])
        copy_run(before, os.path.join(runs_dir, trial_id))
    while True:
        try:
            run = fit(
                source,
                trial_arguments(sweep, values),
                name=trial_id,
                runs_dir=runs_dir,
                say=functools.partial(print, flush=True),
            )
            break
        except RunInUseError:  # Another process, whose parent died, saves it.
            time.sleep(_BUSY_S)
    figures = measure(run)
    _write_hparams(run, sweep, values, figures)
    _draw_strip(run)
    storage.write_json(run.file(FIGURES_FILE), figures)


def measure(run: Run) -> dict[str, float]:
    """Return the figures of a trained run on its validation images.

    They are `bits_per_pixel`, `bits_per_dim`, the number of `parameters`, and
    `tokens_per_second` of training, validation included. If there are more
    epochs, the first one, which compiles, does not count.
    """
    with storage.open_npz(run.file(TOKENS_FILE)) as tokens:
        held_out = tokens.read("validation")
        num_tokens = math.prod(tokens.shapes["train"])
    if not len(held_out):
        raise UserError("A sweep needs validation images; add more images.")
    history = storage.read_json(run.file(HISTORY_FILE))
    key = "val_bits_per_pixel"
    bits = min(entry[key] for entry in history if key in entry)
    every = np.full(held_out.shape, bits)
    first = {"epoch": 0, "seconds": 0.0} if len(history) < 2 else history[0]
    epochs = history[-1]["epoch"] - first["epoch"]
    seconds = history[-1]["seconds"] - first["seconds"]
    return {
        "bits_per_pixel": bits,
        "bits_per_dim": bits_per_dim(every, held_out, run.tokenizer).mean(),
        "parameters": run.model.num_parameters,
        "tokens_per_second": epochs * num_tokens / seconds,
    }


def copy_run(source: str, target: str) -> None:
    """Copy a run for another trial to continue, unless that has begun."""
    if os.path.exists(target):
        return
    if not os.path.isdir(source):
        raise UserError(f"{source} is gone; this trial continues that run.")
    with storage.new_folder(target) as temporary:
        shutil.copytree(
            source,
            temporary,
            ignore=shutil.ignore_patterns(".*", FIGURES_FILE, STRIP_FILE),
            dirs_exist_ok=True,
        )


def _write_hparams(
    run: Run, sweep: Sweep, values: dict[str, Any], figures: dict[str, float]
) -> None:
    """Write choices and figures for the HParams page of TensorBoard."""
    from tensorboard.plugins.hparams import api as hparams

    with tf.summary.create_file_writer(run.file("tensorboard")).as_default():
        hparams.hparams(
            {name: values[name] for name in sweep.space},
            trial_id=os.path.basename(run.path),
        )
        for name, value in figures.items():
            tf.summary.scalar(name, value, step=0)


def _draw_strip(run: Run) -> None:
    """Save a row of completed validation images, then of new images."""
    given = local.LocalPainter(run).examples(NUM_STRIP)
    completed = local.complete(run, list(given)).images[:, 0, 0]
    painted = local.generate(run, NUM_STRIP)[0]
    strip = sheets.strip(np.concatenate([completed, painted]))
    sheets.save_image(strip, run.file(STRIP_FILE))


if __name__ == "__main__":
    end_with_parent()
    try:
        run_trial(*sys.argv[1:])
    except UserError as error:
        sys.exit(" ".join(str(error).split()))
    except InterruptedTraining as stopped:
        sys.exit(128 + stopped.signum)

"""Samples and completions while training, as PNG files and in TensorBoard."""

import os
import time

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from pixace_tf.data.token_dataset import Dataset
from pixace_tf.data.tokenizer import NATIVE
from pixace_tf.painting import sheets
from pixace_tf.runs.run_config import COMPLETED_FILE, SAMPLES_FILE
from pixace_tf.runs.run_folder import Run
from pixace_tf.training.interruption import StopRequest

NUM_NEW = 8
NUM_COMPLETED = 4
# Sampling may take this share of the training time.
MAX_SHARE = 0.03


class Previews:
    """Samples with the same seeds at intervals as the model learns.

    Completes images of the validation, or of the training if it has none.
    """

    def __init__(self, run: Run, data: Dataset, stop: StopRequest) -> None:
        self._run, self._stop = run, stop
        source = data.validation if len(data.validation) else data.train
        # Evenly spaced, since files are sorted by name.
        chosen = np.linspace(0, len(source) - 1, NUM_COMPLETED).astype(int)
        self._given = source[np.unique(chosen)].astype(np.int32)
        self._sampled_at, self._cost_s = 0.0, 0.0

    def update(self, entry: dict[str, float], is_last: bool = False) -> None:
        """Sample for the newest `entry` of the history if due, or `is_last`."""
        start = time.monotonic()
        rested = start - self._sampled_at
        is_due = is_last or rested * MAX_SHARE >= self._cost_s
        # The sampler needs TensorFlow.
        if not is_due or keras.backend.backend() == "jax":
            return
        strip, new, completed = self._sample()
        kinds = {"new": new, "completed": completed}
        name = f"epoch-{entry['epoch']:08.2f}"
        folder = self._run.file("pictures")
        os.makedirs(folder, exist_ok=True)
        for kind, sheet in kinds.items():
            sheets.save_image(sheet, os.path.join(folder, f"{name}-{kind}.png"))
        sheets.save_image(strip, self._run.file(SAMPLES_FILE))
        sheets.save_image(completed, self._run.file(COMPLETED_FILE))
        writer = tf.summary.create_file_writer(
            self._run.file("tensorboard", "pictures")
        )
        with writer.as_default(step=round(100 * entry["epoch"])):
            for kind, sheet in kinds.items():
                tf.summary.image(kind, np.asarray(sheet)[None])
        writer.close()
        self._sampled_at = time.monotonic()
        self._cost_s = self._sampled_at - start

    def _sample(self) -> tuple[Image.Image, Image.Image, Image.Image]:
        """Return a strip and a sheet of new images, a sheet of completions."""
        tokenizer = self._run.tokenizer
        length = tokenizer.sequence_length
        blank = np.zeros((NUM_NEW, length), np.int32)
        prefix_length = [0] * NUM_NEW + [length // 2] * len(self._given)
        token_ids = self._run.sampler.complete(
            np.concatenate([blank, self._given]),
            prefix_length,
            np.arange(len(prefix_length)),
            progress=self._stop.check,
        )
        pixels = tokenizer.detokenize(token_ids)
        originals = tokenizer.detokenize(self._given)
        rows = []
        for original, full in zip(originals, pixels[NUM_NEW:], strict=True):
            kept = sheets.hide_after(original, length // 2)
            rows.append([sheets.Tile(p) for p in (original, kept, full)])
        is_smooth = tokenizer.resize != NATIVE
        completed = sheets.contact_sheet(
            rows, ["original", "kept", "completed"], is_smooth=is_smooth
        )
        new = pixels[:NUM_NEW]
        grid = sheets.grid(new, is_smooth=is_smooth)
        return sheets.strip(new), grid, completed

"""Samples and completions while training, as PNG files and in TensorBoard."""

import os
import time

import numpy as np
import tensorflow as tf
from PIL import Image

from pixace_tf.data.token_dataset import ShardedDataset, TokenDataset
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

    def __init__(
        self,
        run: Run,
        data: TokenDataset | ShardedDataset,
        stop: StopRequest,
    ) -> None:
        self._run = run
        self._stop = stop
        source = data.validation if len(data.validation) else data.train
        # Evenly spaced, since files are sorted by name.
        chosen = np.linspace(0, len(source) - 1, NUM_COMPLETED).astype(int)
        self._given = source[np.unique(chosen)].astype(np.int32)
        self._sampled_at = 0.0
        self._cost_s = 0.0

    def update(self, entry: dict[str, float], is_last: bool = False) -> None:
        """Sample for the newest `entry` of the history if due, or `is_last`."""
        start = time.monotonic()
        rested = start - self._sampled_at
        if not is_last and rested * MAX_SHARE < self._cost_s:
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
        pairs = zip(originals, pixels[NUM_NEW:], strict=True)
        rows = [
            [
                sheets.Tile(original),
                sheets.Tile(sheets.hide_after(original, length // 2)),
                sheets.Tile(completed),
            ]
            for original, completed in pairs
        ]
        headings = ["original", "kept", "completed"]
        return (
            sheets.strip(pixels[:NUM_NEW]),
            sheets.grid(pixels[:NUM_NEW]),
            sheets.contact_sheet(rows, headings),
        )

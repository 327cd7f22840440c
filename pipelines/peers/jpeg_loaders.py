"""Other ways from a folder of JPEG files to tokens."""

import glob
import multiprocessing
import os
from typing import Any

import numpy as np
import skimage.color
import timing
from PIL import Image

from pixace_tf.machine import num_cores


def worker_pool(
    folder: str, size: int, num_pictures: int, is_reduced: bool, seconds: float
) -> None:
    """PIL and scikit-image in a pool of processes; pictures per second."""
    jobs = [(path, size, is_reduced) for path in _paths(folder)]
    with multiprocessing.Pool(num_cores()) as pool:

        def work() -> None:
            tokens = list(pool.imap_unordered(_pack, jobs, chunksize=16))
            assert len(tokens) == num_pictures

        timing.rates(work, num_pictures, seconds)


def torch_loader(
    folder: str, size: int, num_pictures: int, is_reduced: bool, seconds: float
) -> None:
    """A torch DataLoader over PIL; pictures per second."""
    import torch

    jobs = [(path, size, is_reduced) for path in _paths(folder)]

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(jobs)

        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(_pack(jobs[index]))

    loader = torch.utils.data.DataLoader(
        Pictures(),
        batch_size=16,
        num_workers=num_cores(),
        persistent_workers=True,
    )

    def work() -> None:
        assert sum(len(batch) for batch in loader) == num_pictures

    timing.rates(work, num_pictures, seconds)


def _paths(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(folder, "*.jpg")))


def _pack(job: tuple[str, int, bool]) -> np.ndarray:
    """Scale down, turn to HSV, quantize to 5, 4, 4 bits, pack."""
    path, size, is_reduced = job
    with Image.open(path) as image:
        if is_reduced:
            image.draft("RGB", (2 * size, 2 * size))
        small = image.convert("RGB").resize((size, size))
    hsv = skimage.color.rgb2hsv(np.asarray(small))
    hue, saturation, value = np.moveaxis(
        np.round(hsv * (31, 15, 15)).astype(np.int32), -1, 0
    )
    return (hue | saturation << 5 | value << 9).reshape(-1)


if __name__ == "__main__":
    timing.main(worker_pool, torch_loader)

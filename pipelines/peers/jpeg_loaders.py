"""Other ways from a folder of JPEG files to tokens."""

import glob
import multiprocessing
import os
from typing import Any

import numpy as np
import timing
from PIL import Image


def worker_pool(
    folder: str, size: int, num_pictures: int, seconds: float
) -> dict:
    """PIL and scikit-image in a pool of processes; pictures per second."""
    import skimage.color  # noqa: F401  So that the workers inherit it.

    paths = [(path, size) for path in _paths(folder)]

    def work() -> None:
        with multiprocessing.Pool(os.cpu_count()) as pool:
            tokens = list(pool.imap_unordered(_pack, paths, chunksize=16))
        assert len(tokens) == num_pictures

    return timing.rates(work, num_pictures, seconds)


def torch_loader(
    folder: str, size: int, num_pictures: int, seconds: float
) -> dict:
    """A torch DataLoader over PIL; pictures per second."""
    import torch

    paths = _paths(folder)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(_pack((paths[index], size)))

    loader = torch.utils.data.DataLoader(
        Pictures(), batch_size=16, num_workers=os.cpu_count() or 1
    )

    def work() -> None:
        assert sum(len(batch) for batch in loader) == num_pictures

    return timing.rates(work, num_pictures, seconds)


def _paths(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(folder, "*.jpg")))


def _pack(path_and_size: tuple[str, int]) -> np.ndarray:
    """Scale down, turn to HSV, quantize to 5, 4, 4 bits, pack."""
    import skimage.color

    path, size = path_and_size
    with Image.open(path) as image:
        small = image.convert("RGB").resize((size, size))
    hsv = skimage.color.rgb2hsv(np.asarray(small))
    hue, saturation, value = np.moveaxis(
        np.round(hsv * (31, 15, 15)).astype(np.int32), -1, 0
    )
    return (hue | saturation << 5 | value << 9).reshape(-1)


if __name__ == "__main__":
    timing.main(worker_pool, torch_loader)

"""Tells whether the pictures of a folder look like pixel art."""

import os

import numpy as np

from pixace_tf.data import image_files
from pixace_tf.data.image_files import UnloadableError
from pixace_tf.data.native_grid import grid_factor, visible
from pixace_tf.storage import StrPath

# Files that are looked at, evenly spaced; fewer than these tell nothing.
SAMPLE, MIN_FILES = 64, 4
# Pixel art has sides up to this, or enlarged pixels.
MAX_SIDE = 64
# At most this many colors in half of the pictures.
MAX_COLORS = 64
# Larger files are photos, or not worth the time.
_MAX_PIXELS = 1 << 20


def is_likely(root: StrPath) -> bool:
    """Look at some files below a folder: are they small, with few colors?

    Raises:
        UserError: If there is no such folder or file.
    """
    listing = image_files.list_files(root)
    paths = list(listing.places)
    count = min(len(paths), SAMPLE)
    sample = [paths[i * len(paths) // count] for i in range(count)]
    colors: list[int] = []
    for done, path in enumerate(sample, 1):
        number = _num_colors(os.path.join(listing.root, path))
        colors += [number] * (number > 0)
        if 4 * (done - len(colors)) > count:  # A quarter is something else.
            return False
    return len(colors) >= MIN_FILES and bool(np.median(colors) <= MAX_COLORS)


def _num_colors(path: str) -> int:
    """Return the number of visible colors, or 0 if it is no pixel art."""
    try:
        # No JPEG has enlarged pixels.
        image = image_files.load(path, _MAX_PIXELS, lambda *_: 8)
    except UnloadableError:
        return 0
    pixels = visible(np.asarray(image))
    factor = grid_factor(pixels)
    if factor == 1 and max(pixels.shape[:2]) > MAX_SIDE:
        return 0
    pixels = pixels[::factor, ::factor]
    return len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0))

"""The colors of a file as those of a run: what is painted, indexed, counted.

Shapes: N colors.
"""

import csv
import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pixace_tf import storage
from pixace_tf.data.palette import Palette
from pixace_tf.data.quantization import quantize
from pixace_tf.errors import UserError
from pixace_tf.painting.color_files import MAX_COLORS, Colors
from pixace_tf.storage import StrPath


class ColorLimit:
    """Limits pictures of a run to some colors.

    If several colors have one code in the run's palette, the first is painted.
    Where the run has alpha, pixels can be transparent, too.

    Args:
        colors: The colors.
        palette: The run's palette.

    Attributes:
        colors: The colors.
        codes: int32 `(N + 1,)` or fewer: the codes that may be sampled.
        num_merged: Number of colors that are not painted, because an earlier
            one has the same code; double entries do not count.

    Raises:
        UserError: If transparency has no place among the colors.
    """

    def __init__(self, colors: Colors, palette: Palette) -> None:
        self.colors = colors
        if palette.has_alpha and self._transparent is None:
            raise UserError(
                f"There are {MAX_COLORS} colors, and the run also paints "
                "transparency, which needs an entry of its own: remove a color."
            )
        rgb = colors.rgb[colors.is_opaque]
        opaque = np.full((len(rgb), 1), 255, np.uint8)
        image = np.concatenate([rgb, opaque], axis=1)
        channels = palette.num_image_channels
        codes = palette.pack(
            quantize(image[:, :channels].astype(np.int32), palette)
        )
        self._painted, first = np.unique(codes, return_index=True)
        self._rgb = rgb[first]
        distinct = len(np.unique(rgb, axis=0))
        self.num_merged = distinct - len(self._painted)
        transparent = [0] if palette.has_alpha else []
        self.codes = np.append(self._painted, transparent).astype(np.int32)

    def paint(self, token_ids: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Give pixels the exact colors.

        Args:
            token_ids: int32 `(..., T)`.
            images: uint8 `(..., height, width, C)`, the same pixels with the
                colors of the run.

        Returns:
            `images`, in which pixels whose token is one of the codes have its
            color; other pixels were not sampled, and stay as they are.
        """
        tokens = token_ids.reshape(images.shape[:-1])
        place = np.searchsorted(self._painted, tokens)
        place = np.minimum(place, len(self._painted) - 1)
        is_painted = self._painted[place] == tokens
        exact = images.copy()
        exact[..., :3][is_painted] = self._rgb[place[is_painted]]
        return exact

    def indices(self, image: np.ndarray) -> np.ndarray:
        """Return the place of each pixel's color.

        Args:
            image: uint8 `(height, width, 3 or 4)`.

        Returns:
            Integers `(height, width)`: from 0 to N - 1 for a color, the first
            place of double ones; `transparent` for a transparent pixel; -1 for
            any other.
        """
        colors = np.flatnonzero(self.colors.is_opaque)
        keys, first = np.unique(
            _keys(self.colors.rgb[colors]), return_index=True
        )
        pixels = _keys(image)
        place = np.minimum(np.searchsorted(keys, pixels), len(keys) - 1)
        found = np.where(keys[place] == pixels, colors[first][place], -1)
        if image.shape[2] == 4:
            found[image[..., 3] < 255] = -1
            if self._transparent is not None:
                found[image[..., 3] == 0] = self._transparent
        return found

    def has_all(self, image: np.ndarray) -> bool:
        """Return whether the pixels of an image have no other color."""
        return bool(np.all(self.indices(image) >= 0))

    def indexed(self, image: np.ndarray) -> Image.Image:
        """Return an image in mode P, whose palette is the list of colors.

        Transparency has the place of the first transparent color, or the one
        behind the last color.

        Args:
            image: uint8 `(height, width, 3 or 4)`.

        Returns:
            The image; RGB or RGBA if it has other colors.
        """
        indices = self.indices(image)
        if np.any(indices < 0):
            return Image.fromarray(image)
        indexed = Image.fromarray(indices.astype(np.uint8), "P")
        rgb = self.colors.rgb.tolist()
        place = self._transparent
        if image.shape[2] == 4 and place is not None:
            indexed.info["transparency"] = place
            rgb += [[0, 0, 0]] * (place == len(rgb))
        indexed.putpalette(np.ravel(rgb).tolist())
        return indexed

    def save_counts(self, images: Sequence[np.ndarray], path: StrPath) -> None:
        """Write how many pixels of each image have each color, as CSV.

        The columns are the index and the hexadecimal digits of a color, its
        name if the colors have names, the total, and each image, named like
        the files of `sheets.save_tiles`. Transparent and other pixels have
        rows of their own, if there are any.
        """
        size = len(self.colors.rgb)
        counts = np.stack(
            [
                # From -1, which comes last, to the place of transparency.
                np.bincount(
                    self.indices(image).ravel() % (size + 2),
                    minlength=size + 2,
                )
                for image in images
            ],
            axis=1,
        )
        names = any(self.colors.names)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        numbers = [f"{i:03d}" for i in range(len(images))]
        head = ["index", "hex", *["name"] * names, "total", *numbers]
        writer.writerow(head)
        for i, row in enumerate(counts.tolist()):
            if i < size:
                is_color = self.colors.is_opaque[i]
                hexadecimal = bytes(self.colors.rgb[i]).hex()
                texts = [i, hexadecimal if is_color else "transparent"]
                name = self.colors.names[i]
            elif sum(row):
                texts = [i, "transparent"] if i == size else ["", "other"]
                name = ""
            else:
                continue
            writer.writerow([*texts, *[name] * names, sum(row), *row])
        storage.write_atomic(path, buffer.getvalue().encode())

    @functools.cached_property
    def _transparent(self) -> int | None:
        """The index of transparency, or None if there is no place for it."""
        entries = np.flatnonzero(~self.colors.is_opaque)
        if len(entries):
            return int(entries[0])
        count = len(self.colors.rgb)
        return count if count < MAX_COLORS else None


def _keys(rgb: np.ndarray) -> np.ndarray:
    """Return one integer for each color, uint8 `(..., 3 or more)`."""
    red, green, blue = (rgb[..., c].astype(np.int32) for c in range(3))
    return red << 16 | green << 8 | blue

"""Sprite sheets: images at their own size, and where they lie, for engines.

A JSON file tells where, in the form that Aseprite exports
(https://www.aseprite.org/docs/cli/#data, format json-hash).
"""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.painting import sheets
from pixace_tf.storage import StrPath

# Engines tell the form by the name of the program, which this text contains.
_APP = "pixace-tf, in the form of http://www.aseprite.org/"
# Milliseconds for which an animation shows a frame: Aseprite's default.
_DURATION = 100


@dataclasses.dataclass(frozen=True)
class SpriteSheet:
    """Images in a grid, on a transparent ground.

    Several rows of images become a row of the sheet each; a single row becomes
    a near-square grid.

    Attributes:
        rows: Each with its name, which may be empty, and its images, uint8
            `(N, height, width, 3 or 4)`.
        gap: Pixels between images.
        margin: Pixels around all of them.
    """

    rows: Sequence[tuple[str, np.ndarray]]
    gap: int = 0
    margin: int = 0

    @property
    def _columns(self) -> int:
        if len(self.rows) == 1:
            return int(np.ceil(np.sqrt(len(self.rows[0][1]))))
        return max(len(images) for _, images in self.rows)

    @property
    def _cells(self) -> list[tuple[int, int]]:
        """Row and column of each image."""
        columns = self._columns
        cells, top = [], 0
        for _, images in self.rows:
            cells += [
                (top + i // columns, i % columns) for i in range(len(images))
            ]
            top = cells[-1][0] + 1
        return cells

    def _places(self) -> list[tuple[int, int]]:
        """Top and left of each image."""
        height, width = self.rows[0][1].shape[1:3]
        return [
            (
                self.margin + row * (height + self.gap),
                self.margin + column * (width + self.gap),
            )
            for row, column in self._cells
        ]

    def pixels(self) -> np.ndarray:
        """Return the sheet, uint8 `(height, width, 4)`."""
        images = np.concatenate([images for _, images in self.rows])
        height, width = images.shape[1:3]
        columns, places = self._columns, self._places()
        sheet = np.zeros(
            (
                places[-1][0] + height + self.margin,
                2 * self.margin + columns * (width + self.gap) - self.gap,
                4,
            ),
            np.uint8,
        )
        for pixels, (top, left) in zip(images, places, strict=True):
            part = sheet[top : top + height, left : left + width]
            part[..., 3] = 255
            part[..., : pixels.shape[-1]] = pixels
        return sheet

    def describe(self, name: str, image: Image.Image) -> dict[str, Any]:
        """Return the content of the JSON file.

        Args:
            name: Name of the file of the sheet.
            image: The sheet.
        """
        height, width = self.rows[0][1].shape[1:3]
        title = os.path.splitext(name)[0]
        size = {"w": width, "h": height}
        frames = {
            f"{title} {i}.png": {
                "frame": {"x": left, "y": top, **size},
                "rotated": False,
                "trimmed": False,
                "spriteSourceSize": {"x": 0, "y": 0, **size},
                "sourceSize": size,
                "duration": _DURATION,
            }
            for i, (top, left) in enumerate(self._places())
        }
        meta: dict[str, Any] = {
            "app": _APP,
            "version": importlib.metadata.version("pixace-tf"),
            "image": name,
            "format": "I8" if image.mode == "P" else "RGBA8888",
            "size": {"w": image.width, "h": image.height},
            "scale": "1",
        }
        if len(self.rows) > 1:
            meta["frameTags"] = self._tags()
        return {"frames": frames, "meta": meta}

    def _tags(self) -> list[dict[str, Any]]:
        """Return a tag for each row."""
        tags, start = [], 0
        for name, images in self.rows:
            end = start + len(images)
            tags.append(
                {
                    "name": name,
                    "from": start,
                    "to": end - 1,
                    "direction": "forward",
                }
            )
            start = end
        return tags

    def save(
        self,
        path: StrPath,
        to_image: Callable[[np.ndarray], Image.Image] = Image.fromarray,
    ) -> None:
        """Write the sheet as PNG, and beside it the JSON file."""
        image = to_image(self.pixels())
        sheets.save_image(image, path)
        stem, name = os.path.splitext(path)[0], os.path.basename(path)
        content = self.describe(name, image)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        storage.write_atomic(f"{stem}.json", f"{text}\n".encode())


def check_path(path: StrPath) -> None:
    """Raise UserError if a sheet cannot be saved there."""
    sheets.check_image_path(path)
    if os.path.splitext(path)[1].lower() != ".png":
        raise UserError(
            f"A sprite sheet must end in .png. Received: {os.fspath(path)!r}"
        )

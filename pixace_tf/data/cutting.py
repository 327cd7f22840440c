"""How sheets are cut into tiles and animations into frames.

Needs no NumPy. Sizes are `(height, width)`, in pixels.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

from pixace_tf.errors import UserError

# Top, left, bottom and right of a tile, in its sheet.
TileBox = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Cutting:
    """How a file becomes pictures.

    Attributes:
        tiles: Height and width of the tiles, or None for whole pictures.
        tiles_gap: Pixels between two tiles.
        tiles_margin: Pixels above and left of the first tile.
        frames: Whether to take every frame instead of the first.

    Raises:
        UserError: If a value is out of range.
    """

    tiles: tuple[int, int] | None = None
    tiles_gap: int = 0
    tiles_margin: int = 0
    frames: bool = False

    def __post_init__(self) -> None:
        if self.tiles is not None and min(self.tiles) < 1:
            raise UserError(
                "tiles must be two positive integers. "
                f"Received: tiles={self.tiles}"
            )
        if self.tiles is None and (self.tiles_gap or self.tiles_margin):
            raise UserError("tiles_gap and tiles_margin need tiles.")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self | None:
        """Return the cutting among other arguments, None if nothing is cut.

        Arguments that are missing have their defaults.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        values = {name: arguments[name] for name in names if name in arguments}
        if values.get("tiles") is not None:
            values["tiles"] = tuple(values["tiles"])
        cutting = cls(**values)
        return None if cutting == cls() else cutting

    def boxes(self, height: int, width: int) -> list[TileBox]:
        """Return where the tiles of a sheet lie, row by row."""
        if self.tiles is None:
            return [(0, 0, height, width)]
        tall, wide = self.tiles
        first, gap = self.tiles_margin, self.tiles_gap
        return [
            (top, left, top + tall, left + wide)
            for top in range(first, height - tall + 1, tall + gap)
            for left in range(first, width - wide + 1, wide + gap)
        ]

    def num_boxes(self, height: int, width: int) -> int:
        """Return the number of `boxes`, which can be large."""
        if self.tiles is None:
            return 1
        first, gap = self.tiles_margin, self.tiles_gap
        return math.prod(
            len(range(first, length - side + 1, side + gap))
            for length, side in zip((height, width), self.tiles, strict=True)
        )

    def left_over(self, height: int, width: int) -> tuple[int, int]:
        """Return how many pixels at the bottom and right no tile reaches.

        A gap and a margin behind the last tile do not count. The sheet has at
        least one tile.
        """
        *_, bottom, right = self.boxes(height, width)[-1]
        gap, margin = self.tiles_gap, self.tiles_margin
        allowed = (0, gap, margin, gap + margin)
        below, beside = height - bottom, width - right
        return (
            0 if below in allowed else below,
            0 if beside in allowed else beside,
        )

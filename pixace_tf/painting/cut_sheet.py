"""A picture that shows how sheets are cut, before anything is trained."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pixace_tf.console import ProgressCallback, counted
from pixace_tf.data.cutter import EMPTY, Counts, Piece, pieces
from pixace_tf.data.cutting import Cutting
from pixace_tf.data.image_files import Scan, Skipped, UnloadableError, printable
from pixace_tf.painting.sheets import flatten

# At most so many sheets or frames, and no other one behind so many pieces.
_MAX_PANELS, _MAX_SHOWN = 16, 300
# Sides of a tile on the picture that its number needs, and of a large sheet.
_TILE_SIDE, _MAX_SIDE = 64, 2400
# Sheets and frames are laid out in rows of this width, one below another.
_ROW_WIDTH = 1200
_GAP, _CAPTION = 16, 20
_TEXT_SIZE, _NUMBER_SIZE = 13, 10
_PAPER, _TEXT = (255, 255, 255), (70, 70, 76)
_LINE = (214, 30, 120)
_LABEL, _LABEL_TEXT = (20, 20, 26, 190), (255, 255, 255)
# Over what is not taken: dropped tiles, and pixels that no tile reaches.
_DROPPED, _OUTSIDE = (255, 255, 255, 170), (120, 120, 130, 120)


@dataclasses.dataclass
class CutScan:
    """What a cutting makes of the files of a folder.

    Attributes:
        cutting: How the files are cut.
        loads: The files that are cut, relative to the folder.
        skipped: The other ones.
        counts: The pieces of each file.
    """

    cutting: Cutting
    loads: list[str] = dataclasses.field(default_factory=list)
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    counts: list[Counts] = dataclasses.field(default_factory=list)
    _panels: list[tuple[str, Image.Image]] = dataclasses.field(
        default_factory=list
    )
    _num_shown: int = 0

    def lines(self) -> list[str]:
        """Return a line for each file with more than one piece."""
        return [
            f"{printable(path)}: {note}"
            for path, counts in zip(self.loads, self.counts, strict=True)
            if (note := counts.describe(self.cutting))
        ]

    def summary(self) -> str:
        """Return the number of pictures that are left."""
        pieces = sum(c.pieces for c in self.counts)
        kept = sum(c.pieces - c.empty - c.equal for c in self.counts)
        what = "tiles" if self.cutting.tiles else "frames"
        return f"{kept:,} pictures of {pieces:,} {what}"

    def as_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        sheets = [
            {"path": path, **dataclasses.asdict(counts)}
            for path, counts in zip(self.loads, self.counts, strict=True)
        ]
        return {"cutting": dataclasses.asdict(self.cutting), "sheets": sheets}

    def add(self, root: str, path: str, max_pixels: int) -> None:
        """Cut a file; draw it, if it is one of the first."""
        counts, cutting = Counts(), self.cutting
        full_path = os.path.join(root, path)

        def frame(piece: Piece) -> str:
            return piece.name.partition(".")[0] if cutting.frames else ""

        every = pieces(full_path, cutting, max_pixels)
        try:
            for number, group in itertools.groupby(every, frame):
                of_frame = list(group)
                for piece in of_frame:
                    counts.add(piece, cutting)
                self._draw(f"{path}#{number}" if number else path, of_frame)
        except UnloadableError as error:
            self.skipped.append(Skipped(path, str(error)))
        else:
            self.loads.append(path)
            self.counts.append(counts)

    def picture(self) -> Image.Image | None:
        """Return the first sheets, with thin lines between numbered tiles.

        Dropped tiles are pale: empty ones crossed out, equal ones with the
        number of the tile that they equal. Of a large sheet, the upper left
        part is shown.

        Returns:
            An RGB image, or None if nothing is cut.
        """
        return _laid_out(self._panels) if self._panels else None

    def _draw(self, caption: str, of_sheet: Sequence[Piece]) -> None:
        """Draw a sheet, unless there are enough."""
        is_enough = len(self._panels) >= _MAX_PANELS
        if is_enough or self._num_shown >= _MAX_SHOWN:
            return
        self._num_shown += len(of_sheet)
        height, width = of_sheet[0].sheet.shape[:2]
        side = min(self.cutting.tiles or (height, width))
        scale = max(1, -(-_TILE_SIDE // side))
        text = f"{printable(caption)}, {width} x {height}"
        text = text.encode("ascii", "backslashreplace").decode()
        self._panels.append((text, _panel(of_sheet, scale)))


def scan_cut(
    scan: Scan,
    cutting: Cutting,
    max_pixels: int,
    progress: ProgressCallback | None = None,
) -> CutScan:
    """Cut the files of a folder, without using the pictures.

    Args:
        scan: The files.
        cutting: How to cut them.
        max_pixels: As in `image_files.scan`.
        progress: Called with the files done and their number.
    """
    cut = CutScan(cutting, skipped=list(scan.skipped))
    for path in counted(scan.loads, len(scan.loads), progress):
        cut.add(scan.root, path, max_pixels)
    cut.skipped.sort(key=lambda s: s.path)
    return cut


def _laid_out(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Lay out images with captions above them, in rows."""
    places: list[tuple[int, int]] = []
    left, top, below, widest = _GAP, _GAP, _GAP, 0
    font = ImageFont.load_default(size=_TEXT_SIZE)
    for caption, image in panels:
        width = max(image.width, round(font.getlength(caption)))
        if left > _GAP and left + width > _ROW_WIDTH:
            left, top = _GAP, below
        places.append((left, top))
        left += width + _GAP
        below = max(below, top + _CAPTION + image.height + _GAP)
        widest = max(widest, left)
    sheet = Image.new("RGB", (widest, below), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for (caption, image), (left, top) in zip(panels, places, strict=True):
        draw.text((left, top), caption, _TEXT, font)
        sheet.paste(image, (left, top + _CAPTION))
    return sheet


def _panel(of_sheet: Sequence[Piece], scale: int) -> Image.Image:
    """Draw one sheet, enlarged, or the upper left part of it."""
    side = _MAX_SIDE // scale
    pixels = of_sheet[0].sheet[:side, :side]
    height, width = pixels.shape[:2]
    large = Image.fromarray(pixels).resize(
        (width * scale, height * scale), Image.Resampling.NEAREST
    )
    image = flatten(large).convert("RGBA")
    outside = Image.new("RGBA", image.size, _OUTSIDE)
    cover = ImageDraw.Draw(outside)
    shown = [p for p in of_sheet if p.box[0] < side and p.box[1] < side]
    for piece in shown:
        # A line of one pixel stays free on all sides.
        cover.rectangle(
            _corners(piece, scale), _DROPPED if piece.dropped else (0, 0, 0, 0)
        )
    image.alpha_composite(outside)
    marks = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(marks)
    for piece in shown:
        _mark(draw, piece, scale)
    image.alpha_composite(marks)
    return image.convert("RGB")


def _mark(draw: ImageDraw.ImageDraw, piece: Piece, scale: int) -> None:
    """Draw the outline of a piece and its number."""
    left, top, right, bottom = _corners(piece, scale)
    draw.rectangle((left, top, right, bottom), outline=_LINE)
    name = piece.name
    if piece.dropped == EMPTY:
        draw.line((left, bottom, right, top), _LINE)
    elif piece.dropped:
        name = f"{piece.name}={piece.dropped}"
    font = ImageFont.load_default(size=_NUMBER_SIZE)
    width = round(font.getlength(name))
    box = (left + 1, top + 1, left + width + 4, top + _NUMBER_SIZE + 3)
    draw.rectangle(box, _LABEL)
    draw.text((left + 3, top + 1), name, _LABEL_TEXT, font)


def _corners(piece: Piece, scale: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a piece, all inclusive."""
    top, left, bottom, right = (scale * n for n in piece.box)
    return left, top, right - 1, bottom - 1

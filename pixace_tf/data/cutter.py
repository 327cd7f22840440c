"""Cuts sheets into tiles and animations into frames."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pixace_tf.data import image_files
from pixace_tf.data.cutting import Cutting, TileBox
from pixace_tf.data.image_files import UnloadableError
from pixace_tf.data.native_grid import fits, grid_factor, visible
from pixace_tf.data.tokenizer import NATIVE, PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.machine import num_cores

# Most pieces of one file: a sheet of 4096x4096 in tiles of 16x16.
MAX_PIECES = 1 << 16
EMPTY = "empty"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A tile of a sheet, a frame, or a tile of a frame.

    Attributes:
        name: Its number in the file, from 1 on, such as `3`; `2.3` is the third
            tile of the second frame.
        sheet: The sheet or frame, uint8 `(any_height, any_width, 4)`, RGBA.
        box: Where it lies in its sheet.
        dropped: `EMPTY`, or the name of an equal piece before it; "" if the
            piece is kept.
    """

    name: str
    sheet: np.ndarray = dataclasses.field(repr=False)
    box: TileBox
    dropped: str

    @property
    def pixels(self) -> np.ndarray:
        """The piece alone, uint8 `(any_height, any_width, 4)`."""
        return _cut_out(self.sheet, self.box)


def pieces(
    source: image_files.Source,
    cutting: Cutting,
    max_pixels: int = image_files.MAX_PIXELS,
) -> Iterator[Piece]:
    """Yield the pieces of a file, those that are dropped too.

    Tiles of one color are empty, as are transparent ones. Only one frame is
    held in memory.

    Args:
        source: A path, or the bytes of a file.
        cutting: How to cut.
        max_pixels: Most pixels of all frames.

    Raises:
        UnloadableError: If the file cannot be used.
    """
    seen: dict[bytes, str] = {}
    count = 0
    for i, sheet in enumerate(_sheets(source, cutting, max_pixels), 1):
        height, width = sheet.shape[:2]
        count += cutting.num_boxes(height, width)
        if not count:
            tall, wide = cutting.tiles or (1, 1)
            raise UnloadableError(
                f"{width} x {height} pixels, no tile of {wide} x {tall} fits"
            )
        if count > MAX_PIECES:
            raise UnloadableError(f"more than {MAX_PIECES:,} pictures")
        for j, box in enumerate(cutting.boxes(height, width), 1):
            numbers = [i] * cutting.frames + [j] * bool(cutting.tiles)
            name = ".".join(map(str, numbers))
            reason = _reason(_cut_out(sheet, box), name, seen, cutting)
            yield Piece(name, sheet, box, reason)


def _sheets(
    source: image_files.Source, cutting: Cutting, max_pixels: int
) -> Iterator[np.ndarray]:
    """Yield the frames as uint8 `(any_height, any_width, 4)`."""
    if cutting.frames:
        images = image_files.load_frames(source, max_pixels)
    else:
        images = iter([image_files.load(source, max_pixels)])
    for image in images:
        yield np.asarray(image.convert("RGBA"))


def _reason(
    pixels: np.ndarray, name: str, seen: dict[bytes, str], cutting: Cutting
) -> str:
    """Return why a piece is dropped, or ""; remember it in `seen`."""
    colors = visible(pixels)
    if cutting.tiles and (colors == colors[:1, :1]).all():
        return EMPTY
    # Pages of one file can have several sizes.
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(colors.tobytes())
    equal = seen.setdefault(digest.digest(), name)
    return "" if equal == name else equal


def _cut_out(sheet: np.ndarray, box: TileBox) -> np.ndarray:
    top, left, bottom, right = box
    return sheet[top:bottom, left:right]


@dataclasses.dataclass
class Counts:
    """How many pieces a file has, and how many of them are dropped.

    Attributes:
        pieces: The number of all pieces.
        empty: The number of empty ones.
        equal: The number of those that equal one before them.
        left_over: Pixels at the bottom and at the right; see
            `Cutting.left_over`.
    """

    pieces: int = 0
    empty: int = 0
    equal: int = 0
    left_over: tuple[int, int] = (0, 0)

    def add(self, piece: Piece, cutting: Cutting) -> None:
        """Count a piece."""
        if not self.pieces:
            self.left_over = cutting.left_over(*piece.sheet.shape[:2])
        self.pieces += 1
        self.empty += piece.dropped == EMPTY
        self.equal += piece.dropped not in ("", EMPTY)

    def describe(self, cutting: Cutting) -> str:
        """Return what became of the pieces, in a line; "" for one picture."""
        count, empty, equal = self.pieces, self.empty, self.equal
        what = "tile" if cutting.tiles else "frame"
        parts = [f"{count:,} {what}{'' if count == 1 else 's'}"]
        dropped = [f"{empty:,} empty"] * bool(empty)
        dropped += [f"{equal:,} equal"] * bool(equal)
        if dropped:
            ones = "one" if empty + equal == 1 else "ones"
            parts.append(f"{' and '.join(dropped)} {ones} dropped")
        sides = zip(self.left_over, ("bottom", "right"), strict=True)
        rest = [f"{n} at the {side}" for n, side in sides if n]
        if rest:
            parts.append(f"pixels left out: {' and '.join(rest)}")
        return ", ".join(parts) if count > 1 or parts[1:] else ""


@dataclasses.dataclass
class CutFile:
    """The pictures of one file, scaled down.

    Attributes:
        images: uint8 `(height, width, C)` each.
        names: Their names, as of `Piece`.
        skipped: Names of pieces that are not usable, each with the reason; ""
            for the whole file.
        counts: What became of the pieces.
    """

    images: list[np.ndarray] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    counts: Counts = dataclasses.field(default_factory=Counts)


class Cutter:
    """Cuts many files, in threads."""

    def __init__(
        self, cutting: Cutting, tokenizer: PixelTokenizer, max_pixels: int
    ) -> None:
        self._cutting = cutting
        self._tokenizer = tokenizer
        self._max_pixels = max_pixels

    def cut_all(self, paths: Iterable[str]) -> Iterator[CutFile]:
        """Yield the pictures of each file."""
        with ThreadPoolExecutor(num_cores()) as pool:
            yield from pool.map(self.cut, paths)

    def cut(self, path: str) -> CutFile:
        """Return the pictures of one file."""
        done = CutFile()
        try:
            header = image_files.read_header(
                path, self._max_pixels, allow_own=False
            )
            with image_files.DECODING.hold(header.num_pixels):
                self._cut_into(done, path)
        except UnloadableError as error:
            # A broken file gives no pictures, not some of them.
            done = CutFile(skipped=[("", str(error))])
        return done

    def _cut_into(self, done: CutFile, path: str) -> None:
        factor = 0
        for piece in pieces(path, self._cutting, self._max_pixels):
            done.counts.add(piece, self._cutting)
            if piece.dropped:
                continue
            # Pieces of one file have one grid.
            factor = factor or self._factor(path, piece.pixels)
            pixels = piece.pixels[::factor, ::factor]
            try:
                image = self._tokenizer.resize_image(
                    self._tokenizer.with_alpha(pixels)
                )
            except UserError as error:
                done.skipped.append((piece.name, str(error)))
            else:
                done.images.append(image)
                done.names.append(piece.name)

    def _factor(self, path: str, first: np.ndarray) -> int:
        """Return by how much the pixels of a file's pieces are enlarged.

        It is 1 if they are resampled, or fit into the canvas as they are.
        """
        size = self._tokenizer.image_size
        if self._tokenizer.resize != NATIVE or fits(first.shape[:2], size):
            return 1
        every = pieces(path, self._cutting, self._max_pixels)
        return int(
            np.gcd.reduce(
                [grid_factor(p.pixels) for p in every if not p.dropped]
            )
        )

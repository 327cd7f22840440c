"""Contact sheets and plots.

Images saved here carry a mark (`image_files.own_mark`), so that a scan does not
collect them as images to train on.
"""

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixace_tf import storage
from pixace_tf.data import image_files
from pixace_tf.data.pairing import lower, upper
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 6
_TEXT_SIZE = 13
_LINE = _TEXT_SIZE + 4
_TEXT = (70, 70, 76)
_PAPER = (255, 255, 255)
_MISSING = ((214, 214, 218), (232, 232, 236))
# Darker than the checkerboard of transparent pixels.
_MISSING_OF_RGBA = ((160, 168, 190, 255), (176, 184, 204, 255))
# Shows through transparent pixels, in squares of this many pixels of a sheet.
_CHECKERS = ((255, 255, 255), (229, 229, 233))
_CHECKER_SIDE = 8
TILE_SIDE = 128
Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Tile:
    """A small image, uint8 `(height, width, 3 or 4)`, and the text below it."""

    pixels: np.ndarray
    caption: str = ""


def default_scale(image_size: tuple[int, int]) -> int:
    """Return the enlargement that gives tiles of about 128 pixels."""
    return max(1, round(TILE_SIDE / max(image_size)))


def contact_sheet(
    rows: Sequence[Sequence[Tile]],
    headings: Sequence[str] = (),
    scale: int | None = None,
    background: Color | None = None,
    is_smooth: bool = True,
) -> Image.Image:
    """Lay small images out in rows, enlarged.

    Args:
        rows: Tiles of one size, row by row.
        headings: A line of text above each column.
        scale: See `enlarge`; by default tiles of about 128 pixels.
        background: Shows through transparent pixels; by default, a
            checkerboard.
        is_smooth: See `enlarge`.
    """
    height, width = rows[0][0].pixels.shape[:2]
    scale = scale or default_scale((height, width))
    captions = [tile.caption for row in rows for tile in row]
    texts = [*captions, *headings]
    font = _font(frozenset("".join(texts))) or _font(frozenset())
    assert font is not None
    text_width = max((font.getlength(text) for text in texts), default=0)
    column_width = max(width * scale, round(text_width)) + _GAP
    row_height = height * scale + _GAP + (_LINE if any(captions) else 0)
    top = _GAP + (_LINE if headings else 0)
    columns = max(len(row) for row in rows)
    size = columns * column_width + _GAP, top + len(rows) * row_height
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)

    def center(column: int) -> int:
        return _GAP + column * column_width + (column_width - _GAP) // 2

    for column, heading in enumerate(headings):
        draw.text((center(column), 3), heading, _TEXT, font, anchor="mt")
    for row, tiles in enumerate(rows):
        y = top + row * row_height
        below = y + height * scale + 2
        for column, tile in enumerate(tiles):
            x = center(column)
            large = enlarge(tile.pixels, scale, is_smooth)
            large = flatten(large, background)
            sheet.paste(large, (x - large.width // 2, y))
            draw.text((x, below), tile.caption, _TEXT, font, anchor="mt")
    return sheet


def readable(captions: Sequence[str]) -> list[str]:
    """Return captions, or numbers from 1 if no font here has their letters.

    The numbers need a legend elsewhere, for example in the terminal.
    """
    if _font(frozenset("".join(captions))) is not None:
        return list(captions)
    return [str(number) for number in range(1, len(captions) + 1)]


@functools.cache
def _font(letters: frozenset[str]) -> ImageFont.FreeTypeFont | None:
    """Return an installed font that has these letters, or None."""
    if all(letter.isascii() for letter in letters):
        font = ImageFont.load_default(size=_TEXT_SIZE)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    installed = [entry.fname for entry in font_manager.fontManager.ttflist]
    for path in [font_manager.findfont("DejaVu Sans"), *sorted(installed)]:
        try:
            known = FT2Font(path).get_charmap()
            if all(ord(letter) in known for letter in letters):
                return ImageFont.truetype(path, _TEXT_SIZE)
        except (OSError, RuntimeError):  # The font is broken or removed.
            continue
    return None


@dataclasses.dataclass(frozen=True)
class Completions:
    """Images, the parts that were kept, and their completions.

    Attributes:
        originals: uint8 `(N, height, width, C)`, scaled down, RGB or RGBA.
        kept: uint8 `(N, height, width, C)`, the hidden parts covered.
        images: uint8 `(N, temperatures, samples, height, width, C)`.
        temperatures: One per column.
        are_pairs: Whether these are first pictures, and the second of each.
    """

    originals: np.ndarray
    kept: np.ndarray
    images: np.ndarray
    temperatures: tuple[float, ...]
    are_pairs: bool = False

    def of_pairs(self) -> Self:
        """Cut images of pairs into first pictures, and second ones."""
        return dataclasses.replace(
            self,
            originals=upper(self.originals),
            kept=upper(self.kept),
            images=lower(self.images),
            are_pairs=True,
        )

    def repeated(self) -> Self:
        """Return the same images, three times three of each; see `repeat`."""
        return dataclasses.replace(
            self,
            originals=repeat(self.originals),
            kept=repeat(self.kept),
            images=repeat(self.images),
        )

    def sheet(
        self,
        scale: int | None = None,
        background: Color | None = None,
        is_smooth: bool = True,
    ) -> Image.Image:
        """Return a sheet: original, kept, then the completions.

        Of pairs, all of the first picture is kept, and shown once.
        """
        samples = self.images.shape[2]
        given = {"original": self.originals, "kept": self.kept}
        if self.are_pairs:
            given = {"first": self.kept}
        headings = [*given]
        for temperature in self.temperatures:
            headings += [f"T {temperature:g}"] * samples
        shape = len(self.kept), -1, *self.kept.shape[1:]
        every = zip(*given.values(), self.images.reshape(shape), strict=True)
        rows = [
            [Tile(pixels) for pixels in (*known, *completed)]
            for *known, completed in every
        ]
        return contact_sheet(rows, headings, scale, background, is_smooth)


def repeat(images: np.ndarray) -> np.ndarray:
    """Lay each of `(..., height, width, C)` out three times three."""
    return np.tile(images, (*[1] * (images.ndim - 3), 3, 3, 1))


def grid(
    images: np.ndarray,
    scale: int | None = None,
    background: Color | None = None,
    is_smooth: bool = True,
) -> Image.Image:
    """Lay images, uint8 `(N, height, width, C)`, out in a near-square grid."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = [
        [Tile(pixels) for pixels in images[start : start + columns]]
        for start in range(0, len(images), columns)
    ]
    return contact_sheet(
        rows, scale=scale, background=background, is_smooth=is_smooth
    )


def strip(images: np.ndarray) -> Image.Image:
    """Set images, uint8 `(N, height, width, C)`, side by side."""
    return Image.fromarray(np.concatenate(list(images), axis=1))


def cut_strip(
    image: Image.Image, image_shape: tuple[int, int, int]
) -> np.ndarray:
    """Cut a `strip` into its images, uint8 `(N, *image_shape)`."""
    _, width, channels = image_shape
    pixels = np.asarray(image.convert("RGBA" if channels == 4 else "RGB"))
    count = pixels.shape[1] // width
    return np.stack(np.split(pixels[:, : count * width], count, axis=1))


def strips(paths: Mapping[str, StrPath], height: int) -> Image.Image:
    """Lay out strips below each other, scaled to a height, with captions.

    RGBA is enlarged by a whole factor; see `enlarge`.

    Args:
        paths: Files with strips, by caption.
        height: Height of each strip on the sheet.
    """
    scaled = []
    for path in paths.values():
        with Image.open(path) as image:
            if image.mode == "RGBA" and image.height <= height:
                large = enlarge(np.asarray(image), height // image.height)
            else:
                width = round(image.width * height / image.height)
                large = image.resize((width, height))
            scaled.append(flatten(large))
    widest = max(small.width for small in scaled)
    rows = []
    for caption, small in zip(paths, scaled, strict=True):
        padded = Image.new("RGB", (widest, height), _PAPER)
        padded.paste(small)
        rows.append([Tile(np.asarray(padded), image_files.printable(caption))])
    return contact_sheet(rows, scale=1)


def enlarge(
    pixels: np.ndarray, scale: int, is_smooth: bool = True
) -> Image.Image:
    """Enlarge uint8 `(height, width, 3 or 4)` by a whole factor.

    If it is smooth, RGB is smoothed by the Lanczos filter. The pixels of RGBA
    always become squares: such images are mostly sprites and icons.
    """
    image = Image.fromarray(pixels)
    size = image.width * scale, image.height * scale
    is_smooth = is_smooth and image.mode == "RGB"
    resampling = Image.Resampling
    return image.resize(
        size, resampling.LANCZOS if is_smooth else resampling.NEAREST
    )


def flatten(image: Image.Image, background: Color | None = None) -> Image.Image:
    """Lay RGBA over a color or a checkerboard; return RGB."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    row, column = np.indices((image.height, image.width)) // _CHECKER_SIDE
    colors = np.array(_CHECKERS if background is None else [background] * 2)
    below = Image.fromarray(colors[(row + column) % 2].astype(np.uint8))
    below.paste(image, mask=image.getchannel("A"))
    return below


def hide(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cover the pixels of a mask with a gray checkerboard.

    Args:
        pixels: uint8 `(..., height, width, C)`.
        mask: bool `(..., height, width)`.

    Returns:
        uint8 `(..., height, width, C)`.
    """
    row, column = np.indices(mask.shape[-2:])
    colors = _MISSING if pixels.shape[-1] == 3 else _MISSING_OF_RGBA
    checkers = np.array(colors, np.uint8)[(row // 4 + column // 4) % 2]
    return np.where(mask[..., None], checkers, pixels)


def hide_after(pixels: np.ndarray, prefix_length: int) -> np.ndarray:
    """Cover all but the first pixels, in raster order; see `hide`."""
    height, width = pixels.shape[:2]
    position = np.arange(height * width).reshape(height, width)
    return hide(pixels, position >= prefix_length)


def check_image_path(path: StrPath) -> None:
    """Raise UserError if an image cannot be saved there.

    The folder may be missing, or the name may end in no image format.
    """
    check_folder(path)
    _format(path)


def check_folder(path: StrPath) -> None:
    """Raise UserError if the folder of a file is missing."""
    folder, name = os.path.split(path)
    if folder and not os.path.isdir(folder):
        raise UserError(f"There is no folder {folder!r} for {name!r}.")


def save_image(image: Image.Image, path: StrPath) -> None:
    """Save an image atomically in the format that the file name ends in.

    Raises:
        UserError: If it ends in no image format.
    """
    kind = _format(path)
    buffer = io.BytesIO()
    image.save(buffer, kind, **image_files.own_mark(kind))
    storage.write_atomic(path, buffer.getvalue())


def save_tiles(
    images: Iterable[np.ndarray],
    folder: StrPath,
    to_image: Callable[[np.ndarray], Image.Image] = Image.fromarray,
) -> None:
    """Save images, uint8 `(height, width, C)` each, as `000.png` and so on."""
    os.makedirs(folder, exist_ok=True)
    for i, pixels in enumerate(images):
        path = os.path.join(folder, f"{i:03d}.png")
        save_image(to_image(pixels), path)


def save_figure(figure: "Figure", path: StrPath, dpi: int) -> None:
    """Save a plot as PNG atomically, with `dpi` pixels per inch."""
    buffer = io.BytesIO()
    mark = {"Software": storage.SOFTWARE}
    figure.savefig(buffer, format="png", dpi=dpi, metadata=mark)
    storage.write_atomic(path, buffer.getvalue())


def save_learning_curve(history: list[dict[str, float]], path: StrPath) -> None:
    """Plot bits per pixel against minutes of training.

    Args:
        history: Entries with `seconds`, `bits_per_pixel` and, if there is
            validation, `val_bits_per_pixel`.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (
        ("bits_per_pixel", "training"),
        ("val_bits_per_pixel", "validation"),
    ):
        points = [(e["seconds"] / 60, e[key]) for e in history if key in e]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set_xlabel("minutes")
    axes.set_ylabel("bits per pixel")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path, dpi=120)


def _format(path: StrPath) -> str:
    """Return the format that a file name ends in, as Pillow calls it."""
    ending = os.path.splitext(path)[1].lower()
    kind = Image.registered_extensions().get(ending, "")
    try:  # Some formats are read-only, and some have no colors.
        Image.new("RGB", (1, 1)).save(io.BytesIO(), kind)
    except (KeyError, OSError, ValueError):
        raise UserError(
            f"{os.fspath(path)!r} must end in .png, .jpg or another picture "
            "format."
        ) from None
    return kind

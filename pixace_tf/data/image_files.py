"""Finds, checks and reads image files.

Paths are decoded as by `os.fsdecode`, so every file name survives. A `source`
is a path or the bytes of a file, and `max_pixels` the largest image to decode,
by its header. An UnloadableError tells why a source cannot be used.
"""

import contextlib
import dataclasses
import functools
import http.client
import io
import itertools
import multiprocessing.pool
import os
import re
import stat
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from pixace_tf.console import ProgressCallback, counted
from pixace_tf.data.parts import OUTSIDE, TEST, parts_of, place
from pixace_tf.errors import UserError
from pixace_tf.machine import num_cores
from pixace_tf.storage import MARK_FILE, RUN_FILE, SOFTWARE, StrPath

Source = StrPath | io.BytesIO

MAX_PIXELS = 64_000_000
# For servers and the page, which decode images of several strangers at once.
MAX_SERVED_PIXELS = 16_000_000
MAX_DOWNLOAD_BYTES = 32 * 2**20
# Of a whole download: names, redirects, headers and content.
DOWNLOAD_TIMEOUT_S = 20.0
# Formats that Pillow reads without running another program. TGA files have no
# signature, so they are tried last.
FORMATS = ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "TGA"]

_OWN = f"made by {SOFTWARE}"
_TOO_SLOW = "it takes too long"
# Folders with these files are skipped.
_FOLDER_MARKS = {RUN_FILE: "a run folder", MARK_FILE: _OWN}
_ARCHIVE = re.compile(r"\.(tar(\.\w+)?|t[a-z]z2?|zip|7z|rar)$", re.IGNORECASE)
# Orientations that exchange height and width.
_SIDEWAYS = (5, 6, 7, 8)
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
# Keywords of the PNG text chunks in which Pillow looks for an orientation.
_EXIF_KEYWORDS = (b"exif", b"Raw profile type exif", b"XML:com.adobe.xmp")

# From height and width of a JPEG to the ratio of a reduced decode: 1, 2, 4, 8.
JpegRatio = Callable[[int, int], int]


class UnloadableError(UserError):
    """An image that cannot be used; the message is the reason."""


class PixelBudget:
    """Bounds how many pixels threads decode at the same time.

    An image of more than `limit` pixels is decoded alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, num_pixels: int) -> Iterator[None]:
        """Wait for a share of the budget; hold it within the block."""
        num_pixels = min(num_pixels, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= num_pixels)
            self._free -= num_pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += num_pixels
                self._changed.notify_all()


# Decoding a transparent PNG takes some 15 bytes per pixel.
DECODING = PixelBudget(32_000_000)


class Address(str):
    """An http(s) address whose content is downloaded once, when needed."""

    @classmethod
    def of(cls, location: Any) -> Any:
        """Convert strings that are addresses, alone or in a list."""
        if isinstance(location, list | tuple):
            return [cls.of(one) for one in location]
        is_address = type(location) is str and location.lower().startswith(
            ("http://", "https://")
        )
        return cls(location) if is_address else location

    @functools.cached_property
    def content(self) -> bytes:
        """The downloaded bytes.

        Raises:
            UnloadableError: If the download fails or takes over 20 seconds, or
                the file exceeds 32 MiB.
        """
        # The timeout of a socket starts anew with each byte of a slow header,
        # so the thread is abandoned when the time is over.
        with multiprocessing.pool.ThreadPool(1) as pool:
            try:
                return pool.apply_async(_fetch, [self]).get(DOWNLOAD_TIMEOUT_S)
            except multiprocessing.TimeoutError:
                reason: Any = _TOO_SLOW
            except (OSError, ValueError, http.client.HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                reason = getattr(error, "reason", None) or error
        raise UnloadableError(f"download failed: {reason}")


@dataclasses.dataclass(frozen=True)
class Header:
    """Facts from the header of an image file.

    Attributes:
        is_plain: Whether `GraphTokenizer.decode` reads the file as it is,
            without `normalize`.
        num_pixels: Pixels to count in a `PixelBudget`: a quarter of those of a
            JPEG, whose decoder needs fewer bytes per pixel.
        has_alpha: Whether pixels may be transparent.
    """

    is_plain: bool
    num_pixels: int
    has_alpha: bool


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A file or folder that is skipped, and why."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Scan:
    """The files of a folder, sorted; paths are relative to `root`."""

    root: str
    loads: list[str]
    skipped: list[Skipped]


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files below a folder, before any of them is opened.

    Attributes:
        root: The folder.
        places: Part and label (see `parts.place`) by path, sorted by path.
        skipped: Files and folders skipped because of their name or place.
        parts: The folders that are parts; see `parts.parts_of`.
    """

    root: str
    places: dict[str, tuple[str, str]]
    skipped: list[Skipped]
    parts: dict[str, str]


def list_files(root: StrPath) -> Listing:
    """List the files below a folder; `scan` documents the layout.

    Raises:
        UserError: If there is no such folder or file.
    """
    root = os.fspath(root)
    skipped: list[Skipped] = []
    if os.path.isfile(root):
        if _ARCHIVE.search(root):
            raise UserError(
                f"{printable(root)} is an archive. Unpack it and give the "
                "folder; tar files can also be read by `pixace-tf tokenize`."
            )
        root, name = os.path.split(root)
        paths = [name]
    else:
        paths, skipped = _walk(root)
    parts = parts_of(path.split(os.sep)[0] for path in paths if os.sep in path)
    places = {path: place(path.split(os.sep)[:-1], parts) for path in paths}
    for top, part in parts.items():
        if part == TEST:
            reason = f"kept for testing: the folder {top}/"
            skipped.append(Skipped(top, reason))
    outside = "lies outside " + " and ".join(f"{top}/" for top in parts)
    for path, (part, _) in list(places.items()):
        if part == OUTSIDE:
            skipped.append(Skipped(path, outside))
        if part in (OUTSIDE, TEST):
            del places[path]
    return Listing(root, places, skipped, parts)


def scan(
    root: StrPath,
    max_pixels: int = MAX_PIXELS,
    progress: ProgressCallback | None = None,
) -> Scan:
    """Check every file below a folder by decoding all of it.

    The folder, or each of its parts such as `train/` and `val/` (see
    `parts.parts_of`), is flat or holds class folders of any depth. Links are
    followed, and each folder is visited once. Run folders, folders with a mark
    (`storage.mark_folder`) and images with a mark (`own_mark`) are skipped.

    `progress` is called with the number of files checked, and of all files.

    Raises:
        UserError: If there is no such folder or file.
    """
    listing = list_files(root)

    def check(path: str) -> str | Skipped:
        try:
            full_path = os.path.join(listing.root, path)
            header = read_header(full_path, max_pixels, allow_own=False)
            with DECODING.hold(header.num_pixels):
                inspect(full_path, max_pixels)
        except UnloadableError as error:
            return Skipped(path, str(error))
        return path

    with ThreadPoolExecutor(num_cores()) as pool:
        checked = pool.map(check, listing.places)
        results = [*counted(checked, len(listing.places), progress)]
    loads = [r for r in results if isinstance(r, str)]
    skipped = [r for r in results if isinstance(r, Skipped)] + listing.skipped
    return Scan(listing.root, loads, sorted(skipped, key=lambda s: s.path))


def read_header(
    source: Source, max_pixels: int = MAX_PIXELS, allow_own: bool = True
) -> Header:
    """Read the header of an image without decoding any pixels.

    An image with the `own_mark` is an UnloadableError unless `allow_own`.
    """
    with _open(source, max_pixels) as image:
        if not allow_own and _has_own_mark(image):
            raise UnloadableError(_OWN)
        return _header(image)


def read_size(source: Source) -> tuple[int, int]:
    """Return height and width of an image, upright, by its header."""
    with _open(source, MAX_PIXELS) as image:
        turn = _exif_tag(image, ExifTags.Base.Orientation)
        is_turned = turn in _SIDEWAYS
        return image.size if is_turned else (image.height, image.width)


def inspect(source: Source, max_pixels: int = MAX_PIXELS) -> Header:
    """Check one image by decoding all of it, or raise UnloadableError."""
    with _open(source, max_pixels) as image:
        header = _header(image)
        # A JPEG is decoded at an eighth of its size; all data is still read.
        image.draft(None, (1, 1))
        _load(image)
    return header


def load(
    source: Source,
    max_pixels: int = MAX_PIXELS,
    jpeg_ratio: JpegRatio | None = None,
) -> Image.Image:
    """Decode any image with Pillow, or raise UnloadableError.

    `jpeg_ratio` tells by how much to reduce a plain JPEG.

    Returns:
        An upright image without metadata: RGBA if it has transparency, or RGB.
    """
    with _open(source, max_pixels) as image:
        if jpeg_ratio and image.format == "JPEG" and _header(image).is_plain:
            _reduce(image, jpeg_ratio(image.height, image.width))
        # How the samples of a PNG lie in its file, such as `L;2`.
        tiles = image.tile if isinstance(image, PngImageFile) else []
        raw_mode = tiles[0][3] if tiles else ""
        _load(image)
        orientation = _exif_tag(image, ExifTags.Base.Orientation)
        upright = _to_rgb(image, raw_mode)
        key = image.info.get("transparency")
        if raw_mode == "RGB;16B" and isinstance(key, tuple):
            with _open(source, max_pixels) as again:
                upright.putalpha(_alpha_by_key(image, again, key))
    # The metadata may be broken, so only pixels and orientation are kept.
    upright.info.clear()
    upright.getexif().clear()
    upright.getexif()[ExifTags.Base.Orientation] = orientation
    ImageOps.exif_transpose(upright, in_place=True)
    return upright


def load_frames(
    source: Source, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Decode each frame of an animation, or each page, as Pillow composes it.

    Other images are one frame, as by `load`. All frames together may have
    `max_pixels`; no more than one of them is held in memory.

    Yields:
        An image per frame: RGBA, or RGB.

    Raises:
        UnloadableError: If a frame is broken, or there are too many pixels.
    """
    with _open(source, max_pixels) as image:
        is_animated = getattr(image, "is_animated", False)
        num_pixels = 0
        for number in itertools.count() if is_animated else ():
            try:
                image.seek(number)
            except EOFError:
                return
            except Exception as error:  # Broken data can raise anything.
                raise UnloadableError(f"broken picture: {error}") from None
            num_pixels += image.width * image.height
            if num_pixels > max_pixels:
                raise UnloadableError(
                    f"its frames have {_too_large(max_pixels)}"
                )
            _load(image)
            yield _to_rgb(image, "")
    yield load(source, max_pixels)


def normalize(source: Source, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the image of `load` as the bytes of a plain 8-bit PNG file."""
    buffer = io.BytesIO()
    load(source, max_pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def read(
    location: StrPath,
    max_pixels: int = MAX_PIXELS,
    is_plain: bool | None = None,
) -> bytes:
    """Read one image from a path or an http(s) address.

    Returns:
        The bytes of a JPEG or PNG that `GraphTokenizer.decode` reads: of the
        file, if `is_plain` or by default if `Header.is_plain`.

    Raises:
        UnloadableError: With the location and the reason.
    """
    with _naming(location) as source:
        if is_plain is None:
            is_plain = inspect(source, max_pixels).is_plain
        return _bytes(source) if is_plain else normalize(source, max_pixels)


def read_upright(
    location: StrPath, jpeg_ratio: JpegRatio | None = None
) -> Image.Image:
    """Read one image as `load` does, from a location as in `read`."""
    with _naming(location) as source:
        return load(source, jpeg_ratio=jpeg_ratio)


@contextlib.contextmanager
def _naming(location: StrPath) -> Iterator[str | io.BytesIO]:
    """Yield the path, or the bytes of an address; errors name the location."""
    source = Address.of(os.fspath(location))
    try:
        is_address = isinstance(source, Address)
        yield io.BytesIO(source.content) if is_address else source
    except UnloadableError as error:
        raise UnloadableError(f"{printable(location)}: {error}") from None


def own_mark(kind: str) -> dict[str, Any]:
    """Return options of `PIL.Image.save` that mark an image as made here.

    Scans skip marked images, so that no model trains on another's output.
    `kind` is the format: PNG, GIF, JPEG, WEBP or TIFF; others have no place for
    a mark.
    """
    if kind == "PNG":
        text = PngInfo()
        text.add_text("Software", SOFTWARE)
        return {"pnginfo": text}
    if kind == "GIF":
        return {"comment": SOFTWARE}
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = SOFTWARE
    return {"exif": exif}


def printable(path: StrPath) -> str:
    """Return a path as one line without control characters."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def file_states(listing: Listing) -> Iterator[tuple[str, str]]:
    """Yield the path of each listed file, with its size and time."""
    for path in listing.places:
        try:
            status = os.stat(os.path.join(listing.root, path))
            yield path, f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:
            yield path, _reason(error)


def _walk(root: str) -> tuple[list[str], list[Skipped]]:
    """List the files below `root`, relative to it, sorted."""
    if not os.path.isdir(root):
        raise UserError(f"There is no folder {printable(root)!r}.")
    files: list[str] = []
    skipped: list[Skipped] = []
    seen: set[tuple[int, int]] = set()
    folders = deque([""])
    while folders:
        folder = folders.popleft()
        try:
            entries = _enter(root, folder, seen)
        except UnloadableError as error:
            skipped.append(Skipped(folder, str(error)))
            continue
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if entry.name.startswith("."):
                skipped.append(Skipped(path, "hidden"))
            elif entry.is_symlink() and not os.path.exists(entry.path):
                reason = "a link that leads nowhere or in a circle"
                skipped.append(Skipped(path, reason))
            elif not entry.is_dir():
                files.append(path)
            elif entry.is_symlink():
                folders.append(path)  # Visited after all real folders.
            else:
                folders.appendleft(path)
    return sorted(files), skipped


def _enter(
    root: str, folder: str, seen: set[tuple[int, int]]
) -> list[os.DirEntry[str]]:
    """List a folder, or raise UnloadableError if it is to be skipped."""
    full_path = os.path.join(root, folder)
    try:
        status = os.stat(full_path)
        entries = sorted(os.scandir(full_path), key=lambda e: e.name)
    except OSError as error:
        raise UnloadableError(_reason(error)) from None
    if (status.st_dev, status.st_ino) in seen:
        raise UnloadableError("a link to a folder seen before")
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        # The user named the root, so it is scanned in any case.
        if folder and entry.name in _FOLDER_MARKS:
            raise UnloadableError(_FOLDER_MARKS[entry.name])
    return entries


def _open(source: Source, max_pixels: int) -> Image.Image:
    Image.init()  # Registers every format; does nothing the second time.
    try:
        if not isinstance(source, io.BytesIO):
            mode = os.stat(source).st_mode
            if stat.S_ISDIR(mode):
                raise UnloadableError("a folder, not a picture")
            if not stat.S_ISREG(mode):
                raise UnloadableError("not a regular file")
        image = Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        raise UnloadableError(_unknown(_bytes(source, 6))) from None
    except Image.DecompressionBombError:
        raise UnloadableError(_too_large(max_pixels)) from None
    except (UnloadableError, MemoryError):
        raise
    except OSError as error:
        raise UnloadableError(_reason(error)) from None
    except Exception as error:  # A broken header can raise anything.
        raise UnloadableError(f"broken header: {error}") from None
    width, height = image.size
    if 0 < width * height <= max_pixels:
        return image
    image.close()
    if not width * height:
        raise UnloadableError("no pixels")
    raise UnloadableError(
        f"{width} x {height} pixels, {_too_large(max_pixels)}"
    )


def _unknown(start: bytes) -> str:
    """Return why a file with these first six bytes is skipped."""
    if start[:4] == b"\0\0\1\0":
        # Pillow decodes icons of any size while it opens them.
        return "an icon (ICO); save its picture as a PNG file"
    if start[4:] == b"\xe0\xa5":
        return (
            "an Aseprite file; export it as PNG: aseprite -b IN.aseprite "
            "--sheet OUT.png"
        )
    return "not a picture in a known format" if start else "empty file"


def _reduce(image: Image.Image, ratio: int) -> None:
    """Have a JPEG decoded at 1, 1/2, 1/4 or 1/8 of its size."""
    # `draft` takes the ratio of these sizes, which need not be whole.
    size: Any = image.width / ratio, image.height / ratio
    image.draft(None, size)


def _load(image: Image.Image) -> None:
    """Decode pixels, which must be whole and have a fixed range."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Broken data can raise anything.
        raise UnloadableError(f"broken picture: {error}") from None
    if image.mode == "F":
        raise UnloadableError("floating-point pixels have no fixed range")
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UnloadableError("pixels deeper than 16 bits")


def _header(image: Image.Image) -> Header:
    is_jpeg = image.format == "JPEG"
    is_known = image.format == "PNG" or (image.mode in ("L", "RGB") and is_jpeg)
    # TensorFlow ignores orientations.
    is_plain = (
        is_known
        and _exif_tag(image, ExifTags.Base.Orientation) in (None, 1)
        and not (isinstance(image, PngImageFile) and _has_late_exif(image))
    )
    num_pixels = image.width * image.height
    return Header(
        is_plain,
        num_pixels // 4 if is_jpeg else num_pixels,
        image.has_transparency_data,
    )


def _to_rgb(image: Image.Image, raw_mode: Any) -> Image.Image:
    """Convert a loaded image to 8-bit RGB or RGBA."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        # TensorFlow and Pillow take the high byte of 16-bit colors, too.
        gray = np.asarray(image).astype(np.int64)
        rgb = Image.fromarray((gray >> 8).astype(np.uint8)).convert("RGB")
        if isinstance(key, int):
            alpha = np.where(gray == key, 0, 255).astype(np.uint8)
            rgb.putalpha(Image.fromarray(alpha))
        return rgb
    # Pillow scales the pixels to 8 bits, but not the transparent color.
    if raw_mode in ("L;2", "L;4") and isinstance(key, int):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[raw_mode]
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _alpha_by_key(
    image: Image.Image, again: Image.Image, key: tuple[int, ...]
) -> Image.Image:
    """Return the alpha of a PNG of three channels of 16 bits.

    Pillow keeps the high bytes, which would make other colors transparent, too.

    Args:
        image: The loaded image.
        again: The same file, not yet loaded.
        key: The transparent color.
    """
    assert isinstance(again, PngImageFile)
    # As if the bytes were swapped, so that the low ones are kept.
    again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
    _load(again)
    deep = np.asarray(image).astype(np.uint16) << 8 | np.asarray(again)
    is_other = (deep != key).any(axis=-1)
    return Image.fromarray(np.where(is_other, 255, 0).astype(np.uint8))


def _exif_tag(image: Image.Image, tag: int) -> Any:
    """Return an EXIF tag, or None; decodes nothing."""
    try:
        # The method of PngImageFile would decode every PNG without EXIF.
        return Image.Image.getexif(image).get(tag)
    except Exception:  # Broken metadata does not matter.
        return None


def _has_late_exif(image: PngImageFile) -> bool:
    """Return whether a PNG file may have its orientation after its pixels.

    Pillow finds such chunks only by decoding the pixels before them.
    """
    file = image.fp
    assert file is not None
    before, position = file.tell(), 8
    is_late = found = False
    while not found:
        file.seek(position)
        header = file.read(8)
        kind = header[4:]
        if len(header) < 8 or kind == b"IEND":
            break
        is_late = is_late or kind == b"IDAT"
        if is_late and kind in _TEXT_CHUNKS:
            found = file.read(80).split(b"\0")[0] in _EXIF_KEYWORDS
        elif is_late:
            found = kind == b"eXIf"
        # Length, kind and checksum take four bytes each.
        position += int.from_bytes(header[:4]) + 12
    file.seek(before)
    return found


def _has_own_mark(image: Image.Image) -> bool:
    return (
        image.info.get("Software") == SOFTWARE
        or image.info.get("comment") == SOFTWARE.encode()
        or _exif_tag(image, ExifTags.Base.Software) == SOFTWARE
    )


class _NoFtp(urllib.request.FTPHandler):
    """Refuses redirects to ftp; `urllib` allows these and http(s) only."""

    def ftp_open(self, req: urllib.request.Request) -> NoReturn:
        raise urllib.error.URLError("redirected to ftp")


def _fetch(address: str) -> bytes:
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    headers = {"User-Agent": "pixace-tf"}
    request = urllib.request.Request(address, headers=headers)
    content = b""
    opener = urllib.request.build_opener(_NoFtp)
    with opener.open(request, timeout=DOWNLOAD_TIMEOUT_S) as response:
        while part := response.read1(1 << 16):
            content += part
            if len(content) > MAX_DOWNLOAD_BYTES:
                limit = f"{MAX_DOWNLOAD_BYTES / 2**20:g} MiB"
                raise ValueError(f"larger than {limit}")
            if time.monotonic() > deadline:
                raise TimeoutError(_TOO_SLOW)
    return content


def _bytes(source: Source, count: int = -1) -> bytes:
    """Return the first bytes of a source, by default all."""
    if isinstance(source, io.BytesIO):
        source.seek(0)
        return source.read(count)
    try:
        with open(source, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise UnloadableError(_reason(error)) from None


def _too_large(max_pixels: int) -> str:
    return f"more than {max_pixels / 1e6:g} megapixels"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()

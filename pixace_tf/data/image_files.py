"""Image files: find them, check them, read them.

Paths come back as the `str` that `os.fsdecode` gives, so every file name
survives.
"""

import dataclasses
import http.client
import io
import os
import stat
import time
import urllib.request
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from pixace_tf.console import ProgressCallback
from pixace_tf.errors import UserError
from pixace_tf.machine import num_cores
from pixace_tf.storage import MARK_FILE, RUN_FILE, SOFTWARE, StrPath

MAX_PIXELS = 64_000_000
MAX_DOWNLOAD_BYTES = 32 * 2**20
DOWNLOAD_TIMEOUT_S = 20.0
# Formats that Pillow reads by itself, without running another program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
PARTS = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}

_PLAIN_MODES = {"JPEG": ("L", "RGB"), "PNG": ("L", "LA", "RGB", "RGBA")}
_OWN = f"made by {SOFTWARE}"
# Files that tell that a folder is not a source of images.
_FOLDER_MARKS = {RUN_FILE: "a run folder", MARK_FILE: _OWN}
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
# The text chunks of a PNG file in which Pillow looks for an orientation.
_EXIF_KEYWORDS = (b"exif", b"Raw profile type exif", b"XML:com.adobe.xmp")


class UnloadableError(UserError):
    """An image that cannot be used; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image file that loads.

    Attributes:
        path: Path relative to the scanned folder.
        label: Name of the class folder, or "".
        part: "train", "validation", or "" where the folder does not say.
    """

    path: str
    label: str
    part: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A file or folder that is left out, and why."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a folder holds, each list sorted by path."""

    root: str
    loads: list[ImageFile]
    skipped: list[Skipped]


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files below a folder, before any of them is opened.

    Attributes:
        root: The folder.
        places: Part and label (see `ImageFile`) by path, sorted by path.
        skipped: What is left out by its place.
    """

    root: str
    places: dict[str, tuple[str, str]]
    skipped: list[Skipped]


def list_files(root: StrPath) -> Listing:
    """List the files below a folder; see `scan` for what lies where.

    Raises:
        UserError: If there is no such folder or file.
    """
    root = os.fspath(root)
    skipped: list[Skipped] = []
    if os.path.isfile(root):
        root, name = os.path.split(root)
        paths = [name]
    else:
        paths, skipped = _walk(root)
    places, misplaced = _places(paths)
    return Listing(root, places, skipped + misplaced)


def scan(
    root: StrPath,
    max_pixels: int = MAX_PIXELS,
    progress: ProgressCallback | None = None,
) -> Scan:
    """Check every file below a folder by decoding all of it.

    The folder may be flat or hold class folders, each to any depth. It may
    hold parts instead, which are flat or hold class folders: `train/` and
    `val/` (or `validation/`), where a `test/` beside them is left out, or
    `train/` and `test/` alone, where `test/` validates. Links are followed,
    and each folder is visited once. Run folders, folders with a mark
    (`storage.mark_folder`) and images with one (`own_mark`) are left out.

    Args:
        root: A folder, or a single file.
        max_pixels: Largest image to decode, by its header.
        progress: Called with the files checked and their number.

    Returns:
        What loads and what does not.

    Raises:
        UserError: If there is no such folder or file.
    """
    listing = list_files(root)
    loads: list[ImageFile] = []
    skipped = [*listing.skipped]

    def check(path: str) -> ImageFile | Skipped:
        try:
            full_path = os.path.join(listing.root, path)
            inspect(full_path, max_pixels, allow_own=False)
        except UnloadableError as error:
            return Skipped(path, str(error))
        part, label = listing.places[path]
        return ImageFile(path, label, part)

    with ThreadPoolExecutor(num_cores()) as pool:
        results = pool.map(check, listing.places)
        for done, result in enumerate(results, 1):
            if isinstance(result, ImageFile):
                loads.append(result)
            else:
                skipped.append(result)
            if progress is not None:
                progress(done, len(listing.places))
    return Scan(listing.root, loads, sorted(skipped, key=lambda s: s.path))


def inspect(
    source: StrPath | io.BytesIO,
    max_pixels: int = MAX_PIXELS,
    is_header_only: bool = False,
    allow_own: bool = True,
) -> bool:
    """Check one image by decoding all of it.

    Args:
        source: A path, or the bytes of a file.
        max_pixels: Largest image to decode, by its header.
        is_header_only: Whether to read the header alone; nothing is decoded.
        allow_own: Whether it may be one that was made here; see `own_mark`.

    Returns:
        Whether it is plain: `PixelTokenizer.decode` reads the file as it is;
        otherwise `normalize` must turn it into a PNG first.

    Raises:
        UnloadableError: If the image cannot be used; says why.
    """
    with _open(source, max_pixels) as image:
        if not allow_own and _has_own_mark(image):
            raise UnloadableError(_OWN)
        is_plain = _is_plain(image)
        if not is_header_only:
            # A JPEG decodes at an eighth of its size: all data is still read.
            image.draft(None, (1, 1))
            _load(image)
            _check_depth(image)
    return is_plain


def normalize(
    source: StrPath | io.BytesIO, max_pixels: int = MAX_PIXELS
) -> bytes:
    """Turn any image into a plain 8-bit PNG, upright, alpha kept.

    Args:
        source: A path, or the bytes of a file.
        max_pixels: Largest image to decode, by its header.

    Returns:
        The bytes of a PNG file in mode RGB or RGBA.

    Raises:
        UnloadableError: If the image cannot be used; says why.
    """
    with _open(source, max_pixels) as image:
        _load(image)
        _check_depth(image)
        orientation = _exif_tag(image, ExifTags.Base.Orientation)
        if image.mode.startswith("I"):
            grey = np.asarray(image).astype(np.int64)
            small = ((grey * 255 + 32767) // 65535).astype(np.uint8)
            upright = Image.fromarray(small).convert("RGB")
        else:
            mode = "RGBA" if image.has_transparency_data else "RGB"
            upright = image.convert(mode)
    # Only the pixels are kept, turned upright; the metadata may be broken.
    upright.info.clear()
    upright.getexif().clear()
    upright.getexif()[ExifTags.Base.Orientation] = orientation
    upright = ImageOps.exif_transpose(upright)
    buffer = io.BytesIO()
    Image.frombytes(upright.mode, upright.size, upright.tobytes()).save(
        buffer, "PNG", compress_level=1
    )
    return buffer.getvalue()


def read(
    location: StrPath,
    max_pixels: int = MAX_PIXELS,
    is_plain: bool | None = None,
) -> bytes:
    """Read one image from a path or an http(s) address.

    Args:
        location: A path, or an address; at most 32 MiB, within 20 seconds.
        max_pixels: Largest image to decode, by its header.
        is_plain: Whether to return the file as it is; by default where that
            is possible.

    Returns:
        The bytes of a plain JPEG or PNG, as `PixelTokenizer.decode` reads.

    Raises:
        UnloadableError: If there is no usable image; says which and why.
    """
    location = os.fspath(location)
    is_address = location.startswith(("http://", "https://"))
    try:
        content = _download(location) if is_address else None
        source = location if content is None else io.BytesIO(content)
        if is_plain is None:
            is_plain = inspect(source, max_pixels)
        if not is_plain:
            return normalize(source, max_pixels)
        return content or _read_file(location)
    except UnloadableError as error:
        raise UnloadableError(f"{printable(location)}: {error}") from None


def own_mark(kind: str) -> dict[str, Any]:
    """Return options of `PIL.Image.save` that mark an image as made here.

    A scan leaves marked images out: what this program painted is nothing to
    train on.

    Args:
        kind: The format. PNG, GIF, JPEG, WEBP and TIFF carry the mark; other
            formats have no place for it.
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
    """Return a path fit for one line of a terminal."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def file_states(listing: Listing) -> Iterator[tuple[str, str]]:
    """Yield each listed file with its size and time, for a fingerprint."""
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
    """List a folder, or raise UnloadableError if it is left out."""
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
        # The user named the root, so it is scanned whatever it is.
        if folder and entry.name in _FOLDER_MARKS:
            raise UnloadableError(_FOLDER_MARKS[entry.name])
    return entries


def _places(
    paths: list[str],
) -> tuple[dict[str, tuple[str, str]], list[Skipped]]:
    """Give each path its part and its label, after its folders.

    Returns:
        The part and label of each path, and what has no place: the folders
        that are kept for testing, and the files outside the parts.
    """
    tops = {path.split(os.sep)[0] for path in paths if os.sep in path}
    parts = parts_of(tops)
    names = " and ".join(f"{top}/" for top in sorted(parts))
    places: dict[str, tuple[str, str]] = {}
    skipped = [
        Skipped(top, f"kept for testing: the folder {top}/")
        for top, part in parts.items()
        if part == "test"
    ]
    for path in paths:
        *folders, _ = path.split(os.sep)
        part = ""
        if parts:
            if not folders or folders[0] not in parts:
                skipped.append(Skipped(path, f"lies outside {names}"))
                continue
            part = parts[folders.pop(0)]
        if part != "test":
            places[path] = part, folders[0] if folders else ""
    return places, skipped


def parts_of(tops: set[str]) -> dict[str, str]:
    """Return the part of each top folder; nothing where they are classes."""
    parts = {top: PARTS[top] for top in tops if top in PARTS}
    if {"train", "validation"} <= set(parts.values()):
        return parts
    if tops == {"train", "test"}:
        return {"train": "train", "test": "validation"}
    if tops == {"train"}:
        return {"train": ""}  # All images lie in it, so it says nothing.
    return {}


def _open(source: StrPath | io.BytesIO, max_pixels: int) -> Image.Image:
    Image.init()  # Registers every format; does nothing the second time.
    try:
        if isinstance(source, io.BytesIO):
            if not source.getbuffer().nbytes:
                raise UnloadableError("empty file")
        else:
            status = os.stat(source)
            if stat.S_ISDIR(status.st_mode):
                raise UnloadableError("a folder, not a picture")
            if not stat.S_ISREG(status.st_mode):
                raise UnloadableError("not a regular file")
            if status.st_size == 0:
                raise UnloadableError("empty file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        raise UnloadableError("not a picture in a known format") from None
    except Image.DecompressionBombError:
        raise UnloadableError(_too_large(max_pixels)) from None
    except UnloadableError:
        raise
    except OSError as error:
        raise UnloadableError(_reason(error)) from None
    except Exception as error:  # A broken header can raise anything.
        raise UnloadableError(f"broken header: {error}") from None
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise UnloadableError(
            f"{width} x {height} pixels, {_too_large(max_pixels)}"
        )
    if width * height == 0:
        image.close()
        raise UnloadableError("no pixels")
    return image


def _load(image: Image.Image) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # Broken data can raise anything.
        raise UnloadableError(f"broken picture: {error}") from None


def _check_depth(image: Image.Image) -> None:
    """Raise UnloadableError if the pixels have no fixed range."""
    if image.mode == "F":
        raise UnloadableError("floating-point pixels have no fixed range")
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        lowest, highest = pixels.min(), pixels.max()
        if lowest < 0 or highest > 65535:
            raise UnloadableError("pixels deeper than 16 bits")


def _is_plain(image: Image.Image) -> bool:
    """Return whether `PixelTokenizer.decode` shows the image as Pillow does.

    TensorFlow knows no palettes and no orientation. Only headers are read.
    """
    return (
        image.mode in _PLAIN_MODES.get(image.format or "", ())
        and "transparency" not in image.info
        and _exif_tag(image, ExifTags.Base.Orientation) in (None, 1)
        and not (isinstance(image, PngImageFile) and _has_late_exif(image))
    )


def _exif_tag(image: Image.Image, tag: int) -> Any:
    """Return an EXIF tag, or None; decodes nothing."""
    try:
        # The method of PngImageFile would decode every PNG without EXIF.
        return Image.Image.getexif(image).get(tag)
    except Exception:  # The pixels count even where metadata is broken.
        return None


def _has_late_exif(image: PngImageFile) -> bool:
    """Return whether a PNG file may tell its orientation behind its pixels.

    Pillow finds such chunks only by decoding the pixels before them, so they
    are looked for here, from chunk to chunk.
    """
    file = image.fp
    assert file is not None
    before = file.tell()
    position, is_late, found = 8, False, False
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
        # Length and kind take four bytes each, and so does the checksum.
        position += int.from_bytes(header[:4]) + 12
    file.seek(before)
    return found


def _has_own_mark(image: Image.Image) -> bool:
    """Return whether `own_mark` was used when the image was saved."""
    return (
        image.info.get("Software") == SOFTWARE
        or image.info.get("comment") == SOFTWARE.encode()
        or _exif_tag(image, ExifTags.Base.Software) == SOFTWARE
    )


def _download(address: str) -> bytes:
    headers = {"User-Agent": "pixace-tf"}
    request = urllib.request.Request(address, headers=headers)
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    content = b""
    try:
        with urllib.request.urlopen(
            request, timeout=DOWNLOAD_TIMEOUT_S
        ) as response:
            while part := response.read1(1 << 16):
                content += part
                if len(content) > MAX_DOWNLOAD_BYTES:
                    size = f"{MAX_DOWNLOAD_BYTES / 2**20:g} MiB"
                    raise UnloadableError(f"larger than {size}")
                if time.monotonic() > deadline:
                    raise UnloadableError("download takes too long")
    except UnloadableError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UnloadableError(f"download failed: {reason}") from None
    return content


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnloadableError(_reason(error)) from None


def _too_large(max_pixels: int) -> str:
    return f"more than {max_pixels / 1e6:g} megapixels"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()

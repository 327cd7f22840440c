"""Picture files: find them, check them, read them.

Paths are `str` as `os.fsdecode` gives them, so every file name survives.
"""

import dataclasses
import hashlib
import http.client
import io
import itertools
import os
import stat
import time
import urllib.request
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pixace_tf.storage import RUN_FILE

MAX_PIXELS = 64_000_000
MAX_DOWNLOAD_BYTES = 32 * 2**20
DOWNLOAD_TIMEOUT_S = 20.0
# Formats that Pillow reads by itself, without running another program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
PARTS = {"train": "train", "val": "validation", "validation": "validation"}

_PATHS_PER_TASK = 16
_EXIF_ORIENTATION = 0x0112


class UnloadableError(ValueError):
    """A picture that cannot be used; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture file that loads.

    Attributes:
        path: Path relative to the scanned folder.
        label: Name of the class folder, or "".
        part: "train", "validation", or "" where the folder does not say.
        digest: Hex digest of the file's content.
        is_plain: Whether `PixelTokenizer.decode` reads the file as it is;
            otherwise `normalize` must turn it into a PNG first.
    """

    path: str
    label: str
    part: str
    digest: str
    is_plain: bool


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A file that does not load, and why."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a folder holds, each list sorted by path."""

    root: str
    loads: list[Picture]
    skipped: list[Skipped]


def scan(
    root: str | os.PathLike[str],
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[Iterable[str], int], Iterable[str]] | None = None,
    is_header_only: bool = False,
) -> Scan:
    """Check every file below a folder.

    Args:
        root: A folder; flat, `label/`, `train|val/` or `train|val/label/`, to
            any depth. Links are followed, each folder is visited once. Or a
            single file.
        max_pixels: Largest picture to decode, by its header.
        progress: Wraps the iterable of paths, given their number.
        is_header_only: Whether the data behind the headers stays unread, for
            who decodes it anyway.

    Returns:
        What loads and what does not.

    Raises:
        ValueError: If there is no such folder or file.
    """
    root = os.fspath(root)
    skipped: list[Skipped] = []
    if os.path.isfile(root):
        root, name = os.path.split(root)
        paths = [name]
    else:
        paths, skipped = _walk(root)
    layout = _layout(root, paths)
    loads: list[Picture] = []

    def check(path: str) -> Picture | Skipped:
        try:
            part, label = layout(path)
            full_path = os.path.join(root, path)
            is_plain = inspect(full_path, max_pixels, is_header_only)
            digest = hashlib.blake2b(_read_file(full_path), digest_size=16)
        except UnloadableError as error:
            return Skipped(path, str(error))
        return Picture(path, label, part, digest.hexdigest(), is_plain)

    # Some at a time: a task of one header would cost more than the header.
    shares = [
        paths[i : i + _PATHS_PER_TASK]
        for i in range(0, len(paths), _PATHS_PER_TASK)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked: Iterable[Picture | Skipped] = itertools.chain.from_iterable(
            pool.map(lambda share: [check(path) for path in share], shares)
        )
        if progress is not None:
            checked = progress(checked, len(paths))  # type: ignore
        for result in checked:
            if isinstance(result, Picture):
                loads.append(result)
            else:
                skipped.append(result)
    return Scan(root, loads, sorted(skipped, key=lambda s: s.path))


def inspect(
    source: str | io.BytesIO,
    max_pixels: int = MAX_PIXELS,
    is_header_only: bool = False,
) -> bool:
    """Check one picture by decoding all of it.

    Args:
        source: A path, or the bytes of a file.
        max_pixels: Largest picture to decode, by its header.
        is_header_only: Whether the header is all that is read.

    Returns:
        Whether it is plain (see `Picture`).

    Raises:
        UnloadableError: If the picture cannot be used; says why.
    """
    with _open(source, max_pixels) as image:
        is_plain = _is_plain(image)
        if not is_header_only:
            # A JPEG decodes at an eighth of its size: all data is still read.
            image.draft(None, (1, 1))
            _load(image)
            _check_depth(image)
        return is_plain and _orientation(image) == 1


def normalize(source: str | io.BytesIO, max_pixels: int = MAX_PIXELS) -> bytes:
    """Turn any picture into a plain 8-bit PNG, upright, alpha kept.

    Args:
        source: A path, or the bytes of a file.
        max_pixels: Largest picture to decode, by its header.

    Returns:
        The bytes of a PNG file in mode RGB or RGBA.

    Raises:
        UnloadableError: If the picture cannot be used; says why.
    """
    with _open(source, max_pixels) as image:
        _load(image)
        _check_depth(image)
        orientation = _orientation(image)
        if image.mode.startswith("I"):
            grey = np.asarray(image).astype(np.int64)
            small = ((grey * 255 + 32767) // 65535).astype(np.uint8)
            upright = Image.fromarray(small).convert("RGB")
        else:
            mode = "RGBA" if image.has_transparency_data else "RGB"
            upright = image.convert(mode)
    # Only the pixels go on, turned upright: no profile, no broken metadata.
    upright.info.clear()
    upright.getexif().clear()
    upright.getexif()[_EXIF_ORIENTATION] = orientation
    upright = ImageOps.exif_transpose(upright)
    buffer = io.BytesIO()
    Image.frombytes(upright.mode, upright.size, upright.tobytes()).save(
        buffer, "PNG", compress_level=1
    )
    return buffer.getvalue()


def read(
    location: str,
    max_pixels: int = MAX_PIXELS,
    is_plain: bool | None = None,
) -> bytes:
    """Read one picture from a path or an http(s) address.

    Args:
        location: A path, or an address; at most 32 MiB, within 20 seconds.
        max_pixels: Largest picture to decode, by its header.
        is_plain: Whether the file goes on as it is; by default where that is
            possible.

    Returns:
        The bytes of a plain JPEG or PNG, as `PixelTokenizer.decode` reads.

    Raises:
        UnloadableError: If there is no usable picture; says which and why.
    """
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


def printable(path: str) -> str:
    """Return a path fit for one line of a terminal."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def file_states(root: str) -> Iterator[tuple[str, str]]:
    """Yield every file below `root` with its size and time, for a fingerprint.

    Raises:
        ValueError: If `root` is not a folder.
    """
    for path in _walk(root)[0]:
        try:
            status = os.stat(os.path.join(root, path))
            yield path, f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:
            yield path, _reason(error)


def _walk(root: str) -> tuple[list[str], list[Skipped]]:
    """List the files below `root`, relative to it, sorted."""
    if not os.path.isdir(root):
        raise ValueError(f"There is no folder {printable(root)!r}.")
    files: list[str] = []
    skipped: list[Skipped] = []
    seen = set()
    folders = deque([""])
    while folders:
        folder = folders.popleft()
        full_path = os.path.join(root, folder)
        try:
            status = os.stat(full_path)
            entries = sorted(os.scandir(full_path), key=lambda e: e.name)
        except OSError as error:
            skipped.append(Skipped(folder, _reason(error)))
            continue
        if (status.st_dev, status.st_ino) in seen:
            skipped.append(Skipped(folder, "a link to a folder seen before"))
            continue
        seen.add((status.st_dev, status.st_ino))
        if folder and os.path.exists(os.path.join(full_path, RUN_FILE)):
            skipped.append(Skipped(folder, "a run folder"))
            continue
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if entry.name.startswith("."):
                skipped.append(Skipped(path, "hidden"))
            elif entry.is_symlink() and not os.path.exists(entry.path):
                reason = "a link that leads nowhere or in a circle"
                skipped.append(Skipped(path, reason))
            elif entry.is_dir(follow_symlinks=False):
                folders.appendleft(path)
            elif entry.is_dir():
                folders.append(path)
            else:
                files.append(path)
    return sorted(files), skipped


def _layout(root: str, paths: list[str]) -> Callable[[str], tuple[str, str]]:
    """Return a function from a path to its part and label."""
    tops = {path.split(os.sep)[0] for path in paths if os.sep in path}
    parts = {top: PARTS[top] for top in tops if top in PARTS}
    is_split = set(parts.values()) == {"train", "validation"}
    if not is_split and tops != {"train"}:
        parts = {}  # Else `train` or `val` is a class like its neighbors.

    def place(path: str) -> tuple[str, str]:
        *folders, _ = path.split(os.sep)
        if not parts:
            return "", folders[0] if folders else ""
        if not folders or folders[0] not in parts:
            raise UnloadableError("lies outside train/ and val/")
        part = parts[folders[0]] if is_split else ""
        return part, folders[1] if len(folders) > 1 else ""

    return place


def _open(source: str | io.BytesIO, max_pixels: int) -> Image.Image:
    Image.init()  # Registers every format; does nothing the second time.
    try:
        if isinstance(source, str):
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
    modes = {"JPEG": ("L", "RGB"), "PNG": ("L", "LA", "RGB", "RGBA")}
    plain = image.mode in modes.get(image.format or "", ())
    return plain and "transparency" not in image.info


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # Broken metadata: the pixels still count.
        return 1


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

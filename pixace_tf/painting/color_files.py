"""Files of colors, as pixel artists and makers of beads keep them.

    .gpl    GIMP, Aseprite, Krita     .act    Adobe Photoshop, 768 or 772 bytes
    .hex    Lospec, six digits a line .txt    paint.net, AARRGGBB a line
    .pal    JASC, Paint Shop Pro      .png    a strip or any picture

Colors keep their order and their places, double ones too. A fully transparent
entry keeps its place as well but is no color; other degrees of transparency
are ignored.
"""

import codecs
import dataclasses
import os
import re
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pixace_tf.data import image_files
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath

MAX_COLORS = 256
_MAX_BYTES = 2**20
_PNG = b"\x89PNG\r\n\x1a\n"
_ACT_BYTES = 3 * MAX_COLORS
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclasses.dataclass(frozen=True)
class Colors:
    """A list of 1 to 256 colors.

    Attributes:
        rgb: uint8 `(N, 3)`.
        is_opaque: bool `(N,)`, False for entries that stand for transparency.
        names: A name for each color, empty where it has none.
    """

    rgb: np.ndarray
    is_opaque: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, colors: Any) -> "Colors":
        """Return colors from an array `(N, 3)` uint8, or from a file.

        Raises:
            UserError: If it is none of both, or not 1 to 256 colors.
        """
        if isinstance(colors, Colors):
            return colors
        if isinstance(colors, str | os.PathLike):
            return read(colors)
        rgb = np.asarray(colors)
        if rgb.dtype != np.uint8 or rgb.ndim != 2 or rgb.shape[1] != 3:
            raise UserError(
                "Colors must be a file, or an array uint8 (N, 3). Received: "
                f"{rgb.dtype} {rgb.shape}"
            )
        return cls._checked("The array", [(*color, 255, "") for color in rgb])

    @classmethod
    def _checked(
        cls, source: str, entries: list[tuple[int, int, int, int, str]]
    ) -> "Colors":
        """Return a list of (red, green, blue, alpha, name) as colors."""
        if len(entries) > MAX_COLORS:
            raise UserError(
                f"{source} has {len(entries)} colors; at most {MAX_COLORS} are "
                "possible."
            )
        if not any(entry[3] for entry in entries):
            raise UserError(f"{source} has no colors.")
        rgba = np.array([entry[:4] for entry in entries], np.uint8)
        names = tuple(entry[4] for entry in entries)
        return cls(rgba[:, :3], rgba[:, 3] > 0, names)


class _Kind(NamedTuple):
    """A kind of text files.

    Attributes:
        rule: What a line must be.
        base: Base of the numbers.
        color: Pattern of a color, with the groups r, g, b, and perhaps a for
            alpha and name.
        other: Pattern of lines that are no colors.
        header: Number of lines before the first color.
    """

    rule: str
    base: int
    color: str
    other: str
    header: int = 0


_NUMBERS = r"(?P<r>[0-9]{1,3})\s+(?P<g>[0-9]{1,3})\s+(?P<b>[0-9]{1,3})"
_ALPHA = r"\s+(?P<a>[0-9]{1,3})"
_DIGITS = "".join(rf"(?P<{c}>[0-9A-Fa-f]{{2}})" for c in "rgb")
_GPL = _Kind(
    "three numbers from 0 to 255 and a name",
    10,
    rf"{_NUMBERS}(\s+(?P<name>.*))?",
    r"#.*|(Name|Columns|Channels):.*",
    header=1,
)
_GPL_WITH_ALPHA = _GPL._replace(
    rule="four numbers from 0 to 255 and a name",
    color=rf"{_NUMBERS}{_ALPHA}(\s+(?P<name>.*))?",
)
_JASC = _Kind(
    "three numbers from 0 to 255",
    10,
    rf"{_NUMBERS}({_ALPHA})?",
    r"(?!)",
    header=3,
)
_HEX = _Kind("six hexadecimal digits", 16, rf"#?{_DIGITS}", r";.*|#(\s.*)?")
_PAINT_NET = _Kind(
    "eight hexadecimal digits, AARRGGBB",
    16,
    rf"(?P<a>[0-9A-Fa-f]{{2}})?{_DIGITS}\s*(;.*)?",
    r";.*",
)


def read(path: StrPath) -> Colors:
    """Read a file of colors; a PNG whatever its name ends in.

    The colors of a PNG are those of its pixels: in order of appearance, or if
    it has a palette, in the order of the palette.

    Raises:
        UserError: If the file is missing, of another kind, damaged or empty, or
            if there are more than 256 colors.
    """
    path = os.fspath(path)
    name = image_files.printable(path)
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # A name with a NUL.
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: {reason}") from None
    ending = os.path.splitext(path)[1].lower()
    if content.startswith(_PNG):
        entries = _of_picture(path)
    elif len(content) > _MAX_BYTES:
        raise UserError(f"{name} is too large for a file of colors.")
    elif ending == ".act":
        entries = _of_act(name, content)
    else:
        entries = _of_text(name, ending, content)
    return Colors._checked(name, entries)


def _of_picture(path: str) -> list[Any]:
    image = image_files.read_upright(path).convert("RGBA")
    indices = None
    with Image.open(path, formats=["PNG"]) as stored:
        if stored.mode == "P":
            image, indices = stored.convert("RGBA"), np.asarray(stored)
    rgba = np.asarray(image).reshape(-1, 4).copy()
    rgba[rgba[:, 3] == 0] = 0
    # As bytes, the four channels are one number.
    key = rgba.view("<u4") if indices is None else indices
    _, first = np.unique(key, return_index=True)
    chosen = rgba[np.sort(first) if indices is None else first]
    return [(*color, "") for color in chosen.tolist()]


def _of_act(name: str, content: bytes) -> list[Any]:
    if len(content) not in (_ACT_BYTES, _ACT_BYTES + 4):
        raise UserError(
            f"{name} is no Adobe color table: it must have {_ACT_BYTES} or "
            f"{_ACT_BYTES + 4} bytes. Received: {len(content)}"
        )
    rgb = np.frombuffer(content[:_ACT_BYTES], np.uint8).reshape(-1, 3)
    count, transparent = MAX_COLORS, None
    if len(content) > _ACT_BYTES:
        count, transparent = np.frombuffer(content[_ACT_BYTES:], ">u2").tolist()
        if count > MAX_COLORS:
            raise UserError(f"{name} is damaged: it claims {count} colors.")
    else:
        # What is behind the last color repeats it, or is black.
        while count > 1 and np.array_equal(rgb[count - 1], rgb[count - 2]):
            count -= 1
    return [
        (*color, 0 if i == transparent else 255, "")
        for i, color in enumerate(rgb[:count].tolist())
    ]


def _of_text(name: str, ending: str, content: bytes) -> list[Any]:
    lines = re.split(r"\r\n?|\n", _decode(name, content))
    kind = _kind(name, ending, lines)
    entries = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        is_other = not text or re.fullmatch(kind.other, text)
        if is_other or number <= kind.header:
            continue
        entry = _entry(kind, text)
        if entry is None:
            raise UserError(
                f"{name}, line {number}: {kind.rule} must stand here. "
                f"Received: {text[:40]!r}"
            )
        entries.append(entry)
    if kind is _JASC and lines[2].strip() != str(len(entries)):
        raise UserError(
            f"{name} is damaged: its third line, the number of colors, is "
            f"{lines[2].strip()[:40]!r}, and it has {len(entries)}."
        )
    return entries


def _decode(name: str, content: bytes) -> str:
    encoding = next((e for b, e in _BOMS.items() if content.startswith(b)), "")
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        # Old programs wrote names in the alphabet of their country.
        text = content.decode("latin-1")
    if "\0" in text:
        raise UserError(
            f"{name} is a binary file, which only .act and PNG files of colors "
            "may be."
        )
    return text


def _kind(name: str, ending: str, lines: list[str]) -> _Kind:
    """Return the kind of a text; GIMP's and JASC's begin with their name."""
    first = lines[0].strip()
    if first == "GIMP Palette":
        words = [line.split() for line in lines[1:10]]
        return _GPL_WITH_ALPHA if ["Channels:", "RGBA"] in words else _GPL
    if first == "JASC-PAL" and len(lines) >= _JASC.header:
        return _JASC
    kinds = {".hex": _HEX, ".txt": _PAINT_NET}
    if ending in kinds:
        return kinds[ending]
    headers = {".gpl": "GIMP Palette", ".pal": "JASC-PAL"}
    if ending in headers:
        raise UserError(
            f"{name} must begin with {headers[ending]!r}. Received: "
            f"{first[:40]!r}"
        )
    raise UserError(
        f"{name} must be a .gpl, .hex, .pal (JASC), .act, .txt (paint.net) or "
        ".png file of colors."
    )


def _entry(kind: _Kind, text: str) -> tuple[int, int, int, int, str] | None:
    """Return a color with alpha and name, or None if it is none."""
    match = re.fullmatch(kind.color, text)
    if match is None:
        return None
    groups = match.groupdict()
    red, green, blue = (int(groups[c], kind.base) for c in "rgb")
    alpha = 255 if not groups.get("a") else int(groups["a"], kind.base)
    if max(red, green, blue, alpha) > 255:
        return None
    return red, green, blue, alpha, groups.get("name") or ""

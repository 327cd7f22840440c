"""The parts of a data set, from the names of its folders or splits."""

from collections.abc import Iterable, Mapping, Sequence

TRAIN, VALIDATION, TEST = "train", "validation", "test"
# Images beside the folders of the parts.
OUTSIDE = "outside"
_PARTS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validation", "dev"),
    TEST: ("test", "testing"),
}
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}
_ROLES = {
    TRAIN: "trains",
    VALIDATION: "validates",
    TEST: "is left out",
    "": "is split for training and validation",
}


def part_of(name: str) -> str:
    """Return "train", "validation" or "test", in any spelling, or ""."""
    return _PART_OF.get(name.casefold(), "")


def parts_of(names: Iterable[str]) -> dict[str, str]:
    """Return the part of each of the folders or splits side by side.

    Without a validation folder, test images validate. If all folders mean
    training, their part is "": their images have yet to be split. A single kind
    of part beside other names is a class, so the result is empty.
    """
    names = set(names)
    parts = {name: part_of(name) for name in sorted(names) if part_of(name)}
    kinds = set(parts.values())
    if len(kinds) < 2 and set(parts) != names:
        return {}
    if kinds == {TRAIN}:
        return dict.fromkeys(parts, "")
    if VALIDATION not in kinds:
        return {n: VALIDATION if p == TEST else p for n, p in parts.items()}
    return parts


def place(folders: Sequence[str], parts: Mapping[str, str]) -> tuple[str, str]:
    """Return the part of an image, `OUTSIDE` or "", and its class folder or "".

    Args:
        folders: The names of the folders around it, from the outermost.
        parts: As `parts_of` returns them for all outermost folders.
    """
    if not parts:
        return "", folders[0] if folders else ""
    if not folders or folders[0] not in parts:
        return OUTSIDE, ""
    return parts[folders[0]], folders[1] if len(folders) > 1 else ""


def describe(parts: Mapping[str, str]) -> str:
    """Return one line that says how each part is used; "" without parts."""
    return ", ".join(f"{name} {_ROLES[part]}" for name, part in parts.items())

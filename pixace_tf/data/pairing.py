"""Pairs of pictures: which file is to be turned into which.

A pair is one image of twice the height, the first picture above the second; so
a model that reads row by row paints the second from the first, a prefix.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np

from pixace_tf.data import image_files
from pixace_tf.data.image_files import Listing, Skipped, printable
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath

# How the names of both pictures end, without suffix, if they share a folder.
ENDINGS = ("_a", "_b")
_MAX_NAMED = 3
# Shapes that differ less are taken for equal: sizes are rounded.
_SAME_SHAPE = 0.02


@dataclasses.dataclass(frozen=True)
class Pairing:
    """The files of pairs.

    Attributes:
        firsts: The first pictures, and all files that are skipped.
        seconds: Their partners, in the same order.
        names: What both files of a pair are called, in the same order.
        num_left: How many files are no partner of any first picture.
    """

    firsts: Listing
    seconds: Listing
    names: list[str]
    num_left: int


def pair_files(first: StrPath, second: StrPath) -> Pairing:
    """Find the partner of each picture of a folder.

    It has the same path in the other folder, whatever its suffix. In one folder
    for both, `walk_b.png` is the partner of `walk_a.png`.

    Raises:
        UserError: If a folder is missing, a picture has no partner, or two
            pictures of a folder have one name.
    """
    firsts, seconds = (image_files.list_files(root) for root in (first, second))
    is_one_folder = os.path.samefile(first, second)
    endings = ENDINGS if is_one_folder else ("", "")
    skipped = list(firsts.skipped)
    if is_one_folder:
        skipped += [
            Skipped(path, f"its name ends in neither {' nor '.join(ENDINGS)}")
            for path in firsts.places
            if not _stem(path).endswith(ENDINGS)
        ]
    ours, theirs = (
        _by_name(listing, ending, skipped)
        for listing, ending in zip((firsts, seconds), endings, strict=True)
    )
    lonely = [ours[name] for name in ours if name not in theirs]
    if missing := _pictures(firsts, lonely, skipped):
        place = f"of the same name in {_named(seconds)}"
        if is_one_folder:
            place = f"that is called {ENDINGS[1]} instead of {ENDINGS[0]}"
        raise UserError(_no_partner(_named(firsts), missing, place))
    names = [name for name in ours if name in theirs]
    firsts = dataclasses.replace(firsts, skipped=skipped)
    return Pairing(
        _only(firsts, [ours[name] for name in names]),
        _only(seconds, [theirs[name] for name in names]),
        names,
        len(theirs) - len(names),
    )


def _only(listing: Listing, paths: Sequence[str]) -> Listing:
    """Return some of the files, in this order."""
    places = {path: listing.places[path] for path in paths}
    return dataclasses.replace(listing, places=places)


def _no_partner(folder: str, missing: Sequence[str], place: str) -> str:
    """Return the error message for pictures without a partner in a place."""
    some = ", ".join(map(printable, missing[:_MAX_NAMED]))
    if len(missing) == 1:
        return (
            f"A picture in {folder} has no partner {place}: {some}. Add the "
            "partner, or take the picture out."
        )
    more = ", ..." if len(missing) > _MAX_NAMED else ""
    return (
        f"{len(missing):,} pictures in {folder} have no partner {place}: "
        f"{some}{more}. Add the partners, or take the pictures out."
    )


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _by_name(
    listing: Listing, ending: str, skipped: list[Skipped]
) -> dict[str, str]:
    """Return the files whose names end so, by the rest of the name.

    Where several have one name, only one may be a picture; the others are
    `skipped`.
    """
    found = collections.defaultdict[str, list[str]](list)
    for path in listing.places:
        if _stem(path).endswith(ending):
            found[_stem(path).removesuffix(ending)].append(path)
    for paths in found.values():
        if len(paths) > 1:
            paths[:] = _pictures(listing, paths, skipped) or paths[:1]
        if len(paths) > 1:
            raise UserError(
                f"Two pictures in {_named(listing)} have one name: "
                f"{', '.join(map(printable, paths))}. Leave one of them."
            )
    return {name: path for name, (path,) in found.items()}


def _pictures(
    listing: Listing, paths: Sequence[str], skipped: list[Skipped]
) -> list[str]:
    """Return the files that are pictures, by their headers; skip the others."""
    pictures = []
    for path in paths:
        try:
            image_files.read_header(
                os.path.join(listing.root, path), allow_own=False
            )
            pictures.append(path)
        except image_files.UnloadableError as error:
            skipped.append(Skipped(path, str(error)))
    return pictures


def _named(listing: Listing) -> str:
    return repr(printable(listing.root))


def single(tokenizer: PixelTokenizer) -> PixelTokenizer:
    """Return the tokenizer of one picture from that of pairs."""
    height, width = tokenizer.image_size
    config = {**tokenizer.get_config(), "image_size": (height // 2, width)}
    return PixelTokenizer(**config)


def upper(images: np.ndarray) -> np.ndarray:
    """Return the first pictures of pairs, `(..., 2*height, width, C)`."""
    return images[..., : images.shape[-3] // 2, :, :]


def lower(images: np.ndarray) -> np.ndarray:
    """Return the second pictures of pairs, `(..., 2*height, width, C)`."""
    return images[..., images.shape[-3] // 2 :, :, :]


def have_one_shape(*paths: str) -> bool:
    """Return whether two pictures have the same aspect, by their headers."""
    (tall, wide), (height, width) = map(image_files.read_size, paths)
    return math.isclose(tall * width, height * wide, rel_tol=_SAME_SHAPE)

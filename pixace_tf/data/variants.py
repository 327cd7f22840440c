"""Variants of one sprite, which lie together on one side of the split.

A model that has seen `orc_1.png` knows most of `orc_2.png`, or of an orc in
other colors: held-out sprites with such a twin would flatter it.
"""

import collections
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

# As many images whose names differ by a number are variants by their names
# alone; in longer series, only images that look alike.
MAX_BY_NAME = 8
# Images of a long series are compared with as many that follow.
_WINDOW = 16
# Share of equal pixels, among those visible in either, of images that look
# alike.
_ALIKE = 0.5
# The same share of images that are variants whatever their names, and with how
# many others each is compared for each of its rows.
_SAME, _MOST_SHARING = 0.9, 4
_NUMBER = re.compile(r"[\W_]*(\d+)$")
# Pairs that are compared at once.
_AT_ONCE = 4096
# A key that no bound exceeds: images that always train.
_LAST = b"\xff" * 16


class Series(NamedTuple):
    """Images that may be variants of each other.

    Attributes:
        name: Equal for the images of a series.
        number: The place of the image in it.
        is_certain: Whether they are variants, like the frames of an animation.
    """

    name: str
    number: int = 0
    is_certain: bool = False


def series_of(path: str) -> Series | None:
    """Return the series of a file; its name ends where a last number begins.

    Files that are called by a number alone have no series.

    >>> series_of("mon/orc_12.png")
    Series(name='mon/orc', number=12, is_certain=False)
    >>> series_of("mon/orc.png")
    Series(name='mon/orc', number=0, is_certain=False)
    """
    folder, name = os.path.split(path)
    stem = os.path.splitext(name)[0]
    found = _NUMBER.search(stem)
    if found is not None:
        stem = stem[: found.start()]
    number = int(found[1][:18]) if found is not None else 0
    return Series(os.path.join(folder, stem), number) if stem else None


def shape_digest(image: np.ndarray) -> bytes:
    """Return 16 bytes that are equal for an image and its recolored twins.

    Twins have the same alpha, and visible pixels of one color in one have one
    color in the other. Noise would be everyone's twin, so an image with more
    than one color for two pixels has twins only in equal ones.

    Args:
        image: uint8 `(height, width, 3)`, or 4 with alpha; transparent pixels
            are 0.
    """
    visible = image[..., 3] > 0 if image.shape[-1] == 4 else ...
    pixels = image[visible][..., :3].reshape(-1, 3).astype(np.int32)
    codes = pixels @ np.array([1 << 16, 1 << 8, 1], np.int32)
    colors, first, places = np.unique(
        codes, return_index=True, return_inverse=True
    )
    content = image.tobytes()
    if 2 * len(colors) <= len(codes):
        content = first[places].tobytes() + image[..., 3:].tobytes()
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(content)
    return digest.digest()


def shade_digest(image: np.ndarray) -> bytes:
    """Return 16 bytes that are equal for mirrored and hue-turned twins.

    A turn of hue keeps the largest and the smallest channel of each color.

    Args:
        image: See `shape_digest`.
    """
    rgb, alpha = image[..., :3], image[..., 3:]
    shades = [rgb.max(axis=-1, keepdims=True), rgb.min(axis=-1, keepdims=True)]
    shaded = np.concatenate([*shades, alpha], axis=-1)
    mirrored = (shaded, shaded[::-1], shaded[:, ::-1], shaded[::-1, ::-1])
    contents = (repr(shaded.shape).encode() + m.tobytes() for m in mirrored)
    return min(hashlib.blake2b(c, digest_size=16).digest() for c in contents)


class _Groups:
    """Joins keys; each group is then called by one of its keys.

    That key is chosen by the last bytes, and `sources.is_held_out` looks at the
    first, so a group validates as seldom as a single image, and one more member
    seldom moves it.
    """

    def __init__(self, keys: list[bytes]) -> None:
        self._keys = keys
        self._group_of = {key: key for key in keys}

    def _find(self, key: bytes) -> bytes:
        group_of = self._group_of
        while group_of[key] != key:
            group_of[key] = key = group_of[group_of[key]]
        return key

    def join(self, a: bytes, b: bytes) -> None:
        """Put two keys, and all of their groups, into one group."""
        ends = (self._find(a), self._find(b))
        a, b = sorted(ends, key=lambda key: key[::-1])
        self._group_of[b] = a

    def join_equal(self, digests: Iterable[bytes]) -> None:
        """Join the keys that have equal digests; they are in one order."""
        first: dict[bytes, bytes] = {}
        for key, digest in zip(self._keys, digests, strict=True):
            self.join(key, first.setdefault(digest, key))

    def chosen(self, most: float) -> list[bytes]:
        """Return the group of each key; `split_keys` documents `most`."""
        groups = [self._find(key) for key in self._keys]
        sizes = collections.Counter(groups)
        if min(sizes.values()) > most:
            return self._keys
        return [_LAST if sizes[group] > most else group for group in groups]


def pair_keys(images: np.ndarray, most: float) -> list[bytes]:
    """Return keys as `split_keys` does, for pairs that are no pixel art.

    Pairs are joined if their first pictures are equal, or their second ones.
    """
    if not len(images):
        return []
    groups = _Groups([digest_of(image) for image in images])
    for pictures in np.split(images, 2, axis=1):
        groups.join_equal(map(digest_of, pictures))
    return groups.chosen(most)


def digest_of(image: np.ndarray) -> bytes:
    """Return the BLAKE2b digest of the pixels, 16 bytes."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def split_keys(
    images: np.ndarray,
    series: Sequence[Series | None],
    most: float,
    num_parts: int = 1,
) -> list[bytes]:
    """Return a key for each image by which it trains or validates.

    The key of an image is its `shape_digest`. Variants share the key of one of
    them; see `_Groups`.

    Args:
        images: uint8 `(N, height, width, C)`; see `shape_digest`.
        series: The series of each image, if it has one.
        most: Larger groups always train: images of a long animation would be
            too many to validate. If all groups are larger, there are none.
        num_parts: Pictures below each other in an image. Images are variants if
            one of these is the same in both, mirrored, or of other hue.
    """
    if not len(images):
        return []
    keys = [shape_digest(image) for image in images]
    groups = _Groups(keys)
    for pictures in np.split(images, num_parts, axis=1):
        groups.join_equal(map(shade_digest, pictures))
    pairs = _alike_in_series(images, series)
    for i, j in [*pairs, *_nearly_equal(images)]:
        groups.join(keys[i], keys[j])
    return groups.chosen(most)


def _alike_in_series(
    images: np.ndarray, series: Sequence[Series | None]
) -> list[tuple[int, int]]:
    """Return pairs of images that are variants by their series."""
    members = collections.defaultdict[Series, list[int]](list)
    numbers = [0 if one is None else one.number for one in series]
    for i, one in enumerate(series):
        if one is not None:
            members[one._replace(number=0)].append(i)
    pairs: list[tuple[int, int]] = []
    for one, unsorted in members.items():
        places = sorted(unsorted, key=numbers.__getitem__)
        if one.is_certain or len(places) <= MAX_BY_NAME:
            pairs += [(places[0], other) for other in places[1:]]
            continue
        for step in range(1, min(_WINDOW + 1, len(places))):
            some = np.array([places[:-step], places[step:]])
            pairs += _at_least(images, some, _ALIKE)
    return pairs


def _nearly_equal(images: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of images that share a row and nearly all pixels."""
    num_images, height = images.shape[:2]
    rows = images.reshape(num_images, height, -1)
    multiples = np.arange(1, 2 * rows.shape[-1], 2, dtype=np.uint64)
    # Wrong candidates do no harm, so a simple hash will do.
    weights = multiples * np.uint64(0x9E3779B97F4A7C15)
    hashes = np.array([row.astype(np.uint64) @ weights for row in rows])
    found: set[tuple[int, int]] = set()
    for column in hashes.reshape(num_images, height).T:
        order = np.argsort(column, kind="stable")
        for step in range(1, _MOST_SHARING + 1):
            a, b = order[:-step], order[step:]
            is_shared = (column[a] == column[b]) & (column[a] > 0)
            found.update(
                zip(a[is_shared].tolist(), b[is_shared].tolist(), strict=True)
            )
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2).T
    return _at_least(images, pairs, _SAME)


def _at_least(
    images: np.ndarray, pairs: np.ndarray, share: float
) -> list[tuple[int, int]]:
    """Return the pairs with this share of equal pixels among visible ones.

    `pairs` are integers `(2, M)`.
    """
    good: list[tuple[int, int]] = []
    for start in range(0, pairs.shape[1], _AT_ONCE):
        first, second = pairs[:, start : start + _AT_ONCE]
        a, b = images[first], images[second]
        is_equal = (a == b).all(axis=-1)
        is_visible = np.ones_like(is_equal)
        if a.shape[-1] == 4:
            is_visible = (a[..., 3] > 0) | (b[..., 3] > 0)
        equal = (is_equal & is_visible).sum(axis=(1, 2))
        is_good = equal >= share * is_visible.sum(axis=(1, 2))
        good += zip(
            first[is_good].tolist(), second[is_good].tolist(), strict=True
        )
    return good

"""Copies of training images, also mirrored, shifted, or with turned hues.

Shapes: Q queries, R references, V ways to mirror and shift, P pixels of an
image.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Self

import numpy as np

# Images are shifted by up to as many pixels, but not by more than this share.
MAX_SHIFT, _MAX_SHARE = 3, 1 / 8
# An image of pixel art is a copy if at most this share of its visible pixels
# differs from a reference; another one, if the root of the mean squared
# difference is at most that many levels of 0 to 255.
MAX_DIFFERING = 0.05
MAX_DISTANCE = 10.0
# Levels by which the channels of one color may differ; a color may also lie
# this share of its chroma beside the turned hue.
_LEVELS, _CHROMA_SHARE = 8, 0.25
# Sides of the images that choose candidates, and the numbers of these.
_SMALL_SIDE, _NUM_CANDIDATES, _NUM_WAYS = 16, 16, 6
_CHUNK = 256
# Green and blue lie a third of a circle from red.
_SINE = np.float32(np.sqrt(3) / 2)


@dataclasses.dataclass(frozen=True)
class Matches:
    """The nearest reference of each query, once it is aligned.

    Attributes:
        indices: int64 `(Q,)`.
        differences: float64 `(Q,)`, in the unit of `bound`.
        aligned: uint8 `(Q, height, width, C)`, the references mirrored, shifted
            and turned like the queries.
        bound: The largest difference of a copy.
    """

    indices: np.ndarray
    differences: np.ndarray
    aligned: np.ndarray
    bound: float

    @property
    def num_copies(self) -> int:
        """The number of queries that are copies."""
        return int(np.sum(self.differences <= self.bound))


def find_copies(
    queries: np.ndarray, references: np.ndarray, is_pixel_art: bool
) -> Matches:
    """Find the nearest reference of each query after the best alignment.

    A query is mirrored in both directions, shifted by whole pixels, and turned
    in hue by any angle; the part that then lies on the reference is compared.
    Candidates are chosen by lightness and alpha of smaller images: of 200
    copies of sprites, each with 3% of other pixels, 199 were found.

    Args:
        queries: uint8 `(Q, height, width, C)`, RGB or RGBA.
        references: uint8 `(R, height, width, C)`.
        is_pixel_art: Whether to count differing pixels rather than to measure
            the difference of all; see `MAX_DIFFERING` and `MAX_DISTANCE`.
    """
    shape = queries.shape[1:]
    ways = _Ways(shape[:2])
    flat = references.reshape(len(references), -1, shape[-1])
    search = _Search(flat, ways)
    indices = np.zeros(len(queries), np.int64)
    differences = np.zeros(len(queries))
    aligned = np.zeros_like(queries)
    colors = _Colors.of(queries.reshape(len(queries), -1, shape[-1]))
    for i in range(len(queries)):
        query = colors.chosen(i)
        which, way = search.candidates(ways.apply(query.features()))
        a = query.mapped(functools.partial(ways.apply, way=way))
        chosen, places = np.unique(which, return_inverse=True)
        b = _Colors.of(flat[chosen]).chosen(places)
        turn, difference = _compare(a, b, ways.masks[way], is_pixel_art)
        if is_pixel_art:  # Too little of the query may be left.
            num_left = np.sum(a.alpha > 0, axis=1)
            is_lost = 2 * num_left < np.sum(query.alpha > 0)
            difference = np.where(is_lost, 1, difference)
        best = int(np.argmin(difference))
        indices[i], differences[i] = which[best], difference[best]
        reference = turned(references[which[best]], turn[best])
        aligned[i] = ways.undo(reference, int(way[best]))
    bound = MAX_DIFFERING if is_pixel_art else MAX_DISTANCE
    return Matches(indices, differences, aligned, bound)


class _Ways:
    """The ways to mirror and shift images of one size.

    Attributes:
        masks: bool `(V, P)`, where a moved image lies on an unmoved one.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        self.image_size = image_size
        places = np.array(list(_moved_places(image_size)), np.int64)
        self.masks = places >= 0
        self._places = np.maximum(places, 0)

    def apply(
        self, image: np.ndarray, way: np.ndarray | slice = slice(None)
    ) -> np.ndarray:
        """Move an image, `(P, ...)`, in some ways, by default in all.

        Returns:
            `(V, P, ...)` of the same dtype, 0 outside of the masks.
        """
        moved = np.take(image, self._places[way], axis=0)
        moved[~self.masks[way]] = 0
        return moved

    def undo(self, image: np.ndarray, way: int) -> np.ndarray:
        """Move an image, uint8 `(height, width, C)`, back; the rest is 0."""
        flat = image.reshape(-1, image.shape[-1])
        back = np.zeros_like(flat)
        mask = self.masks[way]
        back[self._places[way][mask]] = flat[mask]
        return back.reshape(image.shape)


def _moved_places(image_size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield int64 `(P,)`: which pixel each place gets, -1 for none."""
    places = np.arange(np.prod(image_size)).reshape(image_size)
    reach = min(MAX_SHIFT, int(min(image_size) * _MAX_SHARE))
    shifts = range(-reach, reach + 1)
    padded = np.pad(places, reach, constant_values=-1)
    for down, right in itertools.product(shifts, shifts):
        top, left = reach + down, reach + right
        window = padded[top:, left:][: image_size[0], : image_size[1]]
        for turned_over in (window, window[::-1]):
            yield turned_over.reshape(-1)
            yield turned_over[:, ::-1].reshape(-1)


@dataclasses.dataclass(frozen=True)
class _Colors:
    """Colors of N images, apart from their hues, all float32 `(N, P)`.

    Attributes:
        alpha: 0 to 255.
        light: The largest of red, green and blue.
        dark: The smallest of them.
        gray: Their mean.
        chroma: complex64, its argument is the hue.
    """

    alpha: np.ndarray
    light: np.ndarray
    dark: np.ndarray
    gray: np.ndarray
    chroma: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> Self:
        """Take images apart, uint8 `(N, P, C)`."""
        # Operations on whole channels are faster than along an axis of three.
        r, g, b, *rest = np.moveaxis(images, -1, 0).astype(np.float32)
        alpha = rest[0] if rest else np.full_like(r, 255)
        r, g, b = (np.where(alpha > 0, channel, 0) for channel in (r, g, b))
        chroma = np.empty(r.shape, np.complex64)
        chroma.real, chroma.imag = r - (g + b) / 2, _SINE * (g - b)
        light = np.maximum(np.maximum(r, g), b)
        dark = np.minimum(np.minimum(r, g), b)
        return cls(alpha, light, dark, (r + g + b) / 3, chroma)

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Self:
        """Return the colors after the same function of each array."""
        names = [field.name for field in dataclasses.fields(self)]
        values = {name: function(getattr(self, name)) for name in names}
        return dataclasses.replace(self, **values)

    def chosen(self, rows: int | np.ndarray) -> Self:
        """Return some of the images, or one."""
        return self.mapped(lambda values: values[rows])

    def features(self) -> np.ndarray:
        """Return what turned hues keep, float32 `(N, P, 2)`."""
        return np.stack([(self.light + self.dark) / 2, self.alpha], axis=-1)


class _Search:
    """Chooses references that a moved query may be a copy of.

    Args:
        references: uint8 `(R, P, C)`.
        ways: The ways to move the queries.
    """

    def __init__(self, references: np.ndarray, ways: _Ways) -> None:
        self._image_size = ways.image_size
        self._side = max(1, round(max(ways.image_size) / _SMALL_SIDE))
        masks = np.repeat(ways.masks[..., None], 2, axis=-1)
        # Only cells that lie inside count.
        self._masks = (self._pool(masks.astype(np.float32)) == 1).astype(
            np.float32
        )
        chunks = np.split(references, range(_CHUNK, len(references), _CHUNK))
        self._small = np.concatenate(
            [self._pool(_Colors.of(chunk).features()) for chunk in chunks]
        )
        self._norms = self._masks @ np.square(self._small).T
        self._size = self._masks.sum(axis=1, keepdims=True)

    def _pool(self, values: np.ndarray) -> np.ndarray:
        """Return means over squares, float32 `(N, cells*2)`."""
        side = self._side
        height, width = (s // side * side for s in self._image_size)
        images = values.reshape(len(values), *self._image_size, 2)
        images = images[:, :height, :width]
        total = np.zeros_like(images[:, ::side, ::side])
        for i, j in itertools.product(range(side), range(side)):
            total += images[:, i::side, j::side]
        return total.reshape(len(values), -1) / np.float32(side**2)

    def candidates(self, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return references and ways, int64 `(M,)` each.

        `moved` are the features of a query in all ways.
        """
        small = self._pool(moved) * self._masks
        distances = small @ self._small.T
        distances *= -2
        distances += self._norms
        distances += np.square(small).sum(axis=1, keepdims=True)
        distances /= self._size
        count = min(_NUM_CANDIDATES, distances.shape[1])
        least = distances.min(axis=0)
        which = np.argpartition(least, count - 1)[:count]
        num_ways = min(_NUM_WAYS, len(distances))
        ways = np.argpartition(distances[:, which], num_ways - 1, axis=0)
        ways = ways[:num_ways]
        return np.tile(which, num_ways), ways.reshape(-1)


def _compare(
    a: _Colors, b: _Colors, masks: np.ndarray, is_pixel_art: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Compare pairs of images within masks, bool `(N, P)`.

    Returns:
        By how much the hues of `b` are turned to fit best, in radians, and the
        differences, float64 `(N,)` each.
    """
    turn = np.angle(np.sum(a.chroma * b.chroma.conj() * masks, axis=1))
    measure = _difference if is_pixel_art else _distance
    rotation = np.exp(1j * turn).astype(np.complex64)
    plain = measure(a, b, b.chroma, masks)
    best = measure(a, b, b.chroma * rotation[:, None], masks)
    is_plain = plain <= best
    return np.where(is_plain, 0, turn), np.minimum(plain, best)


def _difference(
    a: _Colors, b: _Colors, chroma: np.ndarray, masks: np.ndarray
) -> np.ndarray:
    """Return the share of differing pixels among those visible in either.

    It is 1 if half of the visible pixels of an image lie outside of the mask.
    """
    pairs = ((a.alpha, b.alpha), (a.light, b.light), (a.dark, b.dark))
    differs = np.any([np.abs(x - y) > _LEVELS for x, y in pairs], axis=0)
    beside = np.abs(a.chroma - chroma)
    differs |= beside > _LEVELS + _CHROMA_SHARE * np.abs(chroma)
    is_visible = (a.alpha > 0) | (b.alpha > 0)
    count = np.sum(is_visible & masks, axis=1)
    share = np.sum(differs & is_visible & masks, axis=1) / np.maximum(count, 1)
    is_inside = 2 * count > np.sum(b.alpha > 0, axis=1)
    return np.where(is_inside | (count == 0), share, 1.0)


def _distance(
    a: _Colors, b: _Colors, chroma: np.ndarray, masks: np.ndarray
) -> np.ndarray:
    """Return the root of the mean squared difference of the channels."""
    square = np.square(a.alpha - b.alpha) + 3 * np.square(a.gray - b.gray)
    square += 2 / 3 * np.square(np.abs(a.chroma - chroma))
    num_channels = 3 if np.all(b.alpha == 255) else 4
    count = num_channels * masks.sum(axis=1)
    return np.sqrt(np.sum(square * masks, axis=1, dtype=np.float64) / count)


def turned(image: np.ndarray, angle: float) -> np.ndarray:
    """Return an image, uint8 `(..., C)`, with all hues turned, in radians."""
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = rgb2hsv(image[..., :3])
    hsv[..., 0] = (hsv[..., 0] + angle / (2 * np.pi)) % 1
    rgb = np.round(255 * hsv2rgb(hsv)).astype(np.uint8)
    return np.concatenate([rgb, image[..., 3:]], axis=-1)

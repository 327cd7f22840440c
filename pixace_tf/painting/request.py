"""The request of a user, for every kind of painter."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixace_tf.data import image_files
from pixace_tf.data.labels import number_of
from pixace_tf.errors import UserError
from pixace_tf.painting import color_files, masks
from pixace_tf.sampling.sampling_config import (
    RULES,
    SamplingConfig,
    between,
    check_integer,
    check_is_one,
    check_numbers,
    check_setting,
)

# A path, an http(s) address, or uint8 `(any_height, any_width, 3 or 4)`.
ImageLike = str | os.PathLike[str] | np.ndarray
MAX_COUNT = 2**20
# Digests and counts are added, and the sum must fit int64.
MAX_SEED = 2**62
_DEFAULT_KEEP = 0.5
_SHARES = {"keep": between(0, 1, "a number"), "vary": RULES["top_p"]}
# Each of them chooses the hidden pixels.
_HIDING = (
    *("keep", "prefix_length", "cover", "mask"),
    *("vary", "symmetric", "seamless"),
)
_INTEGERS = {
    "samples": (1, MAX_COUNT),
    "best": (1, MAX_COUNT),
    "particles": (1, MAX_COUNT),
    "seed": (-MAX_SEED, MAX_SEED),
    "prefix_length": (0, 2**31),
    "max_colors": (0, 2**31 - 1),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """Images to complete or to generate, with temperatures and filters.

    The answer has a row for each image (one row for new images); each row has
    `samples` images for each temperature.

    Attributes:
        images: The images to complete; empty for new images.
        keep: Share of the pixels to keep, from the top, in `[0, 1]`; None is
            one half, or 0 with `given`.
        prefix_length: Pixels to keep in raster order, instead of `keep`.
        cover: The part to hide instead: `"top"`, `"bottom"`, `"left"`,
            `"right"` or `"center"`, optionally with a share of the image, as in
            `"left:0.3"`.
        mask: The pixels to hide instead: an image, or an array `(any_height,
            any_width)`, of the aspect of the images, whose white or True pixels
            are painted; a list with one for each image; or `"alpha"` for the
            transparent pixels of the images.
        vary: About this share of the image, in `(0, 1]`, is hidden instead:
            other patches for each sample.
        symmetric: Whether the right half of new images gets the shape (the
            alpha) of the left one; its colors are drawn.
        seamless: Whether the image continues on its opposite side, as a tile
            that repeats does. Its border is hidden instead; a new image is
            painted first.
        given: Names of channels that the painted pixels keep, such as `"value"`
            or `"alpha"`; see `Palette.channel_names`.
        particles: Number of fillings that are weighed by the kept pixels behind
            the hidden ones; see `sampling.particles`. None is `NUM_PARTICLES`,
            or the most that a server can weigh; `NUM_SECOND_PARTICLES` for new
            images, which need them if they are symmetric or seamless.
        samples: Completions per image and temperature, or new images per
            temperature; the k-th one has the seed `seed + k`.
        best: Number of images to draw for each sample; the likeliest, given
            the label, is kept.
        label: The name of a class that the model knows.
        guidance: How strongly to prefer the label, from 1 to 100; 1 keeps the
            model's distribution.
        temperatures: See `SamplingConfig`; one or more.
        seed: From -2**62 to 2**62. The same seed gives the same result, alone
            or in a batch; images that differ only where they are hidden are
            completed differently.
        only_colors: The only colors to paint: a file, see `color_files`, or
            uint8 `(N, 3)`. Kept pixels stay as they are.
        max_colors: Most colors of an image that was painted by a model that
            copies colors, 0 for any number. Colors of kept pixels count, and a
            transparent pixel has none.
        top_k: See `SamplingConfig`.
        top_p: See `SamplingConfig`.
        min_p: See `SamplingConfig`.

    Raises:
        UserError: If a value is out of range.
    """

    images: Sequence[ImageLike] = ()
    keep: float | None = None
    prefix_length: int | None = None
    cover: str | None = None
    mask: Any = None
    vary: float | None = None
    symmetric: bool = False
    seamless: bool = False
    given: Sequence[str] = ()
    particles: int | None = None
    samples: int = 1
    best: int = 1
    label: str | None = None
    guidance: float = 1.0
    temperatures: Sequence[float] = (1.0,)
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    only_colors: Any = None
    max_colors: int = 0

    def __post_init__(self) -> None:
        # An `Address` is downloaded once, however often it is used.
        for name in ("images", "mask"):
            value = image_files.Address.of(getattr(self, name))
            object.__setattr__(self, name, value)
        self._check_images()
        if self.only_colors is not None:
            colors = color_files.Colors.of(self.only_colors)
            object.__setattr__(self, "only_colors", colors)
        for name, (low, high) in _INTEGERS.items():
            value = getattr(self, name)
            if value is not None or name not in ("particles", "prefix_length"):
                # Sums of small integers of NumPy would overflow.
                number = check_integer(name, value, low, high)
                object.__setattr__(self, name, number)
        for name in ("guidance", "top_k", "top_p", "min_p"):
            check_is_one(name, check_setting(name, getattr(self, name)))
        if check_setting("temperature", self.temperatures).ndim != 1:
            raise UserError(
                "temperatures must be a list of numbers. Received: "
                f"{self.temperatures!r}"
            )
        if not len(self.temperatures):
            raise UserError("Give at least one of temperatures.")
        if self.label is not None and not isinstance(self.label, str):
            raise UserError(
                f"label must be the name of a class. Received: {self.label!r}"
            )
        if self.guidance > 1 and self.label is None:
            raise UserError(
                "guidance needs a label. Received: "
                f"guidance={self.guidance:g} without one"
            )

    def _check_images(self) -> None:
        """Check the images and the options that hide a part of them."""
        images = self.images
        is_list = isinstance(images, Sequence | np.ndarray)
        is_scalar = isinstance(images, np.ndarray) and not images.ndim
        if not is_list or is_scalar or isinstance(images, str | bytes):
            raise UserError(
                "Give a list of images, not a single path. "
                f"Received: images={images!r}"
            )
        for image in images:
            if not isinstance(image, str | os.PathLike | np.ndarray):
                raise UserError(
                    "An image must be a path, an address or a uint8 array. "
                    f"Received: {image!r}"
                )
        for name, rule in _SHARES.items():
            value = getattr(self, name)
            if value is not None:
                share = check_numbers(name, value, rule, np.float64)
                check_is_one(name, share)
        given = (self.given,) if isinstance(self.given, str) else self.given
        object.__setattr__(self, "given", tuple(given))
        if self.given and not len(images):
            raise UserError("given needs images, whose channels it keeps.")
        for name in ("symmetric", "seamless"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise UserError(
                    f"{name} must be True or False. Received: {name}={value!r}"
                )
        if self.symmetric and len(images):
            raise UserError("symmetric is for new images alone.")
        values = {name: getattr(self, name) for name in _HIDING}
        names = [
            name
            for name, value in values.items()
            if value is not None and value is not False
        ]
        if len(names) > 1:
            raise UserError(f"Give only one of {', '.join(names)}.")
        if self.only_colors is not None and (self.given or self.symmetric):
            name = "given" if self.given else "symmetric"
            raise UserError(f"Give either {name} or only_colors.")
        if self.cover is not None:
            masks.parse_cover(str(self.cover))
        if isinstance(self.mask, list | tuple) and (
            len(self.mask) != len(self.images)
        ):
            raise UserError(
                "Give one mask, or as many as there are images. Received: "
                f"{len(self.mask)} masks, {len(self.images)} images"
            )

    def check_hides_nothing(self) -> None:
        """Raise UserError if the request says what to paint of an image."""
        hiding = [
            name
            for name in (*_HIDING, "given")
            # A mask may be an array.
            if not any(getattr(self, name) is no for no in (None, False, ()))
        ]
        if hiding:
            raise UserError(
                "A run of pairs keeps the first picture, and paints all of the "
                f"second. Leave out {', '.join(hiding)}."
            )

    def check_has_images(self) -> None:
        """Raise UserError if there is nothing to complete."""
        if not len(self.images):
            raise UserError("Give a list of at least one image to complete.")

    def label_number(self, labels: Sequence[str]) -> int:
        """Return the number of the label, or 0 if there is none.

        Raises:
            UserError: If `labels`, the model's, do not include the label.
        """
        if self.label is None:
            return 0
        number = number_of(self.label, labels)
        if number:
            return number
        known = [image_files.printable(label) for label in labels]
        raise UserError(
            f"There is no label {image_files.printable(self.label)!r}: "
            + (
                f"the model knows {', '.join(known)}."
                if known
                else "the model was trained without labels, which `fit` takes "
                "from class folders."
            )
        )

    def prefix_in(self, length: int) -> int:
        """Return how many of an image's pixels to keep.

        Raises:
            UserError: If `prefix_length` is larger than `length`.
        """
        if self.prefix_length is None:
            keep = 0.0 if self.given else _DEFAULT_KEEP
            return round((keep if self.keep is None else self.keep) * length)
        if self.prefix_length > length:
            raise UserError(
                f"prefix_length must lie in [0, {length}]. "
                f"Received: {self.prefix_length}"
            )
        return self.prefix_length

    def hidden_in(self, height: int, width: int) -> np.ndarray:
        """Return which pixels to paint without a mask, bool `(height, width)`.

        Raises:
            UserError: If `prefix_length` is larger than the image.
        """
        if self.seamless:
            return masks.border(height, width)
        if self.cover is not None:
            return masks.cover(self.cover, height, width)
        position = np.arange(height * width).reshape(height, width)
        return position >= self.prefix_in(height * width)

    def hidden_each(
        self, is_hidden: np.ndarray, seeds: np.ndarray
    ) -> np.ndarray:
        """Return which pixels of each drawn image to paint.

        Args:
            is_hidden: bool `(rows, height, width)`; ignored if patches vary.
            seeds: int64 `(rows * columns,)`.

        Returns:
            bool `(rows * columns, height, width)`.
        """
        if self.vary is None:
            return np.repeat(is_hidden, self.columns, axis=0)
        size = is_hidden.shape[1:]
        every = [masks.patches(int(s), self.vary, *size) for s in seeds]
        return np.stack(every)

    def masks(self) -> list[Any]:
        """Return a mask for each image, if `mask` is not None."""
        if isinstance(self.mask, list | tuple):
            return list(self.mask)
        return [self.mask] * len(self.images)

    @property
    def columns(self) -> int:
        """Number of images drawn for each row of the answer."""
        return len(self.temperatures) * self.samples * self.best

    def seeds(self, token_ids: np.ndarray | None = None) -> np.ndarray:
        """Return the seed of each drawn image.

        Args:
            token_ids: Integers `(rows, T)`, the images to complete, or None for
                new images. The seeds depend on the tokens, so that images with
                the same kept part are completed differently.

        Returns:
            int64 `(rows * columns,)`, row by row.
        """
        row = self.seed + np.arange(self.samples * self.best)
        row = np.tile(row, len(self.temperatures))
        if token_ids is None:
            return row
        digests = [
            hashlib.blake2b(tokens.tobytes(), digest_size=7).digest()
            for tokens in np.asarray(token_ids, "<i4")
        ]
        first = np.array([int.from_bytes(d, "big") for d in digests], np.int64)
        return np.add.outer(first, row).reshape(-1)

    def sampling_config(self, num_rows: int) -> SamplingConfig:
        """Return the settings, with a temperature for each drawn image."""
        temperatures = np.repeat(
            np.asarray(self.temperatures, np.float64), self.samples * self.best
        )
        return SamplingConfig(
            np.tile(temperatures, num_rows), self.top_k, self.top_p, self.min_p
        )

    def choose(self, images: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Return the likeliest of the images that were drawn for each sample.

        Args:
            images: `(rows * columns, ...)`.
            bits: `(rows * columns,)`, their bits per pixel.

        Returns:
            `(rows, temperatures, samples, ...)`.
        """
        best = np.reshape(bits, (-1, self.best)).argmin(axis=1)
        chosen = images[np.arange(len(best)) * self.best + best]
        shape = -1, len(self.temperatures), self.samples, *images.shape[1:]
        return chosen.reshape(shape)


def generation(count: int, **options: Any) -> Request:
    """Return a `Request` for new images, `count` for each temperature."""
    check_integer("count", count, 1, MAX_COUNT)
    return Request(samples=count, **options)

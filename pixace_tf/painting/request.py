"""What a user asks for: one request, whoever fulfills it."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixace_tf.errors import UserError
from pixace_tf.painting import masks
from pixace_tf.sampling.sampling_config import NUM_PARTICLES, SamplingConfig

# A path, an http(s) address, or uint8 `(any_height, any_width, 3)`.
ImageLike = str | os.PathLike[str] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Request:
    """Images to complete, or new ones to generate, and how freely.

    The answer has a row for each image (for new images there is one row), and
    in it for each temperature the `samples`.

    Attributes:
        images: What to complete; for new images there are none.
        keep: Share of the pixels to keep, from the top, in `[0, 1]`.
        prefix_length: Pixels to keep in raster order, instead of `keep`.
        cover: What to hide instead: `"top"`, `"bottom"`, `"left"`, `"right"`
            or `"center"`, perhaps with a share of the image, as in
            `"left:0.3"`.
        mask: What to hide instead: an image, or an array `(any_height,
            any_width)`, of the aspect of the images, whose white or True pixels
            are painted; a list with one for each image; or `"alpha"` for what
            is transparent in them.
        particles: How many ways to fill an image are weighed by the pixels that
            are kept behind what is hidden; see `sampling.particles`.
        samples: Completions per image and temperature, or new images per
            temperature; the k-th one has the seed `seed + k`.
        temperatures: See `SamplingConfig`; one or more.
        seed: The same seed gives the same result, alone or among others.
        top_k: See `SamplingConfig`.
        top_p: See `SamplingConfig`.
        min_p: See `SamplingConfig`.

    Raises:
        UserError: If a value is out of range.
    """

    images: Sequence[ImageLike] = ()
    keep: float = 0.5
    prefix_length: int | None = None
    cover: str | None = None
    mask: Any = None
    particles: int = NUM_PARTICLES
    samples: int = 1
    temperatures: Sequence[float] = (1.0,)
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.images, str | os.PathLike):
            raise UserError("Give a list of images, not a single path.")
        if not 0 <= self.keep <= 1:
            raise UserError(
                f"keep must lie in [0, 1]. Received: keep={self.keep}"
            )
        names = ("prefix_length", "cover", "mask")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"Give only one of {', '.join(given)}.")
        if self.cover is not None:
            masks.parse_cover(self.cover)
        if isinstance(self.mask, list | tuple) and (
            len(self.mask) != len(self.images)
        ):
            raise UserError(
                "Give one mask, or as many as there are images. Received: "
                f"{len(self.mask)} masks, {len(self.images)} images"
            )
        if self.particles < 1:
            raise UserError(
                "particles must be positive. Received: "
                f"particles={self.particles}"
            )
        if self.samples < 1:
            raise UserError(
                f"samples must be positive. Received: samples={self.samples}"
            )
        if not len(self.temperatures):
            raise UserError("Give at least one of temperatures.")
        self.sampling_config(1).arrays(len(self.temperatures) * self.samples)

    def check_has_images(self) -> None:
        """Raise UserError if there is nothing to complete."""
        if not len(self.images):
            raise UserError("Give a list of at least one image to complete.")

    def prefix_in(self, length: int) -> int:
        """Return how many pixels to keep.

        Args:
            length: Pixels of an image.

        Raises:
            UserError: If `prefix_length` is out of range.
        """
        if self.prefix_length is None:
            return round(self.keep * length)
        if not 0 <= self.prefix_length <= length:
            raise UserError(
                f"prefix_length must lie in [0, {length}]. "
                f"Received: {self.prefix_length}"
            )
        return self.prefix_length

    def shape(self, num_rows: int) -> tuple[int, int, int]:
        """Return the shape of the answer: rows, temperatures, samples."""
        return num_rows, len(self.temperatures), self.samples

    def seeds(self, num_rows: int) -> np.ndarray:
        """Return the seed of each sample, int64, one after the other."""
        seeds = self.seed + np.arange(self.samples)
        return np.tile(seeds, num_rows * len(self.temperatures))

    def sampling_config(self, num_rows: int) -> SamplingConfig:
        """Return how freely to sample, with the temperature of each sample."""
        temperatures = np.repeat(
            np.asarray(self.temperatures, np.float64), self.samples
        )
        return SamplingConfig(
            np.tile(temperatures, num_rows), self.top_k, self.top_p, self.min_p
        )


def generation(count: int, **options: Any) -> Request:
    """Return a request for new images.

    Args:
        count: Images for each temperature.
        **options: Further fields of `Request`.

    Raises:
        UserError: If a value is out of range.
    """
    if count < 1:
        raise UserError(f"count must be positive. Received: count={count}")
    return Request(samples=count, **options)

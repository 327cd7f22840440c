"""Turns images into token ids, and back."""

import os
from typing import Any

import numpy as np

from pixace_tf.data import framing, native_grid, resampling
from pixace_tf.data.image_files import printable, read_upright
from pixace_tf.data.native_grid import ANCHORS
from pixace_tf.data.palette import Palette
from pixace_tf.data.quantization import blend, dequantize, quantize
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath

# Sets images into a canvas; see `native_grid.place`.
NATIVE = "native"
RESIZES = ("crop", "squash", "pad", NATIVE)
# Pixels that are laid over white at a time, to save memory.
_STRIP_PIXELS = 1 << 20


class PixelTokenizer:
    """Turns images into sequences of color codes, one token per pixel.

    It works on NumPy arrays. `GraphTokenizer` does the same in graphs, for
    training and for a SavedModel, so an image has the same tokens everywhere.

    Images are RGBA if the palette has alpha, with black where they are
    transparent, and scaled so that hidden colors do not leak into visible ones.
    Otherwise they are RGB, and transparent files are laid over white. C is
    `palette.num_image_channels`.

    Args:
        image_size: `(height, width)` in pixels of the small image.
        palette: The colors; a `Palette` or its text, such as `"hsv 5,4,4"`.
        resize: `"crop"` cuts the center to the aspect of `image_size`,
            `"squash"` stretches, `"pad"` adds transparent pixels, or white ones
            without alpha; `"native"` never resamples, see `native_grid.place`.
        trim: Whether to cut margins that are transparent or of one color
            first, as far as the aspect of `image_size` allows; with `"native"`
            all of them.
        anchor: Where smaller images stand with `"native"`: one of `ANCHORS`.

    Raises:
        UserError: If an argument is out of bounds.

    Example:
    >>> import numpy as np
    >>> tokenizer = PixelTokenizer(image_size=(1, 2), palette="hsv 5,4,4")
    >>> red_and_black = np.array([[[255, 0, 0], [0, 0, 0]]], "uint8")
    >>> tokenizer.tokenize(red_and_black).tolist()
    [8160, 0]
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (32, 32),
        palette: Palette | str = "hsv 5,4,4",
        resize: str = "crop",
        trim: bool = False,
        anchor: str = ANCHORS[0],
    ) -> None:
        size = tuple(image_size)
        if len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
            raise UserError(
                "image_size must be two positive integers. "
                f"Received: image_size={image_size!r}"
            )
        if resize not in RESIZES:
            raise UserError(
                f"resize must be one of {', '.join(RESIZES)}. "
                f"Received: resize={resize!r}"
            )
        if anchor not in ANCHORS:
            raise UserError(
                f"anchor must be one of {', '.join(ANCHORS)}. "
                f"Received: anchor={anchor!r}"
            )
        self.image_size = size
        self.palette = Palette.get(palette)
        self.resize = resize
        self.trim = trim
        self.anchor = anchor

    @property
    def sequence_length(self) -> int:
        """Number of pixels, hence of tokens, of an image."""
        return self.image_size[0] * self.image_size[1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels C of the small image."""
        return *self.image_size, self.palette.num_image_channels

    @property
    def is_adaptive(self) -> bool:
        """Whether the pixels of an image decide how it is resized."""
        return self.trim or self.resize == NATIVE

    def __eq__(self, other: Any) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(repr(self.get_config()))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        config = {
            "image_size": list(self.image_size),
            "palette": str(self.palette),
            "resize": self.resize,
            "trim": self.trim,
        }
        # Without it, the configurations of older runs stay what they were.
        return config | self._native_config()

    def _native_config(self) -> dict[str, Any]:
        return {"anchor": self.anchor} if self.resize == NATIVE else {}

    def read(self, image: StrPath | np.ndarray) -> np.ndarray:
        """Read and resize one image, uint8 `(height, width, C)`.

        A JPEG much larger than `image_size` is decoded at a reduced scale of
        its cosine transform.

        Args:
            image: A path, an http(s) address, or uint8 `(any_height,
                any_width, 3 or 4)`.

        Raises:
            UserError: If the image is not usable, or `resize` is `"native"` and
                it does not fit.
        """
        whole = self.read_whole(image)
        try:
            return self.resize_image(whole)
        except UserError as error:
            if isinstance(image, np.ndarray):
                raise
            raise UserError(f"{printable(image)}: {error}") from None

    def read_whole(self, image: StrPath | np.ndarray) -> np.ndarray:
        """Do as `read` without resizing: uint8 `(any_height, any_width, C)`."""
        if isinstance(image, str | os.PathLike):
            image = np.asarray(read_upright(image, self.jpeg_ratio))
        pixels = np.asarray(image)
        is_color = pixels.ndim == 3 and pixels.shape[-1] in (3, 4)
        if not is_color or pixels.dtype != np.uint8:
            raise UserError(
                "An image must be a path or a uint8 array (height, width, 3 or "
                f"4). Received: {pixels.dtype} {pixels.shape}"
            )
        return self.with_alpha(pixels)

    def with_alpha(self, image: np.ndarray) -> np.ndarray:
        """Give uint8 `(any_height, any_width, 3 or 4)` C channels."""
        is_rgba = image.shape[-1] == 4
        if not self.palette.has_alpha:
            return over_white(image) if is_rgba else image
        if not is_rgba:
            return np.pad(image, ((0, 0), (0, 0), (0, 1)), constant_values=255)
        return np.where(image[..., 3:] == 0, np.uint8(0), image)

    def jpeg_ratio(self, height: int, width: int) -> int:
        """Return by how much a JPEG of a size is reduced: 1, 2, 4 or 8."""
        if self.is_adaptive:  # Little may be left after a trim.
            return 1
        is_large = framing.is_large(height, width, self.image_size, self.resize)
        return 1 << sum(is_large)

    def resize_image(self, image: np.ndarray) -> np.ndarray:
        """Trim, then crop, squash or pad one uint8 image to `image_size`.

        Raises:
            UserError: If `resize` is `"native"` and it does not fit.
        """
        check_uint8("image", image)
        if self.trim:
            top, left, bottom, right = self.content_box(image)
            image = image[top:bottom, left:right]
        return self._scale(image)

    def resize_like(
        self, image: np.ndarray, original: np.ndarray
    ) -> np.ndarray:
        """Resize an image as another one of its aspect is resized.

        Args:
            image: uint8 `(any_height, any_width, 3)`.
            original: uint8 `(any_height, any_width, C)`; its margins are the
                ones to cut.

        Raises:
            UserError: As in `resize_image`.
        """
        if self.trim:
            size = np.array(2 * image.shape[:2], np.float32)
            full = np.array(2 * original.shape[:2], np.float32)
            content = self.content_box(original)
            box = content.astype(np.float32) / full * size
            top, left = np.floor(box[:2]).astype(int)
            bottom, right = np.ceil(box[2:]).astype(int)
            image = image[top:bottom, left:right]
            top, left, bottom, right = content
            original = original[top:bottom, left:right]
        if self.resize != NATIVE:
            return self._scale(image)
        factor = native_grid.fitting_factor(original, self.image_size)
        height, width = original.shape[0] // factor, original.shape[1] // factor
        image = _resample(image, height, width)
        return native_grid.set_into(image, self.image_size, self.anchor)

    def content_box(self, image: np.ndarray) -> np.ndarray:
        """Find the box inside margins that have the first pixel's color.

        Args:
            image: uint8 `(any_height, any_width, C)`.

        Returns:
            int32 `(4,)`: top, left, bottom and right, grown to the aspect of
            `image_size` as far as the image reaches, unless `resize` is
            `"native"`. An image of one color stays whole.
        """
        channels = image.shape[2]
        margin = framing.margin(channels)
        if channels == 4:
            image = premultiply(image)
        first, most = image[0, 0].astype(int), np.iinfo(image.dtype).max
        low = np.maximum(first - margin, 0).astype(image.dtype)
        high = np.minimum(first + margin, most).astype(image.dtype)
        height, width = image.shape[:2]
        # Rows of all channels are compared at once, which is much faster.
        levels = image.reshape(height, width * channels)
        is_content = levels < np.tile(low, width)
        is_content |= levels > np.tile(high, width)
        rows = np.flatnonzero(is_content.any(axis=1))
        columns = np.flatnonzero(is_content.any(axis=0)) // channels
        box = 0, 0, height, width
        if len(rows):
            box = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
        if self.resize != NATIVE:
            box = framing.grow(box, height, width, self.image_size)
        return np.array(box, np.int32)

    def _scale(self, image: np.ndarray) -> np.ndarray:
        """Crop, squash or pad; see `resize_image`."""
        height, width = self.image_size
        if image.shape[:2] == self.image_size:
            return image
        if self.resize == NATIVE:
            return native_grid.place(image, self.image_size, self.anchor)
        if self.resize == "crop":
            top, left, bottom, right = framing.center_box(
                image.shape[0], image.shape[1], self.image_size
            )
            image = image[top:bottom, left:right]
        size = self.image_size
        if self.resize == "pad":
            tall, wide = np.array(image.shape[:2], np.float32)
            fitted = framing.fitted_size(tall, wide, self.image_size)
            size = int(fitted[0]), int(fitted[1])
        image = _resample(image, *size)
        if size == self.image_size:
            return image
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        # Transparent, or white.
        fill = 255 if image.shape[2] == 3 else 0
        padded = np.full((height, width, image.shape[2]), fill, np.uint8)
        padded[top : top + size[0], left : left + size[1]] = image
        return padded

    def tokenize(self, images: np.ndarray) -> np.ndarray:
        """Turn small images into tokens.

        Args:
            images: uint8 `(..., height, width, C)`.

        Returns:
            int32 `(..., height*width)`, as `Palette.pack` returns them.

        Raises:
            UserError: If the images have another shape or type.
        """
        images = np.asarray(images)
        self.check_small(images)
        tokens = self.palette.pack(
            quantize(images.astype(np.int32), self.palette)
        )
        shape = *images.shape[:-3], self.sequence_length
        return tokens.astype(np.int32, copy=False).reshape(shape)

    def detokenize(self, token_ids: np.ndarray) -> np.ndarray:
        """Turn tokens `(..., height*width)` back into images.

        Returns:
            uint8 `(..., height, width, C)`.

        Raises:
            UserError: If the tokens are no integers, or one has no color.
        """
        token_ids = np.asarray(token_ids)
        check_integers(token_ids, token_ids.dtype.kind in "iu")
        tokens = self.palette.token_range
        if np.any((token_ids < tokens.start) | (token_ids >= tokens.stop)):
            raise UserError(
                f"token_ids must lie in [{tokens.start}, {tokens.stop})."
            )
        channels = self.palette.unpack(token_ids.astype(np.int32))
        images = dequantize(channels, self.palette).astype(np.uint8)
        return images.reshape(*token_ids.shape[:-1], *self.image_shape)

    def check_small(self, images: Any) -> None:
        """Raise UserError for other arrays or tensors than small images."""
        check_uint8("images", images)
        if tuple(images.shape[-3:]) != self.image_shape:
            raise UserError(
                "images must have the shape "
                f"(..., {', '.join(map(str, self.image_shape))}). "
                f"Received: shape={tuple(images.shape)}"
            )


def check_uint8(name: str, image: Any) -> None:
    """Raise UserError for arrays or tensors whose range is not 0 to 255."""
    if image.dtype != np.uint8:
        raise UserError(
            f"{name} must be uint8, from 0 to 255. Received: {image.dtype.name}"
        )


def check_integers(token_ids: Any, are_integers: bool) -> None:
    """Raise UserError for an array or tensor of no integers."""
    if not are_integers:
        raise UserError(
            f"token_ids must be integers. Received: {token_ids.dtype.name}"
        )


def premultiply(image: np.ndarray) -> np.ndarray:
    """Multiply the colors of RGBA, `(height, width, 4)`, by alpha.

    From uint8, it returns uint16 with colors up to 255 * 255.
    """
    wide = image.astype(np.uint16)
    wide[..., :3] *= wide[..., 3:]
    return wide


def _resample(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 RGB or RGBA, `(any_height, any_width, 3 or 4)`."""
    if image.shape[2] == 3:
        mixed = resampling.resize(image, height, width)
    else:
        mixed = resampling.resize(premultiply(image), height, width)
        alpha = mixed[..., 3:]
        # Nearly transparent pixels would be canonical anyway.
        is_visible = alpha >= np.float32(0.5)
        divisor = np.where(is_visible, alpha, np.float32(1))
        color = np.where(is_visible, mixed[..., :3] / divisor, np.float32(0))
        mixed = np.concatenate([color, alpha], axis=-1)
    mixed = np.floor(mixed + np.float32(0.5))
    return np.clip(mixed, 0, 255).astype(np.uint8)


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Lay an image `(height, width, 4)` over white; all uint8."""
    height, width, _ = rgba.shape
    flat = np.empty((height, width, 3), np.uint8)
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        *rgb, alpha = np.moveaxis(rgba[top : top + step], -1, 0).astype(
            np.uint16, "C"
        )
        for c, level in enumerate(rgb):
            flat[top : top + step, :, c] = blend(level, alpha)
    return flat

"""Turns images into token ids, and back."""

import os
from typing import Any

import numpy as np

from pixace_tf.data import framing, resampling
from pixace_tf.data.image_files import read_upright
from pixace_tf.data.palette import Palette
from pixace_tf.data.quantization import blend, dequantize, quantize
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath

RESIZES = ("crop", "squash", "pad")
# Pixels that are laid over white at a time, to save memory.
_STRIP_PIXELS = 1 << 20


class PixelTokenizer:
    """Turns images into sequences of color codes, one token per pixel.

    It works on NumPy arrays. `GraphTokenizer` does the same in graphs, for
    training and for a SavedModel, so an image has the same tokens everywhere.

    Args:
        image_size: `(height, width)` in pixels of the small image.
        palette: The colors; a `Palette` or its text, such as `"hsv 5,4,4"`.
        resize: `"crop"` cuts the center to the aspect of `image_size`,
            `"squash"` stretches, `"pad"` adds white.
        trim: Whether to cut margins that are transparent or of one color
            first, as far as the aspect of `image_size` allows.

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
        self.image_size = size
        self.palette = Palette.get(palette)
        self.resize = resize
        self.trim = trim

    @property
    def sequence_length(self) -> int:
        """Number of pixels, hence of tokens, of an image."""
        return self.image_size[0] * self.image_size[1]

    def __eq__(self, other: Any) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(repr(self.get_config()))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        return {
            "image_size": list(self.image_size),
            "palette": str(self.palette),
            "resize": self.resize,
            "trim": self.trim,
        }

    def read(self, image: StrPath | np.ndarray) -> np.ndarray:
        """Read and resize one image, uint8 `(height, width, 3)`.

        A JPEG much larger than `image_size` is decoded at a reduced scale of
        its cosine transform; alpha is laid over white.

        Args:
            image: A path, an http(s) address, or uint8 `(any_height,
                any_width, 3)`.

        Raises:
            UserError: If the image is not usable.
        """
        return self.resize_image(self.read_whole(image))

    def read_whole(self, image: StrPath | np.ndarray) -> np.ndarray:
        """Do as `read` without resizing: uint8 `(any_height, any_width, 3)`."""
        if isinstance(image, str | os.PathLike):
            upright = read_upright(image, self.jpeg_ratio)
            pixels = np.asarray(upright)
            return over_white(pixels) if upright.mode == "RGBA" else pixels
        pixels = np.asarray(image)
        is_rgb = pixels.ndim == 3 and pixels.shape[-1] == 3
        if not is_rgb or pixels.dtype != np.uint8:
            raise UserError(
                "An image must be a path or a uint8 array (height, width, 3). "
                f"Received: {pixels.dtype} {pixels.shape}"
            )
        return pixels

    def jpeg_ratio(self, height: int, width: int) -> int:
        """Return by how much a JPEG of a size is reduced: 1, 2, 4 or 8."""
        if self.trim:  # Little may be left after a trim.
            return 1
        is_large = framing.is_large(height, width, self.image_size, self.resize)
        return 1 << sum(is_large)

    def resize_image(self, image: np.ndarray) -> np.ndarray:
        """Trim, then crop, squash or pad one uint8 image to `image_size`."""
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
            original: Like `image`; its margins are the ones to cut.
        """
        if self.trim:
            size = np.array(2 * image.shape[:2], np.float32)
            full = np.array(2 * original.shape[:2], np.float32)
            box = self.content_box(original).astype(np.float32) / full * size
            top, left = np.floor(box[:2]).astype(int)
            bottom, right = np.ceil(box[2:]).astype(int)
            image = image[top:bottom, left:right]
        return self._scale(image)

    def content_box(self, image: np.ndarray) -> np.ndarray:
        """Find the box inside margins that have the first pixel's color.

        Returns:
            int32 `(4,)`: top, left, bottom and right, grown to the aspect of
            `image_size` as far as the image reaches. An image of one color
            stays whole.
        """
        first = image[0, 0].astype(int)
        low = np.maximum(first - framing.MARGIN_LEVELS, 0).astype(np.uint8)
        high = np.minimum(first + framing.MARGIN_LEVELS, 255).astype(np.uint8)
        height, width = image.shape[:2]
        # Rows of all channels are compared at once, which is much faster.
        levels = image.reshape(height, width * 3)
        is_content = levels < np.tile(low, width)
        is_content |= levels > np.tile(high, width)
        rows = np.flatnonzero(is_content.any(axis=1))
        columns = np.flatnonzero(is_content.any(axis=0)) // 3
        box = 0, 0, height, width
        if len(rows):
            box = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
        grown = framing.grow(box, height, width, self.image_size)
        return np.array(grown, np.int32)

    def _scale(self, image: np.ndarray) -> np.ndarray:
        """Crop, squash or pad; see `resize_image`."""
        height, width = self.image_size
        if image.shape[:2] == self.image_size:
            return image
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
        mixed = np.floor(resampling.resize(image, *size) + np.float32(0.5))
        image = np.clip(mixed, 0, 255).astype(np.uint8)
        if size == self.image_size:
            return image
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        padded = np.full((height, width, 3), 255, np.uint8)
        padded[top : top + size[0], left : left + size[1]] = image
        return padded

    def tokenize(self, images: np.ndarray) -> np.ndarray:
        """Turn small images into tokens.

        Args:
            images: uint8 `(..., height, width, 3)`.

        Returns:
            int32 `(..., height*width)` in `[0, palette.vocabulary_size)`.

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
            uint8 `(..., height, width, 3)`.

        Raises:
            UserError: If the tokens are no integers, or one has no color.
        """
        token_ids = np.asarray(token_ids)
        check_integers(token_ids, token_ids.dtype.kind in "iu")
        size = self.palette.vocabulary_size
        if np.any((token_ids < 0) | (token_ids >= size)):
            raise UserError(f"token_ids must lie in [0, {size}).")
        channels = self.palette.unpack(token_ids.astype(np.int32))
        rgb = dequantize(channels, self.palette).astype(np.uint8)
        return rgb.reshape(*token_ids.shape[:-1], *self.image_size, 3)

    def check_small(self, images: Any) -> None:
        """Raise UserError for other arrays or tensors than small images."""
        check_uint8("images", images)
        if tuple(images.shape[-3:]) != (*self.image_size, 3):
            raise UserError(
                f"images must have the shape (..., {self.image_size[0]}, "
                f"{self.image_size[1]}, 3). "
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

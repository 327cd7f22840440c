"""Turns the bytes of image files into token ids, and back."""

import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.data.image_files import MAX_PIXELS, Address, read
from pixace_tf.data.palette import Palette
from pixace_tf.data.quantization import dequantize, quantize
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath
from pixace_tf.typing import Tensor

RESIZES = ("crop", "squash", "pad")
# JPEG's noise: a margin differs from the first pixel by at most this.
_MARGIN_LEVELS = 12


class PixelTokenizer:
    """Turns images into sequences of color codes, one token per pixel.

    It consists of graph ops, which training, completion and a SavedModel share,
    so an image has the same tokens everywhere.

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
    >>> tokenizer.tokenize(red_and_black).numpy().tolist()
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

        Args:
            image: A path, an http(s) address, or uint8 `(any_height,
                any_width, 3)`.

        Raises:
            UserError: If the image is not usable.
        """
        return np.asarray(self.resize_image(self.read_whole(image)))

    def read_whole(self, image: StrPath | np.ndarray) -> Tensor:
        """Do as `read` without resizing: uint8 `(any_height, any_width, 3)`."""
        if isinstance(image, str | os.PathLike):
            location = Address.of(os.fspath(image))
            try:
                return self.decode_whole(read(location))
            except tf.errors.InvalidArgumentError:
                # Only Pillow reads rare kinds of JPEG and PNG.
                return self.decode_whole(read(location, is_plain=False))
        pixels = np.asarray(image)
        is_rgb = pixels.ndim == 3 and pixels.shape[-1] == 3
        if not is_rgb or pixels.dtype != np.uint8:
            raise UserError(
                "An image must be a path or a uint8 array (height, width, 3). "
                f"Received: {pixels.dtype} {pixels.shape}"
            )
        return pixels

    def decode(
        self, image_bytes: Tensor, max_pixels: int = MAX_PIXELS
    ) -> Tensor:
        """Decode one JPEG or PNG file and resize it.

        A JPEG much larger than `image_size` is decoded at a reduced scale of
        its cosine transform; alpha is laid over white.

        Args:
            image_bytes: string scalar, the bytes of the file.
            max_pixels: Largest image to decode, by its header.

        Returns:
            uint8 `(height, width, 3)`.

        Raises:
            tf.errors.InvalidArgumentError: If the bytes are no JPEG or PNG, or
                the image has more than `max_pixels`.
        """
        return self.resize_image(
            self.decode_whole(image_bytes, max_pixels=max_pixels)
        )

    def resize_image(self, image: Tensor) -> Tensor:
        """Trim, then crop, squash or pad one uint8 image to `image_size`."""
        _check_uint8("image", image)
        if self.trim:
            top, left, bottom, right = tf.unstack(self.content_box(image))
            image = image[top:bottom, left:right]
        return self._scale(image)

    def resize_like(self, image: Tensor, original: Tensor) -> Tensor:
        """Resize an image as another one of its aspect is resized.

        Args:
            image: uint8 `(any_height, any_width, 3)`.
            original: Like `image`; its margins are the ones to cut.
        """
        if self.trim:
            size = tf.cast(tf.tile(tf.shape(image)[:2], [2]), tf.float32)
            full = tf.cast(tf.tile(tf.shape(original)[:2], [2]), tf.float32)
            box = tf.cast(self.content_box(original), tf.float32) / full * size
            top, left = tf.unstack(tf.cast(tf.floor(box[:2]), tf.int32))
            bottom, right = tf.unstack(tf.cast(tf.math.ceil(box[2:]), tf.int32))
            image = image[top:bottom, left:right]
        return self._scale(image)

    def content_box(self, image: Tensor) -> Tensor:
        """Find the box inside margins that have the first pixel's color.

        Returns:
            int32 `(4,)`: top, left, bottom and right, grown to the aspect of
            `image_size` as far as the image reaches. An image of one color
            stays whole.
        """
        values = tf.cast(image, tf.int32)
        far = tf.reduce_max(tf.abs(values - values[0, 0]), axis=-1)
        is_content = far > _MARGIN_LEVELS
        shape = tf.shape(image)[:2]
        spans = []
        for axis in (0, 1):
            inside = tf.reduce_any(is_content, axis=1 - axis)
            inside = tf.cast(inside, tf.int32)
            # `argmax` finds the first of equal values: 0 without content.
            low = tf.argmax(inside, output_type=tf.int32)
            behind = tf.argmax(inside[::-1], output_type=tf.int32)
            spans.append((low, shape[axis] - behind))
        (top, bottom), (left, right) = spans
        height, width = self.image_size
        tall = _ceil_divide((right - left) * height, width)
        wide = _ceil_divide((bottom - top) * width, height)
        top, bottom = _grow(top, bottom, tall, shape[0])
        left, right = _grow(left, right, wide, shape[1])
        return tf.stack([top, left, bottom, right])

    def decode_whole(
        self,
        image_bytes: Tensor,
        is_mask: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> Tensor:
        """Do as `decode`, without resizing: uint8 `(any_height, any_width, 3)`.

        With `is_mask`, decode at full size and lay alpha over black, so that
        transparent parts are not painted.
        """
        return tf.cond(
            tf.io.is_jpeg(image_bytes),
            lambda: self._decode_jpeg(image_bytes, is_mask, max_pixels),
            lambda: _decode_png(image_bytes, is_mask, max_pixels),
        )

    def _scale(self, image: Tensor) -> Tensor:
        """Crop, squash or pad; see `resize_image`."""
        size = tf.constant(self.image_size)
        # Images that already have the size load much faster.
        image = tf.cond(
            tf.reduce_all(tf.shape(image)[:2] == size),
            lambda: image,
            lambda: self._rescale(image),
        )
        return tf.ensure_shape(image, (*self.image_size, 3))

    def _rescale(self, image: Tensor) -> Tensor:
        height, width = self.image_size
        if self.resize == "crop":
            image = _crop_to_aspect(image, height, width)
        size = tf.constant(self.image_size)
        if self.resize == "pad":
            shape = tf.cast(tf.shape(image)[:2], tf.float32)
            scale = tf.reduce_min(tf.cast(size, tf.float32) / shape)
            fitted = tf.cast(tf.round(shape * scale), tf.int32)
            size = tf.clip_by_value(fitted, 1, size)
        image = tf.image.resize(image, size, antialias=True)
        image = tf.saturate_cast(tf.floor(image + 0.5), tf.uint8)
        if self.resize == "pad":
            # TensorFlow pads with black, so pad the negative.
            image = 255 - tf.image.resize_with_crop_or_pad(
                255 - image, height, width
            )
        return image

    def tokenize(self, images: Tensor) -> Tensor:
        """Turn small images into tokens.

        Args:
            images: uint8 `(..., height, width, 3)`.

        Returns:
            int32 `(..., height*width)` in `[0, palette.vocabulary_size)`.

        Raises:
            UserError: If the images have another shape or type.
        """
        images = tf.convert_to_tensor(images)
        _check_uint8("images", images)
        if images.shape[-3:].as_list() != [*self.image_size, 3]:
            raise UserError(
                f"images must have the shape (..., {self.image_size[0]}, "
                f"{self.image_size[1]}, 3). Received: shape={images.shape}"
            )
        tokens = self.palette.pack(quantize(images, self.palette))
        batch = tf.shape(tokens)[:-2]
        return tf.reshape(tokens, tf.concat([batch, [-1]], 0))

    def detokenize(self, token_ids: Tensor) -> Tensor:
        """Turn tokens `(..., height*width)` back into images.

        Returns:
            uint8 `(..., height, width, 3)`.

        Raises:
            UserError: If the tokens are no integers.
            tf.errors.InvalidArgumentError: If a token has no color.
        """
        token_ids = tf.convert_to_tensor(token_ids)
        if not token_ids.dtype.is_integer:
            raise UserError(
                f"token_ids must be integers. Received: {token_ids.dtype.name}"
            )
        token_ids = tf.cast(token_ids, tf.int32)
        size = self.palette.vocabulary_size
        message = f"token_ids must lie in [0, {size})."
        with tf.control_dependencies(
            [
                tf.debugging.assert_non_negative(token_ids, message),
                tf.debugging.assert_less(token_ids, size, message),
            ]
        ):
            token_ids = tf.identity(token_ids)
        rgb = dequantize(self.palette.unpack(token_ids), self.palette)
        batch = tf.shape(token_ids)[:-1]
        shape = tf.concat([batch, [*self.image_size, 3]], 0)
        return tf.reshape(rgb, shape)

    def _decode_jpeg(
        self, image_bytes: Tensor, is_full: bool, max_pixels: int
    ) -> Tensor:
        shape = tf.io.extract_jpeg_shape(image_bytes)
        check = _assert_small(shape[0], shape[1], max_pixels)
        with tf.control_dependencies([check]):
            image_bytes = tf.identity(image_bytes)
        scale = tf.cast(shape[:2], tf.float32) / self.image_size
        limit = tf.reduce_max if self.resize == "pad" else tf.reduce_min
        if self.trim or is_full:  # Little may be left after a trim.
            scale = tf.ones_like(scale)
        # The antialiased resize needs twice the target's size.
        halvings = tf.math.log(limit(scale) / 2) / tf.math.log(2.0)
        ratio_index = tf.clip_by_value(
            tf.cast(tf.floor(halvings), tf.int32), 0, 3
        )
        decode = functools.partial(
            tf.io.decode_jpeg,
            image_bytes,
            channels=3,
            # The default differs from other decoders by up to 4 levels.
            dct_method="INTEGER_ACCURATE",
        )
        return tf.switch_case(
            ratio_index,
            [functools.partial(decode, ratio=1 << i) for i in range(4)],
        )


def _decode_png(image_bytes: Tensor, is_mask: bool, max_pixels: int) -> Tensor:
    """Return uint8 `(any_height, any_width, 3)`; see `decode_whole`."""
    signature = tf.strings.substr(image_bytes, 0, 8)
    is_png = (signature == b"\x89PNG\r\n\x1a\n") & (
        tf.strings.length(image_bytes) >= 25
    )
    message = "image_bytes must be a JPEG or PNG file."
    with tf.control_dependencies([tf.debugging.Assert(is_png, [message])]):
        header = tf.strings.substr(image_bytes, 16, 9)
    size = tf.io.decode_raw(
        tf.strings.substr(header, 0, 8), tf.int32, little_endian=False
    )
    depth = tf.io.decode_raw(tf.strings.substr(header, 8, 1), tf.uint8)[0]
    # The decode must wait for the check, or it allocates the whole image.
    check = _assert_small(size[1], size[0], max_pixels)
    with tf.control_dependencies([check]):
        image_bytes = tf.identity(image_bytes)
    rgba = tf.io.decode_png(image_bytes, channels=4)
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    # Without alpha in the file, TensorFlow fills in the highest sample of its
    # depth: 1, 3 or 15 below 8 bits.
    filled = tf.bitwise.left_shift(1, tf.cast(tf.minimum(depth, 8), tf.int32))
    is_filled = tf.reduce_all(alpha == tf.cast(filled - 1, tf.uint8))
    has_alpha_chunk = tf.strings.regex_full_match(
        tf.strings.substr(image_bytes, 0, 1 << 10), rb"\C*tRNS\C*"
    )
    is_opaque = is_filled & ((depth >= 8) | ~has_alpha_chunk)

    def flat() -> Tensor:
        if is_mask:  # Over black.
            return 255 - over_white(255 - rgb, alpha)
        return over_white(rgb, alpha)

    return tf.cond(is_opaque, lambda: rgb, flat)


def over_white(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Lay colors `(..., 3)` over white by their alpha `(..., 1)`; all uint8."""
    color, alpha = tf.cast(rgb, tf.uint16), tf.cast(alpha, tf.uint16)
    mixed = color * alpha + 255 * (255 - alpha)
    return tf.cast((mixed + 127) // 255, tf.uint8)


def _assert_small(
    height: Tensor, width: Tensor, max_pixels: int
) -> tf.Operation:
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return tf.debugging.Assert(
        (pixels > 0) & (pixels <= max_pixels),
        [f"An image may have 1 to {max_pixels} pixels. Received:", pixels],
    )


def _check_uint8(name: str, image: Tensor) -> None:
    """Refuse types whose range is not 0 to 255."""
    if image.dtype != np.uint8:
        raise UserError(
            f"{name} must be uint8, from 0 to 255. "
            f"Received: {tf.as_dtype(image.dtype).name}"
        )


def _crop_to_aspect(image: Tensor, height: int, width: int) -> Tensor:
    shape = tf.shape(image)
    crop_height = tf.minimum(shape[0], _ceil_divide(shape[1] * height, width))
    crop_width = tf.minimum(shape[1], _ceil_divide(shape[0] * width, height))
    top = (shape[0] - crop_height) // 2
    left = (shape[1] - crop_width) // 2
    return image[top : top + crop_height, left : left + crop_width]


def _grow(
    low: Tensor, high: Tensor, length: Tensor, most: Tensor
) -> tuple[Tensor, Tensor]:
    """Make a span longer on both sides, within `[0, most]`."""
    length = tf.clip_by_value(length, high - low, most)
    low = tf.clip_by_value(low - (length - (high - low)) // 2, 0, most - length)
    return low, low + length


def _ceil_divide(numerator: Tensor, denominator: int) -> Tensor:
    return -(-numerator // denominator)

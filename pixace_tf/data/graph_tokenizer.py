"""A `PixelTokenizer` in graphs, for `tf.data` and for a SavedModel."""

import functools
from typing import Any

import tensorflow as tf

from pixace_tf.data import framing, native_grid
from pixace_tf.data.image_files import MAX_PIXELS
from pixace_tf.data.quantization import blend, dequantize, quantize
from pixace_tf.data.tokenizer import (
    NATIVE,
    PixelTokenizer,
    check_integers,
    check_uint8,
)
from pixace_tf.typing import Tensor


class GraphTokenizer:
    """Does what a `PixelTokenizer` does, with ops of TensorFlow.

    Files have the same pixels and tokens as by `PixelTokenizer.read`, if
    TensorFlow decodes them well: see `image_files.Header.is_plain`. C is 3 or 4
    channels, as there.

    Args:
        tokenizer: The configuration.
    """

    def __init__(self, tokenizer: PixelTokenizer) -> None:
        self._tokenizer = tokenizer
        self.image_size = tokenizer.image_size
        self.image_shape = tokenizer.image_shape

    def decode(
        self, image_bytes: Tensor, max_pixels: int = MAX_PIXELS
    ) -> Tensor:
        """Decode one JPEG or PNG file and resize it.

        A JPEG much larger than `image_size` is decoded at a reduced scale of
        its cosine transform.

        Args:
            image_bytes: string scalar, the bytes of the file.
            max_pixels: Largest image to decode, by its header.

        Returns:
            uint8 `(height, width, C)`.

        Raises:
            tf.errors.InvalidArgumentError: If the bytes are no JPEG or PNG, the
                image has more than `max_pixels`, or it does not fit; see
                `native_grid.place`.
        """
        return self.resize_image(
            self.decode_whole(image_bytes, max_pixels=max_pixels)
        )

    def decode_whole(
        self,
        image_bytes: Tensor,
        is_mask: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> Tensor:
        """Do as `decode`, without resizing: uint8 `(any_height, any_width, C)`.

        With `is_mask`, decode at full size and lay alpha over black, so that
        transparent parts are not painted: `(any_height, any_width, 3)`.
        """
        has_alpha = self._tokenizer.palette.has_alpha and not is_mask

        def jpeg() -> Tensor:
            rgb = self._decode_jpeg(image_bytes, is_mask, max_pixels)
            return _opaque(rgb) if has_alpha else rgb

        def png() -> Tensor:
            rgb, alpha, is_opaque = _decode_png(image_bytes, max_pixels)
            if has_alpha:
                alpha = tf.where(is_opaque, tf.constant(255, tf.uint8), alpha)
                rgba = tf.concat([rgb, alpha], axis=-1)
                return tf.where(alpha == 0, tf.zeros_like(rgba), rgba)

            def flat() -> Tensor:
                if is_mask:  # Over black.
                    return 255 - _over_white(255 - rgb, alpha)
                return _over_white(rgb, alpha)

            return tf.cond(is_opaque, lambda: rgb, flat)

        return tf.cond(tf.io.is_jpeg(image_bytes), jpeg, png)

    def resize_image(self, image: Tensor) -> Tensor:
        """Trim, then crop, squash or pad one uint8 image to `image_size`."""
        check_uint8("image", image)
        if self._tokenizer.trim:
            top, left, bottom, right = tf.unstack(self.content_box(image))
            image = image[top:bottom, left:right]
        return self._scale(image)

    def resize_like(self, image: Tensor, original: Tensor) -> Tensor:
        """Resize an image as another one of its aspect is resized.

        Args:
            image: uint8 `(any_height, any_width, 3)`.
            original: uint8 `(any_height, any_width, C)`; its margins are the
                ones to cut.
        """
        if self._tokenizer.trim:
            size = tf.cast(tf.tile(tf.shape(image)[:2], [2]), tf.float32)
            full = tf.cast(tf.tile(tf.shape(original)[:2], [2]), tf.float32)
            content = self.content_box(original)
            box = tf.cast(content, tf.float32) / full * size
            top, left = tf.unstack(tf.cast(tf.floor(box[:2]), tf.int32))
            bottom, right = tf.unstack(tf.cast(tf.math.ceil(box[2:]), tf.int32))
            image = image[top:bottom, left:right]
            top, left, bottom, right = tf.unstack(content)
            original = original[top:bottom, left:right]
        if self._tokenizer.resize != NATIVE:
            return self._scale(image)
        size = tf.shape(original)[:2] // self._fitting_factor(original)
        return self._set_into(_resample(image, size))

    def content_box(self, image: Tensor) -> Tensor:
        """See `PixelTokenizer.content_box`."""
        if image.shape[2] == 4:
            image = _premultiply(image)
        values = tf.cast(image, tf.int32)
        is_far = tf.abs(values - values[0, 0]) > framing.margin(image.shape[2])
        is_content = tf.reduce_any(is_far, axis=-1)
        height, width = tf.unstack(tf.shape(image)[:2])
        spans = []
        for axis, length in enumerate((height, width)):
            inside = tf.reduce_any(is_content, axis=1 - axis)
            inside = tf.cast(inside, tf.int32)
            # `argmax` finds the first of equal values: 0 without content.
            low = tf.argmax(inside, output_type=tf.int32)
            behind = tf.argmax(inside[::-1], output_type=tf.int32)
            spans.append((low, length - behind))
        (top, bottom), (left, right) = spans
        box = top, left, bottom, right
        if self._tokenizer.resize != NATIVE:
            box = framing.grow(box, height, width, self.image_size, tf)
        return tf.stack(box)

    def _scale(self, image: Tensor) -> Tensor:
        """Crop, squash or pad; see `resize_image`."""
        size = tf.constant(self.image_size)
        # Images that already have the size load much faster.
        image = tf.cond(
            tf.reduce_all(tf.shape(image)[:2] == size),
            lambda: image,
            lambda: self._rescale(image),
        )
        return tf.ensure_shape(image, (*self.image_size, image.shape[2]))

    def _rescale(self, image: Tensor) -> Tensor:
        if self._tokenizer.resize == NATIVE:
            factor, channels = self._fitting_factor(image), image.shape[2]
            reduced = image[::factor, ::factor]
            return self._set_into(
                tf.ensure_shape(reduced, (None, None, channels))
            )
        height, width = self.image_size
        shape = tf.shape(image)[:2]
        size: Any = tf.constant(self.image_size)
        if self._tokenizer.resize == "crop":
            top, left, bottom, right = framing.center_box(
                shape[0], shape[1], self.image_size, tf
            )
            image = image[top:bottom, left:right]
        is_padded = self._tokenizer.resize == "pad"
        if is_padded:
            tall, wide = tf.unstack(tf.cast(shape, tf.float32))
            fitted = framing.fitted_size(tall, wide, self.image_size, tf)
            size = tf.cast(tf.stack(fitted), tf.int32)
        image = _resample(image, size)
        if not is_padded:
            return image
        # TensorFlow pads with zeros: transparent, or the negative of white.
        if image.shape[2] == 4:
            return tf.image.resize_with_crop_or_pad(image, height, width)
        return 255 - tf.image.resize_with_crop_or_pad(
            255 - image, height, width
        )

    def _fitting_factor(self, image: Tensor) -> Tensor:
        """Do as `native_grid.fitting_factor`, with an error of TensorFlow."""
        size = tf.shape(image)[:2]
        factor = tf.cond(
            native_grid.fits(tf.unstack(size), self.image_size),
            lambda: 1,
            lambda: _grid_factor(image),
        )
        height, width = self.image_size
        check = tf.debugging.Assert(
            native_grid.fits(tf.unstack(size // factor), self.image_size),
            [
                f"An image must fit into {width} x {height} pixels. Received "
                "width, height, and the factor of its enlarged pixels:",
                *(size[1], size[0], factor),
            ],
        )
        with tf.control_dependencies([check]):
            return tf.identity(factor)

    def _set_into(self, image: Tensor) -> Tensor:
        """Do as `native_grid.set_into`."""
        height, width = tf.unstack(tf.shape(image)[:2])
        top, left = native_grid.margins(
            height, width, self.image_size, self._tokenizer.anchor
        )
        below = self.image_size[0] - height - top
        beside = self.image_size[1] - width - left
        channels = image.shape[2]
        fill = tf.constant(native_grid.fill(channels), tf.uint8)
        paddings = [[top, below], [left, beside], [0, 0]]
        image = tf.pad(image, paddings, constant_values=fill)
        return tf.ensure_shape(image, (*self.image_size, channels))

    def tokenize(self, images: Tensor) -> Tensor:
        """See `PixelTokenizer.tokenize`."""
        images = tf.convert_to_tensor(images)
        self._tokenizer.check_small(images)
        palette = self._tokenizer.palette
        levels = quantize(tf.cast(images, tf.int32), palette, tf)
        tokens = palette.pack(levels)
        batch = tf.shape(tokens)[:-2]
        return tf.reshape(tokens, tf.concat([batch, [-1]], 0))

    def detokenize(self, token_ids: Tensor) -> Tensor:
        """See `PixelTokenizer.detokenize`.

        Raises:
            UserError: If the tokens are no integers.
            tf.errors.InvalidArgumentError: If a token has no color.
        """
        token_ids = tf.convert_to_tensor(token_ids)
        check_integers(token_ids, token_ids.dtype.is_integer)
        token_ids = tf.cast(token_ids, tf.int64)
        palette = self._tokenizer.palette
        tokens = palette.token_range
        message = f"token_ids must lie in [{tokens.start}, {tokens.stop})."
        low, high = (
            tf.constant(n, tf.int64) for n in (tokens.start, tokens.stop)
        )
        checks = [
            tf.debugging.assert_greater_equal(token_ids, low, message),
            tf.debugging.assert_less(token_ids, high, message),
        ]
        with tf.control_dependencies(checks):
            token_ids = tf.cast(token_ids, tf.int32)
        images = dequantize(palette.unpack(token_ids), palette, tf)
        batch = tf.shape(token_ids)[:-1]
        shape = tf.concat([batch, self.image_shape], 0)
        return tf.reshape(tf.cast(images, tf.uint8), shape)

    def _decode_jpeg(
        self, image_bytes: Tensor, is_full: bool, max_pixels: int
    ) -> Tensor:
        shape = tf.io.extract_jpeg_shape(image_bytes)
        check = _assert_small(shape[0], shape[1], max_pixels)
        with tf.control_dependencies([check]):
            image_bytes = tf.identity(image_bytes)
        decode = functools.partial(
            tf.io.decode_jpeg,
            image_bytes,
            channels=3,
            # The default differs from other decoders by up to 4 levels.
            dct_method="INTEGER_ACCURATE",
        )
        # Little may be left after a trim.
        if self._tokenizer.is_adaptive or is_full:
            return decode()
        is_large = framing.is_large(
            shape[0], shape[1], self.image_size, self._tokenizer.resize
        )
        return tf.switch_case(
            tf.reduce_sum(tf.cast(tf.stack(is_large), tf.int32)),
            [functools.partial(decode, ratio=1 << i) for i in range(4)],
        )


def _decode_png(
    image_bytes: Tensor, max_pixels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode a PNG file; see `GraphTokenizer.decode_whole`.

    Returns:
        uint8 colors `(any_height, any_width, 3)` and alpha `(..., 1)`; and
        whether the image is opaque, bool: its alpha means nothing then.
    """
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

    return rgb, alpha, is_opaque


def _opaque(rgb: Tensor) -> Tensor:
    """Add full alpha to uint8 `(height, width, 3)`."""
    return tf.pad(rgb, [[0, 0], [0, 0], [0, 1]], constant_values=255)


def _premultiply(image: Tensor) -> Tensor:
    """Do as `tokenizer.premultiply`."""
    wide = tf.cast(image, tf.uint16)
    color, alpha = wide[..., :3], wide[..., 3:]
    return tf.concat([color * alpha, alpha], axis=-1)


def _grid_factor(image: Tensor) -> Tensor:
    """Do as `native_grid.grid_factor`; int32."""
    if image.shape[2] == 4:
        image = tf.where(image[..., 3:] > 0, image, tf.zeros_like(image))
    rows = tf.reduce_any(image[1:] != image[:-1], axis=(1, 2))
    columns = tf.reduce_any(image[:, 1:] != image[:, :-1], axis=(0, 2))
    height, width = tf.unstack(tf.shape(image)[:2])
    # A place where nothing differs becomes 0, which every factor divides.
    places = [
        tf.range(1, length) * tf.cast(differ, tf.int32)
        for length, differ in ((height, rows), (width, columns))
    ]

    def step(factor: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Do a step of Euclid's algorithm for all numbers at once."""
        rests = numbers % factor
        least = tf.reduce_min(tf.where(rests > 0, rests, factor))
        return least, tf.where(rests == least, factor, rests)

    factor, _ = tf.while_loop(
        lambda _, numbers: tf.reduce_any(numbers > 0),
        step,
        [height, tf.concat([[width], *places], axis=0)],
    )
    return factor


def _resample(image: Tensor, size: Tensor) -> Tensor:
    """Resize uint8 RGB or RGBA, `(any_height, any_width, 3 or 4)`."""
    if image.shape[2] == 3:
        mixed = tf.image.resize(image, size, antialias=True)
    else:
        mixed = tf.image.resize(_premultiply(image), size, antialias=True)
        alpha = mixed[..., 3:]
        is_visible = alpha >= 0.5
        color = mixed[..., :3] / tf.where(is_visible, alpha, 1.0)
        color = tf.where(is_visible, color, 0.0)
        mixed = tf.concat([color, alpha], axis=-1)
    return tf.saturate_cast(tf.floor(mixed + 0.5), tf.uint8)


def _over_white(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Lay colors `(..., 3)` over white by their alpha `(..., 1)`; all uint8."""
    wide = tf.cast(rgb, tf.uint16), tf.cast(alpha, tf.uint16)
    return tf.cast(blend(*wide), tf.uint8)


def _assert_small(
    height: Tensor, width: Tensor, max_pixels: int
) -> tf.Operation:
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return tf.debugging.Assert(
        (pixels > 0) & (pixels <= max_pixels),
        [f"An image may have 1 to {max_pixels} pixels. Received:", pixels],
    )

"""Changed training images: shifts, turns of the hue, and random input pixels.

A model is told which shift and turn an image got, and none is asked for when it
paints; so it learns from changed images without painting such ones. The method
is Distribution Augmentation (Jun et al. 2020).

Shapes: B images, H height, W width, T pixels.
"""

import dataclasses
import math

import tensorflow as tf

from pixace_tf.data.palette import ALPHA, Palette
from pixace_tf.data.quantization import dequantize, quantize
from pixace_tf.typing import Tensor

# A hue is turned by k / NUM_TURNS of the circle, k from 1 on.
NUM_TURNS = 12
# Farthest shift, in pixels.
MAX_SHIFT = 4
# The vectors of a model that is told: one for shifts, one for each turn.
NUM_VECTORS = NUM_TURNS
# Random numbers that decide how an image is changed.
NUM_DRAWS = 5


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How many training images, and pixels of them, are changed.

    An image's number, for the condition of `PixaceCausalLM`, is twice its turn
    of the hue, plus 1 if it is shifted: 0 if nothing was done.

    Attributes:
        palette: The colors of the tokens.
        image_size: `(H, W)` of a picture. An image may have several pictures
            below each other, which are changed alike.
        hue_turns: Share of the images whose hues are turned, in `[0, 1]`.
        shifts: Share of the images that are shifted within their margins, in
            `[0, 1]`.
        input_noise: Share of the pixels that the decoder reads as another color
            of the images, in `[0, 1]`.
    """

    palette: Palette
    image_size: tuple[int, int]
    hue_turns: float = 0.0
    shifts: float = 0.0
    input_noise: float = 0.0

    @property
    def is_told(self) -> bool:
        """Whether images are changed in a way that the model is told."""
        return self.hue_turns > 0 or self.shifts > 0

    def change(self, token_ids: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the hues of some images, and shift some.

        Args:
            token_ids: int32 `(B, T)`, in plain order.
            draws: float32 `(B, NUM_DRAWS)`, random in `[0, 1)`.

        Returns:
            Changed tokens, int32 `(B, T)`, and the numbers, int32 `(B,)`.
        """
        turn = 1 + tf.cast(draws[:, 1] * (NUM_TURNS - 1), tf.int32)
        turn = tf.where(draws[:, 0] < self.hue_turns, turn, 0)
        if self.hue_turns:
            token_ids = turn_hues(token_ids, turn, self.palette)
        if not self.shifts:
            return token_ids, 2 * turn
        rows, columns = (
            low + tf.cast(draw * tf.cast(high + 1 - low, tf.float32), tf.int32)
            for draw, (low, high) in zip(
                (draws[:, 3], draws[:, 4]),
                _room(token_ids, self.image_size, self.palette),
                strict=True,
            )
        )
        is_asked = draws[:, 2] < self.shifts
        rows, columns = (tf.where(is_asked, x, 0) for x in (rows, columns))
        is_shifted = tf.cast((rows != 0) | (columns != 0), tf.int32)
        token_ids = _rolled(token_ids, rows, columns, self.image_size)
        return token_ids, 2 * turn + is_shifted

    def add_noise(
        self, token_ids: Tensor, others: Tensor, draws: Tensor
    ) -> Tensor:
        """Replace random pixels by those of the same or of another image.

        Args:
            token_ids: int32 `(B, T)`.
            others: int32 `(B, T)`, another image for each.
            draws: float32 `(B, T, 2)`, random in `[0, 1)`.

        Returns:
            int32 `(B, T)`.
        """
        length = token_ids.shape[1]
        pool = tf.concat([token_ids, others], axis=1)
        index = tf.cast(draws[..., 1] * (2 * length), tf.int32)
        random = tf.gather(pool, index, batch_dims=1)
        return tf.where(draws[..., 0] < self.input_noise, random, token_ids)


def turn_hues(token_ids: Tensor, turn: Tensor, palette: Palette) -> Tensor:
    """Turn the hues of images by `turn / NUM_TURNS` of the circle.

    Gray, alpha, and the largest and smallest channel of a color stay. No two
    colors become one, unless the channels of RGB have different widths.

    Args:
        token_ids: int32 `(B, T)`, canonical codes.
        turn: int32 `(B,)` in `[0, NUM_TURNS)`.
        palette: The colors of the tokens.

    Returns:
        int32 `(B, T)`, canonical codes.
    """
    channels = palette.unpack(token_ids)
    color, alpha = channels[:ALPHA], channels[ALPHA:]
    turn = turn[:, None]
    sizes = palette.channel_sizes[:ALPHA]
    if palette.color_space == "hsv":
        hue = (color[0] + _round_turn(turn, sizes[0])) % sizes[0]
        color[0] = tf.where(color[1] > 0, hue, 0)
    elif len(set(sizes)) == 1:
        color = _turn_rgb(color, turn)
    else:
        opaque = palette.opaque
        image = tf.unstack(dequantize(color, opaque, tf), axis=-1)
        image = tf.stack(_turn_rgb(image, turn), axis=-1)
        color = quantize(image, opaque, tf)
    turned = palette.pack([*color, *alpha])
    return tf.where(turn == 0, token_ids, turned)


def _turn_rgb(color: list[Tensor], turn: Tensor) -> list[Tensor]:
    """Turn red, green and blue of the same range, int32 `(B, T)`.

    Colors of one largest and one smallest channel, which differ by a spread,
    form a ring of 6 * spread colors; it is turned by a whole number of steps.
    """
    red, green, blue = color
    largest = tf.maximum(tf.maximum(red, green), blue)
    spread = largest - tf.minimum(tf.minimum(red, green), blue)
    step = tf.where(
        largest == red,
        green - blue,
        tf.where(
            largest == green, 2 * spread + blue - red, 4 * spread + red - green
        ),
    )
    step += _round_turn(turn, 6 * spread)
    # For gray, which has no ring, any other divisor does.
    sixth = tf.maximum(spread, 1)
    turned = []
    for shift in (5, 3, 1):
        place = (shift * spread + step) % (6 * sixth)
        away = tf.minimum(tf.minimum(place, 4 * spread - place), spread)
        turned.append(largest - tf.maximum(away, 0))
    return turned


def _round_turn(turn: Tensor, circle: Tensor) -> Tensor:
    """Return the whole steps of a turn on a circle of so many steps."""
    return (2 * turn * circle + NUM_TURNS) // (2 * NUM_TURNS)


def _room(
    token_ids: Tensor, image_size: tuple[int, int], palette: Palette
) -> list[tuple[Tensor, Tensor]]:
    """Return how far images can be shifted, at most `MAX_SHIFT`.

    The margins have one color: transparent, if the image has such pixels, or
    that of the first pixel.

    Pictures of an image are shifted together: the room is what all have.

    Returns:
        For rows and columns the lowest and the highest shift, int32 `(B,)`.
    """
    margin = token_ids[:, :1]
    if palette.has_alpha:
        is_cut_out = tf.reduce_any(token_ids == 0, axis=1, keepdims=True)
        margin = tf.where(is_cut_out, 0, margin)
    num_pictures = token_ids.shape[1] // math.prod(image_size)
    is_content = tf.reshape(
        token_ids != margin, (-1, num_pictures, *image_size)
    )
    is_content = tf.reduce_any(is_content, axis=1)
    room = []
    for axis in (2, 1):
        is_used = tf.reduce_any(is_content, axis=axis)
        low, high = (
            tf.cast(tf.argmax(tf.cast(side, tf.int32), axis=1), tf.int32)
            for side in (is_used, is_used[:, ::-1])
        )
        # Of an image of one color, all zeros, the first place is the largest.
        room.append((-tf.minimum(low, MAX_SHIFT), tf.minimum(high, MAX_SHIFT)))
    return room


def _rolled(
    token_ids: Tensor,
    rows: Tensor,
    columns: Tensor,
    image_size: tuple[int, int],
) -> Tensor:
    """Roll images, int32 `(B, T)`, by int32 `(B,)` rows and columns.

    What is rolled over an edge is margin, which all looks the same.
    """
    height, width = image_size
    row = (tf.range(height) - rows[:, None]) % height
    column = (tf.range(width) - columns[:, None]) % width
    index = row[:, :, None] * width + column[:, None, :]
    index = tf.reshape(index, (-1, height * width))
    pictures = tf.reshape(
        token_ids, (-1, token_ids.shape[1] // (height * width), height * width)
    )
    rolled = tf.gather(pictures, index, axis=2, batch_dims=1)
    return tf.reshape(rolled, (-1, token_ids.shape[1]))

"""The signature `fill` of a SavedModel: any region, any label, in plain ops.

An image is filled in a block of its own, whose rows are its particles.

Shapes: B batch, T pixels, P rows of a block.
"""

import numpy as np
import tensorflow as tf

from pixace_tf.data import raster_orders
from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.painting.masks import MIN_SHARE
from pixace_tf.sampling import MAX_SERVED_PARTICLES, particles
from pixace_tf.sampling.decode_loop import DecodeLoop
from pixace_tf.sampling.sampler import ROWS_BEHIND


class ServedFill:
    """Fills hidden pixels as `Sampler.fill` does, as graph functions.

    Args:
        model: The model.
        tokenizer: What its tokens mean.
    """

    def __init__(
        self, model: PixaceCausalLM, tokenizer: PixelTokenizer
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._loops = {
            is_guided: DecodeLoop(
                *(model, MAX_SERVED_PARTICLES),
                jit_compile=False,
                has_particles=True,
                is_guided=is_guided,
            )
            for is_guided in ([False, True] if model.labels else [False])
        }
        self._sequences = raster_orders.permutations(
            len(model.orders), model.image_size
        )
        self._places = np.argsort(self._sequences, axis=1).astype(np.int32)

    def decode(
        self, image_bytes: tf.Tensor, mask_bytes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Decode an image and its mask.

        Args:
            image_bytes: string scalar, JPEG or PNG, or empty for a white image.
            mask_bytes: string scalar, JPEG or PNG of the aspect of the image,
                whose white is painted; or empty, to paint everything.

        Returns:
            uint8 `(height, width, 3)`, and bool `(T,)`.
        """
        height, width = self._tokenizer.image_size
        image = tf.cond(
            image_bytes == b"",
            lambda: tf.fill((height, width, 3), tf.constant(255, tf.uint8)),
            lambda: self._tokenizer.decode_whole(image_bytes),
        )
        mask = tf.cond(
            mask_bytes == b"",
            lambda: tf.ones((height, width), tf.bool),
            lambda: self._small_mask(mask_bytes, image),
        )
        small = self._tokenizer.resize_image(image)
        return small, tf.reshape(mask, (height * width,))

    def fill(
        self,
        token_ids: tf.Tensor,
        mask: tf.Tensor,
        count: tf.Tensor,
        label: tf.Tensor,
        guidance: tf.Tensor,
        seed: tf.Tensor,
        config: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """Fill one image; see `Sampler.fill`.

        Args:
            token_ids: int32 `(T,)`.
            mask: bool `(T,)`, True where pixels are to be sampled.
            count: int32 scalar from 1 to `MAX_SERVED_PARTICLES`, the particles.
            label: int32 scalar, the number of the label.
            guidance: float32 scalar from 1 on.
            seed: int64 scalar.
            config: Scalars, named as in `SamplingConfig`.

        Returns:
            int32 `(T,)`.
        """
        order = self._best_order(mask)
        sequence = tf.gather(self._sequences, order)
        mask = tf.gather(mask, sequence)
        tokens = tf.where(mask, 0, tf.gather(token_ids, sequence))
        row_of_order = tf.gather(tf.constant(self._model.orders), order)
        condition = tf.stack([row_of_order, label])

        def run(is_guided: bool) -> tf.Tensor:
            extra = {"guidance": guidance} if is_guided else {}
            return self._run(
                *(self._loops[is_guided], tokens, mask, count, condition),
                *(seed, {**config, **extra}),
            )

        is_guided = (guidance > 1) & (label != NULL_LABEL)
        filled = (
            tf.cond(is_guided, lambda: run(True), lambda: run(False))
            if self._model.labels
            else run(False)
        )
        return tf.gather(filled, tf.gather(self._places, order))

    def _run(
        self,
        loop: DecodeLoop,
        tokens: tf.Tensor,
        mask: tf.Tensor,
        count: tf.Tensor,
        condition: tf.Tensor,
        seed: tf.Tensor,
        config: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """Fill one image, read in its order; return int32 `(T,)`."""
        length = self._model.sequence_length
        stride = self._model.decoder.prefill_stride
        position = tf.range(length)
        first = tf.reduce_min(tf.where(mask, position, length))
        end = tf.reduce_max(tf.where(mask, position + 1, 0))
        is_weighed = tf.reduce_any(~mask & (position > first)) & (count > 1)
        behind = ROWS_BEHIND * self._model.image_size[1]
        end += tf.where(is_weighed, behind, 0)
        start = tf.where(first < length, first // stride * stride, length)
        end = tf.maximum(start, tf.minimum(-(-end // stride) * stride, length))

        def of_block(value: tf.Tensor) -> tf.Tensor:
            return tf.repeat(value[None], loop.rows, axis=0)

        block = of_block(tokens)
        last_span = (length - 1) // loop.span_length * loop.span_length
        # One prefill program serves every beginning.
        state = loop.state_at(block, last_span, of_block(condition))
        (filled,) = tf.unstack(
            loop.run_particles(
                *(state, block, (start, end)),
                particles.choice_noise(seed, length),
                tf.where(is_weighed, count, 1),
                of_block(mask),
                loop.noise(particles.seeds(seed, loop.rows)),
                tf.nest.map_structure(of_block, config),
            ),
            num=1,
        )
        return filled

    def _best_order(self, mask: tf.Tensor) -> tf.Tensor:
        """Return the order of `raster_orders.best_orders`, int32 scalar."""
        in_order = tf.gather(mask, self._sequences)  # (orders, T)
        is_behind = tf.cumsum(tf.cast(in_order, tf.int32), axis=1) > 0
        behind = tf.cast(~in_order & is_behind, tf.int32)
        return tf.argmin(tf.reduce_sum(behind, axis=1), output_type=tf.int32)

    def _small_mask(self, mask_bytes: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """Return bool `(height, width)`, as `complete` reads a mask."""
        rgb = tf.cast(
            self._tokenizer.decode_whole(mask_bytes, is_mask=True), tf.int32
        )
        # As Pillow weighs them.
        weights = tf.constant([19595, 38470, 7471])
        pixels = (tf.reduce_sum(rgb * weights, axis=-1) + 0x8000) // 0x10000
        size, full = tf.shape(pixels), tf.shape(image)[:2]
        is_small = tf.reduce_all(size == self._tokenizer.image_size)
        difference = tf.abs(size[1] * full[0] - size[0] * full[1])
        most = tf.reduce_max(tf.concat([size, full], axis=0))
        check = tf.debugging.Assert(
            is_small | (difference <= most),
            ["mask_bytes must have the aspect of image_bytes. Received:", size],
        )
        with tf.control_dependencies([check]):
            kept = tf.repeat(255 - pixels[..., None], 3, axis=2)
        scaled = tf.cond(
            is_small,
            lambda: 255 - kept[..., 0],
            lambda: (
                255
                - tf.cast(
                    self._tokenizer.resize_like(tf.cast(kept, tf.uint8), image),
                    tf.int32,
                )[..., 0]
            ),
        )
        return tf.cast(scaled, tf.float32) >= 255 * MIN_SHARE

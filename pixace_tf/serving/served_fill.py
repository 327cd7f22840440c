"""The signature `fill` of a SavedModel: any region, any label, in plain ops.

An image is filled in a block of its own, whose rows are its particles.

Shapes: B batch, T pixels, P rows of a block.
"""

import numpy as np
import tensorflow as tf

from pixace_tf.data import raster_orders
from pixace_tf.data.image_files import MAX_SERVED_PIXELS
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.painting import masks
from pixace_tf.painting.small_mask import small_mask
from pixace_tf.sampling import MAX_SERVED_PARTICLES, particles
from pixace_tf.sampling.block import Drawing
from pixace_tf.sampling.decode_loop import DecodeLoop
from pixace_tf.sampling.region import spans
from pixace_tf.sampling.sampling_config import is_guided


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
            guided: DecodeLoop(
                model,
                MAX_SERVED_PARTICLES,
                jit_compile=False,
                has_particles=True,
                is_guided=guided,
            )
            for guided in ([False, True] if model.labels else [False])
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
            lambda: self._tokenizer.decode_whole(
                image_bytes, max_pixels=MAX_SERVED_PIXELS
            ),
        )
        mask = tf.cond(
            mask_bytes == b"",
            lambda: tf.ones((height, width), tf.bool),
            lambda: self._small_mask(mask_bytes, image),
        )
        small = self._tokenizer.resize_image(image)
        return small, tf.reshape(mask, (height * width,))

    def orders(self, masks: tf.Tensor) -> tf.Tensor:
        """Return the raster order in which to read each image.

        Args:
            masks: bool `(B, T)`, True where pixels are to be sampled.

        Returns:
            int32 `(B,)`.
        """
        orders = raster_orders.best_orders(
            masks, self._sequences, tf.experimental.numpy
        )
        return tf.cast(orders, tf.int32)

    def in_order(self, values: tf.Tensor, orders: tf.Tensor) -> tf.Tensor:
        """Return values `(B, T)` in the orders `(B,)`, from the plain one."""
        return tf.gather(
            values, tf.gather(self._sequences, orders), batch_dims=1
        )

    def to_plain(self, values: tf.Tensor, orders: tf.Tensor) -> tf.Tensor:
        """Return values `(B, T)` in plain order, from the orders `(B,)`."""
        return tf.gather(values, tf.gather(self._places, orders), batch_dims=1)

    def condition(self, orders: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Return conditions, int32 `(B, 2)`; see `PixaceCausalLM`.

        Args:
            orders: int32 `(B,)`, raster orders.
            labels: int32 `(B,)`, numbers of labels.
        """
        rows = tf.gather(tf.constant(self._model.orders), orders)
        return tf.stack([rows, labels], axis=1)

    def fill(
        self,
        tokens: tf.Tensor,
        mask: tf.Tensor,
        condition: tf.Tensor,
        count: tf.Tensor,
        guidance: tf.Tensor,
        seed: tf.Tensor,
        config: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """Fill one image, read in its order; see `Sampler.fill`.

        Args:
            tokens: int32 `(T,)`.
            mask: bool `(T,)`, True where pixels are to be sampled.
            condition: int32 `(2,)`, as in `PixaceCausalLM`.
            count: int32 scalar from 1 to `MAX_SERVED_PARTICLES`, the particles.
            guidance: float32 scalar from 1 on.
            seed: int64 scalar.
            config: Scalars, named as in `SamplingConfig`.

        Returns:
            int32 `(T,)`.
        """
        tokens = tf.where(mask, 0, tokens)
        arguments = tokens, mask, condition, count, seed
        if not self._model.labels:
            return self._run(self._loops[False], *arguments, config)
        return tf.cond(
            is_guided(condition[1], guidance),
            lambda: self._run(
                self._loops[True],
                *arguments,
                {**config, "guidance": guidance},
            ),
            lambda: self._run(self._loops[False], *arguments, config),
        )

    def _run(
        self,
        loop: DecodeLoop,
        tokens: tf.Tensor,
        mask: tf.Tensor,
        condition: tf.Tensor,
        count: tf.Tensor,
        seed: tf.Tensor,
        config: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """Fill one image in a block of its own; return int32 `(T,)`."""
        length = self._model.sequence_length
        starts, ends, is_weighed = spans(
            self._model, mask[None], count, tf.experimental.numpy
        )
        tokens, mask, condition, config = tf.nest.map_structure(
            lambda value: tf.repeat(value[None], loop.rows, axis=0),
            (tokens, mask, condition, config),
        )
        # One prefill program serves every beginning.
        last_span = (length - 1) // loop.span_length * loop.span_length
        noise = loop.noise(particles.seeds(seed, loop.rows))
        (filled,) = tf.unstack(
            loop.run_particles(
                loop.begin(tokens, last_span, condition),
                tf.cast(starts[0], tf.int32),
                tf.cast(ends[0], tf.int32),
                Drawing(mask, noise, config),
                particles.choice_noise(seed, length),
                tf.where(is_weighed[0], count, 1),
            ),
            num=1,
        )
        return filled

    def _small_mask(self, mask_bytes: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """Return bool `(height, width)`, as `complete` reads a mask."""
        rgb = tf.cast(
            self._tokenizer.decode_whole(
                mask_bytes, is_mask=True, max_pixels=MAX_SERVED_PIXELS
            ),
            tf.int32,
        )
        # As Pillow weighs them.
        weights = tf.constant([19595, 38470, 7471])
        pixels = (tf.reduce_sum(rgb * weights, axis=-1) + 0x8000) // 0x10000
        size, full = tf.shape(pixels), tf.shape(image)[:2]
        is_small = tf.reduce_all(size == self._tokenizer.image_size)
        check = tf.debugging.Assert(
            is_small | masks.has_aspect(tf.unstack(size), tf.unstack(full)),
            ["mask_bytes must have the aspect of image_bytes. Received:", size],
        )
        with tf.control_dependencies([check]):
            pixels = tf.cast(pixels, tf.uint8)
        return small_mask(pixels, image, self._tokenizer)

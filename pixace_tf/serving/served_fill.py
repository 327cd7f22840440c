"""The signature `fill` of a SavedModel: any region, any label, in plain ops.

Each image is filled in its own block, whose rows are its particles.

Shapes: B batch, T pixels.
"""

import numpy as np
import tensorflow as tf

from pixace_tf.data import raster_orders
from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.image_files import MAX_SERVED_PIXELS
from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.painting import masks
from pixace_tf.sampling import MAX_SERVED_PARTICLES
from pixace_tf.sampling.block import Drawing
from pixace_tf.sampling.decode_loop import DecodeLoop
from pixace_tf.sampling.draws import (
    choice_noise,
    particle_seeds,
    uniform_noise,
)
from pixace_tf.sampling.engine import ModelFacts
from pixace_tf.sampling.region import known_part, spans
from pixace_tf.sampling.sampling_config import is_guided
from pixace_tf.typing import Tensor


class ServedFill:
    """Fills hidden pixels as `Sampler.fill` does, as graph functions."""

    def __init__(
        self, model: PixaceCausalLM, tokenizer: GraphTokenizer
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._facts = ModelFacts.of(model)
        # With guidance, each particle has two rows.
        self._loops = {
            guided: DecodeLoop(
                model, MAX_SERVED_PARTICLES * (1 + guided), jit_compile=False
            )
            for guided in ([False, True] if model.labels else [False])
        }
        self._sequences = raster_orders.permutations(
            len(model.orders), model.image_size
        )
        self._places = np.argsort(self._sequences, axis=1).astype(np.int32)

    def decode(
        self, image_bytes: Tensor, mask_bytes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode an image and its mask.

        Args:
            image_bytes: string scalar, JPEG or PNG, or empty for a white image.
            mask_bytes: string scalar, JPEG or PNG of the aspect of the image,
                whose white is painted; or empty, to paint everything.

        Returns:
            uint8 `(height, width, C)`, and bool `(T,)`.
        """
        height, width, channels = self._tokenizer.image_shape
        white = tf.fill((height, width, channels), tf.constant(255, tf.uint8))
        image = tf.cond(
            image_bytes == b"",
            lambda: white,
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

    def fill(
        self,
        token_ids: Tensor,
        mask: Tensor,
        labels: Tensor,
        given: Tensor,
        options: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the hidden pixels of each image.

        Args:
            token_ids: int32 `(B, T)`, in plain order.
            mask: bool `(B, T)`, True where pixels are to be sampled.
            labels: int32 `(B,)`.
            given: int32 `(B,)`, the channels that hidden pixels keep; see
                `Palette.channels_named`.
            options: `(B,)` tensors: `particles`, `guidance`, `seed` and the
                fields of `SamplingConfig`.

        Returns:
            int32 `(B, T)`, the images in plain order; int32 `(B, T)`, the same
            in the order of painting; and int32 `(B, 2)`, their conditions, as
            in `PixaceCausalLM`.
        """
        orders = raster_orders.best_orders(
            mask, self._sequences, tf.experimental.numpy
        )
        when = tf.gather(self._sequences, orders)
        rows = tf.gather(tf.constant(self._model.orders), orders)
        condition = tf.stack([rows, labels], axis=1)
        token_ids, channels = known_part(
            self._model.palette,
            token_ids,
            mask,
            given[:, None],
            tf.experimental.numpy,
        )
        tokens = tf.map_fn(
            lambda row: self._fill_one(*row),
            (
                tf.gather(token_ids, when, batch_dims=1),
                tf.gather(channels, when, batch_dims=1),
                condition,
                options,
            ),
            fn_output_signature=tf.TensorSpec(token_ids.shape[1:], tf.int32),
            parallel_iterations=1,
        )
        places = tf.gather(self._places, orders)
        return tf.gather(tokens, places, batch_dims=1), tokens, condition

    def _fill_one(
        self,
        tokens: Tensor,
        mask: Tensor,
        condition: Tensor,
        options: dict[str, Tensor],
    ) -> Tensor:
        """Fill one image, whose pixels lie in the order of painting.

        The mask is one of channels, int32 `(T,)`; see `Block`.
        """
        arguments = tokens, mask, condition, options
        if not self._model.labels:
            return self._run(False, *arguments)
        return tf.cond(
            is_guided(condition[1], options["guidance"]),
            lambda: self._run(True, *arguments),
            lambda: self._run(False, *arguments),
        )

    def _run(
        self,
        guided: bool,
        tokens: Tensor,
        mask: Tensor,
        condition: Tensor,
        options: dict[str, Tensor],
    ) -> Tensor:
        loop, length = self._loops[guided], self._model.sequence_length
        config = dict(options)
        count, seed = config.pop("particles"), config.pop("seed")
        config["max_colors"] = tf.constant(0)
        conditions, each = condition[None], 1
        if guided:
            null = tf.stack([condition[0], NULL_LABEL])
            conditions, each = tf.stack([condition, null]), 2
        else:
            config["guidance"] = tf.constant(1.0)
        starts, ends, is_weighed = spans(
            self._facts, mask[None], count, tf.experimental.numpy
        )
        mask, config = tf.nest.map_structure(
            lambda value: tf.repeat(value[None], loop.rows, axis=0),
            (mask, config),
        )
        # One prefill program serves every first pixel.
        last_span = (length - 1) // loop.span_length * loop.span_length
        noise = uniform_noise(
            particle_seeds(seed, MAX_SERVED_PARTICLES),
            length,
            self._facts.num_draws,
        )
        tokens = tf.repeat(tokens[None], each, axis=0)
        filled = loop.run_particles(
            loop.begin(tokens, last_span, conditions, MAX_SERVED_PARTICLES),
            tf.cast(starts[0], tf.int32),
            tf.cast(ends[0], tf.int32),
            Drawing(mask, tf.repeat(noise, each, axis=0), config),
            choice_noise(seed, length),
            tf.where(is_weighed[0], count, 1),
            MAX_SERVED_PARTICLES,
        )
        return filled[0]

    def _small_mask(self, mask_bytes: Tensor, image: Tensor) -> Tensor:
        """Return bool `(height, width)`, as `complete` reads a mask."""
        rgb = self._tokenizer.decode_whole(
            mask_bytes, is_mask=True, max_pixels=MAX_SERVED_PIXELS
        )
        # Pillow's weights.
        weights = tf.constant([19595, 38470, 7471])
        pixels = tf.reduce_sum(tf.cast(rgb, tf.int32) * weights, axis=-1)
        pixels = (pixels + 0x8000) // 0x10000
        size, full = tf.shape(pixels), tf.shape(image)[:2]
        is_small = tf.reduce_all(size == self._tokenizer.image_size)
        check = tf.debugging.Assert(
            is_small | masks.has_aspect(tf.unstack(size), tf.unstack(full)),
            ["mask_bytes must have the aspect of image_bytes. Received:", size],
        )
        with tf.control_dependencies([check]):
            pixels = tf.cast(pixels, tf.uint8)

        def scaled() -> Tensor:
            """Scale the mask like its image, as `small_mask` does."""
            kept = tf.repeat(255 - pixels[..., None], 3, axis=2)
            return 255 - self._tokenizer.resize_like(kept, image)[..., 0]

        small = tf.cond(is_small, lambda: pixels, scaled)
        small = tf.ensure_shape(small, self._tokenizer.image_size)
        return masks.is_painted(tf.cast(small, tf.float32))

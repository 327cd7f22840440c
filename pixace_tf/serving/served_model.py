"""The functions of a SavedModel: image bytes in, image bytes out.

TensorFlow Serving does not use XLA and does not know this package, so the
functions use built-in ops only. A block has a fixed number of images, whose
prefixes end in the same span, so an image is the same alone and in any batch.

Shapes: B batch, T pixels.
"""

import functools
import inspect
import math
import operator
import os
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from pixace_tf.data.graph_tokenizer import GraphTokenizer
from pixace_tf.data.image_files import MAX_SERVED_PIXELS, printable
from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling import MAX_SERVED_PARTICLES
from pixace_tf.sampling.block import ALL_CHANNELS, Drawing
from pixace_tf.sampling.decode_loop import DecodeLoop
from pixace_tf.sampling.draws import uniform_noise
from pixace_tf.sampling.sampling_config import (
    RULES,
    SamplingConfig,
    between,
    has_filters,
)
from pixace_tf.serving.served_fill import ServedFill
from pixace_tf.typing import Tensor

# Images in a block. Fewer would slow a batch down, more a single image.
BLOCK_ROWS = 8
# An error names at most this many labels.
_MAX_NAMED = 10

Tensors = dict[str, Tensor]


class ServedModel:
    """The signatures of a SavedModel.

    - `complete` takes `image_bytes` string (JPEG or PNG), `prefix_length`
      int32, the fields of `SamplingConfig` float32 (`top_k` int32), `seed`
      int64.
    - `complete_tokens` takes `token_ids` int32 `(B, T)` instead of
      `image_bytes`, and reads them up to each prefix.
    - `fill` takes `image_bytes` (empty for none), `mask_bytes` (JPEG or PNG,
      white is painted; empty paints everything), `particles` int32, `label`
      string (empty for none), `guidance` float32, `given` string (channels
      that painted pixels keep, separated by commas; empty for none), and the
      options of `complete` except the prefix.
    - `generate` takes the options of `complete` except image and prefix.
    - `score` takes `image_bytes` alone.

    All but `score` return the completed images as `image_bytes`, their
    `token_ids` int32 `(B, T)`, and `bits_per_pixel` float32 `(B,)`, the cost of
    an image. `score` returns the same for the given images; its `image_bytes`
    are the images scaled down, before the palette.

    `fill` also returns `mask`, bool `(B, T)`, the painted pixels, and
    `kept_bytes`, the given images with what is kept of painted pixels; its
    `bits_per_pixel` is the cost given the label, in the order of painting.

    Every input is `(B, ...)`; a single row counts for all rows. Every output is
    `(B, ...)`; outputs that end in `_bytes` are PNG files. A value out of range
    raises InvalidArgumentError with the rule.
    """

    def __init__(
        self, model: PixaceCausalLM, tokenizer: PixelTokenizer
    ) -> None:
        self._model = model
        self._tokenizer = GraphTokenizer(tokenizer)
        self._loop = DecodeLoop(model, BLOCK_ROWS, jit_compile=False)
        self._fill = ServedFill(model, self._tokenizer)
        length = model.sequence_length
        self._nats = tf.function(
            lambda token_ids, condition: model.pixel_nats(
                token_ids, model((token_ids, condition), training=False)
            ),
            input_signature=[
                tf.TensorSpec((None, length), tf.int32),
                tf.TensorSpec((None, 2), tf.int32),
            ],
            autograph=False,
        )
        row = tf.TensorSpec((None,), tf.string)
        tokens = tf.TensorSpec((None, length), tf.int32)
        prefix = {"prefix_length": tf.constant([length // 2])}
        options = {
            "seed": tf.constant([0], tf.int64),
            **{
                name: tf.constant(value)
                for name, value in SamplingConfig().arrays(1).items()
            },
        }
        # Signatures share these functions.
        self._decode = tf.function(
            self._decode_all, input_signature=[row], autograph=False
        )
        self._sample = _function(
            self._complete_all, token_ids=tokens, **prefix, **options
        )
        self.signatures = {
            "complete": _function(
                self._complete, image_bytes=row, **prefix, **options
            ),
            "complete_tokens": _function(
                self._complete_tokens, token_ids=tokens, **prefix, **options
            ),
            "fill": _function(
                self._fill_masks,
                image_bytes=row,
                mask_bytes=row,
                particles=tf.constant([MAX_SERVED_PARTICLES]),
                label=tf.constant([""]),
                guidance=tf.constant([1.0]),
                given=tf.constant([""]),
                **options,
            ),
            "generate": _function(self._generate, **options),
            "score": _function(self._score, image_bytes=row),
        }

    def save(self, path: str) -> None:
        """Write a SavedModel into a new folder."""
        module = tf.Module()
        # With a Keras model, the weights would be stored twice, and the loader
        # of TensorFlow Serving would not find them.
        module.weights = [variable.value for variable in self._model.weights]
        tf.saved_model.save(
            module,
            path,
            {"serving_default": self.signatures["complete"], **self.signatures},
            tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        _shorten_names(path)

    def _complete(self, **given: Tensor) -> Tensors:
        given = self._check(**given)
        images = self._decode(given.pop("image_bytes"))
        return self._sample(token_ids=self._tokenize(images), **given)

    def _complete_tokens(self, **given: Tensor) -> Tensors:
        return self._sample(**self._check(**given))

    def _fill_masks(self, **inputs: Tensor) -> Tensors:
        inputs = self._check(**inputs)
        files = inputs.pop("image_bytes")
        given = self._channels(inputs.pop("given"), files)
        images, masks = tf.map_fn(
            lambda row: self._fill.decode(*row),
            (files, inputs.pop("mask_bytes")),
            fn_output_signature=(
                tf.TensorSpec(self._tokenizer.image_shape, tf.uint8),
                tf.TensorSpec((self._model.sequence_length,), tf.bool),
            ),
            # Large images of a batch would fill the memory together.
            parallel_iterations=1,
        )
        labels = self._label_numbers(inputs.pop("label"))
        originals = self._tokenize(images)
        token_ids, tokens, condition = self._fill.fill(
            originals, masks, labels, given, inputs
        )
        shown = self._model.palette.shown(originals, given[:, None])
        kept = tf.where(masks, shown, originals)
        return {
            "image_bytes": _png_files(self._tokenizer.detokenize(token_ids)),
            "token_ids": token_ids,
            "bits_per_pixel": self._bits(tokens, condition),
            "mask": masks,
            "kept_bytes": _png_files(self._tokenizer.detokenize(kept)),
        }

    def _label_numbers(self, names: Tensor) -> Tensor:
        """Return the numbers of labels, int32 `(B,)`; refuse unknown names."""
        labels = self._model.labels
        is_equal = names[:, None] == [b"", *map(os.fsencode, labels)]
        some = ", ".join(map(printable, labels[:_MAX_NAMED]))
        rule = (
            f"be empty or a label of the model, such as {some}."
            if labels
            else "be empty: the model was trained without labels."
        )
        check = _assert(
            tf.reduce_any(is_equal, axis=1), f"label must {rule}", names
        )
        with tf.control_dependencies([check]):
            return tf.argmax(is_equal, axis=1, output_type=tf.int32)

    def _channels(self, given: Tensor, image_bytes: Tensor) -> Tensor:
        """Return channels that are kept, int32 `(B,)`, from lists of names."""
        palette = self._model.palette
        names = palette.channel_names
        name = f"({'|'.join(names)})"
        checks = [
            _assert(
                tf.strings.regex_full_match(given, f"({name}(,{name})*)?"),
                "given must be empty or channels of the model, separated by "
                f"commas: {', '.join(names)}.",
                given,
            ),
            _assert(
                (given == b"") | (image_bytes != b""),
                "given needs image_bytes, whose channels it keeps.",
                given,
            ),
        ]
        channels = tf.zeros_like(given, tf.int32)
        with tf.control_dependencies(checks):
            for name in names:
                is_given = tf.strings.regex_full_match(
                    given, f"(.*,)?{name}(,.*)?"
                )
                channel = palette.channels_named([name])
                channels += tf.where(is_given, channel, 0)
        return channels

    def _generate(self, **given: Tensor) -> Tensors:
        given = self._check(**given)
        given["prefix_length"] = tf.zeros_like(given["top_k"])
        shape = tf.size(given["seed"]), self._model.sequence_length
        return self._sample(token_ids=tf.zeros(shape, tf.int32), **given)

    def _score(self, **given: Tensor) -> Tensors:
        images = self._decode(self._check(**given)["image_bytes"])
        return self._outputs(images, self._tokenize(images))

    def _check(self, **given: Tensor) -> Tensors:
        """Refuse values out of range; return inputs with B rows each."""
        length = self._model.sequence_length
        sizes = [tf.shape(tensor)[0] for tensor in given.values()]
        count = tf.reduce_max(sizes)
        checks = [
            _assert(
                (size == count) | (size == 1),
                f"{name} must have as many rows as the other inputs, or one.",
                tf.stack([size, count]),
            )
            for name, size in zip(given, sizes, strict=True)
        ]
        checks.append(
            _assert(tf.reduce_min(sizes) > 0, "There must be a row.", sizes)
        )
        rules = {
            **RULES,
            "prefix_length": between(0, length),
            "particles": between(1, MAX_SERVED_PARTICLES),
        }
        checks += [
            _assert(rule(given[name]), f"{name} must be {text}.", given[name])
            for name, (text, rule) in rules.items()
            if name in given
        ]
        # All work depends on these tensors, so it begins after the checks.
        with tf.control_dependencies(checks):
            return {
                name: tf.gather(tensor, tf.range(count) % size)
                for (name, tensor), size in zip(
                    given.items(), sizes, strict=True
                )
            }

    def _decode_all(self, image_bytes: Tensor) -> Tensor:
        """Return uint8 `(B, *image_shape)`, scaled down."""
        return tf.map_fn(
            functools.partial(
                self._tokenizer.decode, max_pixels=MAX_SERVED_PIXELS
            ),
            image_bytes,
            fn_output_signature=tf.TensorSpec(
                self._tokenizer.image_shape, tf.uint8
            ),
            # Large images of a batch would fill the memory together.
            parallel_iterations=1,
        )

    def _tokenize(self, images: Tensor) -> Tensor:
        shape = (None, self._model.sequence_length)
        return tf.ensure_shape(self._tokenizer.tokenize(images), shape)

    def _complete_all(
        self,
        token_ids: Tensor,
        prefix_length: Tensor,
        seed: Tensor,
        **config: Tensor,
    ) -> Tensors:
        length = self._model.sequence_length
        is_given = tf.range(length) < prefix_length[:, None]
        token_ids = tf.where(is_given, token_ids, 0)
        colors = self._model.palette.token_range
        low, high = colors[0], colors[-1]
        is_color = (token_ids >= low) & (token_ids <= high)
        check = _assert(
            is_color,
            f"token_ids must be from {low} to {high} in the prefix.",
            tf.boolean_mask(token_ids, ~is_color),
        )
        with tf.control_dependencies([check]):
            token_ids = tf.identity(token_ids)
        span_length = self._loop.span_length
        num_spans = math.ceil(length / span_length)
        # A complete image is in no span.
        first_span = tf.where(
            prefix_length < length, prefix_length // span_length, num_spans
        )
        # Sampling begins in the same span for all images of a block.
        blocks = [
            _blocks(tf.where(first_span == span)[:, 0])
            for span in range(num_spans)
        ]
        index = tf.concat(blocks, axis=0)
        spans = tf.repeat(tf.range(num_spans), [tf.shape(b)[0] for b in blocks])
        arguments = tf.nest.map_structure(
            lambda x: tf.gather(x, index),
            (token_ids, prefix_length, seed, config),
        )
        drawn = tf.map_fn(
            lambda block: self._complete_block(*block),
            (spans, *arguments),
            fn_output_signature=tf.TensorSpec((BLOCK_ROWS, length), tf.int32),
        )
        token_ids = tf.tensor_scatter_nd_update(
            token_ids,
            tf.reshape(index, (-1, 1)),
            tf.reshape(drawn, (-1, length)),
        )
        images = self._tokenizer.detokenize(token_ids)
        return self._outputs(images, token_ids)

    def _complete_block(
        self,
        span: Tensor,
        token_ids: Tensor,
        prefix_length: Tensor,
        seeds: Tensor,
        config: Tensors,
    ) -> Tensor:
        """Complete `BLOCK_ROWS` images from the beginning of a span on.

        Every prefix ends in this span or a later one. A row of the result,
        int32 `(BLOCK_ROWS, T)`, depends on its own arguments and on the span
        only, not on the other rows.
        """
        loop, length = self._loop, self._model.sequence_length
        start = span * loop.span_length
        # One prefill program serves every span.
        carry = loop.begin(
            token_ids,
            (length - 1) // loop.span_length * loop.span_length,
            tf.constant([[0, NULL_LABEL]] * BLOCK_ROWS),
        )
        is_hidden = tf.range(length) >= prefix_length[:, None]
        mask = tf.where(is_hidden, ALL_CHANNELS, 0)
        noise = uniform_noise(seeds, length, self._model.head.num_draws)
        config = {
            **config,
            "guidance": tf.ones(BLOCK_ROWS),
            "max_colors": tf.zeros(BLOCK_ROWS, tf.int32),
        }
        drawing = Drawing(mask, noise, config)
        return tf.cond(
            has_filters(config, tf.experimental.numpy),
            lambda: loop.run("full", carry, start, drawing),
            lambda: loop.run("plain", carry, start, drawing),
        )

    def _outputs(self, images: Tensor, token_ids: Tensor) -> Tensors:
        plain = tf.tile([[0, NULL_LABEL]], [tf.shape(token_ids)[0], 1])
        return {
            "image_bytes": _png_files(images),
            "token_ids": token_ids,
            "bits_per_pixel": self._bits(token_ids, plain),
        }

    def _bits(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Return bits per pixel of tokens in the order of the condition."""
        count, length = tf.shape(tokens)[0], tokens.shape[1]
        nats = tf.map_fn(
            lambda index: self._nats(
                tf.gather(tokens, index), tf.gather(condition, index)
            ),
            _blocks(tf.range(count)),
            fn_output_signature=tf.TensorSpec((BLOCK_ROWS, length), tf.float32),
        )
        nats = tf.reshape(nats, (-1, length))[:count]
        return tf.reduce_mean(nats, axis=1) / math.log(2)


def _shorten_names(path: str) -> None:
    """Number the nodes of a SavedModel's functions, and drop their shapes.

    Names contain the path of layers, and loaders infer shapes; together they
    would be more than half of the graph.
    """
    file = pathlib.Path(path, "saved_model.pb")
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (meta_graph,) = model.meta_graphs
    functions = operator.attrgetter("library.function")(meta_graph.graph_def)
    for function in functions:
        numbers = {n.name: f"n{i}" for i, n in enumerate(function.node_def)}

        def renamed(place: str, numbers: dict[str, str] = numbers) -> str:
            """Rename `name`, `^name` or `name:output:0`; keep arguments."""
            mark = "^" if place.startswith("^") else ""
            name, *rest = place.removeprefix("^").split(":")
            return mark + ":".join([numbers.get(name, name), *rest])

        for node in function.node_def:
            node.name = renamed(node.name)
            node.input[:] = [renamed(place) for place in node.input]
            for key in ("_output_shapes", "_class"):
                if key in node.attr:
                    del node.attr[key]
        for places in (function.ret, function.control_ret):
            for key, place in list(places.items()):
                places[key] = renamed(place)
    file.write_bytes(model.SerializeToString())
    # The fingerprint of the file as it was is optional.
    file.with_name("fingerprint.pb").unlink()


def _function(
    function: Callable[..., Tensors], **inputs: Tensor | tf.TensorSpec
) -> Any:
    """Return a `tf.function` of named inputs: specs, or one-row defaults."""

    def call(*values: Tensor) -> Tensors:
        return function(**dict(zip(inputs, values, strict=True)))

    kind, none = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.empty,
    )
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                kind,
                default=none if isinstance(value, tf.TensorSpec) else value,
            )
            for name, value in inputs.items()
        ]
    )
    return tf.function(
        call,
        input_signature=[
            tf.TensorSpec((None, *value.shape[1:]), value.dtype, name)
            for name, value in inputs.items()
        ],
        autograph=False,
    )


def _blocks(index: Tensor) -> Tensor:
    """Reshape an index to `(N, BLOCK_ROWS)`, padded with its last entry."""
    count = tf.shape(index)[0]
    num_blocks = -(-count // BLOCK_ROWS)
    full = tf.minimum(tf.range(num_blocks * BLOCK_ROWS), count - 1)
    return tf.reshape(tf.gather(index, full), (-1, BLOCK_ROWS))


def _png_files(images: Tensor) -> Tensor:
    spec = tf.TensorSpec((), tf.string)
    return tf.map_fn(tf.io.encode_png, images, fn_output_signature=spec)


def _assert(is_good: Tensor, rule: str, received: Any) -> tf.Operation:
    return tf.debugging.Assert(
        tf.reduce_all(is_good), [rule, "Received:", received]
    )

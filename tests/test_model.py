"""The model, for every decoder and head: one suite, parametrized."""

import itertools
import json
import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from conftest import DECODERS, stir

from pixace_tf.data.palette import Palette
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.activations import feed_forward, relu_squared
from pixace_tf.model.attention import causal_attention
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.color_head import ChainHead, PackedHead
from pixace_tf.model.pixel_inputs import (
    NEIGHBORS,
    TABLE_RATE,
    gather_neighbors,
    neighbor_tokens,
    pad_grid,
)
from pixace_tf.model.presets import HEADS, PRESETS, decoder_config
from pixace_tf.model.transformer_stack import CausalDecoderLayer

SIZE = (9, 15)  # No decoder's patches divide 135 pixels.


def build(decoder, head="chain", palette="hsv 5,4,4", size=SIZE, **options):
    keras.utils.set_random_seed(0)
    model = PixaceCausalLM(
        size,
        palette,
        decoder,
        decoder_config("pico", decoder),
        head,
        **options,
    )
    return stir(model)


def random_tokens(count=2, size=SIZE, seed=0):
    images = np.random.default_rng(seed).integers(
        0, 256, (count, *size, 3), dtype=np.uint8
    )
    return PixelTokenizer(size).tokenize(images)


@pytest.mark.parametrize(
    ("decoder", "head"),
    [
        *((decoder, "chain") for decoder in DECODERS),
        *(("multiscale", head) for head in ("packed", "mixture", "copy")),
    ],
)
def test_changing_a_pixel_leaves_earlier_logits_bit_equal(decoder, head):
    palette = "hsv 1,6,6" if head == "mixture" else "hsv 5,4,4"
    model = build(decoder, head, palette)
    before = random_tokens()
    logits = model(before).numpy()
    for position in (0, 1, 15, 16, 17, 64, 70, 134):
        after = before.copy()
        after[:, position] = 8160 if before[0, position] != 8160 else 7680
        changed = model(after).numpy()
        np.testing.assert_array_equal(
            logits[:, :position], changed[:, :position]
        )
        if position < 134:
            assert np.any(logits[:, position + 1] != changed[:, position + 1])


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_pixel_sees_all_pixels_before_it(decoder):
    model = build(decoder)
    tokens = random_tokens(1)
    last = model(tokens).numpy()[:, -1]
    for position in range(0, 133, 33):
        changed = tokens.copy()
        changed[:, position] ^= 1 << 10
        assert np.any(last != model(changed).numpy()[:, -1]), position


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 1, 34, 50, 68, 127])
@pytest.mark.parametrize("decoder", DECODERS)
def test_cached_steps_equal_the_whole_sequence(decoder, start):
    model = build(decoder)
    tokens = tf.constant(random_tokens())
    whole = model.decoder(model._inputs(tokens)).numpy()
    patch_length = model.decoder.patch_length
    position = start // model.decoder.prefill_stride
    position *= model.decoder.prefill_stride
    state = model.empty_state(2)
    if position:
        state = model.prefill(tokens, -(-position // patch_length))
    # All positions once, and from elsewhere those of the next patches.
    for t in range(position, 135 if start == 0 else min(position + 40, 135)):
        if t == position or t % patch_length == 0:
            state = model.begin_patch(state, tokens, t // patch_length)
        hidden, state = model.step(state, tokens, t)
        np.testing.assert_allclose(hidden, whole[:, t], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decoder", DECODERS)
def test_beginning_a_patch_again_changes_nothing(decoder):
    model = build(decoder)
    tokens = tf.constant(random_tokens())
    patch = 70 // model.decoder.patch_length
    states = [model.begin_patch(model.prefill(tokens, patch), tokens, patch)]
    states.append(model.begin_patch(states[0], tokens, patch))
    position = patch * model.decoder.patch_length
    first, second = (model.step(s, tokens, position)[0] for s in states)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("head", "widths"),
    [
        *itertools.product(
            ("chain", "packed"), [(1, 2, 2), (0, 0, 3), (2, 1, 0), (1, 0, 2)]
        ),
        *(("mixture", widths) for widths in [(2, 6, 1), (0, 0, 7), (6, 1, 6)]),
    ],
)
def test_probabilities_of_all_canonical_codes_sum_to_one(head, widths):
    palette = Palette("hsv", widths)
    layer = (
        PackedHead(palette)
        if head == "packed"
        else ChainHead(palette, 8, use_mixtures=head == "mixture")
    )
    layer.build((None, None, 8))
    stir(layer)
    codes = np.arange(palette.vocabulary_size, dtype=np.int32)
    codes = codes[palette.is_canonical(codes)][None]
    hidden = np.random.default_rng(0).normal(size=(1, 1, 8)).astype("float32")
    hidden = np.repeat(hidden, codes.shape[1], axis=1)
    nats = layer.nats(codes, layer(hidden, codes))
    np.testing.assert_allclose(np.exp(-nats).sum(), 1, rtol=1e-5)


def numpy_attention(query, key, value):
    batch, heads, length, _ = query.shape
    out = np.zeros_like(value)
    for b, h, t in itertools.product(range(batch), range(heads), range(length)):
        scores = key[b, h, : t + 1] @ query[b, h, t]
        weights = np.exp(scores - scores.max())
        out[b, h, t] = weights / weights.sum() @ value[b, h, : t + 1]
    return out


@pytest.mark.parametrize("length", [1, 7, 8, 21])
def test_blockwise_attention_equals_fifteen_lines_of_numpy(length):
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 2, 3, length, 4)).astype("float32")
    np.testing.assert_allclose(
        causal_attention(query, key, value, block_length=8),
        numpy_attention(query, key, value),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("jit_compile", "dtype"),
    [
        (False, "float32"),
        (False, "float16"),
        pytest.param(True, "float16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("sees_itself", [True, False])
def test_gradients_of_blocks_are_those_of_plain_attention(
    sees_itself, dtype, jit_compile
):
    rng = np.random.default_rng(0)
    inputs = [
        tf.cast(x, dtype) for x in rng.normal(size=(3, 2, 3, 21, 4)).astype("f")
    ]
    own, seen = tf.range(21)[:, None], tf.range(21)[None]

    def plain(query, key, value):
        scores = tf.cast(query @ tf.linalg.matrix_transpose(key), "float32")
        if not sees_itself:
            scores = tf.where(own == seen, -1e5, scores)
        weights = tf.nn.softmax(tf.where(own >= seen, scores, -np.inf))
        return tf.cast(weights, dtype) @ value

    def blocks(query, key, value):
        return causal_attention(
            query, key, value, block_length=8, sees_itself=sees_itself
        )

    @tf.function(jit_compile=jit_compile)
    def gradients(*inputs):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            losses = [
                tf.reduce_sum(tf.sin(3 * attend(*inputs)))
                for attend in (blocks, plain)
            ]
        return [tape.gradient(loss, inputs) for loss in losses]

    for ours, theirs in zip(*gradients(*inputs), strict=True):
        tolerance = 1e-5 if dtype == "float32" else 0.03
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


JAX = """
import jax, numpy as np
from pixace_tf.model import attention
rng = np.random.default_rng(0)
inputs = rng.normal(size=(3, 2, 3, 130, 8)).astype("float32")
def gradients(fused):
    attention._has_fused_kernel = lambda dtype: fused
    loss = lambda *x: (attention.causal_attention(*x) ** 2).sum()
    return jax.value_and_grad(loss, (0, 1, 2))(*inputs)
for ours, theirs in zip(*map(jax.tree.leaves, map(gradients, (0, 1)))):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
print("equal")
"""


@pytest.mark.soak
def test_fused_attention_of_jax_equals_blocks():
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-c", JAX],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "equal\n", done.stderr


def test_the_layer_computes_what_keras_hub_computes():
    layer = CausalDecoderLayer(64, 4, decoder_sequence_shape=(None, None, 32))
    stock = keras_hub.layers.TransformerDecoder(
        64,
        4,
        activation=relu_squared,
        normalize_first=True,
        decoder_sequence_shape=(None, None, 32),
    )
    rng = np.random.default_rng(0)
    for ours, theirs in zip(layer.weights, stock.weights, strict=True):
        ours.assign(rng.normal(size=ours.shape, scale=0.3))
        theirs.assign(ours)
    x = rng.normal(size=(2, 130, 32)).astype("float32")
    np.testing.assert_allclose(layer(x), stock(x), rtol=1e-4, atol=1e-4)


def feed_forward_layers(policy):
    layers = [
        keras.layers.Dense(16, activation=relu_squared, dtype=policy),
        keras.layers.Dense(4, dtype=policy),
    ]
    for layer, width in zip(layers, (8, 16), strict=True):
        layer.build((None, 3, width))
    return layers


@pytest.mark.parametrize("largest", [1.0, 100.0, 300.0, 2000.0])
def test_squares_beyond_float16_are_finite_and_right(largest):
    exact = feed_forward_layers("float32")
    half = feed_forward_layers("mixed_float16")
    for ours, theirs in zip(half, exact, strict=True):
        theirs.bias.assign(np.linspace(-0.1, 0.1, theirs.bias.shape[0]))
        ours.set_weights(theirs.get_weights())
    exact[1].kernel.assign(exact[1].kernel * 0.005)
    half[1].kernel.assign(exact[1].kernel)
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    x *= largest / float(tf.reduce_max(tf.sqrt(exact[0](x))))
    x = tf.constant(x)
    results = []
    for layers in (half, exact):
        kernels = [layer.kernel.value for layer in layers]
        with tf.GradientTape() as tape:
            tape.watch(x)
            written = tf.cast(feed_forward(x, *layers), "float32")
            loss = tf.reduce_sum(written) / largest
        results.append([written, *tape.gradient(loss, [x, *kernels])])
    for ours, theirs in zip(*results, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, atol=0.01 * scale)


def test_float32_layers_are_those_of_keras_to_the_bit():
    read, write = feed_forward_layers("float32")
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    np.testing.assert_array_equal(feed_forward(x, read, write), write(read(x)))


def test_neighbors_are_those_named_and_step_equals_sequence():
    height, width = 4, 5
    tokens = np.arange(20, dtype=np.int32)[None]
    grid = pad_grid(tokens, (height, width), -1)
    whole = gather_neighbors(grid[..., None]).numpy()[0]
    for row, column in itertools.product(range(height), range(width)):
        expected = [
            tokens[0, (row + r) * width + column + c]
            if row + r >= 0 and 0 <= column + c < width
            else -1
            for r, c in NEIGHBORS
        ]
        position = row * width + column
        np.testing.assert_array_equal(whole[position], expected)
        one = neighbor_tokens(tokens, position, (height, width), -1)
        np.testing.assert_array_equal(one[0], expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_are_float32_and_near_under_every_policy(decoder, policy):
    tokens = random_tokens()
    mixed = build(decoder, dtype=policy)
    logits = mixed(tokens)
    assert logits.dtype == tf.float32
    exact = build(decoder)
    exact.set_weights(mixed.get_weights())
    np.testing.assert_allclose(logits, exact(tokens), atol=0.15)


def test_many_colors_need_few_logits():
    model = build("multiscale", palette="hsv 8,8,8")
    assert model(random_tokens()).shape[-1] == 768
    with pytest.raises(ValueError, match="at most 16"):
        build("multiscale", "packed", "hsv 8,8,8")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_decoder_has_every_preset(preset):
    assert set(PRESETS[preset]) == set(DECODERS)


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="decoder must be one of"):
        PixaceCausalLM((8, 8), "hsv 5,4,4", "lstm", {})
    with pytest.raises(ValueError, match="preset must be one of"):
        decoder_config("huge", "multiscale")
    with pytest.raises(ValueError, match="positive for the decoder reformer"):
        decoder_config("pico", "transformer", num_hashes=2)


@pytest.mark.parametrize(
    ("preset", "decoder", "millions"),
    [
        ("nano", "multiscale", 2.8),
        ("small", "multiscale", 13),
        ("base", "multiscale", 24),
        ("nano", "transformer", 1.0),
        ("small", "transformer", 5.2),
        ("base", "transformer", 20),
        ("nano", "reformer", 1.0),
        ("base", "reformer", 20),
    ],
)
def test_presets_have_the_parameters_that_the_docs_name(
    preset, decoder, millions
):
    model = PixaceCausalLM(
        (32, 32), "hsv 5,4,4", decoder, decoder_config(preset, decoder)
    )
    assert model.count_params() / 1e6 == pytest.approx(millions, rel=0.04)


@pytest.mark.parametrize(
    ("width", "patch_length"),
    [(32, 16), (16, 16), (64, 16), (24, 12), (28, 14), (20, 20), (31, 16)],
)
def test_patches_fill_rows_evenly(width, patch_length):
    sizes = decoder_config("nano", "multiscale", width)
    assert sizes["patch_length"] == patch_length


def test_many_levels_begin_alike_and_few_begin_apart():
    model = PixaceCausalLM(
        (4, 4),
        "rgb 8,3,8",
        "transformer",
        decoder_config("pico", "transformer"),
    )
    table = TABLE_RATE * model.embed.table.numpy()
    head = model.head
    kernel = head.write[head.order.index(0)].kernel.numpy().T

    def roughness(rows):
        return np.mean((rows[1:] - rows[:-1]) ** 2) / np.var(rows)

    assert roughness(table[:256]) < 0.05
    assert roughness(table[256:264]) > 1
    assert roughness(kernel) < 0.05
    assert np.std(table[:256]) == pytest.approx(0.5, rel=0.3)
    assert np.std(kernel) == pytest.approx((2 / (32 + 256)) ** 0.5, rel=0.3)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_models_and_layers_are_what_their_configs_say(decoder, head):
    model = build(decoder, head, dtype="mixed_float16", name="pixels")
    config = json.loads(json.dumps(model.get_config()))
    assert (config["name"], config["decoder"]) == ("pixels", decoder)
    again = PixaceCausalLM.from_config(config)
    assert again.dtype_policy.name == "mixed_float16"
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]
    assert again.get_config() == model.get_config()
    layers = [model.embed, model.decoder, model.head, model.decoder.positions]
    if decoder == "multiscale":
        layers += [model.decoder.global_stack, model.decoder.local_stack]
    else:
        layers.append(model.decoder.stack)
    for layer in (*layers, model):
        serialized = keras.saving.serialize_keras_object(layer)
        assert serialized["registered_name"].startswith("pixace_tf>")
        twin = keras.saving.deserialize_keras_object(serialized)
        assert twin.get_config() == layer.get_config()

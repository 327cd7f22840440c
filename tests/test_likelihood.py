import itertools

import numpy as np
import pytest
from conftest import stir

from pixace_tf.data.palette import Palette
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import HEADS, decoder_config
from pixace_tf.sampling.likelihood import Scorer, bits_per_dim, colors_per_token


def small_model(palette, head="chain", size=(1, 2)):
    sizes = decoder_config("pico", "transformer", size[1])
    return stir(PixaceCausalLM(size, palette, "transformer", sizes, head))


def test_scores_do_not_depend_on_the_batch(trained_run):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (11, 8, 12, 3), dtype=np.uint8)
    tokens = trained_run.tokenizer.tokenize(images)
    bits = Scorer(trained_run.model, 4).bits(tokens)
    assert bits.shape == (11, 96)
    # With and without XLA.
    alone = Scorer(trained_run.model, 1, jit_compile=False).bits(tokens[10:])
    np.testing.assert_allclose(bits[10:], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("color_space", ["hsv", "rgb"])
@pytest.mark.parametrize("head", HEADS)
def test_channels_add_up_to_the_pixel(head, color_space):
    palette = Palette(color_space, (3, 2, 2))
    model = small_model(palette, head, (4, 4))
    tokens = np.random.default_rng(0).integers(0, 128, (3, 16)).astype(np.int32)
    tokens = np.where(palette.is_canonical(tokens), tokens, 0)
    logits = model(tokens)
    parts = model.channel_nats(tokens, logits).numpy()
    assert parts.shape == (3, 16, 3)
    assert (parts > -1e-5).all()
    whole = model.pixel_nats(tokens, logits).numpy()
    np.testing.assert_allclose(parts.sum(-1), whole, atol=1e-4)


def test_channels_of_the_packed_head_are_its_own_sums():
    model = small_model("hsv 2,1,1", "packed")
    token = np.array([[0b1110, 0]], np.int32)
    logits = model(token)
    chances = np.exp(logits[0, 0]) / np.exp(logits[0, 0]).sum()
    codes = np.arange(16)
    bright = chances[codes >= 8].sum()
    colorful = chances[(codes >= 8) & (codes & 4 > 0)].sum()
    expected = [-np.log(bright), -np.log(colorful / bright)]
    parts = model.channel_nats(token, logits).numpy()[0, 0]
    np.testing.assert_allclose(parts[:2], expected, atol=1e-5)


@pytest.mark.parametrize(
    "head", ["packed", pytest.param("chain", marks=pytest.mark.slow)]
)
def test_probabilities_of_all_pictures_sum_to_one(head):
    """Sums over all tokens, and so over all 8-bit pictures, are 1."""
    tokenizer = PixelTokenizer((1, 2), "hsv 2,1,1")
    palette = tokenizer.palette
    counts = colors_per_token(palette)
    codes = np.arange(16, dtype=np.int32)
    codes = codes[palette.is_canonical(codes)]
    assert set(codes) == set(np.flatnonzero(counts))
    pictures = np.array(list(itertools.product(codes, repeat=2)), np.int32)
    model = small_model(palette, head)
    bits = Scorer(model, len(pictures)).bits(pictures)
    assert np.exp2(-bits.sum(axis=1)).sum() == pytest.approx(1, abs=1e-5)
    # As many 8-bit pictures as the product of the counts share each chance.
    dims = bits_per_dim(bits, pictures, tokenizer) * 6
    shares = np.exp2(-dims) * np.prod(counts[pictures].astype(float), axis=1)
    assert shares.sum() == pytest.approx(1, abs=1e-5)


def test_counts_of_rgb_are_products_of_channel_counts():
    """The oracle rounds each level of each channel by itself, in NumPy."""
    bits = (3, 1, 2)
    channels = [
        np.bincount(
            np.floor(np.arange(256) * (2**b - 1) / 255 + 0.5).astype(int)
        )
        for b in bits
    ]
    red, green, blue = channels
    expected = np.einsum("b,g,r->bgr", blue, green, red).reshape(-1)
    counts = colors_per_token(Palette("rgb", bits))
    np.testing.assert_array_equal(counts, expected)


def test_counts_of_hsv_are_all_colors_and_agree_with_a_sample():
    counts = colors_per_token(Palette())
    assert counts.sum() == 1 << 24
    tokenizer = PixelTokenizer((512, 512))
    rng = np.random.default_rng(0)
    sample = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    seen = np.bincount(tokenizer.tokenize(sample), minlength=8192)
    assert not seen[counts == 0].any()
    expected = counts * (512 * 512 / (1 << 24))
    deviations = (seen - expected)[counts > 0] / np.sqrt(expected[counts > 0])
    assert np.mean(deviations**2) == pytest.approx(1, abs=0.1)


def test_bits_per_dim_of_rgb_888_is_a_third_of_the_bits_per_pixel():
    tokenizer = PixelTokenizer((1, 2), "rgb 8,8,8")
    bits = np.array([[6.0, 12.0]])
    dims = bits_per_dim(bits, np.array([[0, 0xFFFFFF]]), tokenizer)
    np.testing.assert_allclose(dims, [3.0])


def test_bits_per_dim_counts_what_the_palette_hides():
    """With one gray and one bit, half of all colors share a code."""
    tokenizer = PixelTokenizer((1, 2), "rgb 0,1,0")
    dims = bits_per_dim(np.ones((1, 2)), np.array([[0, 1]]), tokenizer)
    np.testing.assert_allclose(dims, [(1 + 23) / 3])

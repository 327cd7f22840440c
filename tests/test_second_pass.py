"""Other shapes of asking: variations, mirrored shapes, seamless tiles."""

import numpy as np
import pytest
import tensorflow as tf

import pixace_tf
from pixace_tf.data import cartoons
from pixace_tf.data.palette import Palette
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.painting import masks, second_pass
from pixace_tf.painting.local import LocalPainter
from pixace_tf.painting.request import Request, generation
from pixace_tf.sampling.graph_engine import GraphEngine
from pixace_tf.sampling.sampler import Sampler

SIZE = 6, 8


class StandInRun:
    """A model with random weights, as painters take it."""

    are_pairs = False

    def __init__(self, palette):
        tf.keras.utils.set_random_seed(0)
        config = decoder_config("pico", "multiscale", SIZE[1])
        model = PixaceCausalLM(SIZE, palette, "multiscale", config, "chain")
        self.sampler = Sampler(GraphEngine(model, jit_compile=False))
        self.tokenizer = PixelTokenizer(SIZE, palette)


@pytest.fixture(scope="module")
def run():
    return StandInRun(Palette.parse("hsv 2,2,2 alpha 1"))


@pytest.fixture
def picture():
    return np.asarray(
        cartoons.draw("cat", "0").convert("RGBA").resize(SIZE[::-1])
    )


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8, 1.0])
def test_patches_hide_about_the_share(share):
    hidden = [masks.patches(seed, share, 32, 24).mean() for seed in range(99)]
    assert share <= min(hidden) <= max(hidden) <= min(1, share + 0.16)


def test_patches_depend_on_the_seed_and_hide_each_place_alike():
    many = np.stack([masks.patches(seed, 0.3, 20, 20) for seed in range(600)])
    np.testing.assert_array_equal(many[7], masks.patches(7, 0.3, 20, 20))
    assert len(np.unique(many.reshape(len(many), -1), axis=0)) > 590
    often = many.mean(axis=0).reshape(4, 5, 4, 5).mean(axis=(1, 3))
    assert often.max() - often.min() < 0.15


def test_patches_of_one_pixel_hide_it():
    assert masks.patches(0, 0.01, 1, 1).all()


def test_the_border_goes_around_the_image():
    expected = np.ones((16, 5), bool)
    expected[2:-2, 1:-1] = False
    np.testing.assert_array_equal(masks.border(16, 5), expected)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
def test_rolling_by_half_is_undone(size):
    pixels = np.arange(2 * size[0] * size[1]).reshape(2, -1)
    rolled = second_pass.roll_half(pixels, size)
    middle = rolled.reshape(2, *size)[:, size[0] // 2, size[1] // 2]
    np.testing.assert_array_equal(middle, pixels[:, 0])
    back = second_pass.roll_half(rolled, size, -1)
    np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize("text", ["hsv 2,2,2 alpha 1", "rgb 8,8,8 alpha 8"])
@pytest.mark.parametrize("width", [4, 5])
def test_the_right_half_gets_the_alpha_of_the_left(text, width):
    tokenizer = PixelTokenizer((3, width), Palette.parse(text))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, width, 4), dtype=np.uint8)
    tokens = tokenizer.tokenize(images)
    mirrored = second_pass.mirror(tokens, (3, width))
    before = tokenizer.detokenize(tokens)
    after = tokenizer.detokenize(mirrored)
    left = slice(0, (width + 1) // 2)
    np.testing.assert_array_equal(after[:, :, left], before[:, :, left])
    np.testing.assert_array_equal(after[..., 3], after[:, :, ::-1, 3])


def test_variations_differ_and_keep_the_rest(run, picture):
    request = Request([picture], vary=0.3, samples=4, seed=5)
    done = LocalPainter(run).complete(request)
    kept = run.tokenizer.detokenize(run.tokenizer.tokenize(picture[None]))
    is_changed = np.any(done.images[0, 0] != kept, axis=-1)
    assert len(np.unique(is_changed.reshape(4, -1), axis=0)) == 4
    seeds = request.seeds(run.tokenizer.tokenize(picture[None]))
    hidden = [masks.patches(int(seed), 0.3, *SIZE) for seed in seeds]
    assert not np.any(is_changed & ~np.stack(hidden))


def test_one_variation_is_a_filled_mask(run, picture):
    painter = LocalPainter(run)
    (seed,) = Request([picture]).seeds(run.tokenizer.tokenize(picture[None]))
    mask = masks.patches(int(seed), 0.4, *SIZE)
    expected = painter.complete(Request([picture], mask=mask))
    varied = painter.complete(Request([picture], vary=0.4))
    np.testing.assert_array_equal(varied.images, expected.images)
    np.testing.assert_array_equal(varied.kept, expected.kept)


def test_new_shapes_are_symmetric_and_keep_their_left_half(run):
    counts = []
    painter = LocalPainter(run)
    plain = painter.generate(generation(6))
    new = painter.generate(
        generation(6, symmetric=True), lambda *count: counts.append(count)
    )
    np.testing.assert_array_equal(new[..., 3], new[..., ::-1, 3])
    np.testing.assert_array_equal(new[..., :4, :], plain[..., :4, :])
    assert np.any(new[..., :3] != new[..., ::-1, :3])
    assert counts == sorted(counts)
    assert counts[-1][0] == counts[-1][1]


def test_a_seamless_image_is_filled_around_its_edges(run, picture):
    painter, tokenizer = LocalPainter(run), run.tokenizer
    tokens = tokenizer.tokenize(picture[None])
    request = Request([picture], seamless=True)
    done = painter.complete(request)
    shift = SIZE[0] // 2, SIZE[1] // 2
    around = np.roll(tokens.reshape(SIZE), shift, axis=(0, 1))
    is_hidden = np.roll(masks.border(*SIZE), shift, axis=(0, 1))
    filled = run.sampler.fill(
        around.reshape(1, -1), is_hidden.reshape(1, -1), request.seeds(tokens)
    )
    expected = np.roll(
        filled.reshape(SIZE), (-shift[0], -shift[1]), axis=(0, 1)
    )
    expected = tokenizer.detokenize(expected.reshape(1, -1))
    np.testing.assert_array_equal(done.images[0, 0], expected)
    inside = ~masks.border(*SIZE)
    kept = tokenizer.detokenize(tokens)[0]
    np.testing.assert_array_equal(done.images[0, 0, 0][inside], kept[inside])


def test_a_new_seamless_image_keeps_the_inside_of_the_first(run):
    painter = LocalPainter(run)
    shown = []
    plain = painter.generate(generation(3))
    new = painter.generate(
        generation(3, seamless=True), watch=lambda images: shown.append(images)
    )
    inside = ~masks.border(*SIZE)
    np.testing.assert_array_equal(new[:, :, inside], plain[:, :, inside])
    np.testing.assert_array_equal(shown[-1], new)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vary": 0}, "vary must be above 0 and at most 1"),
        ({"vary": 1.1}, "vary must be above 0"),
        ({"vary": [0.1, 0.2]}, "vary must be one number"),
        ({"vary": 0.2, "cover": "top"}, "only one of cover, vary"),
        ({"keep": 0.2, "cover": "top"}, "only one of keep, cover"),
        ({"vary": 0.2, "seamless": True}, "only one of vary, seamless"),
        ({"seamless": 1}, "seamless must be True or False"),
        ({"symmetric": True}, "symmetric is for new images"),
    ],
)
def test_bad_requests_are_one_clear_error(options, message):
    with pytest.raises(UserError, match=message):
        Request([np.zeros((4, 4, 3), np.uint8)], **options)


def test_a_run_without_transparency_has_no_shape_to_mirror(trained_run):
    with pytest.raises(UserError, match="needs a run with transparency"):
        pixace_tf.generate(trained_run, 1, symmetric=True)

import keras
import numpy as np
import pytest
from conftest import stir
from matplotlib import font_manager

import pixace_tf
from pixace_tf.data import cartoons
from pixace_tf.data.raster_orders import permutation, vector_rows
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.painting import sheets
from pixace_tf.painting.palette_sheet import palette_sheet
from pixace_tf.painting.request import Request
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling.likelihood import Scorer

SIZE = (8, 12)


@pytest.fixture
def cat():
    return np.asarray(cartoons.draw("cat", "7"))


def test_the_top_is_kept_and_the_rest_is_drawn(trained_run, cat):
    done = pixace_tf.complete(
        trained_run, [cat, cat[:, ::-1]], temperatures=(0.9, 1.1), samples=3
    )
    assert done.images.shape == (2, 2, 3, *SIZE, 3)
    kept = trained_run.tokenizer.detokenize(
        trained_run.tokenizer.tokenize(done.originals)
    )
    top = kept[:, None, None, :4]
    np.testing.assert_array_equal(
        done.images[..., :4, :, :], top.repeat(2, 1).repeat(3, 2)
    )
    np.testing.assert_array_equal(done.kept[:, :4], kept[:, :4])


def test_a_completion_does_not_depend_on_its_neighbors(trained_run, cat):
    both = pixace_tf.complete(trained_run, [cat[::-1], cat], samples=2)
    alone = pixace_tf.complete(trained_run, [cat], samples=1, seed=1)
    np.testing.assert_array_equal(both.images[1, 0, 1], alone.images[0, 0, 0])


def test_the_kth_picture_has_its_own_seed(trained_run):
    many = pixace_tf.generate(trained_run, 5, seed=10)
    one = pixace_tf.generate(trained_run, 1, seed=13)
    np.testing.assert_array_equal(many[0, 3], one[0, 0])


def test_prefix_length_counts_pixels(trained_run, cat):
    done = pixace_tf.complete(trained_run, [cat], prefix_length=96)
    expected = trained_run.tokenizer.detokenize(
        trained_run.tokenizer.tokenize(done.originals)
    )
    np.testing.assert_array_equal(done.images[0, 0], expected)


def test_sheets_have_room_for_every_tile(trained_run, cat):
    done = pixace_tf.complete(trained_run, [cat], samples=2)
    sheet = done.sheet(scale=4)
    assert sheet.width >= 4 * 12 * 4
    assert sheet.height >= 8 * 4
    assert sheets.grid(np.zeros((5, 4, 4, 3), np.uint8), 2).mode == "RGB"


def test_strips_of_sprites_have_no_other_colors(tmp_path):
    rng = np.random.default_rng(0)
    sprites = rng.choice([0, 120, 255], (3, 24, 24, 4)).astype(np.uint8)
    sprites[..., 3] = np.where(sprites[..., 3] > 0, 255, 0)
    sheets.strip(sprites).save(tmp_path / "strip.png")
    sheet = sheets.strips({"": tmp_path / "strip.png"}, 128)
    levels = {0, 120, 255, *np.ravel(sheets._CHECKERS).tolist()}
    assert set(np.unique(np.asarray(sheet))) == levels


def test_what_comes_after_the_prefix_is_covered():
    pixels = np.zeros((4, 4, 3), np.uint8)
    hidden = sheets.hide_after(pixels, 6)
    covered = hidden.any(axis=-1).reshape(-1)
    np.testing.assert_array_equal(covered, np.arange(16) >= 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "at least one"),
        ({"images": ["none.png"]}, "none.png: no such file"),
        ({"images": [np.zeros((4, 4))]}, "uint8 array"),
        ({"keep": 1.5}, "keep must be a number from 0 to 1"),
        ({"samples": 0}, "samples must be an integer from 1"),
        ({"prefix_length": 97}, "prefix_length"),
        ({"temperatures": (0.0,)}, "temperature"),
        ({"temperatures": ()}, "at least one of temperatures"),
        ({"images": "cat.png"}, "not a single path"),
    ],
)
def test_bad_input_is_one_clear_error(trained_run, cat, arguments, message):
    with pytest.raises(UserError, match=message):
        pixace_tf.complete(trained_run, **{"images": [cat], **arguments})


def test_palettes_lose_more_with_fewer_bits(tmp_path):
    """Compared where the columns of the sheet show the image itself."""
    path = tmp_path / "a.png"
    cartoons.draw("fox", "0").save(path)
    palettes = ("hsv 8,8,8", "hsv 5,4,4", "hsv 3,2,2", "hsv 1,1,1")
    tokenizers = [PixelTokenizer((32, 32), palette) for palette in palettes]
    sheet = palette_sheet([path], tokenizers, scale=4)
    top = np.asarray(sheet)[30:150].astype(float)  # Below the headings.
    columns = np.split(top[:, : top.shape[1] // 5 * 5], 5, axis=1)
    losses = [np.mean((c - columns[0]) ** 2) for c in columns[1:]]
    assert losses == sorted(losses)
    assert losses[-1] > 4 * losses[0]


def test_a_request_keeps_the_same_share_everywhere():
    request = Request(keep=0.3)
    assert [request.prefix_in(n) for n in (10, 96, 1024)] == [3, 29, 307]
    assert Request(prefix_length=7).prefix_in(96) == 7


def test_samples_lie_row_by_row_temperature_by_temperature():
    request = Request(["a", "b"], samples=3, temperatures=(0.8, 1.2), seed=5)
    numbers = request.choose(np.arange(12), np.zeros(12))
    np.testing.assert_array_equal(numbers, np.arange(12).reshape(2, 2, 3))
    seeds = request.seeds().reshape(2, 3)
    np.testing.assert_array_equal(seeds, np.broadcast_to([5, 6, 7], (2, 3)))
    config = request.sampling_config(2).arrays(12)
    temperatures = config["temperature"].reshape(2, 2, 3)
    expected = np.broadcast_to([[[0.8], [1.2]]], (2, 2, 3))
    np.testing.assert_allclose(temperatures, expected, rtol=1e-6)


def test_seeds_go_with_the_picture_not_with_its_place():
    request = Request(["a", "b"], samples=2, temperatures=(0.8, 1.2), seed=5)
    token_ids = np.arange(12).reshape(2, 6)
    seeds = request.seeds(token_ids).reshape(2, 2, 2)
    np.testing.assert_array_equal(seeds[:, 0], seeds[:, 1])
    np.testing.assert_array_equal(seeds[..., 1], seeds[..., 0] + 1)
    assert seeds[0, 0, 0] != seeds[1, 0, 0]
    alone = request.seeds(token_ids[1:].astype(np.int64))
    np.testing.assert_array_equal(alone, seeds[1].reshape(-1))


def test_pictures_with_the_same_kept_part_go_on_differently(trained_run, cat):
    other = cat.copy()
    other[len(cat) // 2 :] = 255 - other[len(cat) // 2 :]
    done = pixace_tf.complete(trained_run, [cat, other, cat], keep=0.25)
    np.testing.assert_array_equal(done.kept[0], done.kept[1])
    assert np.any(done.images[0] != done.images[1])
    np.testing.assert_array_equal(done.images[0], done.images[2])


def test_the_best_is_the_likeliest_of_its_seeds(trained_run, cat):
    options = {"temperatures": (0.8, 1.2), "seed": 3}
    shown = []
    best = pixace_tf.complete(
        trained_run, [cat], samples=2, best=3, watch=shown.append, **options
    )
    every = pixace_tf.complete(trained_run, [cat], samples=6, **options)
    assert best.images.shape == shown[0].shape == (1, 2, 2, *SIZE, 3)
    tokens = trained_run.tokenizer.tokenize(every.images)
    model = trained_run.model
    flat = tokens.reshape(-1, tokens.shape[-1])
    nats = model.pixel_nats(flat, model(flat)).numpy().mean(axis=1)
    chosen = nats.reshape(2, 2, 3).argmin(axis=-1)
    for i, j in np.ndindex(2, 2):
        expected = every.images[0, i, 3 * j + chosen[i, j]]
        np.testing.assert_array_equal(best.images[0, i, j], expected)
    new = pixace_tf.generate(trained_run, 2, best=3, seed=4)
    assert new.shape == (1, 2, *SIZE, 3)
    several = pixace_tf.generate(trained_run, 6, seed=4)[0]
    assert any(np.array_equal(new[0, 1], image) for image in several[3:])


@pytest.fixture(scope="module")
def labeled_run():
    """A model with labels and orders that has learned nothing."""
    keras.utils.set_random_seed(1)
    tokenizer = PixelTokenizer((8, 8), "rgb 2,2,2")  # Each color is a code.
    model = PixaceCausalLM(
        tokenizer.image_size,
        tokenizer.palette,
        "multiscale",
        decoder_config("pico", "multiscale"),
        orders=vector_rows((8, 8), False, True),
        labels=("cat", "dog"),
    )
    stirred = stir(model)
    # Labels must weigh as much as pixels.
    table = model.condition.tables[1]
    table.assign_add(30 * keras.random.normal(table.shape))
    return Run("none", tokenizer, {}, lambda: stirred, jit_compile=False)


def test_the_best_is_the_likeliest_given_its_label_and_order(labeled_run, cat):
    options = {"cover": "top", "label": "dog", "seed": 4}
    best = pixace_tf.complete(labeled_run, [cat], best=8, **options)
    every = pixace_tf.complete(labeled_run, [cat], samples=8, **options)
    tokens = labeled_run.tokenizer.tokenize(every.images[0, 0])
    model = labeled_run.model
    # A covered top is painted upside down.
    tokens_read = tokens[:, permutation(2, (8, 8))]
    condition = np.tile(np.int32([model.orders[2], 2]), (8, 1))
    logits = model((tokens_read, condition))
    nats = model.pixel_nats(tokens_read, logits).numpy()
    chosen = nats.mean(axis=1).argmin()
    np.testing.assert_array_equal(
        best.images[0, 0, 0], every.images[0, 0, chosen]
    )
    # Without the condition, another one would be the likeliest.
    assert (
        chosen
        != model.pixel_nats(tokens, model(tokens)).numpy().mean(1).argmin()
    )


def test_the_best_new_image_is_the_likeliest_given_its_label(labeled_run):
    options = {"label": "dog", "seed": 4}
    every = pixace_tf.generate(labeled_run, 16, **options)[0]
    best = pixace_tf.generate(labeled_run, 1, best=16, **options)
    tokens = labeled_run.tokenizer.tokenize(every)
    scorer = Scorer(labeled_run.model, 16, jit_compile=False)
    plain, given = (
        scorer.bits(tokens, labels=label).mean(axis=1).argmin()
        for label in (0, 2)
    )
    np.testing.assert_array_equal(best[0, 0], every[given])
    assert plain != given


def test_captions_have_a_font_with_their_letters(monkeypatch):
    names = ["cat", "B\u00e4r", "\u043a\u043e\u0442"]
    assert sheets.readable(names) == names
    sheets._font.cache_clear()
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    assert sheets.readable(["cat", "\u72ac"]) == ["1", "2"]
    sheets._font.cache_clear()

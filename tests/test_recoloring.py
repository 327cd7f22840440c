import dataclasses
import io

import keras
import numpy as np
import pytest
from PIL import Image
from test_export import make_run

from pixace_tf.data.palette import Palette
from pixace_tf.evaluation import recoloring
from pixace_tf.evaluation.evidence import MissingDataError, gather
from pixace_tf.evaluation.frechet import Judge
from pixace_tf.evaluation.recoloring import given_channels, recolor
from pixace_tf.sampling.likelihood import Scorer

SIZE = 4, 6


@pytest.mark.parametrize(
    ("palette", "given"),
    [
        ("hsv 5,4,4", ["value"]),
        ("hsv 5,4,4 alpha 1", ["alpha", "value"]),
        ("rgb 8,8,8", ["green"]),
        ("rgb 3,3,2 alpha 8", ["alpha", "green"]),
    ],
)
def test_lightness_and_alpha_stay(palette, given):
    assert given_channels(Palette.parse(palette)) == given


def test_a_gray_palette_has_nothing_to_recolor():
    with pytest.raises(MissingDataError, match="no channel beside value"):
        given_channels(Palette.parse("hsv 0,0,8"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run with random weights, and evidence of five pictures."""
    path = tmp_path_factory.mktemp("recoloring") / "run"
    run = make_run(path, image_size=SIZE, palette="hsv 5,4,4 alpha 2")
    run.arguments["jit_compile"] = False
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, *SIZE, 4), dtype=np.uint8)
    return gather(run, images, ["cat", "dog", "cat", "fox", ""])


def cat_judge():
    """A classifier that always sees a cat."""
    network = keras.Sequential(
        [
            keras.layers.Input((32, 32, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, kernel_initializer="zeros"),
        ]
    )
    network.layers[-1].bias.assign([1, 0])
    return Judge(network, np.array(["cat", "dog"]), None)


def no_judge():
    raise MissingDataError("No classes.")


@pytest.mark.slow
def test_only_colors_change_and_their_cost_is_told(small):
    palette = small.run.tokenizer.palette
    for particles in (1, 8):
        drawn = recoloring._recolor(small, ["alpha", "value"], particles)
        assert np.all(palette.is_canonical(drawn))
        before, after = map(palette.unpack, (small.token_ids, drawn))
        for channel in (2, 3):
            np.testing.assert_array_equal(before[channel], after[channel])
        assert np.mean(before[0] != after[0]) > 0.3
    figures, images = recolor(small, cat_judge)
    assert figures["given"] == ["alpha", "value"]
    bits = Scorer(small.run.model, jit_compile=False).bits(small.token_ids)
    assert figures["bits_per_pixel"]["original"] == pytest.approx(bits.mean())
    # Of cat, dog, cat; the classifier has never heard of foxes.
    assert figures["named"] == {
        "pictures": 3,
        **dict.fromkeys(("original", "recolored", "naive"), 2 / 3),
    }
    sheet = Image.open(io.BytesIO(images["recolored"]))
    assert sheet.width > 8 * 128


def test_without_classes_nothing_is_recognized(small):
    assert recoloring._named(small, {}, no_judge) is None


def test_training_pictures_are_not_recolored(small):
    trained = dataclasses.replace(small, is_held_out=np.zeros(5, bool))
    with pytest.raises(MissingDataError, match="are training pictures"):
        recolor(trained, no_judge)

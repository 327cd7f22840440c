import math

import numpy as np
import pytest

from pixace_tf import cartoons, evaluation
from pixace_tf.evaluation import Scorer
from pixace_tf.tokenizer import PixelTokenizer


def test_scores_do_not_depend_on_the_batch(trained_run):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (11, 8, 12, 3), dtype=np.uint8)
    tokens = trained_run.tokenizer.tokenize(images).numpy()
    bits = Scorer(trained_run.model, 4).bits(tokens)
    assert bits.shape == (11, 96)
    alone = Scorer(trained_run.model, 1).bits(tokens[10:])
    np.testing.assert_allclose(bits[10:], alone, rtol=1e-3, atol=1e-3)


def test_unigram_entropy_of_known_counts():
    tokens = np.array([[1, 1, 2, 3]])
    assert evaluation.unigram_bits_per_pixel(tokens) == pytest.approx(1.5)


def test_psnr_of_a_known_difference():
    black = np.zeros((2, 2, 3), np.uint8)
    assert evaluation.psnr(black, black) == math.inf
    assert evaluation.psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-3)


def test_more_bits_come_nearer_to_the_picture():
    images = np.stack(
        [np.asarray(cartoons.draw("fox", str(i))) for i in range(3)]
    )
    quality = [
        evaluation.palette_psnr(images, PixelTokenizer((96, 96), widths))
        for widths in ((3, 2, 2), (5, 4, 4), (8, 8, 8))
    ]
    assert quality == sorted(quality)
    assert quality[-1] > 45


def test_the_summary_agrees_with_its_parts(trained_run):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)
    figures = evaluation.summarize(
        trained_run.model, trained_run.tokenizer, images
    )
    tokens = trained_run.tokenizer.tokenize(images).numpy()
    bits = Scorer(trained_run.model).bits(tokens)
    assert figures["bits_per_pixel"] == pytest.approx(bits.mean(), rel=1e-6)
    assert figures["pictures"] == 5

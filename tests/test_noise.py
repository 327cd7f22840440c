"""The noise of sampling: NumPy's against TensorFlow's."""

import numpy as np
import pytest
import tensorflow as tf

from pixace_tf.sampling import draws, noise

SEEDS = [0, 1, -1, 7, 2**31, 2**32, -(2**32), 2**63 - 1, -(2**63)]


def test_a_million_numbers_are_those_of_tensorflow():
    ours = noise.uniform_noise(np.array([5]), 10**6 + 1, 1)
    theirs = draws.uniform_noise(tf.constant([5], tf.int64), 10**6 + 1, 1)
    np.testing.assert_array_equal(ours, theirs)


def test_pixels_of_any_seed_have_the_noise_of_tensorflow():
    seeds = np.array(SEEDS)
    ours = noise.uniform_noise(seeds, 12, 3)
    np.testing.assert_array_equal(ours, draws.uniform_noise(seeds, 12, 3))
    assert ours.min() >= 0
    assert ours.max() < 1


@pytest.mark.parametrize("seed", SEEDS)
def test_particles_of_any_seed_have_the_noise_of_tensorflow(seed):
    tensor = tf.constant(seed, tf.int64)
    np.testing.assert_array_equal(
        noise.particle_seeds(seed, 65), draws.particle_seeds(tensor, 65)
    )
    np.testing.assert_array_equal(
        noise.uniform(seed, noise.CHOICES, 11), draws.choice_noise(tensor, 10)
    )

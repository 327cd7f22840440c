"""The noise of sampling: TensorFlow's stateless random numbers, in NumPy.

Each number depends on a seed and on its place alone, so an image is the same on
every engine. The generator is Philox 4x32-10 (Salmon and others 2011), and the
seeds are scrambled as by `tf.random.stateless_uniform(..., alg="philox")`.

Shapes: B images, T pixels.
"""

import numpy as np

# Second halves of the seeds: of the pixels' noise, of particles' seeds, of the
# choices among particles, and of the patches to vary.
PIXELS, PARTICLES, CHOICES, PATCHES = 0, 1, 2, 3

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint32)
_SCRAMBLING_KEY = np.array([0x3EC8F720, 0x02461E29], np.uint32)


def uniform_noise(seeds: np.ndarray, length: int, num_draws: int) -> np.ndarray:
    """Draw the noise of each image from its own seed.

    Args:
        seeds: int64 `(B,)`.
        length: Pixels T of an image.
        num_draws: Numbers for each pixel.

    Returns:
        float32 `(B, T, num_draws)` in `[0, 1)`.
    """
    noise = np.empty((len(seeds), length, num_draws), np.float32)
    for row, seed in zip(noise, seeds, strict=True):
        row[:] = uniform(int(seed), PIXELS, row.size).reshape(row.shape)
    return noise


def particle_seeds(seed: int, count: int) -> np.ndarray:
    """Derive the seeds of particles, int64 `(count,)`, from their image's.

    The first one is `seed` itself.
    """
    bits = _bits(seed, PARTICLES, 2 * (count - 1)).astype(np.uint64)
    others = bits[::2] | bits[1::2] << np.uint64(32)
    first = np.array([seed], np.int64)
    return np.concatenate([first, others.view(np.int64)])


def uniform(seed: int, kind: int, count: int) -> np.ndarray:
    """Return float32 `(count,)` in `[0, 1)`.

    Args:
        seed: From -2**63 to 2**63 - 1.
        kind: The second half of the seed, such as `PIXELS`.
        count: How many numbers to draw.
    """
    # Numbers in [1, 2) with 23 random bits of mantissa.
    ones = _bits(seed, kind, count) & 0x7FFFFF | 0x3F800000
    return ones.view(np.float32) - np.float32(1)


def _bits(seed: int, kind: int, count: int) -> np.ndarray:
    """Return uint32 `(count,)`."""
    halves = np.array([seed, kind], np.int64).view(np.uint32)
    mixed = _philox(halves[None], _SCRAMBLING_KEY)[0]
    counters = np.zeros((-(-count // 4), 4), np.uint32)
    # Nobody draws so many numbers that the third word would change.
    index = np.arange(len(counters), dtype=np.uint64)
    counters[:, 0], counters[:, 1] = index & 0xFFFFFFFF, index >> np.uint64(32)
    counters[:, 2:] = mixed[2:]
    return _philox(counters, mixed[:2]).reshape(-1)[:count]


def _philox(counters: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Encrypt counters, uint32 `(N, 4)`, with a key, uint32 `(2,)`."""
    even, odd = counters[:, ::2], counters[:, 1::2]
    for _ in range(10):
        product = even * _MULTIPLIERS
        high = (product >> np.uint64(32)).astype(np.uint32)
        low = product.astype(np.uint32)
        even, odd = high[:, ::-1] ^ odd ^ key, low[:, ::-1]
        key = key + _WEYL
    return np.stack([even, odd], axis=2).reshape(-1, 4)

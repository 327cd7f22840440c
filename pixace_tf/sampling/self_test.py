"""A short painting with a known result, to tell whether a runtime is right.

LiteRT without XNNPACK can be wrong without an error (google-ai-edge/LiteRT
issue 8928), so no runtime is trusted before it has passed.
"""

from typing import Any

import numpy as np

from pixace_tf.sampling.sampler import Sampler
from pixace_tf.sampling.sampling_config import SamplingConfig

# Draws near a tie may differ between machines. A seed is fit for the test if
# its pixels do not change when the logits change by this share.
_MARGIN = 1e-4
_MAX_SEED = 1000
# Different orders of summation change costs by less than this share.
_TOLERANCE = 1e-3


def create(sampler: Sampler) -> dict[str, Any]:
    """Return a JSON-ready test that this sampler passes."""
    scale = 1 + np.array([0, _MARGIN, -_MARGIN])
    for seed in range(_MAX_SEED):
        drawn = _paint(sampler, [seed] * len(scale), scale)
        if np.all(drawn == drawn[0]):
            break
    return {
        "seed": seed,
        "token_ids": drawn[0].tolist(),
        "bits": float(sampler.bits(drawn[:1]).sum()),
    }


def passes(sampler: Sampler, test: dict[str, Any]) -> bool:
    """Tell whether a sampler gives the pixels and costs of a test."""
    expected = np.array([test["token_ids"]])
    if not np.array_equal(_paint(sampler, [test["seed"]]), expected):
        return False
    bits = float(sampler.bits(expected).sum())
    return abs(bits - test["bits"]) <= _TOLERANCE * abs(test["bits"])


def _paint(
    sampler: Sampler, seeds: list[int], temperature: Any = 1.0
) -> np.ndarray:
    """Sample the first quarter of images, for all other pixels are black."""
    facts = sampler.facts
    shape = len(seeds), facts.sequence_length
    mask = np.arange(facts.sequence_length) < facts.span_length
    return sampler.fill(
        np.zeros(shape, np.int32),
        np.tile(mask, (len(seeds), 1)),
        seeds,
        SamplingConfig(temperature),
        num_particles=1,
    )

"""The size of model that learns most in a given time.

A larger model learns more from each pixel but sees fewer of them in the same
time. The loss is modeled as a constant, a term for the size and a term for the
number of pixels (arXiv 2203.15556), fitted by `pipelines/size_law.py`. The law
assumes that all pixels are new: it ignores memorized images.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import keras

from pixace_tf.model.pixel_inputs import EMBEDDING_DIM, NEIGHBORS
from pixace_tf.model.presets import decoder_config

# Smallest first; `pico` is only for trying things out.
PRESET_CHOICES = ("micro", "nano", "small", "base")
# Features of a pixel's neighbors, which each decoder projects to its width.
_NEIGHBORS_DIM = len(NEIGHBORS) * EMBEDDING_DIM
# The products of a training step run at this share of the speed of one large
# product, and the rest takes the time of this many multiplications per pixel;
# measured with four sizes on two CPU cores, not on a GPU.
_SPEED_SHARE = 0.75
_OTHER_MACS = 270_000
_MEASURED_WIDTH = 1024


@dataclasses.dataclass(frozen=True)
class SizeLaw:
    """Bits per pixel of a model with N parameters after D pixels.

    They are `floor + size_scale / N**size_power + data_scale / D**data_power`.
    """

    floor: float
    size_scale: float
    size_power: float
    data_scale: float
    data_power: float

    def bits_per_pixel(self, parameters: float, pixels: float) -> float:
        """Return the expected validation loss."""
        return (
            self.floor
            + self.size_scale * parameters**-self.size_power
            + self.data_scale * pixels**-self.data_power
        )


# For photos of 32x32 in HSV 544; see `pipelines/results/size-law.md`.
LAW = SizeLaw(3.3529, 49.3028, 0.4683, 111.6636, 0.3585)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A preset, its approximate size, and its speed on a machine."""

    preset: str
    parameters: float
    pixels_per_second: float

    def bits_per_pixel(self, seconds: float, law: SizeLaw = LAW) -> float:
        """Return the expected loss after a training of this length."""
        pixels = max(1.0, seconds * self.pixels_per_second)
        return law.bits_per_pixel(self.parameters, pixels)


def candidates(
    decoder: str, image_size: tuple[int, int], flops: float
) -> list[Candidate]:
    """Return the presets to choose from, smallest first.

    `image_size` is `(height, width)`; `measure_flops` returns `flops`.
    """
    found = []
    for preset in PRESET_CHOICES:
        sizes = decoder_config(preset, decoder, image_size[1])
        speed = pixels_per_second(sizes, math.prod(image_size), flops)
        found.append(Candidate(preset, num_parameters(sizes), speed))
    return found


def best_for_time(choices: Sequence[Candidate], seconds: float) -> Candidate:
    """Return the candidate that learns most in a time."""
    return min(choices, key=lambda choice: choice.bits_per_pixel(seconds))


def best_for_pixels(choices: Sequence[Candidate], pixels: float) -> Candidate:
    """Return the largest candidate that no other beats in the time it takes.

    The largest model learns most from a number of pixels, but a smaller one may
    learn more in the same time by seeing more of them. The smallest choice
    comes first; `pixels` are those seen in the whole training.
    """
    for choice in reversed(choices):
        seconds = pixels / choice.pixels_per_second
        if best_for_time(choices, seconds) is choice:
            return choice
    return choices[0]


def choose(
    decoder: str,
    image_size: tuple[int, int],
    seconds: float | None,
    pixels: float,
) -> tuple[str, str]:
    """Choose the size of a model for this machine.

    The budget is the time to train or, if `seconds` is None, the pixels of the
    whole training. `image_size` is `(height, width)`.

    Returns:
        The name of the preset, and a line that explains the choice.
    """
    flops = measure_flops()
    choices = candidates(decoder, image_size, flops)
    if seconds is None:
        best = best_for_pixels(choices, pixels)
        budget = f"for {pixels / 1e6:,.3g} million pixels"
        seconds = pixels / best.pixels_per_second
    else:
        best = best_for_time(choices, seconds)
        budget = f"in {seconds / 60:,.3g} minutes"
    seen = ", ".join(
        f"{c.preset} {c.parameters / 1e6:.2g} and "
        f"{c.pixels_per_second * seconds / 1e6:,.2g}"
        for c in choices
    )
    return best.preset, (
        f"Preset {best.preset} should learn most {budget} on this machine "
        f"({flops / 1e9:,.0f} GFLOP/s). Million parameters, and million pixels "
        f"seen in the same time: {seen}."
    )


def pixels_per_second(
    sizes: Mapping[str, int], length: int, flops: float
) -> float:
    """Return the speed of training.

    `sizes` come from `decoder_config`, an image has `length` pixels, and
    `measure_flops` returns `flops`.
    """
    macs = macs_per_pixel(sizes, length) + _OTHER_MACS
    # A multiplication and an addition forward, and twice that backward.
    return _SPEED_SHARE * flops / (6 * macs)


def macs_per_pixel(sizes: Mapping[str, int], length: int) -> float:
    """Return the multiplications per pixel of a forward pass.

    `sizes` come from `decoder_config`; an image has `length` pixels.
    """
    macs = _pixel_weights(sizes)
    if "patch_length" not in sizes:
        return macs + _stack_macs(sizes, "", length)
    patch_length = sizes["patch_length"]
    patch_macs = _stack_macs(sizes, "", length / patch_length)
    macs += (patch_macs + _patch_weights(sizes)) / patch_length
    return macs + _stack_macs(sizes, "local_", patch_length)


def num_parameters(sizes: Mapping[str, int]) -> float:
    """Return the number of weights in a model's products, nearly all it has."""
    count = _pixel_weights(sizes) + _stack_macs(sizes, "", 0)
    if "patch_length" in sizes:
        count += _patch_weights(sizes) + _stack_macs(sizes, "local_", 0)
    return count


def measure_flops() -> float:
    """Return the operations per second of a large float32 matrix product."""
    matrix = keras.ops.ones((_MEASURED_WIDTH, _MEASURED_WIDTH), "float32")
    times = []
    for _ in range(8):  # The first warms up.
        begin = time.perf_counter()
        float(keras.ops.matmul(matrix, matrix)[0, 0])
        times.append(time.perf_counter() - begin)
    return 2 * _MEASURED_WIDTH**3 / min(times)


def _pixel_weights(sizes: Mapping[str, int]) -> float:
    """Return the weights that read neighbors and predict colors."""
    width = sizes.get("local_hidden_dim", sizes["hidden_dim"])
    return width * (_NEIGHBORS_DIM + 3 * width)


def _patch_weights(sizes: Mapping[str, int]) -> float:
    """Return the weights that read a patch and write its pixels' context."""
    width = sizes["local_hidden_dim"]
    per_pixel = sizes["hidden_dim"] * (EMBEDDING_DIM + width)
    return sizes["patch_length"] * per_pixel


def _stack_macs(sizes: Mapping[str, int], prefix: str, length: float) -> float:
    """Return the multiplications of a position that sees `length` others."""
    width = sizes[f"{prefix}hidden_dim"]
    products = 4 * width + 2 * sizes[f"{prefix}intermediate_dim"] + length
    return sizes[f"{prefix}num_layers"] * width * products

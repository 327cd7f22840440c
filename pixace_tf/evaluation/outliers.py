"""Odd pictures out, and the pixels that the model finds unlikeliest.

Shapes: N images, T pixels.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixace_tf.console import ProgressBar
from pixace_tf.data.fidelity import on_white
from pixace_tf.data.image_files import printable
from pixace_tf.errors import UserError
from pixace_tf.evaluation.baselines import file_bits
from pixace_tf.evaluation.evidence import Evidence
from pixace_tf.painting.sheets import Tile, contact_sheet, readable

NUM_OUTLIERS = 15
# The unlikeliest pixels of a picture that are listed.
NUM_PIXELS = 5
# The share of its pixels, the costliest ones, by which an image is judged.
_JUDGED_SHARE = 0.5
# Pictures and their maps on the sheet: about so large, so many in a row.
_SIDE, _PAIRS_IN_A_ROW = 192, 3
_MAX_NAME = 26
# Gray levels of black and of white below a map.
_GHOST = 150, 250
# The colors of a map, from no bits to the most; they also grow darker.
_HEAT = np.array([[255, 214, 79], [242, 100, 25], [122, 4, 40]])
# A map of color covers the picture wholly from this share of the most bits on.
_FULL_COVER = 0.5
# A few pixels may be off the scale.
_SCALE_QUANTILE = 0.995
_LEGEND = 180, 12, 26


def surprise(bits: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return how unlikely images are for what they show.

    Bits alone rank busy textures first. So the mean bits of the costlier half
    of the pixels are divided by the bits per pixel of a PNG file, as a measure
    of how busy an image is (compare Serrà et al., 2020, "Input complexity and
    out-of-distribution detection"). The median of all files is added to it,
    lest a tiny file makes an outlier.

    Args:
        bits: float `(N, T)`, the cost of each pixel.
        images: uint8 `(N, height, width, C)`, the same in colors.

    Returns:
        float64 `(N,)`: compares only within these images.
    """
    num_judged = max(1, round(_JUDGED_SHARE * bits.shape[1]))
    costliest = np.sort(bits.astype(np.float64), axis=1)[:, -num_judged:]
    with ProgressBar("Packing") as bar:
        (packed,) = file_bits(images, ("png",), bar.count).T
    return costliest.mean(axis=1) / (packed + np.median(packed))


def find_outliers(
    evidence: Evidence,
    bits: np.ndarray,
    names: Sequence[str],
    count: int = NUM_OUTLIERS,
) -> tuple[list[dict[str, Any]], Image.Image]:
    """Find the images that the model finds unlikeliest.

    Images of the training are likelier than others, all else being equal.

    Args:
        evidence: The images.
        bits: float32 `(N, T)`, as in `Measurement`.
        names: The path of each image.
        count: How many to return, at most.

    Returns:
        JSON-ready, unlikeliest first: the `name` of an image, its `surprise`
        and `bits_per_pixel`, whether it is `in_training`, and its unlikeliest
        `pixels` with `x` and `y` from 0 at the top left, and `bits`. And a
        sheet that shows each image beside a map of its bits.

    Raises:
        UserError: If `count` is below 1.
    """
    if count < 1:
        raise UserError(f"count must be at least 1. Received: {count}")
    score = surprise(bits, evidence.quantized)
    chosen = np.argsort(-score, kind="stable")[:count]
    found = [
        {
            "name": names[i],
            "surprise": float(score[i]),
            "bits_per_pixel": float(bits[i].mean(dtype=np.float64)),
            "in_training": not evidence.is_held_out[i],
            "pixels": _unlikeliest(bits[i], evidence.images.shape[2]),
        }
        for i in chosen
    ]
    return found, _sheet(evidence.quantized[chosen], bits[chosen], found)


def _unlikeliest(bits: np.ndarray, width: int) -> list[dict[str, Any]]:
    """Return the costliest pixels of an image, `(T,)`; see `find_outliers`."""
    places = np.argsort(-bits, kind="stable")[:NUM_PIXELS].tolist()
    return [
        {"x": place % width, "y": place // width, "bits": float(bits[place])}
        for place in places
    ]


def describe(found: Sequence[dict[str, Any]], num_images: int) -> str:
    """Return outliers as lines of text for a terminal."""
    lines = [
        f"{number:4}  {one['surprise']:8.2f}  {one['bits_per_pixel']:8.2f}  "
        f"{printable(one['name'])}{', trained on' * one['in_training']}"
        for number, one in enumerate(found, 1)
    ]
    title = f"The {len(found)} unlikeliest of {num_images} pictures:"
    return "\n".join([title, "      surprise  bits/pixel  file", *lines])


def heat_map(image: np.ndarray, bits: np.ndarray, most: float) -> np.ndarray:
    """Paint the bits of each pixel over a pale gray image.

    Args:
        image: uint8 `(height, width, 3 or 4)`.
        bits: float `(height, width)`.
        most: The bits of the darkest color, above 0.

    Returns:
        uint8 `(height, width, 3)`: likely pixels stay gray; unlikely ones are
        yellow, orange and dark red.
    """
    black, white = _GHOST
    gray = on_white(image[None])[0].mean(axis=-1, keepdims=True) / 255
    ghost = black + (white - black) * gray
    share = np.clip(bits / most, 0, 1)
    stops = np.linspace(0, 1, len(_HEAT))
    heat = np.stack([np.interp(share, stops, c) for c in _HEAT.T], axis=-1)
    cover = np.minimum(share / _FULL_COVER, 1)[..., None]
    return np.round(ghost + cover * (heat - ghost)).astype(np.uint8)


def _sheet(
    images: np.ndarray, bits: np.ndarray, found: list[dict[str, Any]]
) -> Image.Image:
    """Lay out images beside their maps, and a legend of the colors."""
    size = images.shape[1:3]
    most = max(1.0, float(np.quantile(bits, _SCALE_QUANTILE)))
    titles = readable([_short(printable(one["name"])) for one in found])
    tiles = []
    for number, one in enumerate(found):
        heat = heat_map(images[number], bits[number].reshape(size), most)
        tiles += [
            Tile(images[number], f"{number + 1}. {titles[number]}"),
            Tile(heat, f"{one['bits_per_pixel']:.2f} bits/pixel"),
        ]
    step = 2 * _PAIRS_IN_A_ROW
    rows = [tiles[i : i + step] for i in range(0, len(tiles), step)]
    scale = max(1, round(_SIDE / max(size)))
    return _with_legend(contact_sheet(rows, (), scale, is_smooth=False), most)


def _short(name: str) -> str:
    """Return the end of a path: the start of its name may be cut off."""
    name = os.path.basename(name)
    return name if len(name) <= _MAX_NAME else f"...{name[3 - _MAX_NAME :]}"


def _with_legend(sheet: Image.Image, most: float) -> Image.Image:
    """Add a line below a sheet that explains the colors of its maps."""
    width, height, line = _LEGEND
    ramp = np.tile(np.linspace(0, most, width), (height, 1))
    white = np.full((*ramp.shape, 3), 255, np.uint8)
    whole = Image.new("RGB", (sheet.width, sheet.height + line), "white")
    whole.paste(sheet)
    whole.paste(
        Image.fromarray(heat_map(white, ramp, most)), (24, sheet.height)
    )
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size=13)
    for x, text in ((8, "0"), (24 + width + 8, f"{most:.0f} bits or more")):
        draw.text((x, sheet.height - 2), text, (70, 70, 76), font)
    return whole

"""Shows images under several palettes, side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pixace_tf.data.fidelity import count_colors, psnr
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.painting.request import ImageLike
from pixace_tf.painting.sheets import Tile, contact_sheet


def palette_sheet(
    images: Sequence[ImageLike],
    tokenizers: Sequence[PixelTokenizer],
    scale: int | None = None,
) -> Image.Image:
    """Return a sheet with a row per image: the original, then each palette.

    Captions tell the PSNR and the number of colors.

    Args:
        images: Paths, http(s) addresses or uint8 arrays.
        tokenizers: One per palette, all with the same `image_size`.
        scale: See `contact_sheet`.

    Raises:
        UserError: If an image is not usable.
    """
    rows = []
    for image in images:
        original = tokenizers[0].read(image)
        tiles = [Tile(original, f"{count_colors(original)} colors")]
        for tokenizer in tokenizers:
            token_ids = tokenizer.tokenize(original)
            decoded = tokenizer.detokenize(token_ids)
            decibels = psnr(original, decoded)
            quality = "exact" if np.isinf(decibels) else f"{decibels:.1f} dB"
            caption = f"{quality}, {count_colors(decoded)} colors"
            tiles.append(Tile(decoded, caption))
        rows.append(tiles)
    headings = ["original", *(t.palette.name for t in tokenizers)]
    return contact_sheet(rows, headings, scale)

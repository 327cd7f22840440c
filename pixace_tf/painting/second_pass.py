"""What a second pass over painted images makes of them.

Shapes: B images, H height, W width, T = H * W pixels.
"""

import numpy as np

from pixace_tf.console import ProgressCallback

_STEPS = 1000


def mirror(token_ids: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Replace the right half of images by the mirrored left half.

    Args:
        token_ids: int32 `(B, T)`.
        image_size: `(H, W)`.

    Returns:
        int32 `(B, T)`.
    """
    images = token_ids.reshape(-1, *image_size)
    is_right = right_half(*image_size)
    mirrored = np.where(is_right, images[..., ::-1], images)
    return mirrored.reshape(token_ids.shape)


def right_half(height: int, width: int) -> np.ndarray:
    """Return bool `(H, W)`, True to the right of the middle."""
    column = np.arange(width)
    return np.broadcast_to(column > (width - 1) / 2, (height, width))


def roll_half(
    pixels: np.ndarray, image_size: tuple[int, int], sign: int = 1
) -> np.ndarray:
    """Move pixels `(B, T)` by half an image, right and down, around the edges.

    The corners come to lie in the middle. A `sign` of -1 undoes that.
    """
    height, width = image_size
    shift = sign * (height // 2), sign * (width // 2)
    images = pixels.reshape(-1, height, width)
    return np.roll(images, shift, axis=(1, 2)).reshape(pixels.shape)


def halves(
    progress: ProgressCallback | None,
) -> tuple[ProgressCallback | None, ProgressCallback | None]:
    """Return the callbacks of two passes that take half of the work each."""
    if progress is None:
        return None, None

    def part(first: int) -> ProgressCallback:
        def count(done: int, total: int) -> None:
            progress(_STEPS * first + _STEPS * done // total, 2 * _STEPS)

        return count

    return part(0), part(1)

"""How near drawn halves come to the hidden ones, beside simple rivals."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from pixace_tf.data import fidelity
from pixace_tf.evaluation.learned import decode, spread
from pixace_tf.evaluation.nearest import find_nearest, with_mirrored
from pixace_tf.painting.sheets import Tile, contact_sheet, hide_after
from pixace_tf.runs.run_folder import Run

PICTURES = 16
SAMPLES = 8
# The error of rounding to 8 bits; an exact half would be infinitely good.
CEILING_DB = 59.0
_SHEET_ROWS = 8
_SHEET_SAMPLES = 3


def complete_halves(
    run: Run,
    images: np.ndarray,
    learned: np.ndarray | None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], Image.Image]:
    """Hide lower halves, draw each of them several times, compare.

    The PSNR is that of the hidden half against the small picture before the
    palette, at most `CEILING_DB`, as a mean over pictures:

    - `drawn`: of all drawings; `drawn_best`: of the best one of each picture;
    - `mirrored`: of the kept half, turned upside down;
    - `nearest`: of the lower half of the training picture whose upper half is
      nearest to the kept one (mirrored too, where the run has learned from
      mirrored pictures); `nearest_best`: of the best one of as many nearest
      ones as there are drawings;
    - `palette`: of the hidden half itself in the colors of the palette, which
      no drawing can pass by much.

    Args:
        run: A trained model.
        images: uint8 `(N, height, width, 3)`, height at least 2; `PICTURES` of
            them, evenly spread, are completed.
        learned: uint8 `(M, height, width, 3)`, the training pictures in the
            colors of the palette; None leaves out `nearest`.
        progress: Told how far the drawing is.

    Returns:
        The numbers of `pictures` and `samples`, `hidden_rows` of all `rows`,
        and `psnr` in dB; and a sheet.
    """
    tokenizer = run.tokenizer
    height, width = tokenizer.image_size
    kept_rows = height // 2
    originals = images[spread(len(images), PICTURES)]
    token_ids = tokenizer.tokenize(originals).numpy()
    shown = decode(token_ids, tokenizer)
    drawn = run.sampler.complete(
        np.repeat(token_ids, SAMPLES, axis=0),
        kept_rows * width,
        np.tile(np.arange(SAMPLES), len(originals)),
        progress=progress,
    )
    rivals = {
        "drawn": decode(drawn, tokenizer).reshape(-1, SAMPLES, *shown.shape[1:])
    }
    if learned is not None:
        if run.arguments["flip"]:
            learned = with_mirrored(learned)
        indices, _ = find_nearest(
            shown[:, :kept_rows], learned[:, :kept_rows], SAMPLES
        )
        rivals["nearest"] = learned[indices]
    rivals["mirrored"] = _turn_down(shown, kept_rows)[:, None]
    rivals["palette"] = shown[:, None]
    quality = {
        name: _hidden_psnr(originals, rival, kept_rows)
        for name, rival in rivals.items()
    }
    figures = {
        "pictures": len(originals),
        "samples": SAMPLES,
        "rows": height,
        "hidden_rows": height - kept_rows,
        "psnr": {
            "drawn": quality["drawn"].mean(),
            "drawn_best": quality["drawn"].max(axis=1).mean(),
            "mirrored": quality["mirrored"].mean(),
            **_of_nearest(quality),
            "palette": quality["palette"].mean(),
        },
    }
    return figures, _sheet(originals, shown, rivals, quality, kept_rows * width)


def _of_nearest(quality: dict[str, np.ndarray]) -> dict[str, float]:
    if "nearest" not in quality:
        return {}
    nearest = quality["nearest"]
    return {
        "nearest": nearest[:, 0].mean(),
        "nearest_best": nearest.max(axis=1).mean(),
    }


def _turn_down(images: np.ndarray, kept_rows: int) -> np.ndarray:
    """Return pictures whose lower rows mirror the upper ones."""
    hidden_rows = images.shape[1] - kept_rows
    return np.pad(
        images[:, :kept_rows],
        ((0, 0), (0, hidden_rows), (0, 0), (0, 0)),
        mode="symmetric",
    )


def _hidden_psnr(
    originals: np.ndarray, rivals: np.ndarray, kept_rows: int
) -> np.ndarray:
    """Return the PSNR in dB of `(N, K)` hidden halves, up to the ceiling."""
    return np.array(
        [
            [
                min(fidelity.psnr(hidden, rival[kept_rows:]), CEILING_DB)
                for rival in row
            ]
            for hidden, row in zip(
                originals[:, kept_rows:], rivals, strict=True
            )
        ]
    )


def _sheet(
    originals: np.ndarray,
    shown: np.ndarray,
    rivals: dict[str, np.ndarray],
    quality: dict[str, np.ndarray],
    prefix_length: int,
) -> Image.Image:
    columns = {"drawn": _SHEET_SAMPLES, "nearest": 1, "mirrored": 1}
    columns = {name: n for name, n in columns.items() if name in rivals}
    rows = [
        [
            Tile(originals[i]),
            Tile(hide_after(shown[i], prefix_length)),
            *(
                Tile(rivals[name][i, k], f"{quality[name][i, k]:.1f} dB")
                for name, number in columns.items()
                for k in range(number)
            ),
        ]
        for i in spread(len(originals), _SHEET_ROWS)
    ]
    names = [name for name, number in columns.items() for _ in range(number)]
    return contact_sheet(rows, ["original", "kept", *names])

"""From a run to pictures: complete given ones, generate new ones."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from pixace_tf import storage
from pixace_tf.data import image_files
from pixace_tf.data.fidelity import count_colors, psnr
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.painting import sheets
from pixace_tf.runs.run_folder import TOKENS_FILE, Run
from pixace_tf.sampling.sampler import ProgressUpdate, Watch
from pixace_tf.sampling.sampling_config import Filters


def complete(
    run: Run,
    pictures: Sequence[str | os.PathLike[str] | np.ndarray],
    *,
    keep: float = 0.5,
    prefix_length: int | None = None,
    temperatures: Sequence[float] = (1.0,),
    samples: int = 1,
    seed: int = 0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    progress: ProgressUpdate | None = None,
    watch: Callable[[np.ndarray], None] | None = None,
) -> sheets.Completions:
    """Keep the first pixels of each picture and draw the rest.

    Args:
        run: A trained model.
        pictures: Paths, http(s) addresses, or uint8 arrays `(any_height,
            any_width, 3)`.
        keep: Share of the pixels to keep, from the top, in `[0, 1]`.
        prefix_length: Pixels to keep in raster order, instead of `keep`.
        temperatures: One column of completions each.
        samples: Completions per picture and temperature; the k-th one has the
            seed `seed + k`.
        seed: The same seed completes a picture in the same way.
        top_k: See `Filters`, like the next two.
        top_p: See `Filters`.
        min_p: See `Filters`.
        progress: Told how far the drawing is.
        watch: Shown the pictures while they grow, like `Completions.images`.

    Returns:
        The completions.

    Raises:
        ValueError: If a picture is not usable or a value is out of range.
    """
    tokenizer = run.tokenizer
    sheets.check_completing(pictures, keep, samples)
    if prefix_length is None:
        prefix_length = round(keep * tokenizer.sequence_length)
    originals = np.stack([_small(p, tokenizer) for p in pictures])
    token_ids = tokenizer.tokenize(originals).numpy()
    columns = len(temperatures) * samples
    shape = (len(pictures), len(temperatures), samples, *originals.shape[1:])
    drawn = run.sampler.complete(
        np.repeat(token_ids, columns, axis=0),
        prefix_length,
        np.tile(seed + np.arange(samples), len(pictures) * len(temperatures)),
        Filters(
            np.tile(np.repeat(temperatures, samples), len(pictures)),
            top_k,
            top_p,
            min_p,
        ),
        progress,
        _watched(tokenizer, watch, shape, prefix_length),
    )
    decoded = tokenizer.detokenize(token_ids).numpy()
    painted = tokenizer.detokenize(drawn).numpy()
    return sheets.Completions(
        originals,
        np.stack([sheets.hide_after(d, prefix_length) for d in decoded]),
        painted.reshape(shape),
        tuple(float(t) for t in temperatures),
    )


def generate(
    run: Run,
    count: int = 16,
    *,
    temperatures: Sequence[float] = (1.0,),
    seed: int = 0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    progress: ProgressUpdate | None = None,
    watch: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Draw new pictures.

    Args:
        run: A trained model.
        count: How many for each temperature; the k-th one has the seed
            `seed + k`.
        temperatures: See `Filters`, like the last three.
        seed: The same seed draws the same picture.
        top_k: See `Filters`.
        top_p: See `Filters`.
        min_p: See `Filters`.
        progress: Told how far the drawing is.
        watch: Shown the pictures while they grow, like what is returned.

    Returns:
        uint8 `(temperatures, count, height, width, 3)`.

    Raises:
        ValueError: If a value is out of range.
    """
    sheets.check_positive("count", count)
    tokenizer = run.tokenizer
    shape = (len(temperatures), count, *tokenizer.image_size, 3)
    token_ids = run.sampler.generate(
        np.tile(seed + np.arange(count), len(temperatures)),
        Filters(np.repeat(temperatures, count), top_k, top_p, min_p),
        progress,
        _watched(tokenizer, watch, shape),
    )
    return np.reshape(tokenizer.detokenize(token_ids), shape)


def shrink(
    run: Run, picture: str | os.PathLike[str] | np.ndarray
) -> np.ndarray:
    """Return a picture as the model of a run sees it.

    Args:
        run: A trained model.
        picture: As for `complete`.

    Returns:
        uint8 `(height, width, 3)`, in the colors of the palette.

    Raises:
        ValueError: If the picture is not usable.
    """
    token_ids = run.tokenizer.tokenize(_small(picture, run.tokenizer))
    return np.asarray(run.tokenizer.detokenize(token_ids))


def examples(run: Run, count: int = 6) -> np.ndarray:
    """Return pictures that a run has not learned from, to play with.

    Args:
        run: The run, its data beside it.
        count: How many, spread over the validation pictures.

    Returns:
        uint8 `(N, height, width, 3)`, N at most `count`, 0 where the run has
        lost its data.
    """
    try:
        arrays, _ = storage.read_npz(run.file(TOKENS_FILE))
    except ValueError:
        return np.zeros((0, *run.tokenizer.image_size, 3), np.uint8)
    held_out = arrays["validation"]
    chosen = np.linspace(0, len(held_out) - 1, min(count, len(held_out)))
    token_ids = held_out[chosen.astype(int)].astype(np.int32)
    return np.asarray(run.tokenizer.detokenize(token_ids))


def palette_sheet(
    paths: Sequence[str],
    palettes: Sequence[PixelTokenizer],
    scale: int | None = None,
) -> Image.Image:
    """Show pictures under several palettes, with PSNR and colors used.

    Args:
        paths: Paths or http(s) addresses.
        palettes: Tokenizers of one `image_size`.
        scale: Enlargement.

    Returns:
        A sheet: the original, then a column for each palette.

    Raises:
        ValueError: If a picture is not usable.
    """
    rows = []
    for path in paths:
        original = _small(path, palettes[0])
        colors = count_colors(original)
        tiles = [sheets.Tile(original, f"{colors} colors")]
        for palette in palettes:
            token_ids = palette.tokenize(original)
            decoded = palette.detokenize(token_ids).numpy()
            used = count_colors(decoded)
            caption = f"{psnr(original, decoded):.1f} dB, {used} colors"
            tiles.append(sheets.Tile(decoded, caption))
        rows.append(tiles)
    headings = ["original", *(palette.name for palette in palettes)]
    return sheets.contact_sheet(rows, headings, scale)


def _watched(
    tokenizer: PixelTokenizer,
    watch: Callable[[np.ndarray], None] | None,
    shape: tuple[int, ...],
    prefix_length: int = 0,
) -> Watch | None:
    """Return what shows tokens as pictures, covered where nothing is yet."""
    if watch is None:
        return None

    def show(token_ids: np.ndarray, drawn: np.ndarray) -> None:
        painted = tokenizer.detokenize(token_ids).numpy()
        known = np.maximum(drawn, prefix_length)
        pairs = zip(painted, known, strict=True)
        watch(np.reshape([sheets.hide_after(*pair) for pair in pairs], shape))

    return show


def _small(
    picture: str | os.PathLike[str] | np.ndarray, tokenizer: PixelTokenizer
) -> np.ndarray:
    """Read and resize one picture to uint8 `(height, width, 3)`."""
    if isinstance(picture, str | os.PathLike):
        picture = os.fspath(picture)
        try:
            decoded = tokenizer.decode(image_files.read(picture))
        except tf.errors.InvalidArgumentError:
            # Rare kinds of JPEG and PNG that only Pillow reads.
            decoded = tokenizer.decode(
                image_files.read(picture, is_plain=False)
            )
        return np.asarray(decoded)
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            "A picture must be a path or a uint8 array (height, width, 3). "
            f"Received: {pixels.dtype} {pixels.shape}"
        )
    return np.asarray(tokenizer.resize_image(pixels))

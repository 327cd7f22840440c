"""Painting on this machine, with a run."""

from typing import Any

import numpy as np

from pixace_tf import storage
from pixace_tf.console import ProgressCallback
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.painting.painter import WatchCallback
from pixace_tf.painting.request import ImageLike, Request, generation
from pixace_tf.painting.sheets import Completions, hide_after
from pixace_tf.runs.run_folder import TOKENS_FILE, Run
from pixace_tf.sampling.sampler import Watch


def complete(
    run: Run,
    images: Any,
    *,
    progress: ProgressCallback | None = None,
    watch: WatchCallback | None = None,
    **options: Any,
) -> Completions:
    """Keep the first pixels of each image and sample the rest.

    Args:
        run: A trained model.
        images: Paths, http(s) addresses, or uint8 arrays `(any_height,
            any_width, 3)`.
        progress: Told the pixels sampled and their number.
        watch: Shown the images while they grow, like `Completions.images`.
        **options: Further fields of `Request`, such as `samples=4`.

    Returns:
        The completions.

    Raises:
        UserError: If an image is not usable or a value is out of range.
    """
    request = Request(images, **options)
    return LocalPainter(run).complete(request, progress, watch)


def generate(
    run: Run,
    count: int = 16,
    *,
    progress: ProgressCallback | None = None,
    watch: WatchCallback | None = None,
    **options: Any,
) -> np.ndarray:
    """Sample new images.

    Args:
        run: A trained model.
        count: How many for each temperature; the k-th one has the seed
            `seed + k`.
        progress: Told the pixels sampled and their number.
        watch: Shown the images while they grow, like what is returned.
        **options: Further fields of `Request`, such as `seed=7`.

    Returns:
        uint8 `(temperatures, count, height, width, 3)`.

    Raises:
        UserError: If a value is out of range.
    """
    request = generation(count, **options)
    return LocalPainter(run).generate(request, progress, watch)


class LocalPainter:
    """A `Painter` with a run, on this machine.

    Args:
        run: A trained model.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def complete(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> Completions:
        """See `Painter`."""
        request.check_has_images()
        tokenizer = self._run.tokenizer
        prefix_length = request.prefix_in(tokenizer.sequence_length)
        originals = np.stack(
            [tokenizer.read(image) for image in request.images]
        )
        token_ids = tokenizer.tokenize(originals).numpy()
        shape = (*request.shape(len(originals)), *originals.shape[1:])
        sampled = self._run.sampler.complete(
            np.repeat(token_ids, np.prod(shape[1:3]), axis=0),
            prefix_length,
            request.seeds(len(originals)),
            request.sampling_config(len(originals)),
            progress,
            _watched(tokenizer, watch, shape, prefix_length),
        )
        decoded = tokenizer.detokenize(token_ids).numpy()
        return Completions(
            originals,
            np.stack([hide_after(image, prefix_length) for image in decoded]),
            np.reshape(tokenizer.detokenize(sampled), shape),
            tuple(float(t) for t in request.temperatures),
        )

    def generate(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> np.ndarray:
        """See `Painter`."""
        tokenizer = self._run.tokenizer
        shape = (*request.shape(1)[1:], *tokenizer.image_size, 3)
        token_ids = self._run.sampler.generate(
            request.seeds(1),
            request.sampling_config(1),
            progress,
            _watched(tokenizer, watch, shape),
        )
        return np.reshape(tokenizer.detokenize(token_ids), shape)

    def shrink(self, image: ImageLike) -> np.ndarray:
        """See `Painter`."""
        tokenizer = self._run.tokenizer
        token_ids = tokenizer.tokenize(tokenizer.read(image))
        return np.asarray(tokenizer.detokenize(token_ids))

    def examples(self, count: int = 6) -> np.ndarray:
        """See `Painter`."""
        tokenizer = self._run.tokenizer
        try:
            arrays, _ = storage.read_npz(self._run.file(TOKENS_FILE))
        except UserError:
            return np.zeros((0, *tokenizer.image_size, 3), np.uint8)
        held_out = arrays["validation"]
        chosen = np.linspace(0, len(held_out) - 1, min(count, len(held_out)))
        token_ids = held_out[chosen.astype(int)].astype(np.int32)
        return np.asarray(tokenizer.detokenize(token_ids))


def _watched(
    tokenizer: PixelTokenizer,
    watch: WatchCallback | None,
    shape: tuple[int, ...],
    prefix_length: int = 0,
) -> Watch | None:
    """Return what shows tokens as images, covered where nothing is yet."""
    if watch is None:
        return None

    def show(token_ids: np.ndarray, done: np.ndarray) -> None:
        images = tokenizer.detokenize(token_ids).numpy()
        known = np.maximum(done, prefix_length)
        pairs = zip(images, known, strict=True)
        watch(np.reshape([hide_after(*pair) for pair in pairs], shape))

    return show

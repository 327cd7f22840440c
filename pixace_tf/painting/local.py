"""Painting on this machine, with a run."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pixace_tf import storage
from pixace_tf.console import ProgressCallback
from pixace_tf.data import pairing
from pixace_tf.data.tokenizer import NATIVE, PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.painting import masks, second_pass
from pixace_tf.painting.color_limit import ColorLimit
from pixace_tf.painting.painter import WatchCallback
from pixace_tf.painting.request import ImageLike, Request, generation
from pixace_tf.painting.second_pass import roll_half
from pixace_tf.painting.sheets import Completions, cut_strip, hide
from pixace_tf.painting.small_mask import small_mask
from pixace_tf.runs.run_config import EXAMPLES_FILE, TOKENS_FILE
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling import NUM_PARTICLES, NUM_SECOND_PARTICLES
from pixace_tf.sampling.sampler import Watch


def complete(
    run: Run,
    images: Any,
    *,
    progress: ProgressCallback | None = None,
    watch: WatchCallback | None = None,
    **options: Any,
) -> Completions:
    """Keep some pixels of each image and sample the rest.

    With a run of pairs, all of each image is kept, and the second picture is
    sampled.

    Args:
        run: A trained model.
        images: Paths, http(s) addresses, or uint8 arrays `(any_height,
            any_width, 3 or 4)`.
        progress: Called with the pixels sampled so far and in total.
        watch: Called with the growing images, like `Completions.images`.
        **options: Further fields of `Request`, such as `samples=4`.

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
        count: Number of images for each temperature; the k-th one has the
            seed `seed + k`.
        progress: Called with the pixels sampled so far and in total.
        watch: Called with the growing images, in the shape of the result.
        **options: Further fields of `Request`, such as `seed=7`.

    Returns:
        uint8 `(temperatures, count, height, width, C)`.

    Raises:
        UserError: If a value is out of range.
    """
    request = generation(count, **options)
    return LocalPainter(run).generate(request, progress, watch)


class LocalPainter:
    """A `Painter` with a run, on this machine."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.labels = run.sampler.facts.labels
        self.is_smooth = run.tokenizer.resize != NATIVE
        self.are_pairs = run.are_pairs

    def complete(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> Completions:
        """See `Painter`."""
        request.check_has_images()
        tokenizer = self._run.tokenizer
        if self.are_pairs:
            request.check_hides_nothing()
        originals = np.stack([self._read(i) for i in request.images])
        is_hidden = hidden_pixels(request, originals, tokenizer)
        token_ids = tokenizer.tokenize(originals)
        seeds, columns = request.seeds(token_ids), request.columns
        each = request.hidden_each(is_hidden, seeds)
        sampled = self._fill(
            request,
            np.repeat(token_ids, columns, axis=0),
            each,
            seeds,
            progress,
            self._watched(request, watch and self._of_second(watch)),
            request.given,
            request.seamless,
        )
        # What is hidden of all images that are drawn from one.
        rows = each.reshape(-1, columns, *each.shape[1:])
        flat = each.reshape(len(each), -1)
        completions = Completions(
            originals,
            self._kept(request, token_ids, np.all(rows, axis=1)),
            self._choose(request, sampled, self._run.sampler.orders(flat)),
            tuple(float(t) for t in request.temperatures),
        )
        return completions.of_pairs() if self.are_pairs else completions

    def _read(self, image: ImageLike) -> np.ndarray:
        """Read and resize an image; below a first picture, all is black."""
        if not self.are_pairs:
            return self._run.tokenizer.read(image)
        first = pairing.single(self._run.tokenizer).read(image)
        return np.concatenate([first, np.zeros_like(first)])

    def _of_second(self, watch: WatchCallback) -> WatchCallback:
        """Return what shows the second pictures, if there are pairs."""
        if not self.are_pairs:
            return watch
        return lambda images: watch(pairing.lower(images))

    def _of_first(self, token_ids: np.ndarray) -> np.ndarray:
        """Return images, of pairs the first pictures."""
        images = self._run.tokenizer.detokenize(token_ids)
        return pairing.upper(images) if self.are_pairs else images

    def generate(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> np.ndarray:
        """See `Painter`."""
        if self.are_pairs:
            request.check_hides_nothing()
        size = self._run.tokenizer.image_size
        has_alpha = self._run.tokenizer.palette.has_alpha
        if request.symmetric and not has_alpha:
            raise UserError(
                "symmetric needs a run with transparency, whose shape it "
                "mirrors; see --alpha and --pixel-art of fit."
            )
        seeds, first, second = request.seeds(), progress, None
        if request.symmetric or request.seamless:
            first, second = second_pass.halves(progress)
        show = self._watched(request, watch and (lambda rows: watch(rows[0])))
        nothing = np.zeros((len(seeds), size[0] * size[1]), np.int32)
        everything = np.ones((len(seeds), *size), bool)
        sampled = self._fill(request, nothing, everything, seeds, first, show)
        if request.symmetric:
            sampled = second_pass.mirror(sampled, size)
            is_right = everything & second_pass.right_half(*size)
            alpha = ("alpha",)
            sampled = self._fill(
                request, sampled, is_right, seeds, second, show, alpha
            )
        if request.seamless:
            border = everything & request.hidden_in(*size)
            sampled = self._fill(
                request, sampled, border, seeds, second, show, is_rolled=True
            )
        return self._choose(request, sampled)[0]

    def _fill(
        self,
        request: Request,
        token_ids: np.ndarray,
        is_hidden: np.ndarray,
        seeds: np.ndarray,
        progress: ProgressCallback | None,
        watch: Watch | None,
        given: Sequence[str] = (),
        is_rolled: bool = False,
    ) -> np.ndarray:
        """Fill the hidden pixels of each drawn image; see `Sampler.fill`.

        Rolled images are filled while their corners lie in the middle.
        """
        size = self._run.tokenizer.image_size
        mask = is_hidden.reshape(len(is_hidden), -1)
        default = NUM_PARTICLES if len(request.images) else NUM_SECOND_PARTICLES

        def unrolled(pixels: np.ndarray) -> np.ndarray:
            return roll_half(pixels, size, -1) if is_rolled else pixels

        if is_rolled:
            token_ids, mask = roll_half(token_ids, size), roll_half(mask, size)
        sampled = self._run.sampler.fill(
            token_ids,
            mask,
            seeds,
            request.sampling_config(len(seeds) // request.columns),
            request.particles or default,
            progress,
            watch and (lambda *pixels: watch(*map(unrolled, pixels))),
            labels=request.label_number(self.labels),
            guidance=request.guidance,
            only_codes=self._codes(request),
            max_colors=request.max_colors,
            given=given,
        )
        return unrolled(sampled)

    def color_limit(self, request: Request) -> ColorLimit | None:
        """See `Painter`."""
        if request.only_colors is None:
            return None
        return ColorLimit(request.only_colors, self._run.tokenizer.palette)

    def _codes(self, request: Request) -> Any:
        """Return the codes that may be sampled; see `Sampler.fill`."""
        limit = self.color_limit(request)
        return () if limit is None else limit.codes

    def _decode(self, request: Request, token_ids: np.ndarray) -> np.ndarray:
        """Return images, uint8 `(..., height, width, C)`."""
        images = self._run.tokenizer.detokenize(token_ids)
        limit = self.color_limit(request)
        return images if limit is None else limit.paint(token_ids, images)

    def _kept(
        self, request: Request, token_ids: np.ndarray, is_hidden: np.ndarray
    ) -> np.ndarray:
        """Return what is kept of images, for people.

        Of painted pixels, that is the known channels, if there are any, or a
        checkerboard.
        """
        decoded = self._decode(request, token_ids)
        if not request.given:
            return hide(decoded, is_hidden)
        palette = self._run.tokenizer.palette
        given = palette.channels_named(request.given)
        known = self._decode(request, palette.shown(token_ids, given))
        return np.where(is_hidden[..., None], known, decoded)

    def _choose(
        self, request: Request, token_ids: np.ndarray, orders: Any = 0
    ) -> np.ndarray:
        """Return the answer, uint8 `(rows, temperatures, samples, ...)`.

        The likelihood of images depends on the label and on the raster orders
        in which they were painted.
        """
        bits = np.zeros(len(token_ids))
        if request.best > 1:
            label = request.label_number(self.labels)
            costs = self._run.sampler.bits(token_ids, label, orders)
            bits = costs.mean(axis=1)
        return request.choose(self._decode(request, token_ids), bits)

    def _watched(
        self, request: Request, watch: WatchCallback | None
    ) -> Watch | None:
        """Return a function that shows tokens as images to `watch`.

        Missing pixels are hidden. If several images are drawn for a sample, the
        first is shown.
        """
        if watch is None:
            return None
        tokenizer = self._run.tokenizer

        def show(token_ids: np.ndarray, is_missing: np.ndarray) -> None:
            images = self._decode(request, token_ids)
            missing = is_missing.reshape(-1, *tokenizer.image_size)
            shown = hide(images, missing)
            watch(request.choose(shown, np.zeros(len(shown))))

        return show

    def shrink(self, image: ImageLike) -> np.ndarray:
        """See `Painter`."""
        return self._of_first(self._run.tokenizer.tokenize(self._read(image)))

    def examples(self, count: int = 6) -> np.ndarray:
        """See `Painter`."""
        try:
            with storage.open_npz(self._run.file(TOKENS_FILE)) as file:
                total, _ = file.shapes["validation"]
                chosen = np.linspace(0, total - 1, min(count, total))
                token_ids = file.read("validation", chosen.astype(int))
        except UserError:
            examples = _kept_examples(self._run)[:count]
            return pairing.upper(examples) if self.are_pairs else examples
        return self._of_first(token_ids)


def _kept_examples(run: Run) -> np.ndarray:
    """Return the examples of a run without tokens."""
    path = run.file(EXAMPLES_FILE)
    shape = run.tokenizer.image_shape
    if not os.path.exists(path):
        return np.zeros((0, *shape), np.uint8)
    with Image.open(path) as strip:
        return cut_strip(strip, shape)


def hidden_pixels(
    request: Request, originals: np.ndarray, tokenizer: PixelTokenizer
) -> np.ndarray:
    """Return which pixels of the scaled images to paint.

    Args:
        request: A request with B images.
        originals: uint8 `(B, height, width, C)`, these images, scaled.
        tokenizer: Has scaled them.

    Returns:
        bool `(B, height, width)`.

    Raises:
        UserError: If a mask does not fit its image.
    """
    if request.mask is None:
        is_hidden = request.hidden_in(*tokenizer.image_size)
        return np.repeat(is_hidden[None], len(originals), axis=0)
    trios = zip(request.images, request.masks(), originals, strict=True)
    is_hidden = np.stack(
        [
            small_mask(
                masks.mask_of(image, mask, small),
                # Else the pixels of the image do not matter.
                tokenizer.read_whole(image) if tokenizer.is_adaptive else small,
                tokenizer,
            )
            for image, mask, small in trios
        ]
    )
    masks.check_paints(is_hidden)
    return is_hidden

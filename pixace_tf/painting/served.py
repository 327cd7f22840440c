"""Painting with a TensorFlow Serving, which gives the same images.

Shapes: B rows of a request, T pixels.
"""

import functools
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pixace_tf.console import ProgressCallback
from pixace_tf.data import image_files
from pixace_tf.data.image_files import MAX_SERVED_PIXELS
from pixace_tf.errors import UserError
from pixace_tf.painting import masks
from pixace_tf.painting.painter import WatchCallback
from pixace_tf.painting.request import ImageLike, Request
from pixace_tf.painting.sheets import Completions, hide
from pixace_tf.painting.wire import Arrays, Server
from pixace_tf.sampling import MAX_SERVED_PARTICLES

# Largest batch of the server.
MAX_ROWS = 8
# The server can batch simultaneous requests.
NUM_CONNECTIONS = 4


class ServedPainter:
    """A `Painter` with a model on a server.

    A server returns only finished images, so `watch` is called once.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.labels: tuple[str, ...] = ()
        # A server does not tell how images are resized, or whether they are
        # pairs: for it, a pair is one image.
        self.is_smooth = True
        self.are_pairs = False

    def complete(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> Completions:
        """See `Painter`."""
        request.check_has_images()
        self.color_limit(request)
        files, scored = self._score(request.images)
        originals = _decode(scored["image_bytes"])
        token_ids, columns = scored["token_ids"], request.columns
        image_size = originals.shape[1:3]
        rows = _sampling(request, token_ids)
        is_plain = request.cover is request.mask is request.label is None
        if is_plain and request.vary is None and not request.given:
            length = token_ids.shape[1]
            rows["token_ids"] = np.repeat(token_ids, columns, axis=0)
            rows["prefix_length"] = np.full(
                len(rows["seed"]), request.prefix_in(length), np.int32
            )
            answer = self._predict_all("complete_tokens", rows, progress)
            hidden = request.hidden_in(*image_size)
            is_hidden = np.repeat(hidden[None], len(rows["seed"]), axis=0)
        else:
            rows["image_bytes"] = np.repeat(files, columns)
            rows["mask_bytes"] = _mask_files(request, originals, rows["seed"])
            answer = self._fill(request, rows, progress)
            is_hidden = answer["mask"].reshape(-1, *image_size)
            if request.mask is not None:
                masks.check_paints(is_hidden)
        drawn = _decode(answer["image_bytes"])
        completed = request.choose(drawn, answer["bits_per_pixel"])
        if watch is not None:
            watch(completed)
        kept = _kept(drawn, is_hidden, columns)
        if request.given:
            kept = _decode(answer["kept_bytes"][::columns])
        return Completions(
            originals,
            kept,
            completed,
            tuple(float(t) for t in request.temperatures),
        )

    def generate(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> np.ndarray:
        """See `Painter`."""
        self.color_limit(request)
        rows = _sampling(request)
        if request.label is None:
            answer = self._predict_all("generate", rows, progress)
        else:
            nothing = np.array([b""] * request.columns, object)
            rows |= {"image_bytes": nothing, "mask_bytes": nothing}
            answer = self._fill(request, rows, progress)
        images = _decode(answer["image_bytes"])
        (images,) = request.choose(images, answer["bits_per_pixel"])
        if watch is not None:
            watch(images)
        return images

    def color_limit(self, request: Request) -> None:
        """See `Painter`; a server cannot."""
        for name in ("only_colors", "max_colors", "symmetric", "seamless"):
            if getattr(request, name) not in (None, 0, False):
                raise UserError(
                    f"{name} needs a run on this machine; a server does not "
                    "know it."
                )

    def shrink(self, image: ImageLike) -> np.ndarray:
        """See `Painter`."""
        _, scored = self._score([image])
        rows = _sampling(Request())
        rows["token_ids"] = scored["token_ids"]
        length = scored["token_ids"].shape[1]
        rows["prefix_length"] = np.array([length], np.int32)
        answer = self._predict_all("complete_tokens", rows)
        return _decode(answer["image_bytes"])[0]

    def examples(self, count: int = 6) -> np.ndarray:
        """See `Painter`; a server keeps no images."""
        return np.zeros((0, 1, 1, 3), np.uint8)

    def _score(self, images: Sequence[ImageLike]) -> tuple[np.ndarray, Arrays]:
        """Return images as files, and the server's answer to `score`."""

        def score(is_plain: bool | None) -> tuple[np.ndarray, Arrays]:
            files = np.array([_encode(i, is_plain) for i in images], object)
            return files, self._predict_all("score", {"image_bytes": files})

        try:
            return score(None)
        except UserError:
            if all(isinstance(image, np.ndarray) for image in images):
                raise
            # Pillow reads rare kinds of JPEG and PNG that a server cannot.
            return score(False)

    def _fill(
        self,
        request: Request,
        rows: Arrays,
        progress: ProgressCallback | None,
    ) -> Arrays:
        """Return the answer of `fill` to rows of images, masks and options."""
        rows |= _filling(request, len(rows["seed"]))
        try:
            answer = self._predict_all("fill", rows, progress)
        except UserError as error:
            # What an export has, a server wants in each row. Over gRPC, it
            # refuses the rest; over REST, it ignores it.
            if "extra: {given}" not in str(error):
                raise
            answer = {}
        if "kept_bytes" in answer:
            return answer
        if request.given:
            raise UserError(
                "The server has an older export, which cannot keep channels: "
                "export the model again for given."
            )
        del rows["given"]
        return answer or self._predict_all("fill", rows, progress)

    def _predict_all(
        self,
        signature_name: str,
        rows: Arrays,
        progress: ProgressCallback | None = None,
    ) -> Arrays:
        """Run a signature on any number of rows, `MAX_ROWS` at a time."""
        count = len(next(iter(rows.values())))
        requests = [
            {name: value[i : i + MAX_ROWS] for name, value in rows.items()}
            for i in range(0, count, MAX_ROWS)
        ]
        answers = []
        predict = functools.partial(self._server.predict, signature_name)
        with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
            for answer in pool.map(predict, requests):
                answers.append(answer)
                if progress is not None:
                    progress(min(len(answers) * MAX_ROWS, count), count)
        return {
            name: np.concatenate([answer[name] for answer in answers])
            for name in answers[0]
        }


def _sampling(request: Request, token_ids: np.ndarray | None = None) -> Arrays:
    """Return filters, temperature and seed of each image to sample."""
    seeds = request.seeds(token_ids)
    config = request.sampling_config(len(seeds) // request.columns)
    return {**config.arrays(len(seeds)), "seed": seeds}


def _filling(request: Request, count: int) -> Arrays:
    """Return what `fill` takes besides images, masks and `_sampling`."""
    num_particles = request.particles or MAX_SERVED_PARTICLES
    if num_particles > MAX_SERVED_PARTICLES:
        raise UserError(
            f"A server weighs at most {MAX_SERVED_PARTICLES} particles. "
            f"Received: particles={num_particles}"
        )
    label = os.fsencode(request.label or "")
    given = ",".join(request.given).encode()
    return {
        "particles": np.full(count, num_particles, np.int32),
        "label": np.array([label] * count, object),
        "guidance": np.full(count, request.guidance, np.float32),
        "given": np.array([given] * count, object),
    }


def _mask_files(
    request: Request, originals: np.ndarray, seeds: np.ndarray
) -> np.ndarray:
    """Return the mask of each image to sample as PNG."""
    if request.mask is None:
        hidden = request.hidden_in(*originals.shape[1:3])
        every = np.repeat(hidden[None], len(originals), axis=0)
        pixels = map(masks.read_mask, request.hidden_each(every, seeds))
        return np.array([_png(mask) for mask in pixels], object)
    trios = zip(request.images, request.masks(), originals, strict=True)
    files = np.array([_png(masks.mask_of(*trio)) for trio in trios], object)
    return np.repeat(files, request.columns)


def _kept(drawn: np.ndarray, is_hidden: np.ndarray, columns: int) -> np.ndarray:
    """Return what is kept of each image, hidden where all columns hide it.

    Args:
        drawn: uint8 `(rows * columns, height, width, C)`.
        is_hidden: bool `(rows * columns, height, width)`.
        columns: Images that are drawn for each row.

    Returns:
        uint8 `(rows, height, width, C)`.
    """
    images = drawn.reshape(-1, columns, *drawn.shape[1:])
    hidden = is_hidden.reshape(-1, columns, *is_hidden.shape[1:])
    # Every column that does not hide a pixel has kept it.
    column = np.argmin(hidden, axis=1)[:, None, ..., None]
    kept = np.take_along_axis(images, column, axis=1)[:, 0]
    return hide(kept, np.all(hidden, axis=1))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _encode(image: ImageLike, is_plain: bool | None) -> bytes:
    if isinstance(image, str | os.PathLike):
        return image_files.read(image, MAX_SERVED_PIXELS, is_plain)
    return _png(image)


def _decode(files: np.ndarray) -> np.ndarray:
    """Decode PNG files of one size to uint8 `(B, height, width, C)`."""
    return np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in files])

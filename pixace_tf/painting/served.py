"""Painting on a TensorFlow Serving: the same images, over the wire.

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
from pixace_tf.errors import UserError
from pixace_tf.painting.painter import WatchCallback
from pixace_tf.painting.request import ImageLike, Request
from pixace_tf.painting.sheets import Completions, hide_after
from pixace_tf.painting.wire import Arrays, Server

# The batching of the server takes so many rows at most.
MAX_ROWS = 8
# Requests under way at once, so that the server has what to batch.
NUM_CONNECTIONS = 4

_DTYPES = {"prefix_length": np.int32, "top_k": np.int32, "seed": np.int64}


class ServedPainter:
    """A `Painter` with a model on a server.

    A server shows no image before it is whole: `watch` is shown the end.

    Args:
        server: Where the model is.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.labels: tuple[str, ...] = ()

    def complete(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> Completions:
        """See `Painter`.

        Raises:
            ServerError: If the server does not answer as it should.
        """
        request.check_has_images()
        if request.cover is not None or request.mask is not None:
            raise UserError(
                "A server keeps the top of a picture only; for another cover "
                "or a mask give RUN instead of --server."
            )
        _refuse_label(request)
        scored = self._score(request.images)
        small = scored["image_bytes"]
        originals = _decode(small)
        prefix_length = request.prefix_in(scored["token_ids"].shape[1])
        columns = request.columns
        rows = {
            **_sampling(request, len(small)),
            "seed": request.seeds(scored["token_ids"]),
            "image_bytes": np.repeat(small, columns),
            "prefix_length": np.full(len(small) * columns, prefix_length),
        }
        answer = self._predict_all("complete", rows, progress)
        completed = _decode(answer["image_bytes"])
        # What was kept is the same in every column.
        kept = [hide_after(c, prefix_length) for c in completed[::columns]]
        completed = request.choose(completed, answer["bits_per_pixel"])
        if watch is not None:
            watch(completed)
        temperatures = tuple(float(t) for t in request.temperatures)
        return Completions(originals, np.stack(kept), completed, temperatures)

    def generate(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> np.ndarray:
        """See `Painter`.

        Raises:
            ServerError: If the server does not answer as it should.
        """
        _refuse_label(request)
        rows = {**_sampling(request, 1), "seed": request.seeds()}
        answer = self._predict_all("generate", rows, progress)
        images = _decode(answer["image_bytes"])
        (images,) = request.choose(images, answer["bits_per_pixel"])
        if watch is not None:
            watch(images)
        return images

    def shrink(self, image: ImageLike) -> np.ndarray:
        """See `Painter`.

        Raises:
            ServerError: If the server does not answer as it should.
        """
        scored = self._score([image])
        length = scored["token_ids"].shape[1]
        rows = {
            **_sampling(Request(), 1),
            "seed": np.array([0]),
            "image_bytes": scored["image_bytes"],
            "prefix_length": np.array([length]),
        }
        return _decode(self._predict_all("complete", rows)["image_bytes"])[0]

    def examples(self, count: int = 6) -> np.ndarray:
        """See `Painter`; a server keeps no images."""
        return np.zeros((0, 1, 1, 3), np.uint8)

    def _score(self, images: Sequence[ImageLike]) -> Arrays:
        """Return what the server sees of images."""

        def score(is_plain: bool | None) -> Arrays:
            files = [_encode(image, is_plain) for image in images]
            return self._predict_all(
                "score", {"image_bytes": np.array(files, object)}
            )

        try:
            return score(None)
        except UserError:
            if all(isinstance(image, np.ndarray) for image in images):
                raise
            # Rare kinds of JPEG and PNG that only Pillow reads.
            return score(False)

    def _predict_all(
        self,
        signature_name: str,
        rows: Arrays,
        progress: ProgressCallback | None = None,
    ) -> Arrays:
        """Run a signature on any number of rows, some at a time."""
        rows = {
            name: value.astype(_DTYPES.get(name, value.dtype))
            for name, value in rows.items()
        }
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


def _sampling(request: Request, num_rows: int) -> Arrays:
    """Return how freely to sample each drawn image of a request."""
    count = num_rows * request.columns
    return {**request.sampling_config(num_rows).arrays(count)}


def _refuse_label(request: Request) -> None:
    if request.label is not None:
        raise UserError(
            "A server paints without labels; give RUN instead of --server."
        )


def _encode(image: ImageLike, is_plain: bool | None) -> bytes:
    if isinstance(image, str | os.PathLike):
        return image_files.read(os.fspath(image), is_plain=is_plain)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _decode(files: np.ndarray) -> np.ndarray:
    """Decode PNG files of one size to uint8 `(B, height, width, 3)`."""
    return np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in files])

"""The interface of painters, on this machine or on a server."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from pixace_tf.console import ProgressCallback
from pixace_tf.painting.color_limit import ColorLimit
from pixace_tf.painting.request import ImageLike, Request
from pixace_tf.painting.sheets import Completions

# Called with the growing images, uint8, in the shape of the result.
WatchCallback = Callable[[np.ndarray], None]


class Painter(Protocol):
    """Fulfills requests with one model."""

    @property
    def labels(self) -> Sequence[str]:
        """The labels that the model knows."""

    @property
    def is_smooth(self) -> bool:
        """Whether sheets may smooth the images; False for pixel art."""

    @property
    def are_pairs(self) -> bool:
        """Whether images are pairs of pictures; see `data.pairing`."""

    def complete(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> Completions:
        """Keep some pixels of each image and sample the rest.

        Of pairs, the first pictures are given and the second ones are sampled.

        Args:
            request: A request with at least one image.
            progress: Called with the work done so far and in total.
            watch: Called with the growing images, like `Completions.images`.

        Raises:
            UserError: If an image is not usable or a value is out of range.
            ServerError: If a server fails.
        """

    def generate(
        self,
        request: Request,
        progress: ProgressCallback | None = None,
        watch: WatchCallback | None = None,
    ) -> np.ndarray:
        """Sample new images.

        Args:
            request: See `request.generation`.
            progress: Called with the work done so far and in total.
            watch: Called with the growing images, in the shape of the result.

        Returns:
            uint8 `(temperatures, samples, height, width, C)`.
        """

    def color_limit(self, request: Request) -> ColorLimit | None:
        """Return the only colors of a request, with the model's codes.

        Raises:
            UserError: If the painter cannot limit colors.
        """

    def shrink(self, image: ImageLike) -> np.ndarray:
        """Return an image as the model sees it, in size and colors.

        With pairs, the image is a first picture.

        Returns:
            uint8 `(height, width, C)`.
        """

    def examples(self, count: int = 6) -> np.ndarray:
        """Return images that the model was not trained on.

        Of pairs, these are first pictures.

        Returns:
            uint8 `(N, height, width, C)`, N at most `count`; N is 0 if the
            painter has no such images.
        """

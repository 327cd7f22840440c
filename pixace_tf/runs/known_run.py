"""The facts of a run that its files tell without loading the model."""

import dataclasses
import math
import os

from pixace_tf import storage
from pixace_tf.data.image_files import printable
from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.runs.run_config import (
    SAMPLES_FILE,
    WEIGHTS_FILE,
    best_entry,
    read_config,
)


@dataclasses.dataclass(frozen=True)
class KnownRun:
    """A run, as described by its files; all text is printable.

    Attributes:
        name: Name by which commands take it.
        path: Its folder.
        image_size: `(height, width)`.
        resize: How pictures are brought to that size.
        palette: The colors.
        decoder: Name of the decoder, and of its preset.
        labels: Names of its labels.
        bits_per_pixel: Lowest value in validation, None before the first.
        num_bytes: Size of its weights, 0 before the first.
        source: Name of the pictures it was trained on.
        versions: Versions of the packages that made it, by name.
    """

    name: str
    path: str
    image_size: tuple[int, int]
    resize: str
    palette: Palette
    decoder: str
    labels: tuple[str, ...]
    bits_per_pixel: float | None
    num_bytes: int
    source: str
    versions: dict[str, str]

    @classmethod
    def read(cls, name: str, path: str) -> "KnownRun":
        """Read the files of a run.

        Args:
            name: Name by which commands take it.
            path: Its folder.

        Raises:
            UserError: If the folder is no usable run.
        """
        config = read_config(path)
        weights = os.path.join(path, WEIGHTS_FILE)
        best = best_entry(path)
        try:
            tokenizer, model = config["tokenizer"], config["model"]
            arguments = config["arguments"]
            height, width = map(int, tokenizer["image_size"])
            parts = [model["decoder"], arguments.get("preset")]
            source = str(arguments.get("source", "images"))
            return cls(
                name,
                path,
                (height, width),
                printable(str(tokenizer.get("resize", "crop"))),
                Palette.get(tokenizer["palette"]),
                printable(", preset ".join(str(p) for p in parts if p)),
                tuple(printable(str(label)) for label in model["labels"]),
                best["val_bits_per_pixel"] if best else None,
                os.path.getsize(weights) if os.path.exists(weights) else 0,
                printable(os.path.basename(os.path.normpath(source))),
                {
                    printable(str(package)): printable(str(version))
                    for package, version in config.get("versions", {}).items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{path!r} has a damaged run.json.") from None

    @property
    def samples(self) -> str | None:
        """The path of a strip of samples, None if there is none."""
        path = os.path.join(self.path, SAMPLES_FILE)
        return path if os.path.exists(path) else None

    def num_parameters(self) -> int:
        """Return the number of weights, from the header of their file.

        Raises:
            UserError: If the file is missing or damaged.
        """
        path = os.path.join(self.path, WEIGHTS_FILE)
        with storage.open_npz(path) as file:
            return sum(map(math.prod, file.shapes.values()))

"""What the files of a run tell, without loading the model."""

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
        image_size: `(height, width)`.
        decoder: The decoder and its preset.
        bits_per_pixel: Lowest value in validation, None before the first.
        num_bytes: Size of the weights, 0 before the first validation.
        source: Name of the images that it was trained on.
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
        """Read the files of a run; a UserError says why it is unusable."""
        config = read_config(path)
        weights = os.path.join(path, WEIGHTS_FILE)
        best = best_entry(path)
        try:
            tokenizer, model = config["tokenizer"], config["model"]
            arguments = config["arguments"]
            height, width = map(int, tokenizer["image_size"])
            parts = [model["decoder"], arguments.get("preset")]
            source = os.path.normpath(str(arguments.get("source", "images")))
            versions = config.get("versions", {}).items()
            return cls(
                name,
                path,
                (height, width),
                _text(tokenizer.get("resize", "crop")),
                Palette.get(tokenizer["palette"]),
                _text(", preset ".join(str(part) for part in parts if part)),
                tuple(map(_text, model["labels"])),
                best["val_bits_per_pixel"] if best else None,
                os.path.getsize(weights) if os.path.exists(weights) else 0,
                _text(os.path.basename(source)),
                {_text(name): _text(version) for name, version in versions},
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{path!r} has a damaged run.json.") from None

    @property
    def samples(self) -> str | None:
        """The path of a strip of samples, if there is one."""
        path = os.path.join(self.path, SAMPLES_FILE)
        return path if os.path.exists(path) else None

    def num_parameters(self) -> int:
        """Return the number of weights, from the header of their file."""
        path = os.path.join(self.path, WEIGHTS_FILE)
        with storage.open_npz(path) as file:
            return sum(map(math.prod, file.shapes.values()))


def _text(value: object) -> str:
    return printable(str(value))

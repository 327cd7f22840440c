"""Which runs there are, and which one a name means. Needs no TensorFlow."""

import dataclasses
import os
import shutil
from collections.abc import Callable

from pixace_tf import storage
from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.runs import hub
from pixace_tf.runs.run_config import (
    SAMPLES_FILE,
    WEIGHTS_FILE,
    best_bits,
    read_config,
)
from pixace_tf.storage import RUN_FILE, StrPath

RUNS_DIR = "saved_models"
# Models that come with this package.
BOX_DIR = os.path.join(os.path.dirname(os.path.dirname(__file__)), "box")


def locate(name: StrPath, say: Callable[[str], None] = print) -> str:
    """Return the folder of a run.

    Args:
        name: A path; else a name in `saved_models/`, else one in the box; or
            an address on the Hugging Face Hub, `hf://USER/NAME[@REVISION]`.
        say: Takes the line that tells which revision of the Hub is used.

    Returns:
        The path of the folder; a path is returned as it is, usable or not.

    Raises:
        UserError: If no run has that name.
    """
    name = os.fspath(name)
    if name.startswith(hub.SCHEME):
        return hub.fetch(hub.parse(name), say)
    places = [name, os.path.join(RUNS_DIR, name), os.path.join(BOX_DIR, name)]
    is_name = os.path.basename(name) == name
    for place in places if is_name else [name]:
        if os.path.isfile(os.path.join(place, RUN_FILE)):
            return place
    if not is_name or os.path.isdir(name):
        return name
    raise UserError(
        f"There is no run {name!r}: no folder, nothing of that name in "
        f"{RUNS_DIR}/, and in the box there is only "
        f"{', '.join(box_names()) or 'nothing'}. `pixace-tf models` lists all."
    )


def is_in_box(path: StrPath) -> bool:
    """Tell whether a run comes with this package."""
    return os.path.dirname(os.path.abspath(path)) == os.path.abspath(BOX_DIR)


def locate_own(name: StrPath, say: Callable[[str], None] = print) -> str:
    """Return the folder of a run that may be written to.

    Args:
        name: As `locate` takes it. What is in the box or on the Hub is copied
            to `saved_models/`.
        say: Takes the lines that tell of it.

    Raises:
        UserError: If no run has that name, or the copy has no place.
    """
    path = locate(name, say)
    is_from_hub = os.fspath(name).startswith(hub.SCHEME)
    if not (is_from_hub or is_in_box(path)):
        return path
    own = os.path.basename(
        hub.parse(os.fspath(name)).repository if is_from_hub else path
    )
    copy = os.path.join(RUNS_DIR, own)
    os.makedirs(RUNS_DIR, exist_ok=True)
    try:
        with storage.new_folder(copy) as temporary:
            shutil.copytree(path, temporary, dirs_exist_ok=True)
    except FileExistsError:
        raise UserError(
            f"{name} would be copied to {copy}, which exists; give that, or "
            "move it away."
        ) from None
    say(f"Copied {name} to {copy}.")
    return copy


def box_names() -> list[str]:
    """Return the names of the models that come with this package."""
    return _runs_in(BOX_DIR)


@dataclasses.dataclass(frozen=True)
class KnownRun:
    """A run, as far as its files tell without loading it.

    Attributes:
        name: What a command takes for it.
        path: Its folder.
        image_size: `(height, width)`.
        palette: The colors.
        decoder: Name of the decoder, and of its preset.
        labels: Names of its labels.
        bits_per_pixel: Lowest of its validation, None before the first.
        num_bytes: Size of its weights, 0 before the first.
    """

    name: str
    path: str
    image_size: tuple[int, int]
    palette: Palette
    decoder: str
    labels: tuple[str, ...]
    bits_per_pixel: float | None
    num_bytes: int

    @property
    def samples(self) -> str | None:
        """The path of a strip of samples, None where there is none."""
        path = os.path.join(self.path, SAMPLES_FILE)
        return path if os.path.exists(path) else None


def known_runs() -> list[KnownRun]:
    """Return the runs in `saved_models/` and in the box, by their names.

    What is no usable run is left out. A run that hides one in the box stands
    for both.
    """
    found = {}
    for folder in (BOX_DIR, RUNS_DIR):
        for name in _runs_in(folder):
            path = os.path.join(folder, name)
            try:
                found[name] = _known(name, path)
            except UserError:
                continue
    return [found[name] for name in sorted(found)]


def _runs_in(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(
        name
        for name in os.listdir(folder)
        if os.path.isfile(os.path.join(folder, name, RUN_FILE))
    )


def _known(name: str, path: str) -> KnownRun:
    config = read_config(path)
    try:
        tokenizer, model = config["tokenizer"], config["model"]
        preset = config["arguments"].get("preset")
        height, width = tokenizer["image_size"]
        return KnownRun(
            name,
            path,
            (height, width),
            Palette.get(tokenizer["palette"]),
            f"{model['decoder']}, {preset}" if preset else model["decoder"],
            tuple(model["labels"]),
            best_bits(path),
            _size(os.path.join(path, WEIGHTS_FILE)),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged.") from None


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0

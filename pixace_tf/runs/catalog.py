"""Find runs by their names, without TensorFlow."""

import contextlib
import glob
import os
import shutil
from collections.abc import Callable

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.runs import hub
from pixace_tf.runs.known_run import KnownRun
from pixace_tf.storage import RUN_FILE, StrPath

RUNS_DIR = "saved_models"
# Models that come with this package.
BOX_DIR = os.path.join(os.path.dirname(os.path.dirname(__file__)), "box")


def locate(name: StrPath, say: Callable[[str], None] = print) -> str:
    """Return the folder of a run.

    Args:
        name: A path, which is returned as it is, usable or not; else a name in
            `saved_models/`, else one in the box; or an address on the Hugging
            Face Hub, `hf://USER/NAME[@REVISION]`.
        say: Takes the line that says which revision of the Hub is used.

    Raises:
        UserError: If no run has that name, or the Hub does not give it.
    """
    name = os.fspath(name)
    if hub.is_address(name):
        return hub.fetch(hub.parse(name), say)
    places = [name, os.path.join(RUNS_DIR, name), os.path.join(BOX_DIR, name)]
    is_name = os.path.basename(name) == name
    for place in places if is_name else [name]:
        if os.path.isfile(os.path.join(place, RUN_FILE)):
            return place
    if not is_name or os.path.isdir(name):
        return name
    boxed = ", ".join(run_names(BOX_DIR)) or "nothing"
    raise UserError(
        f"There is no run {name!r}: there is no such folder, {RUNS_DIR}/ has "
        f"nothing of that name, and the box has only {boxed}. `pixace-tf "
        "models` lists all."
    )


def is_in_box(path: StrPath) -> bool:
    """Tell whether a run comes with this package."""
    return os.path.dirname(os.path.abspath(path)) == os.path.abspath(BOX_DIR)


def locate_own(name: StrPath, say: Callable[[str], None] = print) -> str:
    """Return the folder of a run that may be written to; see `locate`.

    A run in the box or on the Hub is copied to `saved_models/`, which is said.

    Raises:
        UserError: If no run has that name, or the copy's place is taken.
    """
    name = os.fspath(name)
    path = own = locate(name, say)
    if hub.is_address(name):
        own = hub.parse(name).repository
    elif not is_in_box(path):
        return path
    copy = os.path.join(RUNS_DIR, os.path.basename(own))
    os.makedirs(RUNS_DIR, exist_ok=True)
    try:
        with storage.new_folder(copy) as temporary:
            shutil.copytree(path, temporary, dirs_exist_ok=True)
    except FileExistsError:
        raise UserError(
            f"{name} would be copied to {copy}, which exists; give that run, "
            "or move it away."
        ) from None
    say(f"Copied {name} to {copy}.")
    return copy


def known_runs() -> list[KnownRun]:
    """Return the usable runs in `saved_models/` and in the box, sorted by name.

    A run in `saved_models/` hides one of the same name in the box.
    """
    found = {}
    for folder in (BOX_DIR, RUNS_DIR):
        for name in run_names(folder):
            with contextlib.suppress(UserError):
                found[name] = KnownRun.read(name, os.path.join(folder, name))
    return [found[name] for name in sorted(found)]


def run_names(folder: str) -> list[str]:
    """Return the names of the runs in `saved_models/` or in the box."""
    return sorted(
        os.path.dirname(file)
        for file in glob.glob(f"*/{RUN_FILE}", root_dir=folder)
    )

"""Exports a run for LiteRT: the painter file and a card, in one folder."""

import os
import shutil
from collections.abc import Callable

from pixace_tf import storage
from pixace_tf.runs import model_card, painter
from pixace_tf.runs.run_config import PAINTER_FILE


def export(
    path: str,
    out: storage.StrPath | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Write a run's painter file, and a card that shows how to call it.

    Args:
        path: A run folder that may be written to.
        out: The folder; by default `litert` in the run folder.
        say: Takes each line of the report.

    Returns:
        The folder.

    Raises:
        UserError: If the run has no weights or cannot be converted.
    """
    folder = os.path.join(path, "litert") if out is None else os.fspath(out)
    found = painter.find(path) or painter.make(path, say=say)
    os.makedirs(folder, exist_ok=True)
    file = os.path.join(folder, PAINTER_FILE)
    with storage.new_file(file) as temporary:
        shutil.copyfile(found.path, temporary)
    say(f"{file}: {os.path.getsize(file) / 1e6:.1f} MB")
    card = os.path.join(folder, model_card.CARD_FILE)
    if model_card.is_own(folder):
        say(f"{card} is your own and stays as it is.")
    else:
        text = model_card.for_litert(path, found.facts)
        storage.write_atomic(card, text.encode())
    return folder

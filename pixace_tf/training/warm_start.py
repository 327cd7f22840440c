"""Starts a run with the weights of another one."""

import os
from collections.abc import Sequence

from pixace_tf.data.labels import NULL_LABEL
from pixace_tf.runs import run_config, run_folder
from pixace_tf.runs.run_folder import Run

# The arguments that both runs have in common.
SHARED = (
    "image_size",
    "bit_widths",
    "color_space",
    "preset",
    "decoder",
    "num_layers",
    "hidden_dim",
    "num_hashes",
    "head",
)


def load_unless_begun(run: Run) -> None:
    """Set the weights of a new run to those of the one it starts from.

    Labels with the same name keep their vectors, and so do the orders that
    both know; other vectors stay as they are.

    Args:
        run: The run; nothing happens where it has a checkpoint already, or
            starts from nothing.

    Raises:
        UserError: If the other run has no weights, or damaged ones.
    """
    path = run.arguments.get("start_from")
    if path is None or os.path.exists(run.file(run_config.CHECKPOINT_FILE)):
        return
    new, other = run.model, run_folder.load_run(path, jit_compile=False).model
    rows_of = {
        "orders": zip(new.orders, other.orders, strict=False),
        "labels": _common_rows(new.labels, other.labels),
    }
    arrays = run_folder.get_weights(new)
    given = run_folder.get_weights(other)
    for name in arrays.keys() & given.keys():
        _, _, table = name.rpartition("condition/")
        if table not in rows_of:
            arrays[name] = given[name]
            continue
        arrays[name] = arrays[name].copy()
        for row, row_of_other in rows_of[table]:
            arrays[name][row] = given[name][row_of_other]
    for weight in new.weights:
        weight.assign(arrays[weight.path])


def _common_rows(
    new: Sequence[str], other: Sequence[str]
) -> list[tuple[int, int]]:
    """Return the rows of the null label and of the labels that both have."""
    both = [name for name in new if name in other]
    pairs = [(new.index(name) + 1, other.index(name) + 1) for name in both]
    return [(NULL_LABEL, NULL_LABEL), *pairs]

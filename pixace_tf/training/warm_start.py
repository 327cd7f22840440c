"""Start a run with the weights of another one."""

import os

from pixace_tf.data.labels import NULL_LABEL, number_of
from pixace_tf.runs import model_weights, run_config, run_folder
from pixace_tf.runs.run_folder import Run

# The arguments that a run takes over from the run that it starts from.
SHARED = (
    *("image_size", "bit_widths", "color_space", "alpha", "preset"),
    *("decoder", "num_layers", "hidden_dim", "num_hashes", "head"),
)


def load_unless_begun(run: Run) -> None:
    """Set the weights of a new run to those of the run that it starts from.

    The vectors of labels and orders are copied if both runs know them. A run
    that has a checkpoint, or does not start from another run, is left alone.

    Raises:
        UserError: If the other run has no weights, or damaged ones.
    """
    path = run.arguments.get("start_from")
    if path is None or os.path.exists(run.file(run_config.CHECKPOINT_FILE)):
        return
    new, other = run.model, run_folder.load_run(path, jit_compile=False).model
    labels = [
        (number_of(name, new.labels), number_of(name, other.labels))
        for name in {*new.labels} & {*other.labels}
    ]
    rows_of = {
        "orders": zip(new.orders, other.orders, strict=False),
        "labels": [(NULL_LABEL, NULL_LABEL), *labels],
    }
    arrays = model_weights.get_weights(new)
    given = model_weights.get_weights(other)
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

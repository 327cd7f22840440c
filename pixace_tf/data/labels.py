"""Which classes of images become labels of a model, and their numbers."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pixace_tf.errors import UserError

if TYPE_CHECKING:  # The help of `fit` needs the numbers below only.
    import numpy as np

# The label of unlabeled images, and the share of images that get it in
# training. With a share of 0.1, the model did not learn to recognize the class
# of drawn faces by their pixels: without a label they cost 0.05 bits/pixel
# more, though a label can be worth only 0.005.
NULL_LABEL = 0
NULL_SHARE = 0.5
MIN_IMAGES = 20
MAX_LABELS = 1000
# Most classes that one line lists.
MAX_LISTED = 20


def label_name(name: str) -> str:
    """Return a class name in Unicode form NFC, in which names are compared."""
    return unicodedata.normalize("NFC", name)


def number_of(name: str, names: Sequence[str]) -> int:
    """Return the number of a label, or `NULL_LABEL` if a model has none such.

    The label and those of the model may have any Unicode form.
    """
    spelled = [label_name(known) for known in names]
    if label_name(name) not in spelled:
        return NULL_LABEL
    return spelled.index(label_name(name)) + NULL_LABEL + 1


def choose(counts: Mapping[str, int], wanted: bool | None) -> list[str]:
    """Choose the classes that a model can learn as labels.

    Args:
        counts: Images of each class, in order, 0 if none of them train; "" is
            no class.
        wanted: Whether to use labels; None uses them if possible.

    Returns:
        The classes with at least `MIN_IMAGES` images, in order; empty if fewer
        than two qualify.

    Raises:
        UserError: If labels are wanted and too few or too many qualify.
    """
    if wanted is False:
        return []
    names = [
        name for name, count in counts.items() if name and count >= MIN_IMAGES
    ]
    if 1 < len(names) <= MAX_LABELS:
        return names
    if wanted:
        raise UserError(
            f"Labels need 2 to {MAX_LABELS:,} classes (folders of images) with "
            f"{MIN_IMAGES} images each. There are {len(names)}."
        )
    return []


def describe(counts: Mapping[str, int], names: Sequence[str]) -> str:
    """Return one line about `choose`, "" if the images have no classes."""
    classes = [name for name in counts if name]
    small = [name for name in classes if counts[name] < MIN_IMAGES]
    if len(classes) < 2 or not (names or small):
        return ""
    line = f"Labels: {_listed(names)}." if names else "No labels."
    if small:
        line += f" Fewer than {MIN_IMAGES} images: {_listed(small)}."
    return line


def _listed(names: Sequence[str]) -> str:
    from pixace_tf.data.image_files import printable

    more = ", ..." if len(names) > MAX_LISTED else ""
    return ", ".join(map(printable, names[:MAX_LISTED])) + more


def numbers(
    names: Sequence[str], class_names: Sequence[str], classes: "np.ndarray"
) -> "np.ndarray":
    """Return the labels of images, as the model numbers them.

    Args:
        names: The model's labels.
        class_names: Names of the classes.
        classes: int32 `(N,)`, the class of each image.

    Returns:
        int32 `(N,)`: 1 + the index in `names`, `NULL_LABEL` for other classes.
    """
    import numpy as np

    places = {label_name(n): i for i, n in enumerate(names, NULL_LABEL + 1)}
    of_class = [places.get(label_name(n), NULL_LABEL) for n in class_names]
    return np.array(of_class, np.int32)[classes]

"""Which classes of images become labels of a model, and their numbers."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pixace_tf.errors import UserError

if TYPE_CHECKING:  # The help of `fit` needs the numbers below only.
    import numpy as np

# The label of an image of which nothing is said, and the share of the images
# that get it in training. With 0.1 instead, drawn faces cost 0.05 bits/pixel
# more without their label than with it, where a label can be worth 0.005: the
# model had not learned to tell from the pixels what they show.
NULL_LABEL = 0
NULL_SHARE = 0.5
MIN_IMAGES = 20
MAX_LABELS = 1000


def label_name(name: str) -> str:
    """Return the one spelling of a class name, Unicode form NFC.

    File systems and keyboards may compose letters differently; names compare
    equal after this function only.
    """
    return unicodedata.normalize("NFC", name)


def number_of(name: str, names: Sequence[str]) -> int:
    """Return the number of a label, `NULL_LABEL` if the model has none such.

    Args:
        name: The label, in any Unicode form.
        names: The labels of a model, in any form.
    """
    spelled = [label_name(known) for known in names]
    if label_name(name) not in spelled:
        return NULL_LABEL
    return spelled.index(label_name(name)) + NULL_LABEL + 1


def choose(counts: Mapping[str, int], wanted: bool | None) -> list[str]:
    """Choose the classes that a model can learn as labels.

    Args:
        counts: Training images of each class, in order; "" is none.
        wanted: Whether to; None takes what there is.

    Returns:
        Those with `MIN_IMAGES` images, in order; none where that is but one.

    Raises:
        UserError: If labels are wanted and there are none, or too many.
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
            f"{MIN_IMAGES} training images each. There are {len(names)}."
        )
    return []


def numbers(
    names: Sequence[str], class_names: Sequence[str], classes: "np.ndarray"
) -> "np.ndarray":
    """Return the labels of images, as a model knows them.

    Args:
        names: The model's labels.
        class_names: Names of the classes.
        classes: int32 `(N,)`, the class of each image.

    Returns:
        int32 `(N,)`: places in `names` from 1 on; the null label for images of
        other classes.
    """
    import numpy as np

    places = {label_name(n): i for i, n in enumerate(names, NULL_LABEL + 1)}
    of_class = [places.get(label_name(n), NULL_LABEL) for n in class_names]
    return np.array(of_class, np.int32)[classes]

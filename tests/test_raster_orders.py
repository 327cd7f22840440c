import numpy as np
import pytest

from pixace_tf.data import raster_orders, token_dataset
from pixace_tf.data.raster_orders import (
    BY_COLUMNS,
    MIRRORED,
    UPSIDE_DOWN,
    best_orders,
    permutation,
    permutations,
    shares,
    vector_rows,
)
from pixace_tf.painting import masks

SQUARE = (4, 4)


def test_orders_read_the_turned_image_row_by_row():
    image = np.arange(16).reshape(SQUARE)
    for order, turned in {
        0: image,
        MIRRORED: np.fliplr(image),
        UPSIDE_DOWN: np.flipud(image),
        MIRRORED | UPSIDE_DOWN: np.rot90(image, 2),
        BY_COLUMNS: image.T,
        BY_COLUMNS | MIRRORED: np.rot90(image),
        BY_COLUMNS | UPSIDE_DOWN: np.rot90(image, -1),
        7: np.rot90(image, 2).T,
    }.items():
        sequence = image.ravel()[permutation(order, SQUARE)]
        np.testing.assert_array_equal(sequence, turned.ravel())


@pytest.mark.parametrize("is_square", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_mirrored_orders_share_a_vector_where_images_are_mirrored(
    flip, is_square
):
    size = (4, 4) if is_square else (4, 6)
    rows = vector_rows(size, flip, True)
    assert len(rows) == (8 if is_square else 4)
    assert len(set(rows)) == len(rows) // (2 if flip else 1)
    assert all(rows[order] == rows[order ^ 1] for order in rows) == flip
    assert vector_rows(size, flip, False) == ((0, 0) if flip else (0,))


def test_half_of_the_images_are_read_in_the_first_order():
    for size in (SQUARE, (4, 6)):
        for flip in (True, False):
            rows = np.array(vector_rows(size, flip, True))
            share = shares(tuple(rows))
            assert share.sum() == pytest.approx(1)
            assert share[rows == 0].sum() == pytest.approx(0.5)
    np.testing.assert_array_equal(shares((0, 0)), [0.5, 0.5])


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_a_covered_half_is_the_end_of_its_order(side):
    mask = masks.cover(side, 8, 8).reshape(1, -1)
    (order,) = best_orders(mask, permutations(8, (8, 8)))
    in_order = mask[0, permutation(int(order), (8, 8))]
    assert not in_order[:32].any()
    assert in_order[32:].all()
    assert (order == 0) == (side == "bottom")


def test_training_shows_every_order_with_its_vector_and_label():
    token_ids = np.arange(64 * 16).reshape(64, 16)
    rows = vector_rows(SQUARE, True, True)
    labels = np.arange(64) % 3 + 1
    batches = token_dataset.training_batches(
        token_dataset.MemoryRows(token_ids, labels), SQUARE, 64, 0, rows
    )
    plain = {row[0]: row for row in token_ids}
    seen, dropped = np.zeros(8), 0
    for (tokens, condition), targets in batches.take(50):
        np.testing.assert_array_equal(tokens, targets)
        for sequence, (vector_row, label) in zip(
            tokens.numpy(), condition.numpy(), strict=True
        ):
            original = plain[sequence.min()]
            (order,) = [
                order
                for order in range(8)
                if np.array_equal(
                    original[permutation(order, SQUARE)], sequence
                )
            ]
            assert vector_row == rows[order]
            number = original[0] // 16
            assert label in (0, labels[number])
            seen[order] += 1
            dropped += label == 0
    np.testing.assert_allclose(seen / 3200, shares(rows), atol=0.03)
    assert dropped / 3200 == pytest.approx(0.5, abs=0.03)


def test_a_permutation_is_not_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        raster_orders.permutation(0, SQUARE)[0] = 1

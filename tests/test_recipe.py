"""Which recipe a training takes, by how often it sees each image."""

import pytest

from pixace_tf.training import recipe, size_law
from pixace_tf.training.training_arguments import FEW, PLAIN, TrainingArguments

SIZES = {"preset": "pico", "image_size": (16, 16)}


def settled(num_images, **values):
    lines = []
    arguments = TrainingArguments(**{**SIZES, **values})
    return recipe.settled(arguments, num_images, lines.append), lines


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"epochs": 8, "resize": "native"}, PLAIN),
        ({"epochs": 9, "resize": "native"}, FEW),
        ({"epochs": 9, "resize": "native", "recipe": "plain"}, PLAIN),
        ({"epochs": 1, "recipe": "few"}, FEW),
        ({"epochs": 9, "resize": "native", "recipe": "auto"}, FEW),
        ({"epochs": 9}, PLAIN),
    ],
)
def test_more_than_eight_passes_change_the_recipe(values, expected):
    arguments, lines = settled(100, **values)
    assert arguments.given["recipe"] == expected
    is_few = expected == FEW
    decay = recipe.FEW_IMAGES["weight_decay"]
    assert (arguments.weight_decay == decay) == is_few
    assert len(lines) == is_few
    # Colors of photos are not exchanged.
    is_told = is_few and "resize" in values
    assert (arguments.hue_turns > 0) == (arguments.shifts > 0) == is_told


def test_the_passes_of_minutes_follow_from_the_speed(monkeypatch):
    monkeypatch.setattr(size_law, "measure_flops", lambda: 1e11)
    many = recipe.planned_passes(
        TrainingArguments(**SIZES, max_minutes=10), 1000
    )
    fewer = recipe.planned_passes(
        TrainingArguments(**SIZES, max_minutes=5), 2000
    )
    assert many == pytest.approx(4 * fewer)
    speed = many * 1000 * 256 / 600
    (candidate,) = (
        c
        for c in size_law.candidates("multiscale", (16, 16), 1e11)
        if c.preset == "nano"
    )
    assert speed > candidate.pixels_per_second
    native = {"max_minutes": 10, "resize": "native"}
    few, lines = settled(round(1000 * many / 9), **native)
    assert few.recipe == FEW
    assert "about 9 times" in lines[0]
    plain, lines = settled(round(1000 * many / 7), **native)
    assert plain.recipe == PLAIN
    assert not lines


def test_sprites_are_also_shifted_and_turned():
    arguments, lines = settled(10, epochs=50, resize="native")
    changed = {**recipe.FEW_IMAGES, **recipe.FEW_SPRITES}
    for name, value in changed.items():
        assert getattr(arguments, name) == value
        assert f"{name.replace('_', ' ')} {value:g}" in lines[0]


def test_what_is_given_stays_even_if_it_is_a_default():
    arguments, (line,) = settled(
        10, epochs=50, resize="native", weight_decay=0.05, input_noise=0.2
    )
    assert (arguments.weight_decay, arguments.input_noise) == (0.05, 0.2)
    assert "weight decay" not in line
    assert "hue turns" in line

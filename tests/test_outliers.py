import io
import json
import types

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pixace_tf.cli import main
from pixace_tf.data import cartoons, image_files
from pixace_tf.errors import UserError
from pixace_tf.evaluation.outliers import (
    describe,
    find_outliers,
    heat_map,
    surprise,
)


def noise(count, height=4, width=6):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def evidence_of(images):
    """What outliers need of the evidence; the last image was trained on."""
    is_held_out = np.arange(len(images)) < len(images) - 1
    return types.SimpleNamespace(
        images=images, quantized=images, is_held_out=is_held_out
    )


def png_bits(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", optimize=True)
    return 8 * len(file.getvalue()) / (pixels.shape[0] * pixels.shape[1])


def test_surprise_by_hand():
    images = noise(3)
    images[0] = 7
    bits = np.stack([np.arange(24), np.full(24, 5), np.zeros(24)])
    files = [png_bits(image) for image in images]
    middle = sorted(files)[1]
    expected = [
        np.mean(np.arange(12, 24)) / (files[0] + middle),
        5 / (files[1] + middle),
        0,
    ]
    np.testing.assert_allclose(surprise(bits, images), expected)


def test_a_plain_picture_can_be_odder_than_a_busy_one():
    images = noise(3, 16, 16)
    images[1] = 7
    bits = np.array([[12.0], [9.0], [12.0]]).repeat(256, axis=1)
    found, _ = find_outliers(evidence_of(images), bits, ["a", "b", "c"])
    assert found[0]["name"] == "b"
    assert found[0]["bits_per_pixel"] == 9


def test_the_unlikeliest_pixels_are_named_by_their_places():
    images = noise(2)
    bits = np.ones((2, 24), np.float32)
    bits[1, 3 * 6 + 2], bits[1, 5] = 20, 9
    found, sheet = find_outliers(evidence_of(images), bits, ["a", "b"])
    assert [one["in_training"] for one in found] == [True, False]
    assert found[0]["pixels"][:2] == [
        {"x": 2, "y": 3, "bits": 20.0},
        {"x": 5, "y": 0, "bits": 9.0},
    ]
    json.dumps(found)
    assert sheet.width > sheet.height
    lines = describe(found, 2).splitlines()
    assert lines[2].endswith("b, trained on")
    assert lines[3].endswith("a")


def test_there_are_at_most_so_many_outliers():
    images = noise(5)
    bits = np.arange(5.0)[:, None].repeat(24, axis=1)
    found, small = find_outliers(evidence_of(images), bits, [*"abcde"], 2)
    every, large = find_outliers(evidence_of(images), bits, [*"abcde"], 9)
    assert (len(found), len(every)) == (2, 5)
    assert small.height < large.height
    with pytest.raises(UserError, match="at least 1"):
        find_outliers(evidence_of(images), bits, [*"abcde"], 0)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("channels", [3, 4])
def test_maps_are_readable_on_dark_and_light_and_clear_pictures(
    level, channels
):
    """Likely pixels are light gray; the unlikeliest, one dark red."""
    image = np.full((2, 3, channels), level, np.uint8)
    bits = np.array([[0, 1, 2], [4, 8, 99]])
    heat = heat_map(image, bits, 8).astype(int)
    assert heat.shape == (2, 3, 3)
    assert np.ptp(heat[0, 0]) == 0
    assert heat[0, 0, 0] >= 150
    np.testing.assert_array_equal(heat[1, 1], heat[1, 2])
    red, green, blue = heat[1, 2]
    assert red > 100 > green + blue / 2
    lightness = heat @ [0.3, 0.6, 0.1]
    assert np.all(np.diff(lightness[1, :2]) < -40)


@pytest.mark.slow
def test_the_command_lists_outliers_and_shows_them(trained_run, tmp_path):
    folder = tmp_path / "images"
    cartoons.draw_folder(str(folder), 8, seed=5)
    Image.fromarray(noise(1, 8, 12)[0]).save(folder / "stray.png")
    sheet = tmp_path / "odd.png"
    words = ["evaluate", trained_run.path, str(folder), "--outliers"]
    done = CliRunner().invoke(
        main, [*words, str(sheet), "--num-outliers", "3", "--json"]
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    found = figures["outliers"]
    assert len(found) == 3
    assert all((folder / one["name"]).is_file() for one in found)
    scores = [one["surprise"] for one in found]
    assert scores == sorted(scores, reverse=True)
    assert "stray.png" in [one["name"] for one in found]
    with Image.open(sheet) as image:
        assert image.width > 6 * 192
    assert image_files.scan(str(sheet)).skipped
    plain = CliRunner().invoke(main, [*words, str(sheet)])
    assert "The 9 unlikeliest of 9 pictures:" in plain.output
    assert plain.output.endswith(f"Look at {sheet}\n")

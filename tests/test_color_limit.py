"""Pictures in the colors of a file, from Python and the command line."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import pixace_tf
from pixace_tf.cli import main
from pixace_tf.data import cartoons
from pixace_tf.data.palette import Palette
from pixace_tf.data.quantization import dequantize
from pixace_tf.errors import UserError
from pixace_tf.painting.color_files import Colors
from pixace_tf.painting.color_limit import ColorLimit
from pixace_tf.painting.request import Request
from pixace_tf.painting.served import ServedPainter
from pixace_tf.painting.wire import Server

# The third is for HSV 544 the second; the fourth is the first again.
RGB = np.array(
    [[250, 10, 20], [1, 2, 3], [2, 1, 2], [250, 10, 20], [255, 255, 255]],
    np.uint8,
)
ALPHA = Palette("hsv", (5, 4, 4), 1)


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_first_of_equal_codes_is_painted():
    limit = ColorLimit(Colors.of(RGB), Palette())
    assert len(limit.codes) == 3
    assert limit.num_merged == 1
    tokens = limit.codes.reshape(1, 3)
    images = dequantize(Palette().unpack(tokens), Palette()).astype(np.uint8)
    painted = limit.paint(tokens, images.reshape(1, 3, 3))
    assert {tuple(c) for c in painted[0].tolist()} == {
        (250, 10, 20),
        (1, 2, 3),
        (255, 255, 255),
    }
    indices = limit.indices(painted)
    assert set(indices.ravel().tolist()) == {0, 1, 4}


def test_other_tokens_keep_their_colors():
    limit = ColorLimit(Colors.of(RGB), Palette())
    image = np.full((1, 1, 3), 77, np.uint8)
    np.testing.assert_array_equal(limit.paint(np.array([500]), image), image)
    assert not limit.has_all(image)
    assert limit.indexed(image).mode == "RGB"


def test_transparency_is_the_last_entry_or_that_of_the_file():
    image = np.zeros((1, 2, 4), np.uint8)
    image[0, 0] = [*RGB[1], 255]
    limit = ColorLimit(Colors.of(RGB), ALPHA)
    assert 0 in limit.codes
    indexed = limit.indexed(image)
    assert np.asarray(indexed).tolist() == [[1, 5]]
    assert indexed.info["transparency"] == 5
    np.testing.assert_array_equal(indexed.convert("RGBA"), image)
    is_opaque = np.array([False, True, True, True, True])
    limit = ColorLimit(Colors(RGB, is_opaque, ("",) * 5), ALPHA)
    assert np.asarray(limit.indexed(image)).tolist() == [[1, 0]]
    # The first entry stands for transparency; the fourth is that color.
    image[0, 0] = [*RGB[0], 255]
    assert np.asarray(limit.indexed(image)).tolist() == [[3, 0]]


def test_256_colors_leave_no_place_for_transparency():
    gray = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    with pytest.raises(UserError, match="remove a color"):
        ColorLimit(Colors.of(gray), ALPHA)
    limit = ColorLimit(Colors.of(gray), Palette())
    indexed = limit.indexed(gray.reshape(16, 16, 3))
    assert np.asarray(indexed).ravel().tolist() == list(range(256))


def test_the_counts_add_up(tmp_path):
    numbers = np.random.default_rng(0)
    images = RGB[numbers.integers(0, 5, (3, 4, 6))]
    rgba = np.concatenate([images, np.full((3, 4, 6, 1), 255, np.uint8)], -1)
    rgba[0, 0] = 0
    rgba[1, 0, 0] = [9, 9, 9, 255]
    names = ("red", "", "ink", "", "=white")
    colors = Colors(RGB, np.ones(5, bool), names)
    path = tmp_path / "counts.csv"
    ColorLimit(colors, ALPHA).save_counts(rgba, path)
    head, *rows = csv.reader(path.read_text().splitlines())
    assert head == ["index", "hex", "name", "total", "000", "001", "002"]
    assert [row[:3] for row in rows] == [
        ["0", "fa0a14", "red"],
        ["1", "010203", ""],
        ["2", "020102", "ink"],
        ["3", "fa0a14", ""],
        ["4", "ffffff", "=white"],
        ["5", "transparent", ""],
        ["", "other", ""],
    ]
    counts = np.array([row[3:] for row in rows], int)
    assert counts.sum(axis=0).tolist() == [72, 24, 24, 24]
    assert counts[5].tolist() == [6, 6, 0, 0]
    assert counts[6].tolist() == [1, 0, 1, 0]
    assert not counts[3].any()


def test_a_server_paints_all_colors():
    painter = ServedPainter(Server("http://127.0.0.1:9", "model"))
    with pytest.raises(UserError, match="run on this machine"):
        painter.generate(Request(only_colors=RGB))


def test_generate_paints_only_the_colors_of_a_file(trained_run, tmp_path):
    path = tmp_path / "colors.hex"
    path.write_text("\n".join(bytes(color).hex() for color in RGB))
    done = call(
        *("generate", trained_run.path, "--count", 3, "--no-preview"),
        *("--only-colors", path, "--tiles", tmp_path / "tiles"),
        *("--counts", tmp_path / "counts.csv", "--out", tmp_path / "new.png"),
        *("--sheet", tmp_path / "sheet.png", "--sheet-gap", 1, "--scale", 3),
    )
    assert done.exit_code == 0, done.output
    assert "1 of the 5 colors are for this run the same" in done.output
    lines = (tmp_path / "counts.csv").read_text().splitlines()
    head, *rows = csv.reader(lines)
    assert head == ["index", "hex", "total", "000", "001", "002"]
    painted = pixace_tf.generate(trained_run, 3, only_colors=RGB)
    for i, pixels in enumerate(painted[0]):
        with Image.open(tmp_path / "tiles" / f"00{i}.png") as image:
            assert image.mode == "P"
            assert image.getpalette() == RGB.ravel().tolist()
            np.testing.assert_array_equal(image.convert("RGB"), pixels)
            counts = np.bincount(np.asarray(image).ravel(), minlength=5)
        assert counts.tolist() == [int(row[3 + i]) for row in rows]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.mode == "P"
    with Image.open(tmp_path / "new.png") as sheet:
        shown = {color for _, color in sheet.getcolors()}
    assert shown <= {tuple(color) for color in RGB.tolist()}


def test_complete_keeps_other_colors(trained_run, tmp_path):
    cat = tmp_path / "cat.png"
    cartoons.draw("cat", "7").save(cat)
    path = tmp_path / "colors.hex"
    path.write_text("ff0000\n0000ff\n")
    done = call(
        *("complete", trained_run.path, cat, "--only-colors", path),
        *("--tiles", tmp_path, "--out", tmp_path / "a.png", "--no-preview"),
    )
    assert done.exit_code == 0, done.output
    assert "1 of 1 pictures keep pixels of other colors" in done.output
    with Image.open(tmp_path / "000.png") as image:
        below = np.asarray(image)[4:].reshape(-1, 3)
    assert {tuple(c) for c in below.tolist()} <= {(255, 0, 0), (0, 0, 255)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--counts", "a.csv"), "--counts needs --only-colors"),
        (("--sheet-gap", "1"), "need --sheet"),
        (("--sheet", "a.jpg"), "must end in .png"),
        (("--only-colors", "none.hex"), "none.hex: No such file"),
        (
            ("--only-colors", "box.hex", "--server", "http://127.0.0.1:9"),
            "No such file",
        ),
    ],
)
def test_wrong_options_get_one_line(options, message):
    run = () if "--server" in options else ("animals",)
    done = call("generate", *run, *options)
    assert done.exit_code == 2
    assert message in done.output

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixace_tf.data.cutting import Cutting
from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.painting import sprite_sheet
from pixace_tf.painting.color_files import Colors
from pixace_tf.painting.color_limit import ColorLimit
from pixace_tf.painting.sprite_sheet import SpriteSheet


def sprites(count, channels=4, size=(5, 3), seed=0):
    numbers = np.random.default_rng(seed)
    return numbers.integers(0, 256, (count, *size, channels), np.uint8)


def cut(path):
    """Cut a sheet as the documentation of Aseprite's format tells."""
    content = json.loads(path.with_suffix(".json").read_text())
    frames, meta = content["frames"], content["meta"]
    with Image.open(path.parent / meta["image"]) as sheet:
        assert meta["size"] == {"w": sheet.width, "h": sheet.height}
        assert meta["format"] == {"RGBA": "RGBA8888", "P": "I8"}[sheet.mode]
        sheet = sheet.convert("RGBA")
    assert meta["scale"] == "1"
    pieces = []
    for frame in frames.values():
        box, size = frame["frame"], frame["sourceSize"]
        assert not frame["rotated"]
        assert not frame["trimmed"]
        assert frame["duration"] == 100
        assert frame["spriteSourceSize"] == {"x": 0, "y": 0, **size}
        x, y, w, h = (box[name] for name in "xywh")
        assert (w, h) == (size["w"], size["h"])
        pieces.append(np.asarray(sheet.crop((x, y, x + w, y + h))))
    return content, np.stack(pieces)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 3), st.integers(0, 2), st.booleans())
def test_a_sheet_is_cut_into_equal_pictures(
    tmp_path_factory, count, gap, margin, has_alpha
):
    path = tmp_path_factory.mktemp("sheets") / "a.png"
    images = sprites(count, 4 if has_alpha else 3)
    SpriteSheet([("", images)], gap, margin).save(path)
    content, found = cut(path)
    np.testing.assert_array_equal(found[..., : images.shape[3]], images)
    assert list(content["frames"]) == [f"a {i}.png" for i in range(count)]
    # As `fit --tiles` cuts it; the last cells may be empty.
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    boxes = Cutting((5, 3), gap, margin).boxes(*pixels.shape[:2])
    tiles = [pixels[top:end, left:right] for top, left, end, right in boxes]
    np.testing.assert_array_equal(tiles[:count], found)
    assert not np.any(tiles[count:])
    assert abs(np.sqrt(len(tiles)) - np.sqrt(count)) < 1


def test_rows_of_labels_are_tags(tmp_path):
    rows = [("cat", sprites(3)), ("dog, T 1", sprites(2, seed=1))]
    SpriteSheet(rows, gap=1).save(tmp_path / "zoo.png")
    content, found = cut(tmp_path / "zoo.png")
    both = np.concatenate([images for _, images in rows])
    np.testing.assert_array_equal(found, both)
    assert content["meta"]["size"] == {"w": 3 * 3 + 2, "h": 5 * 2 + 1}
    assert content["meta"]["frameTags"] == [
        {"name": "cat", "from": 0, "to": 2, "direction": "forward"},
        {"name": "dog, T 1", "from": 3, "to": 4, "direction": "forward"},
    ]
    assert "aseprite" in content["meta"]["app"]


def test_a_sheet_of_few_colors_is_indexed(tmp_path):
    rgb = np.array([[0, 0, 0], [200, 30, 9], [255, 255, 255]], np.uint8)
    limit = ColorLimit(Colors.of(rgb), Palette())
    images = rgb[np.random.default_rng(0).integers(0, 3, (5, 4, 4))]
    path = tmp_path / "a.png"
    SpriteSheet([("", images)], 1, 1).save(path, limit.indexed)
    _, found = cut(path)
    np.testing.assert_array_equal(found[..., :3], images)
    with Image.open(path) as sheet:
        assert sheet.mode == "P"
        assert sheet.info["transparency"] == 3
        assert sheet.getpalette()[:9] == rgb.ravel().tolist()
        assert sheet.getpixel((0, 0)) == 3


def test_a_sprite_sheet_is_a_png(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.png"):
        sprite_sheet.check_path(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="no folder"):
        sprite_sheet.check_path(tmp_path / "none" / "a.png")

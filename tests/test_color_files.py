import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixace_tf.errors import UserError
from pixace_tf.painting import color_files
from pixace_tf.painting.color_files import Colors

RGB = np.array([[26, 28, 44], [255, 0, 7], [0, 0, 0]], np.uint8)
HEX = [bytes(color).hex() for color in RGB]
DECIMAL = [" ".join(map(str, color)) for color in RGB.tolist()]
GPL = "GIMP Palette\nName: dusk\nColumns: 4\n# by hand\n"


def texts(rgb):
    """The text of each kind of file."""
    decimal = [" ".join(map(str, color)) for color in rgb]
    digits = [bytes(color).hex() for color in rgb]
    return {
        "a.gpl": GPL + "\n".join(f"{line}\tink 7" for line in decimal),
        "a.hex": "\n".join(digits),
        "a.pal": "\n".join(["JASC-PAL", "0100", str(len(rgb)), *decimal]),
        "a.txt": "; paint.net\n" + "\n".join(f"FF{d.upper()}" for d in digits),
    }


colors = st.lists(
    st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=256
)


@settings(max_examples=60, deadline=None)
@given(
    colors,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_every_kind_of_text_gives_its_colors(tmp_path_factory, rgb, end, code):
    folder = tmp_path_factory.mktemp("colors")
    for name, text in texts(rgb).items():
        path = folder / name
        path.write_bytes(text.replace("\n", end).encode(code))
        found = color_files.read(path)
        assert found.rgb.tolist() == [list(color) for color in rgb]
        assert found.is_opaque.all()


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([".gpl", ".hex", ".pal", ".act", ".txt", ".png", ""]),
    st.sampled_from(
        [b"", GPL.encode(), b"JASC-PAL\n0100\n1\n", b"\x89PNG\r\n"]
    ),
    st.one_of(st.binary(max_size=800), st.text(max_size=80).map(str.encode)),
)
def test_any_bytes_are_colors_or_one_clear_line(
    tmp_path_factory, ending, start, content
):
    path = tmp_path_factory.mktemp("colors") / f"a{ending}"
    path.write_bytes(start + content)
    found = message = None
    try:
        found = color_files.read(path)
    except UserError as error:
        message = str(error)
    if found is None:
        assert f"a{ending}" in message
        assert "\n" not in message
    else:
        assert 1 <= len(found.rgb) <= 256
        assert found.rgb.dtype == np.uint8
        assert len(found.names) == len(found.is_opaque) == len(found.rgb)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gpl", GPL, "has no colors"),
        ("a.gpl", GPL + "1 2\n", "line 5"),
        ("a.gpl", GPL + "1 2 256 red\n", "line 5"),
        ("a.gpl", "1 2 3 red\n", "must begin with 'GIMP Palette'"),
        ("a.hex", "00ff00\nfff\n", "line 2"),
        ("a.hex", "000000\n" * 300, "300 colors; at most 256"),
        ("a.hex", "", "has no colors"),
        ("a.hex", "00ff00\n\0\0", "binary"),
        ("a.hex", ";" * 2**21, "too large"),
        ("a.pal", "JASC-PAL\n0100\n3\n1 2 3\n", "damaged"),
        ("a.pal", "RIFF\x10data", "must begin with 'JASC-PAL'"),
        ("a.txt", "00000000\n", "has no colors"),
        ("a.txt", "; nothing\n", "has no colors"),
        ("a.act", "short", "768 or 772 bytes"),
        ("a.act", "a" * 768 + "\0\0\0\0", "has no colors"),
        ("a.act", "a" * 768 + "\x02\0\0\0", "claims 512 colors"),
        ("a.png", "\x89PNG\r\n\x1a\nnothing", "a.png"),
        ("a.png", "no picture", "must be a .gpl"),
        ("a.docx", "000000", "must be a .gpl"),
    ],
)
def test_hostile_files_get_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        color_files.read(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_get_one_line(tmp_path):
    for path, message in (
        (tmp_path / "a.hex", "No such file"),
        (tmp_path, "Is a directory"),
        ("a\0.hex", "null"),
    ):
        with pytest.raises(UserError, match=message):
            color_files.read(path)


def test_names_and_double_entries_keep_their_places(tmp_path):
    path = tmp_path / "beads.gpl"
    text = f"{GPL}255 255 255 P01 Weiß\n0 0 0\n255 255 255 P01 again\n"
    path.write_bytes(text.encode("latin-1"))
    found = color_files.read(path)
    assert found.rgb.tolist() == [[255] * 3, [0] * 3, [255] * 3]
    assert found.names == ("P01 Weiß", "", "P01 again")


def test_transparent_entries_are_no_colors(tmp_path):
    path = tmp_path / "a.gpl"
    path.write_text("GIMP Palette\nChannels: RGBA\n#\n9 9 9 0 none\n1 2 3 255")
    found = color_files.read(path)
    assert found.is_opaque.tolist() == [False, True]
    assert found.names == ("none", "")
    path = tmp_path / "a.txt"
    path.write_text("00FF00FF\n801A1C2C ; half\n1a1c2d\n")
    found = color_files.read(path)
    assert found.is_opaque.tolist() == [False, True, True]
    assert found.rgb[1:].tolist() == [[26, 28, 44], [26, 28, 45]]


def test_adobe_tables_have_a_count_and_a_transparent_index(tmp_path):
    path = tmp_path / "a.act"
    table = RGB.tobytes().ljust(768, b"\0")
    path.write_bytes(table + struct.pack(">HH", 3, 1))
    found = color_files.read(path)
    np.testing.assert_array_equal(found.rgb, RGB)
    assert found.is_opaque.tolist() == [True, False, True]
    path.write_bytes(table + struct.pack(">HH", 2, 0xFFFF))
    assert color_files.read(path).is_opaque.tolist() == [True, True]
    path.write_bytes(table)
    np.testing.assert_array_equal(color_files.read(path).rgb, RGB)
    path.write_bytes(bytes(range(256)) * 3)
    assert len(color_files.read(path).rgb) == 256


def test_a_strip_gives_its_colors_in_order(tmp_path):
    path = tmp_path / "strip.png"
    Image.fromarray(np.repeat(RGB[None], 8, axis=0)).save(path)
    np.testing.assert_array_equal(color_files.read(path).rgb, RGB)
    # The order of a palette is that of its indices, and one is not used.
    indexed = Image.new("P", (3, 1))
    indexed.putpalette([*RGB.ravel().tolist(), 9, 9, 9])
    indexed.putdata([2, 0, 1])
    indexed.save(path)
    np.testing.assert_array_equal(color_files.read(path).rgb, RGB)
    indexed.save(path, transparency=1)
    assert color_files.read(path).is_opaque.tolist() == [True, False, True]
    Image.linear_gradient("L").save(path)
    assert len(color_files.read(path).rgb) == 256
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(path)
    with pytest.raises(UserError, match=r"\d+ colors; at most 256"):
        color_files.read(path)


def test_a_picture_is_told_by_its_content(tmp_path):
    Image.fromarray(RGB[None]).save(tmp_path / "a.hex", "PNG")
    np.testing.assert_array_equal(color_files.read(tmp_path / "a.hex").rgb, RGB)


def test_an_array_is_a_list_of_colors():
    found = Colors.of(RGB)
    np.testing.assert_array_equal(found.rgb, RGB)
    assert Colors.of(found) is found
    for bad in (RGB.astype(int), RGB[0], RGB[:0], np.zeros((300, 3), np.uint8)):
        with pytest.raises(UserError):
            Colors.of(bad)

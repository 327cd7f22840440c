"""Sheets are cut into tiles, animations into frames."""

import json

import numpy as np
import pytest
from PIL import Image
from test_native_grid import EXACT, canonical, enlarged, placed, sprite

from pixace_tf.data import (
    cutter,
    image_files,
    sources,
    token_dataset,
    tokenizing,
)
from pixace_tf.data.cutter import EMPTY
from pixace_tf.data.cutting import Cutting
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError

TOKENIZER = PixelTokenizer((16, 16), EXACT, "native")


def sheet_of(tiles, columns, gap=0, margin=0, rest=(0, 0)):
    """Lay out tiles `(N, height, width, 4)` row by row."""
    _, height, width, _ = tiles.shape
    rows = -(-len(tiles) // columns)
    sheet = np.zeros(
        (
            2 * margin + rows * (height + gap) - gap + rest[0],
            2 * margin + columns * (width + gap) - gap + rest[1],
            4,
        ),
        np.uint8,
    )
    sheet[..., 0] = 77  # Hidden below transparency.
    for i, tile in enumerate(tiles):
        top = margin + i // columns * (height + gap)
        left = margin + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return Image.fromarray(sheet)


def tiles_of(count, height=16, width=16, seed=0):
    return np.stack([sprite(height, width, seed + i) for i in range(count)])


def read(folder, tokenizer=TOKENIZER, **options):
    return sources.load_images(folder, tokenizer, cutting=Cutting(**options))


@pytest.mark.parametrize(("gap", "margin"), [(0, 0), (1, 0), (1, 1), (3, 2)])
def test_a_sheet_gives_its_tiles_back(gap, margin, tmp_path):
    tiles = tiles_of(12, 16, 8)
    sheet_of(tiles, 4, gap, margin).save(tmp_path / "sheet.png")
    small = read(tmp_path, tiles=(16, 8), tiles_gap=gap, tiles_margin=margin)
    expected = [placed(tile, (16, 16), 0, 4) for tile in tiles]
    np.testing.assert_array_equal(small.images, expected)
    assert small.notes == ["sheet.png: 12 tiles"]


def test_empty_and_equal_tiles_are_dropped_and_counted(tmp_path):
    tiles = tiles_of(8)
    tiles[1] = 0
    tiles[2] = 1, 2, 3, 255
    tiles[5] = tiles[0]
    # They differ in nothing that can be seen.
    tiles[6] = np.where(tiles[3][..., 3:] > 0, tiles[3], 9 * (tiles[3] < 0) + 0)
    sheet_of(tiles, 4).save(tmp_path / "sheet.png")
    small = read(tmp_path, tiles=(16, 16))
    assert small.notes == [
        "sheet.png: 8 tiles, 2 empty and 2 equal ones dropped"
    ]
    np.testing.assert_array_equal(small.images, canonical(tiles[[0, 3, 4, 7]]))
    assert small.names == [f"sheet.png#{i}" for i in (1, 4, 5, 8)]
    pieces = list(cutter.pieces(tmp_path / "sheet.png", Cutting((16, 16))))
    assert [piece.name for piece in pieces] == list("12345678")
    dropped = [piece.dropped for piece in pieces]
    assert dropped == ["", EMPTY, EMPTY, "", "", "1", "4", ""]


@pytest.mark.parametrize(
    ("rest", "note"),
    [
        ((0, 0), "2 tiles"),
        ((3, 0), "2 tiles, pixels left out: 3 at the bottom"),
        ((0, 15), "2 tiles, pixels left out: 15 at the right"),
        (
            (1, 2),
            "2 tiles, pixels left out: 1 at the bottom and 2 at the right",
        ),
    ],
)
def test_what_no_tile_reaches_is_said(rest, note, tmp_path):
    sheet_of(tiles_of(2), 2, rest=rest).save(tmp_path / "a.png")
    small = read(tmp_path, tiles=(16, 16))
    assert len(small.images) == 2
    assert small.notes == [f"a.png: {note}"]


def test_a_sheet_smaller_than_a_tile_is_skipped(tmp_path):
    Image.fromarray(sprite(16, 15)).save(tmp_path / "a.png")
    Image.fromarray(sprite(16, 16)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"broken")
    small = read(tmp_path, tiles=(16, 16))
    assert [(s.path, s.reason) for s in small.skipped] == [
        ("a.png", "15 x 16 pixels, no tile of 16 x 16 fits"),
        ("c.png", "not a picture in a known format"),
    ]
    assert len(small.images) == 1
    assert not small.notes


def test_all_tiles_of_a_sheet_come_back_to_one_grid(tmp_path):
    tiles = tiles_of(4, 8, 8)
    # Alone, it would be reduced to two pixels.
    tiles[2] = 0
    tiles[2, :, :4] = 5, 6, 7, 255
    sheet_of(enlarged_all(tiles, 4), 2).save(tmp_path / "sheet.png")
    small = read(tmp_path, tiles=(32, 32))
    expected = [placed(tile, (16, 16), 8, 4) for tile in tiles]
    np.testing.assert_array_equal(small.images, expected)


def enlarged_all(tiles, factor):
    return np.stack([enlarged(tile, factor) for tile in tiles])


def test_tiles_that_do_not_fit_are_skipped_by_number(tmp_path):
    sheet_of(tiles_of(3, 20, 20), 3).save(tmp_path / "sheet.png")
    Image.fromarray(sprite(20, 20, 5)[:16, :16]).save(tmp_path / "fits.png")
    with pytest.raises(UserError, match=r"4 skipped, the first fits\.png"):
        read(tmp_path, tiles=(20, 20))
    Image.fromarray(enlarged(sprite(10, 10), 2)).save(tmp_path / "double.png")
    small = read(tmp_path, tiles=(20, 20))
    assert [s.path for s in small.skipped[1:]] == [
        f"sheet.png#{i}" for i in (1, 2, 3)
    ]
    assert small.skipped[1].reason.startswith("20 x 20 pixels do not fit")
    np.testing.assert_array_equal(
        small.images, [placed(sprite(10, 10), (16, 16), 6, 3)]
    )
    (tmp_path / "double.png").unlink()
    tokenizer = PixelTokenizer((16, 16), EXACT)
    assert read(tmp_path, tokenizer, tiles=(20, 20)).images.shape[0] == 3


def animation(path, frames, **options):
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tiff"])
def test_every_frame_of_an_animation_is_a_picture(ending, tmp_path):
    frames = tiles_of(5)
    frames[..., 3] = np.where(frames[..., 3] > 0, 255, 0)
    frames = canonical(frames)
    frames[3] = frames[1]
    options = {"lossless": True} if ending == "webp" else {}
    if ending == "gif":
        options = {"disposal": 2}
    animation(tmp_path / f"walk.{ending}", frames, **options)
    small = read(tmp_path, frames=True)
    assert small.notes == [f"walk.{ending}: 5 frames, 1 equal one dropped"]
    np.testing.assert_array_equal(small.images, frames[[0, 1, 2, 4]])
    first = sources.load_images(tmp_path, TOKENIZER)
    np.testing.assert_array_equal(first.images, frames[:1])


def test_tiles_of_frames_are_numbered_by_both(tmp_path):
    frames = tiles_of(2, 16, 32)
    frames[..., 3] = 255
    animation(tmp_path / "walk.png", frames)
    cutting = Cutting((16, 16), frames=True)
    pieces = list(cutter.pieces(tmp_path / "walk.png", cutting))
    assert [p.name for p in pieces] == ["1.1", "1.2", "2.1", "2.2"]
    np.testing.assert_array_equal(pieces[3].pixels, frames[1, :, 16:])


def test_frames_together_may_not_have_more_pixels(tmp_path):
    animation(tmp_path / "long.gif", tiles_of(100, 8, 8))
    with pytest.raises(UserError, match=r"its frames have more than 0\.00639"):
        list(cutter.pieces(tmp_path / "long.gif", Cutting(frames=True), 6390))
    assert len(
        list(cutter.pieces(tmp_path / "long.gif", Cutting(frames=True), 6400))
    )


def test_a_file_has_at_most_so_many_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(cutter, "MAX_PIECES", 3)
    sheet_of(tiles_of(4), 2).save(tmp_path / "sheet.png")
    animation(tmp_path / "walk.gif", tiles_of(4))
    for options in ({"tiles": (16, 16)}, {"frames": True}):
        path = "walk.gif" if "frames" in options else "sheet.png"
        with pytest.raises(UserError, match="more than 3 pictures"):
            list(cutter.pieces(tmp_path / path, Cutting(**options)))


def test_a_broken_animation_gives_no_pictures(tmp_path):
    path = tmp_path / "walk.gif"
    animation(path, tiles_of(6))
    path.write_bytes(path.read_bytes()[:-200])
    Image.fromarray(sprite(4, 4)).save(tmp_path / "whole.png")
    small = read(tmp_path, frames=True)
    assert len(small.images) == 1
    assert [s.path for s in small.skipped] == ["walk.gif"]


def test_parts_and_labels_are_those_of_the_file(tmp_path):
    for part, label, seed in (("train", "a", 0), ("val", "b", 10)):
        folder = tmp_path / part / label
        folder.mkdir(parents=True)
        sheet_of(tiles_of(3, seed=seed), 3).save(folder / "sheet.png")
    small = read(tmp_path, tiles=(16, 16))
    assert small.parts == ["train"] * 3 + ["validation"] * 3
    assert small.labels == ["a"] * 3 + ["b"] * 3


def test_the_cache_of_tokens_knows_how_files_were_cut(tmp_path):
    folder, cache = tmp_path / "sheets", tmp_path / "tokens.npz"
    folder.mkdir()
    sheet_of(tiles_of(8), 4).save(folder / "sheet.png")
    options = {"cache_path": cache, "cutting": Cutting((16, 16))}
    data = token_dataset.load(folder, TOKENIZER, **options)
    data.save(cache)
    again = token_dataset.load(folder, TOKENIZER, **options)
    assert again.is_cached
    assert not again.notes
    options["cutting"] = Cutting((16, 16), tiles_gap=16)
    other = token_dataset.load(folder, TOKENIZER, **options)
    assert not other.is_cached
    assert len(other.train) + len(other.validation) == 2


def test_shards_are_cut_and_remember_how(tmp_path):
    folder, out = tmp_path / "sheets", tmp_path / "tokens"
    folder.mkdir()
    tiles = tiles_of(12)
    for i in range(3):
        sheet = sheet_of(tiles[4 * i : 4 * i + 4], 2)
        sheet.save(folder / f"{i}.png")
    lines = []
    options = {"chunk_size": 2, "say": lines.append}
    cutting = Cutting((16, 16))
    shards = tokenizing.tokenize(
        folder, out, TOKENIZER, cutting=cutting, **options
    )
    assert lines[:3] == [f"{i}.png: 4 tiles" for i in range(3)]
    counts = shards.manifest["counts"]
    assert counts["train"] + counts["validation"] == 12
    plan = json.loads((out / "plan.json").read_text())
    assert plan["cutting"]["tiles"] == [16, 16]
    tokenizing.tokenize(folder, out, TOKENIZER, cutting=cutting, **options)
    for other in (None, Cutting((16, 16), tiles_gap=1)):
        with pytest.raises(UserError, match="begun with another cutting"):
            tokenizing.tokenize(
                folder, out, TOKENIZER, cutting=other, **options
            )
    whole = tmp_path / "whole"
    tokenizing.tokenize(
        folder, whole, PixelTokenizer((16, 16)), say=lines.append
    )
    assert "cutting" not in json.loads((whole / "plan.json").read_text())


@pytest.mark.parametrize("source", ["tfds:tiny_zoo", "a.tar"])
def test_only_folders_are_cut(source, tmp_path):
    with pytest.raises(UserError, match="--tiles and --frames cut the files"):
        tokenizing.tokenize(
            source, tmp_path / "out", TOKENIZER, cutting=Cutting(frames=True)
        )


def test_a_cutting_is_checked():
    with pytest.raises(UserError, match="two positive integers"):
        Cutting((0, 16))
    with pytest.raises(UserError, match="need tiles"):
        Cutting(tiles_gap=1)
    assert Cutting.of({"tiles": None, "frames": False, "seed": 3}) is None
    assert Cutting.of({"tiles": [8, 9]}) == Cutting((8, 9))


def test_an_aseprite_file_says_how_to_export_it(tmp_path):
    (tmp_path / "a.ase").write_bytes(b"\x80\0\0\0\xe0\xa5\1\0\x10\0\x10\0")
    (skipped,) = image_files.scan(tmp_path).skipped
    assert skipped.reason == (
        "an Aseprite file; export it as PNG: aseprite -b IN.aseprite --sheet "
        "OUT.png"
    )

"""--pixel-art and --tiles, from the command line to a run."""

import colorsys
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image, ImageDraw
from test_cutting import animation, sheet_of, tiles_of
from test_export import make_run
from test_native_grid import canonical, enlarged, sprite

from pixace_tf.cli import main
from pixace_tf.data import cartoons, pixel_art
from pixace_tf.data.token_shards import Shards
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.painting import local
from pixace_tf.painting.sheets import grid
from pixace_tf.serving.served_model import ServedModel
from pixace_tf.storage import SOFTWARE
from pixace_tf.training import fit as fit_module
from pixace_tf.training.fit import fit
from pixace_tf.training.pixel_art import settled
from pixace_tf.training.previews import Previews
from pixace_tf.training.training_arguments import TrainingArguments

QUICK = {"preset": "pico", "batch_size": 8, "jit_compile": False, "epochs": 1}


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def save(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def test_sprites_look_like_pixel_art(tmp_path):
    small = save(tmp_path / "small", tiles_of(9, 16, 24))
    assert pixel_art.is_likely(small)
    large = save(
        tmp_path / "large", [enlarged(t, 8) for t in tiles_of(9, 16, 16)]
    )
    assert pixel_art.is_likely(large)
    # A few other files do not matter.
    Image.fromarray(sprite(90, 90)).save(small / "sheet.png")
    (small / "notes.txt").write_text("My sprites.")
    assert pixel_art.is_likely(small)


def smooth_icon(seed, side=64):
    """An icon with antialiased edges and a gradient, as emoji have."""
    rng = np.random.default_rng(seed)
    large = Image.new("RGBA", (side * 4, side * 4))
    draw = ImageDraw.Draw(large)
    for _ in range(4):
        hue = rng.random()
        color = colorsys.hsv_to_rgb(hue, 0.8, 0.9)
        x, y, radius = rng.integers(40, 200, 3)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, tuple(int(255 * c) for c in color))
    return np.asarray(large.resize((side, side), Image.Resampling.LANCZOS))


def test_other_pictures_do_not_look_like_pixel_art(tmp_path):
    cartoons.draw_folder(tmp_path / "faces", 24)
    assert not pixel_art.is_likely(tmp_path / "faces")
    icons = save(tmp_path / "icons", [smooth_icon(i) for i in range(9)])
    assert not pixel_art.is_likely(icons)
    noise = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    assert not pixel_art.is_likely(save(tmp_path / "photos", noise))
    sheets = save(tmp_path / "sheets", [sprite(96, 96, i) for i in range(5)])
    assert not pixel_art.is_likely(sheets)
    (tmp_path / "empty").mkdir()
    assert not pixel_art.is_likely(tmp_path / "empty")


def test_scan_suggests_pixel_art(tmp_path):
    sprites = save(tmp_path / "sprites", tiles_of(9))
    assert (
        "looks like pixel art: with --pixel-art" in call("scan", sprites).output
    )
    cartoons.draw_folder(tmp_path / "faces", 9)
    assert "pixel art" not in call("scan", tmp_path / "faces").output


def test_scan_shows_how_sheets_are_cut(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiles = tiles_of(8)
    tiles[3], tiles[6] = 0, tiles[2]
    (tmp_path / "sheets").mkdir()
    sheet_of(tiles, 4, 1, 1).save("sheets/a.png")
    animation(tmp_path / "sheets" / "walk.gif", tiles_of(3, 8, 8))
    cut = ("--tiles", 16, "--tiles-gap", 1, "--tiles-margin", 1)
    done = call("scan", "sheets", *cut)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "skipped walk.gif: 8 x 8 pixels, no tile of 16 x 16 fits",
        "a.png: 8 tiles, 1 empty and 1 equal ones dropped",
        "1 load, 1 skipped.",
        "6 pictures of 8 tiles: tiles.png",
    ]
    with Image.open("tiles.png") as picture:
        assert picture.info["Software"] == SOFTWARE
        assert picture.width > 4 * 64
    report = json.loads(call("scan", "sheets", *cut, "--json").output)
    assert report["loads"] == ["a.png"]
    assert report["skipped"][0]["path"] == "walk.gif"
    (sheet,) = report["sheets"]
    assert sheet == {
        "path": "a.png",
        "pieces": 8,
        "empty": 1,
        "equal": 1,
        "left_over": [0, 0],
    }
    done = call("scan", "sheets", "--frames", "--out", "frames.png")
    assert "4 pictures of 4 frames: frames.png" in done.output
    done = call("scan", "sheets", "--tiles-gap", 1)
    assert done.exit_code == 2
    assert "tiles_gap and tiles_margin need tiles" in done.output


def test_many_large_sheets_make_a_picture_of_bounded_size(tmp_path):
    sheets = tmp_path / "sheets"
    sheets.mkdir()
    large = Image.fromarray(sprite(1000, 1500))
    for i in range(3):
        large.save(sheets / f"{i}.png")
    out = tmp_path / "tiles.png"
    done = call("scan", sheets, "--tiles", "8x10", "--out", out)
    assert "pictures of 56,250 tiles" in done.output
    with Image.open(out) as picture:
        assert max(picture.size) < 2600


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({"pixel_art": True}, ((32, 32), "native", "bottom")),
        ({"tiles": (16, 24)}, ((16, 24), "crop", "bottom")),
        ({"tiles": (16, 65)}, ((32, 32), "crop", "bottom")),
        (
            {"tiles": (16, 16), "image_size": (24, 24), "pixel_art": True},
            ((24, 24), "native", "bottom"),
        ),
        (
            {"pixel_art": True, "resize": "pad", "image_size": (8, 8)},
            ((8, 8), "pad", "bottom"),
        ),
        (
            {"pixel_art": True, "anchor": "center"},
            ((32, 32), "native", "center"),
        ),
        ({}, ((32, 32), "crop", "bottom")),
    ],
)
def test_pixel_art_sets_what_is_not_given(given, resolved):
    lines = []
    arguments = settled(TrainingArguments(**given), lines.append)
    found = arguments.image_size, arguments.resize, arguments.anchor
    assert found == resolved
    assert len(lines) == (resolved[:2] != ((32, 32), "crop")) - (
        given.get("resize") == "pad"
    )


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({}, (None, "RGB 888")),
        ({"head": "copy"}, ("copy", "RGB 888")),
        ({"head": "chain"}, ("chain", "HSV 544")),
        ({"bit_widths": (4, 4, 4)}, (None, "HSV 444")),
        ({"color_space": "rgb"}, (None, "RGB 544")),
        ({"resize": "pad"}, (None, "HSV 544")),
    ],
)
def test_pixel_art_has_all_colors_unless_others_are_given(given, resolved):
    arguments = TrainingArguments(pixel_art=True, **given)
    arguments = settled(arguments, lambda line: None)
    assert (arguments.head, arguments.palette.name) == resolved


def test_the_line_about_pixel_art_names_the_canvas():
    lines = []
    given = {"tiles": (16, 24), "anchor": "top", "pixel_art": True}
    settled(TrainingArguments(**given), lines.append)
    assert lines[0].startswith(
        "Pixel art: pictures keep their pixels (top of a 16x24 canvas)"
    )


@pytest.mark.parametrize("alpha", [0, None, 1])
def test_pixel_art_without_alpha_says_that_it_becomes_white(alpha):
    lines = []
    settled(TrainingArguments(pixel_art=True, alpha=alpha), lines.append)
    assert any("become white" in line for line in lines) == (alpha == 0)


def test_no_sheet_smooths_pixel_art_without_alpha(tmp_path):
    run = make_run(tmp_path / "run", "transformer")
    path = tmp_path / "run" / "run.json"
    config = json.loads(path.read_text())
    config["tokenizer"].update(resize="native", anchor="top")
    path.write_text(json.dumps(config))
    out, tiles = tmp_path / "new.png", tmp_path / "tiles"
    done = call(
        *("generate", run.path, "--count", 3, "--out", out, "--tiles", tiles),
        "--no-preview",
    )
    assert not done.exit_code, done.output
    images = np.array([Image.open(t) for t in sorted(tiles.iterdir())])
    expected = grid(images, is_smooth=False)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected)
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    done = call(
        *("complete", run.path, tmp_path / "image.png", "--keep", 0.9),
        *("--out", out, "--scale", 4, "--no-preview"),
    )
    assert not done.exit_code, done.output
    run.tokenizer.resize = "native"
    completed = local.complete(run, [image], keep=0.9)
    expected = completed.sheet(4, is_smooth=False)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected)


def test_an_anchor_without_a_canvas_is_refused():
    with pytest.raises(UserError, match="anchor needs resize native"):
        settled(TrainingArguments(anchor="top"), print)


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Two sheets with eight tiles each, enlarged."""
    folder = tmp_path_factory.mktemp("sprites") / "sheets"
    folder.mkdir()
    for i in range(2):
        tiles = tiles_of(8, 7, 6, seed=8 * i)
        large = np.stack([enlarged(tile, 3) for tile in tiles])
        sheet_of(large, 4, gap=1).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def sprite_run(sheets, tmp_path_factory):
    """A run on sprites from sheets, and the lines of its training."""
    lines = []
    tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Previews, "update", lambda *_, **__: None)
        run = fit(
            sheets,
            pixel_art=True,
            tiles=(21, 18),
            tiles_gap=1,
            image_size=(8, 8),
            runs_dir=tmp_path_factory.mktemp("runs"),
            say=lines.append,
            **QUICK,
        )
    tf.config.run_functions_eagerly(False)
    return run, lines


def test_a_run_on_sprites_remembers_how_they_are_read(sprite_run, sheets):
    run, lines = sprite_run
    assert lines[0].startswith("Pixel art: pictures keep their pixels")
    assert "8 bits of alpha" in lines[1]
    assert lines[2:4] == ["0.png: 8 tiles", "1.png: 8 tiles"]
    assert run.tokenizer == PixelTokenizer(
        (8, 8), "rgb 8,8,8 alpha 8", "native"
    )
    assert run.tokenizer.get_config()["anchor"] == "bottom"
    assert tuple(run.arguments["tiles"]) == (21, 18)
    assert run.arguments["pixel_art"]


def test_a_resumed_run_need_not_repeat_them(sprite_run, sheets, monkeypatch):
    run, _ = sprite_run
    runs_dir = run.path.removesuffix("sheets")
    seen = []

    def stop(*arguments):
        seen.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "train", stop)
    lines = []
    for given in ({}, {"pixel_art": True}, {"tiles": (21, 18)}):
        with pytest.raises(KeyboardInterrupt):
            fit(sheets, runs_dir=runs_dir, say=lines.append, **given)
    assert len(seen) == 3
    assert not any("Pixel art" in line for line in lines)
    for other in ({"tiles": (8, 8)}, {"anchor": "top"}, {"frames": True}):
        (name,) = other
        with pytest.raises(UserError, match=f"{name} was .*, now"):
            fit(sheets, runs_dir=runs_dir, say=lines.append, **other)


def test_completing_keeps_every_pixel_of_a_sprite(sprite_run, tmp_path):
    run, _ = sprite_run
    image = np.where(sprite(5, 7) > 99, np.uint8(255), np.uint8(0))
    path = tmp_path / "sprite.png"
    Image.fromarray(enlarged(image, 4)).save(path)
    done = local.complete(run, [path], keep=1)
    expected = np.zeros((8, 8, 4), np.uint8)
    expected[3:, :7] = canonical(image)
    np.testing.assert_array_equal(done.images[0, 0, 0], expected)
    large = tmp_path / "large.png"
    Image.fromarray(sprite(9, 9)).save(large)
    with pytest.raises(UserError, match=r"large\.png: 9 x 9 pixels do not fit"):
        local.complete(run, [large], keep=1)


def test_a_served_model_places_sprites_as_a_run_does(sprite_run, tmp_path):
    run, _ = sprite_run
    served = ServedModel(run.model, run.tokenizer)
    contents = []
    images = [sprite(5, 7), enlarged(sprite(8, 3), 5)]
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    # One of the signatures takes a fifth of the time.
    module, path = tf.Module(), str(tmp_path / "1")
    module.weights = [variable.value for variable in run.model.weights]
    signatures = {"score": served.signatures["score"]}
    tf.saved_model.save(module, path, signatures)
    score = tf.saved_model.load(path).signatures["score"]
    answer = score(image_bytes=tf.constant(contents))
    expected = run.tokenizer.tokenize(
        np.stack([run.tokenizer.read(image) for image in images])
    )
    np.testing.assert_array_equal(answer["token_ids"], expected)
    buffer = io.BytesIO()
    Image.fromarray(sprite(9, 9)).save(buffer, "PNG")
    with pytest.raises(tf.errors.InvalidArgumentError, match="must fit into"):
        score(image_bytes=tf.constant([buffer.getvalue()]))


def test_tokenize_cuts_and_fit_takes_the_shards(sheets, tmp_path):
    out = tmp_path / "tokens"
    options = ("--tiles", "21x18", "--tiles-gap", 1, "--image-size", 8)
    done = call("tokenize", sheets, out, "--pixel-art", *options)
    assert done.exit_code == 0, done.output
    assert "Pixel art: pictures keep their pixels" in done.output
    assert "0.png: 8 tiles" in done.output
    config = Shards.open(out).manifest["tokenizer"]
    assert config["palette"] == "rgb 8,8,8 alpha 8"
    assert (config["resize"], config["anchor"]) == ("native", "bottom")
    with pytest.raises(UserError, match="holds tokens"):
        fit(out, tiles=(8, 8), runs_dir=tmp_path / "runs", **QUICK)
    plain = tmp_path / "plain"
    assert not call("tokenize", sheets, plain, "--image-size", 8).exit_code
    with pytest.raises(UserError, match="holds tokens"):
        fit(plain, pixel_art=True, runs_dir=tmp_path / "runs", **QUICK)

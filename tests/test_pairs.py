"""Pairs: files find their partners, a run paints the second from the first."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from conftest import stir
from PIL import Image

from pixace_tf.cli import main
from pixace_tf.data import cartoons, sources, token_dataset
from pixace_tf.data.augmentation import Augmentation
from pixace_tf.data.image_files import own_mark, read_size
from pixace_tf.data.palette import Palette
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.pixel_inputs import (
    gather_partners,
    pad_grid,
    partner_tokens,
)
from pixace_tf.model.presets import decoder_config
from pixace_tf.painting.local import LocalPainter, complete, generate
from pixace_tf.painting.request import Request
from pixace_tf.runs import hub
from pixace_tf.runs.run_folder import load_run
from pixace_tf.sampling.sampling_config import SamplingConfig
from pixace_tf.training.fit import fit
from pixace_tf.training.previews import Previews
from pixace_tf.training.training_arguments import TrainingArguments

PAIRS = PixelTokenizer((16, 8))
ONE = PixelTokenizer((8, 8))
OPTIONS = {
    "preset": "pico",
    "image_size": (8, 8),
    "epochs": 1,
    "batch_size": 8,
    "jit_compile": False,
}


def sketch_of(face):
    """Half of the brightness is enough to tell it from the face."""
    return face.convert("L").point(lambda level: level // 2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Sketches and 48 faces, in the same class folders."""
    root = tmp_path_factory.mktemp("pairs")
    cartoons.draw_folder(str(root / "faces"), 48)
    for path in (root / "faces").rglob("*.png"):
        sketch = root / "sketches" / path.relative_to(root / "faces")
        sketch.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as face:
            sketch_of(face).save(sketch.with_suffix(".bmp"))
    return root


def read(first, second, tokenizer=PAIRS):
    return sources.load_images(str(first), tokenizer, pairs=str(second))


def save(path, seed=0, size=(8, 8)):
    """Save noise; return its pixels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_pairs_are_the_pictures_of_two_folders_stacked(folders):
    pairs = read(folders / "sketches", folders / "faces")
    first = sources.load_images(folders / "sketches", ONE)
    second = sources.load_images(folders / "faces", ONE)
    expected = np.concatenate([first.images, second.images], axis=1)
    np.testing.assert_array_equal(pairs.images, expected)
    assert pairs.labels == first.labels
    assert not pairs.skipped
    assert not pairs.notes


def test_in_one_folder_names_end_in_a_and_b(tmp_path):
    names = ("x/walk_a.png", "x/walk_b.bmp", "run_a.png", "run_b.png")
    images = {name: save(tmp_path / name, i) for i, name in enumerate(names)}
    save(tmp_path / "odd.png")
    pairs = read(tmp_path, tmp_path / ".")
    expected = [
        np.concatenate([images["run_a.png"], images["run_b.png"]]),
        np.concatenate([images["x/walk_a.png"], images["x/walk_b.bmp"]]),
    ]
    np.testing.assert_array_equal(pairs.images, expected)
    assert [(s.path, s.reason) for s in pairs.skipped] == [
        ("odd.png", "its name ends in neither _a nor _b")
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("1", r"^A picture in '.*' has no partner of .*': 1\.png\. Add"),
        (
            "01234",
            r"^5 pictures in .* have .*: 0\.png, 1\.png, 2\.png, \.\.\.\. Add",
        ),
    ],
)
def test_missing_partners_are_counted_and_the_first_named(
    tmp_path, names, message
):
    for i in range(6):
        save(tmp_path / "first" / f"{i}.png", i)
        if str(i) not in names:
            save(tmp_path / "second" / f"{i}.png", i)
    (tmp_path / "first" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=message) as raised:
        read(tmp_path / "first", tmp_path / "second")
    assert "\n" not in str(raised.value)


def test_without_b_the_name_to_add_is_told(tmp_path):
    save(tmp_path / "walk_a.png")
    with pytest.raises(
        UserError, match=r"called _b instead of _a: walk_a\.png"
    ):
        read(tmp_path, tmp_path)


def test_a_pair_with_a_broken_picture_is_skipped(tmp_path):
    for i, name in enumerate(("a", "b", "c")):
        save(tmp_path / "first" / f"{name}.png", i)
        save(tmp_path / "second" / f"{name}.png", 9 + i)
    (tmp_path / "first" / "a.png").write_bytes(b"no picture")
    (tmp_path / "first" / "notes.txt").write_text("no picture")
    (tmp_path / "second" / "b.png").write_bytes(b"no picture")
    pairs = read(tmp_path / "first", tmp_path / "second")
    assert len(pairs.images) == 1
    assert {s.path: s.reason for s in pairs.skipped} == {
        "a.png": "not a picture in a known format",
        "b.png": "its partner b.png: not a picture in a known format",
        "notes.txt": "not a picture in a known format",
    }


def test_two_pictures_of_one_name_are_refused_but_not_a_note_beside(tmp_path):
    save(tmp_path / "first" / "a.png", 1)
    save(tmp_path / "second" / "a.png", 2)
    (tmp_path / "first" / "a.json").write_text("{}")
    (pair,) = read(tmp_path / "first", tmp_path / "second").images
    assert pair.shape == (16, 8, 3)
    save(tmp_path / "second" / "a.bmp", 3)
    with pytest.raises(UserError, match=r"have one name: a\.bmp, a\.png"):
        read(tmp_path / "first", tmp_path / "second")


def test_files_that_no_first_picture_needs_are_counted(folders, tmp_path):
    shutil.copytree(folders / "sketches" / "cat", tmp_path / "cat")
    pairs = read(tmp_path, folders / "faces")
    assert len(pairs.images) == 6
    assert pairs.notes == [
        "42 files of --pairs have no first picture, and are left out."
    ]


def test_pictures_of_two_shapes_are_told(tmp_path):
    for i, size in enumerate([(8, 8), (40, 40), (12, 8)]):
        save(tmp_path / "first" / f"{i}.png", i)
        save(tmp_path / "second" / f"{i}.png", i, size)
    (note,) = read(tmp_path / "first", tmp_path / "second").notes
    assert note.startswith(
        "1 of the pairs have pictures of two shapes, first 2"
    )


def test_a_size_is_that_of_the_upright_picture(tmp_path):
    image = Image.new("RGB", (5, 3))
    image.save(tmp_path / "plain.png")
    image.getexif()[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=image.getexif())
    assert read_size(tmp_path / "plain.png") == (3, 5)
    assert read_size(tmp_path / "turned.jpg") == (5, 3)


def test_pictures_made_here_are_no_first_pictures(tmp_path):
    save(tmp_path / "second" / "a.png")
    (tmp_path / "first").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "first/a.png", **own_mark("PNG"))
    with pytest.raises(UserError, match=r"1 skipped, the first a\.png \(made"):
        read(tmp_path / "first", tmp_path / "second")


@pytest.mark.parametrize("is_pixel_art", [False, True])
def test_pairs_that_share_a_picture_lie_on_one_side(is_pixel_art):
    rng = np.random.default_rng(0)
    firsts, seconds = rng.integers(0, 256, (2, 400, 8, 8, 3), dtype=np.uint8)
    firsts[1::4] = firsts[::4]
    seconds[3::4] = seconds[2::4]
    images = np.concatenate([firsts, seconds], axis=1)
    none = [""] * 400
    series = [None] * 400 if is_pixel_art else None
    small = sources.SmallImages(
        images, none, none, [], series=series, are_pairs=True
    )
    sides = small.in_train().reshape(200, 2)
    np.testing.assert_array_equal(sides[:, 0], sides[:, 1])
    assert 0.85 < sides.mean() < 0.99


def test_the_series_of_pairs_in_one_folder_are_known(tmp_path):
    tokenizer = PixelTokenizer((16, 8), "rgb 8,8,8", "native")
    for i in range(3):
        for ending in "ab":
            save(tmp_path / f"orc_{i}_{ending}.png", i)
    series = read(tmp_path, tmp_path, tokenizer).series
    assert [one.name for one in series] == ["orc"] * 3
    assert [one.number for one in series] == [0, 1, 2]


def test_both_pictures_are_shifted_and_turned_alike():
    palette = Palette("rgb", (8, 8, 8), 1)
    rng = np.random.default_rng(0)
    tokens = np.zeros((100, 2, 8, 8), np.int32)
    codes = palette.pack([*rng.integers(0, 256, (3, 100, 4, 3)), 1])
    tokens[:, 0, 2:6, 2:5] = codes
    tokens[:, 1] = tokens[:, 0]
    tokens[:, 1, 1] = palette.pack([*np.array([9, 9, 9]), 1])
    changes = Augmentation(palette, (8, 8), hue_turns=0.5, shifts=1.0)
    draws = tf.constant(rng.random((100, 5)), tf.float32)
    changed, number = changes.change(tokens.reshape(100, -1), draws)
    changed = changed.numpy().reshape(tokens.shape)
    first, second = changed[:, 0], changed[:, 1]
    is_bar = second == tokens[0, 1, 1, 0]
    # The bar is in the second picture only, and has a row for itself.
    np.testing.assert_array_equal(first, np.where(is_bar, 0, second))
    np.testing.assert_array_equal(is_bar.sum(axis=(1, 2)), 8)
    assert (number.numpy() % 2).mean() > 0.5
    assert len({tuple(np.nonzero(image)[0]) for image in first}) > 2
    assert (first > 0).sum(axis=(1, 2)).tolist() == [12] * 100


def test_partners_lie_around_the_same_place_in_the_first_picture():
    height, width = 4, 5
    tokens = np.arange(40, dtype=np.int32)[None]
    first = tokens[0, :20].reshape(height, width)
    around = np.pad(first, 1, constant_values=-1)
    expected = np.full((2 * height, width, 9), -1)
    for y, x in np.ndindex(height, width):
        expected[height + y, x] = around[y : y + 3, x : x + 3].reshape(-1)
    size = 2 * height, width
    whole = gather_partners(pad_grid(tokens, size, -1)[..., None])
    np.testing.assert_array_equal(whole[0], expected.reshape(40, 9))
    for position in range(40):
        one = partner_tokens(tokens, position, size, -1)
        np.testing.assert_array_equal(one[0], whole[0, position])


@pytest.mark.parametrize("decoder", ["multiscale", "transformer"])
def test_cached_steps_of_pairs_equal_the_whole_sequence(decoder):
    sizes = decoder_config("pico", decoder, 8)
    model = stir(
        PixaceCausalLM((16, 8), "rgb 3,2,2", decoder, sizes, pairs=True)
    )
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 128, (2, 128), dtype=np.int32)
    whole = model.decoder(model._inputs(tokens)).numpy()
    length = model.decoder.patch_length
    state = model.prefill(tokens, 64 // length)
    for t in range(64, 128):
        if t % length == 0:
            state = model.begin_patch(state, tokens, t // length)
        hidden, state = model.step(state, tokens, t)
        np.testing.assert_allclose(hidden, whole[:, t], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        {"orders": True},
        {"trim": True},
        {"tiles": (8, 8)},
        {"frames": True},
    ],
    ids=str,
)
def test_what_would_part_a_pair_is_refused(other):
    with pytest.raises(UserError, match=r"^Give pairs or .*, not both: "):
        TrainingArguments(pairs="second", **other)


def test_pairs_need_folders(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(UserError, match="There is no folder 'nowhere'"):
        read(tmp_path, "nowhere")
    with pytest.raises(UserError, match="--pairs needs two folders"):
        sources.open_source("tfds:x", PAIRS, 10, False, pairs=str(tmp_path))


@pytest.fixture(scope="module")
def paired_run(folders):
    """A run of pairs, trained for an epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Previews, "update", lambda *_, **__: None)
        train(folders, pairs=str(folders / "faces"))
    return load_run(folders / "runs" / "sketches", jit_compile=False)


def train(folders, source="sketches", say=lambda line: None, **options):
    return fit(
        folders / source,
        runs_dir=folders / "runs",
        say=say,
        **{**OPTIONS, **options},
    )


def sketches(folders, count=3):
    return sorted((folders / "sketches").rglob("*.bmp"))[:count]


def test_a_run_of_pairs_knows_what_it_is(paired_run, folders):
    assert paired_run.are_pairs
    assert paired_run.tokenizer.image_size == (16, 8)
    assert paired_run.model.image_size == (16, 8)
    assert paired_run.arguments["image_size"] == [8, 8]
    assert paired_run.arguments["pairs"] == str(folders / "faces")


def test_complete_paints_the_second_picture(paired_run, folders):
    paths = sketches(folders)
    done = complete(paired_run, paths, samples=2, seed=5)
    assert done.images.shape == (3, 1, 2, 8, 8, 3)
    originals = np.stack([ONE.read(path) for path in paths])
    np.testing.assert_array_equal(done.originals, originals)
    kept = ONE.detokenize(ONE.tokenize(originals))
    np.testing.assert_array_equal(done.kept, kept)
    # A prefix of the stacked picture, whatever lies below it.
    token_ids = np.zeros((3, 128), np.int32)
    token_ids[:, :64] = ONE.tokenize(originals)
    painted = paired_run.sampler.complete(
        token_ids,
        [64] * 3,
        Request(seed=5).seeds(token_ids),
        SamplingConfig(1.0),
    )
    np.testing.assert_array_equal(painted[:, :64], token_ids[:, :64])
    second = ONE.detokenize(painted[:, 64:])
    np.testing.assert_array_equal(done.images[:, 0, 0], second)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0.5},
        {"prefix_length": 9},
        {"cover": "top"},
        {"mask": np.ones((8, 8), bool)},
        {"given": "value"},
        {"vary": 0.5},
        {"seamless": True},
    ],
    ids=str,
)
def test_the_second_picture_is_painted_whole_and_from_nothing(
    paired_run, folders, options
):
    with pytest.raises(UserError, match=f"Leave out {next(iter(options))}"):
        complete(paired_run, sketches(folders, 1), **options)


def test_a_growing_picture_is_the_second_one(paired_run, folders):
    shown = []
    done = complete(paired_run, sketches(folders, 1), watch=shown.append)
    assert shown[-1].shape == (1, 1, 1, 8, 8, 3)
    np.testing.assert_array_equal(shown[-1], done.images)


def test_new_images_are_whole_pairs(paired_run):
    assert generate(paired_run, count=2).shape == (1, 2, 16, 8, 3)
    with pytest.raises(UserError, match="Leave out seamless"):
        generate(paired_run, count=2, seamless=True)


def test_the_command_writes_second_pictures_of_their_own_size(
    paired_run, folders, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.hex").write_text("102030\ne0e0ff\n")
    paths = [str(path) for path in sketches(folders, 2)]
    options = ("--samples", "2", "--tiles", "tiles", "--scale", "1")
    limit = ("--only-colors", "two.hex", "--counts", "counts.csv")
    command = ["complete", paired_run.path, *paths, *options, *limit]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    tiles = [
        Image.open(path) for path in sorted((tmp_path / "tiles").iterdir())
    ]
    assert [tile.size for tile in tiles] == [(8, 8)] * 4
    colors = {c for tile in tiles for _, c in tile.convert("RGB").getcolors()}
    assert colors <= {(0x10, 0x20, 0x30), (0xE0, 0xE0, 0xFF)}
    refused = CliRunner().invoke(main, [*command, "--cover", "top"])
    assert refused.exit_code == 2
    assert "Leave out cover." in refused.output


def test_a_sheet_shows_first_pictures_once(paired_run, folders):
    done = complete(paired_run, sketches(folders, 2), samples=3)
    sheet = done.sheet(scale=16, is_smooth=False)
    first = sheet.crop((6, 23, 6 + 128, 23 + 128)).resize((8, 8), 0)
    np.testing.assert_array_equal(np.asarray(first), done.kept[0])
    assert sheet.width == 6 + 4 * (128 + 6)


def test_the_page_keeps_all_of_a_first_picture(paired_run, folders):
    from pixace_tf import app  # Gradio takes seconds.

    painter = LocalPainter(paired_run)
    studio = app.Studio(painter, "pairs")
    assert studio.examples.shape[1:] == (8, 8, 3)
    (path,) = sketches(folders, 1)
    image, small = studio.choose(str(path))
    assert studio.preview(small, 0.5) == studio.enlarge(small)
    np.testing.assert_array_equal(small, complete(paired_run, [path]).kept[0])
    *_, (shown, sheet) = studio.complete(image, 0.5, 1, 1.0, 0, small)
    assert shown.size[0] < sheet.size[0]


def test_the_same_command_goes_on_and_the_folder_may_move(paired_run, folders):
    lines = []
    train(folders, say=lines.append)
    assert any("has finished this budget" in line for line in lines)
    shutil.copytree(folders / "faces", folders / "moved")
    lines.clear()
    train(folders, say=lines.append, pairs=folders / "moved")
    assert any("has finished this budget" in line for line in lines)
    save(next((folders / "moved").rglob("*.png")))
    with pytest.raises(UserError, match="1 image was added and 1 image was re"):
        train(folders, pairs=folders / "moved")


def test_other_runs_are_no_runs_of_pairs(paired_run, folders, monkeypatch):
    monkeypatch.setattr(Previews, "update", lambda *_, **__: None)
    other = train(folders, name="other")
    assert not other.are_pairs
    with pytest.raises(UserError, match="pairs was None, now"):
        train(folders, name="other", pairs=folders / "faces")
    for start, pairs in ((paired_run, None), (other, folders / "faces")):
        with pytest.raises(UserError, match="Start from a run of the same kin"):
            train(folders, name="new", start_from=start.path, pairs=pairs)


def test_a_run_of_pairs_starts_from_another(paired_run, folders, monkeypatch):
    monkeypatch.setattr(Previews, "update", lambda *_, **__: None)
    more = train(
        folders,
        name="more",
        start_from=paired_run.path,
        pairs=folders / "faces",
    )
    assert more.tokenizer == paired_run.tokenizer


def test_tokens_of_single_pictures_are_no_pairs(folders, tmp_path):
    command = ["tokenize", str(folders / "sketches"), str(tmp_path / "tokens")]
    done = CliRunner().invoke(main, [*command, "--image-size", "8"])
    assert done.exit_code == 0, done.output
    with pytest.raises(UserError, match="holds tokens of single pictures"):
        train(folders, tmp_path / "tokens", pairs=folders / "faces")


def test_evaluate_takes_the_second_pictures(paired_run, folders):
    command = ["evaluate", paired_run.path, str(folders / "sketches"), "--json"]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert "give their second pictures with --pairs" in refused.output
    pairs = ["--pairs", str(folders / "faces")]
    done = CliRunner().invoke(main, [*command, *pairs])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    small = read(folders / "sketches", folders / "faces").images
    data = token_dataset.tokenize(small, PAIRS)
    bits = paired_run.sampler.bits(data).mean()
    assert np.isclose(figures["bits_per_pixel"], bits, atol=1e-3)


def test_a_published_run_names_no_folder_of_the_second_pictures(
    paired_run, folders
):
    content = hub._public_config(paired_run.path).decode()
    assert str(folders) not in content
    assert json.loads(content)["arguments"]["pairs"] == "faces"

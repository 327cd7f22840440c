"""From images to token shards, and what trains from them."""

import io
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pixace_tf import storage
from pixace_tf.cli import main
from pixace_tf.data import cartoons, token_dataset, token_shards, tokenizing
from pixace_tf.data.token_shards import PARTS, ShardRows, Shards
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.data.tokenizing import Job
from pixace_tf.errors import UserError
from pixace_tf.training.fit import fit
from pixace_tf.training.previews import Previews
from pixace_tf.training.training_arguments import TrainingArguments

TOKENIZER = PixelTokenizer((8, 8))
CLASSES = ("cat", "dog")
NUM_IMAGES = 300


def save_noise(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in class folders, one of which does not load."""
    root = tmp_path_factory.mktemp("images")
    for i in range(NUM_IMAGES):
        save_noise(root / CLASSES[i % 3 == 0] / f"{i:03}.png", i)
    (root / "cat" / "bad.png").write_text("text")
    return root


def tokenize(source, out, **options):
    lines = []
    options = {"chunk_size": 64, **options}
    shards = tokenizing.tokenize(
        source, out, TOKENIZER, say=lines.append, **options
    )
    return shards, lines


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    return tokenize(folder, tmp_path_factory.mktemp("shards") / "out")[0]


def content(path):
    """Return the bytes of all files of a folder."""
    path = pathlib.Path(path)
    return {name: (path / name).read_bytes() for name in os.listdir(path)}


def rows_of(shards, part):
    """All rows of a part: bytes of tokens, and the name of the class."""
    rows = ShardRows(shards, part)
    token_ids, labels = rows.read(np.arange(len(rows)))
    names = [shards.label_names[label] for label in labels]
    return list(zip(map(bytes, token_ids), names, strict=True))


def test_shards_hold_what_is_held_in_memory(folder, shards):
    data = token_dataset.load(str(folder), TOKENIZER)
    for part in PARTS:
        token_ids = getattr(data, part)
        labels = getattr(data, f"{part}_labels")
        names = [data.label_names[label] for label in labels]
        expected = list(zip(map(bytes, token_ids), names, strict=True))
        assert rows_of(shards, part) == expected
    assert shards.manifest["num_skipped"] == 1
    assert shards.manifest["skipped"][0][0] == "cat/bad.png"
    assert shards.manifest["label_counts"] == data.label_counts()
    counts = shards.manifest["counts"]
    assert sum(counts.values()) == NUM_IMAGES
    shards.verify()


@pytest.mark.parametrize("count", [2, 5])
def test_a_few_images_are_split_as_in_memory(tmp_path, count):
    """So that one of them validates, whatever their digests are."""
    for i in range(count):
        save_noise(tmp_path / "few" / f"{i}.png", i)
    data = token_dataset.load(str(tmp_path / "few"), TOKENIZER)
    assert len(data.validation) == 1
    few, _ = tokenize(tmp_path / "few", tmp_path / "out")
    for part in PARTS:
        expected = list(map(bytes, getattr(data, part)))
        assert [tokens for tokens, _ in rows_of(few, part)] == expected


def test_more_files_than_can_be_open_is_no_damage(shards, monkeypatch):
    def full(*_, **__):
        raise ValueError("open failed: Too many open files")

    monkeypatch.setattr(token_shards, "ArrayRecordReader", full)
    with pytest.raises(UserError, match="ulimit -n"):
        ShardRows(shards, "train").read(np.arange(3))


def test_rows_are_read_in_any_order_and_twice(shards):
    rows = ShardRows(shards, "train")
    index = np.array([200, 3, 3, 64, 0, len(rows) - 1])
    everything = rows[np.arange(len(rows))]
    np.testing.assert_array_equal(rows[index], everything[index])


@pytest.mark.parametrize("killed_at", range(1, 24, 3))
def test_a_kill_at_any_write_changes_nothing(
    folder, shards, tmp_path, monkeypatch, killed_at
):
    replace, calls = os.replace, []

    def dies(*paths):
        calls.append(paths)
        if len(calls) == killed_at:
            raise SystemExit  # As if killed: nothing is told or mended.
        replace(*paths)

    out = tmp_path / "out"
    monkeypatch.setattr(os, "replace", dies)
    try:
        tokenize(folder, out)
    except SystemExit:
        assert not (out / "manifest.json").exists()
    assert len(calls) >= min(killed_at, 10)
    monkeypatch.setattr(os, "replace", replace)
    tokenize(folder, out)
    assert content(out) == content(shards.path)


def test_machines_share_the_work_and_the_last_one_joins(
    folder, shards, tmp_path
):
    out = tmp_path / "out"
    for index in (1, 3):
        part, lines = tokenize(folder, out, shard=(index, 3))
        assert part is None
        assert "left to the other machines" in lines[-1]
        with pytest.raises(UserError, match="until it is complete"):
            Shards.open(out)
    whole, _ = tokenize(folder, out, shard=(2, 3))
    assert whole.digest() == shards.digest()
    assert content(out) == content(shards.path)


def test_a_finished_folder_is_verified(folder, tmp_path):
    out = tmp_path / "out"
    first, _ = tokenize(folder, out)
    before = content(out)
    tokenize(folder, out)
    assert content(out) == before
    path, _ = next(first.files())
    with open(path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(UserError, match="damaged"):
        tokenize(folder, out)
    os.unlink(path)
    os.unlink(out / "chunk-000000.json")
    tokenize(folder, out)
    assert content(out) == before


def test_what_validates_never_trains(tmp_path):
    for i in range(40):
        save_noise(tmp_path / "in" / "train" / f"{i:02}.png", i % 30)
    for i in range(20, 40):
        save_noise(tmp_path / "in" / "val" / f"{i}.png", i)
    shards, _ = tokenize(tmp_path / "in", tmp_path / "out", chunk_size=7)
    train, validation = (rows_of(shards, part) for part in PARTS)
    # Ten of the twenty validation images are also training images.
    assert len(train) == 40
    assert len(validation) == 10
    assert not set(train) & set(validation)
    assert shards.manifest["copies_left_out"] == {"train": 0, "validation": 10}


def test_copies_are_left_out_where_that_is_asked_for(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "in" / "copies")
    shutil.copytree(folder, tmp_path / "in" / "originals")
    out = tmp_path / "out"
    twice, _ = tokenize(tmp_path / "in", out)
    assert sum(twice.manifest["counts"].values()) == 2 * NUM_IMAGES
    once, _ = tokenize(tmp_path / "in", tmp_path / "once", dedup=True)
    assert sum(once.manifest["counts"].values()) == NUM_IMAGES
    for part in PARTS:
        rows = rows_of(once, part)
        assert len(set(rows)) == len(rows)
        assert set(rows) == set(rows_of(twice, part)[: len(rows)])


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_tar_files_hold_what_a_folder_holds(folder, shards, tmp_path, ending):
    paths = sorted(folder.rglob("*.png"))
    for start in range(0, len(paths), 100):
        path = tmp_path / f"shard-{start:03}.{ending}"
        with tarfile.open(path, "w:gz" if ending == "tar.gz" else "w") as tar:
            for i, image in enumerate(paths[start : start + 100]):
                key = f"{start + i:06}"
                add(tar, f"{key}.mask.png", b"no image to learn from")
                add(tar, f"{key}.cls", image.parent.name.encode())
                add(tar, f"{key}.png", image.read_bytes())
                add(tar, f"{key}.json", b"{}")
    found, lines = tokenize(f"{tmp_path}/*.{ending}", tmp_path / "out")
    for part in PARTS:
        assert rows_of(found, part) == rows_of(shards, part)
    ((name, reason),) = found.manifest["skipped"]
    assert name.endswith("/000200.png")
    assert reason == "not a picture in a known format"
    assert "1 skipped" in lines[-1]


def test_what_fails_late_is_skipped_as_from_a_folder(tmp_path):
    """A header that is well, and pixels that are not all there."""
    images = tmp_path / "images"
    for i in range(100):
        save_noise(images / f"{i:03}.png", i)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("000-a.jpg", "050-a.jpg", "099-a.jpg"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG")
        (images / name).write_bytes(buffer.getvalue()[:1500])
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for path in sorted(images.iterdir()):
            tar.add(path, path.name)
    of_tar, _ = tokenize(str(tmp_path / "all.tar"), tmp_path / "a")
    of_folder, _ = tokenize(images, tmp_path / "b", chunk_size=1000)
    for part in PARTS:
        assert rows_of(of_tar, part) == rows_of(of_folder, part)
    first, second = (
        [(os.path.basename(path), reason) for path, reason in skipped]
        for skipped in (
            of_tar.manifest["skipped"],
            of_folder.manifest["skipped"],
        )
    )
    assert len(first) == 3
    assert first == second


def test_names_of_tar_files_and_folders_in_them_tell_parts_and_classes(
    folder, tmp_path
):
    paths = sorted(folder.rglob("[0-9]*.png"))
    for name, some in (
        ("set-train-0.tar", paths[:20]),
        ("set-val-0.tar", paths[20:30]),
        ("set-test-0.tar", paths[30:40]),
        ("set-x-0.tar", paths[40:50]),
    ):
        with tarfile.open(tmp_path / name, "w") as tar:
            for path in some:
                tar.add(path, f"./{path.parent.name}/{path.name}")
    shards, _ = tokenize(f"{tmp_path}/*.tar", tmp_path / "out")
    assert shards.manifest["counts"] == {"train": 20, "validation": 10}
    assert shards.label_names == ["cat"]
    test, other = shards.manifest["skipped"]
    assert "set-test-0.tar" in test[0]
    assert "set-x-0.tar" in other[0]


def test_folders_in_a_tar_file_tell_parts_and_classes(folder, tmp_path):
    paths = sorted(folder.rglob("[0-9]*.png"))
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(__file__, "./readme.txt")
        tar.add(paths[-1], "./cover.png")
        for i, path in enumerate(paths[:40]):
            part = ("Training", "Training", "valid", "test")[i % 4]
            tar.add(path, f"./{part}/{path.parent.name}/{path.name}")
    shards, _ = tokenize(str(tmp_path / "all.tar"), tmp_path / "out")
    assert shards.manifest["counts"] == {"train": 20, "validation": 10}
    assert shards.label_names == ["cat"]
    skipped = [path for path, _ in shards.manifest["skipped"]]
    assert sorted(map(os.path.basename, skipped)) == ["cover.png", "test"]


def test_tar_files_of_validation_alone_are_not_trained_on(folder, tmp_path):
    with tarfile.open(tmp_path / "dev-0.tar", "w") as tar:
        tar.add(folder / "dog" / "000.png", "000.png")
    with pytest.raises(UserError, match="no pictures to train on"):
        tokenize(str(tmp_path / "dev-0.tar"), tmp_path / "out")


def test_tokenizing_says_which_folder_is_which_part(tmp_path):
    for i, part in enumerate(("Train", "Dev")):
        save_noise(tmp_path / "in" / part / "1.png", i)
    _, lines = tokenize(tmp_path / "in", tmp_path / "out")
    assert lines[0] == "Parts: Dev validates, Train trains."


def test_a_tfds_data_set_is_read_in_chunks(tiny_zoo, tmp_path):
    shards, _ = tokenize(tiny_zoo, tmp_path / "out", chunk_size=4)
    data = token_dataset.load(tiny_zoo, TOKENIZER)
    for part in PARTS:
        found = [token_ids for token_ids, _ in rows_of(shards, part)]
        assert sorted(found) == sorted(map(bytes, getattr(data, part)))
    assert len(shards.manifest["chunks"]) == 4


@pytest.mark.soak
def test_training_from_shards_is_training_from_images(
    folder, shards, tmp_path, monkeypatch
):
    monkeypatch.setattr(Previews, "update", lambda *_, **__: None)

    def train(source, name, **options):
        arguments = TrainingArguments(
            preset="pico",
            decoder="transformer",
            batch_size=64,
            jit_compile=False,
            hue_turns=0.5,
            shifts=0.5,
            input_noise=0.1,
            **options,
        )
        words = {"runs_dir": tmp_path, "say": lambda line: None}
        return fit(source, arguments, name=name, **words)

    plain = train(str(folder), "plain", epochs=1, image_size=(8, 8))
    sharded = train(shards.path, "sharded", epochs=1)
    assert plain.model.labels == sharded.model.labels == CLASSES
    for a, b in zip(plain.model.weights, sharded.model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    # A longer budget goes on.
    more = train(shards.path, "sharded", epochs=2)
    history = json.loads(pathlib.Path(more.file("history.json")).read_text())
    assert len(history) == 2


def test_shards_with_other_colors_are_refused(shards, tmp_path):
    """Even if they are given as what happens to be the default."""
    for name, value in (("image_size", (32, 32)), ("bit_widths", (3, 3, 3))):
        arguments = TrainingArguments(**{name: value})
        with pytest.raises(UserError, match=f"{name} was .*tokenize"):
            fit(shards.path, arguments, runs_dir=tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
def test_a_manifest_of_another_program_makes_no_shards(tmp_path, name):
    (tmp_path / name).write_text('[{"format": 1}]')
    assert not token_shards.is_shards(tmp_path)
    if name == "manifest.json":
        with pytest.raises(UserError, match="another version"):
            Shards.open(tmp_path)
    with pytest.raises(UserError, match="nor a folder of token"):
        tokenize(tmp_path, tmp_path)


def test_shards_are_known_by_their_mark(shards):
    assert token_shards.is_shards(shards.path)


def test_a_shard_that_is_lost_is_one_clear_line(folder, tmp_path):
    out = tmp_path / "out"
    shards, _ = tokenize(folder, out)
    path, entry = next(shards.files())
    rows = ShardRows(shards, "train")
    with open(path, "r+b") as file:
        file.truncate(entry["bytes"] // 2)
    with pytest.raises(UserError, match="is missing or damaged"):
        Shards.open(out)
    with pytest.raises(UserError, match="is missing or damaged"):
        rows[np.arange(60)]
    with pytest.raises(UserError, match="is missing or damaged"):
        fit(str(out), runs_dir=tmp_path, say=lambda line: None)


def test_a_worker_whose_images_have_changed_stops(tmp_path):
    save_noise(tmp_path / "in" / "1.png", 1)
    tokenize(tmp_path / "in", tmp_path / "out", chunk_size=64)
    config = TOKENIZER.get_config()
    paths = str(tmp_path / "in"), str(tmp_path / "out")
    Job(*paths, config, chunk_size=64).check_plan()
    save_noise(tmp_path / "in" / "2.png", 2)
    with pytest.raises(UserError, match="begun with other images"):
        Job(*paths, config, chunk_size=64).check_plan()


def test_a_plan_never_replaces_another(tmp_path):
    """Two commands that both found the folder empty."""
    first, second = (tmp_path / name for name in ("a", "b"))
    for seed, folder in enumerate((first, second)):
        save_noise(folder / "1.png", seed)
    out = tmp_path / "out"
    tokenize(first, out)
    config = TOKENIZER.get_config()
    before = (out / "plan.json").read_bytes()
    tokenizing._write_plan(Job(str(second), str(out), config))
    assert (out / "plan.json").read_bytes() == before


def test_mistakes_are_one_clear_line(folder, tmp_path):
    out = tmp_path / "out"
    tokenize(folder, out)
    with pytest.raises(UserError, match="begun with another chunk_size: 64"):
        tokenize(folder, out, chunk_size=50)
    save_noise(tmp_path / "other" / "1.png", 1)
    with pytest.raises(UserError, match="begun with other images"):
        tokenize(tmp_path / "other", out)
    with pytest.raises(UserError, match="neither empty nor a folder of token"):
        tokenize(folder, tmp_path / "other")
    with pytest.raises(UserError, match="There is no folder"):
        tokenize(tmp_path / "missing", tmp_path / "a")
    with pytest.raises(UserError, match="There is no tar file"):
        tokenize(str(tmp_path / "*.tar"), tmp_path / "b")
    (tmp_path / "text.tar").write_text("text")
    with pytest.raises(UserError, match=r"text\.tar is broken"):
        tokenize(str(tmp_path / "text.tar"), tmp_path / "c")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.png").write_text("text")
    with pytest.raises(UserError, match="No usable picture"):
        tokenize(tmp_path / "empty", tmp_path / "d")


def test_the_command_line_tokenizes_and_says_what_comes_next(folder, tmp_path):
    out = str(tmp_path / "out")
    arguments = ["tokenize", str(folder), out, "--image-size", "8"]
    done = CliRunner().invoke(main, [*arguments, "--shard", "1/1"])
    assert done.exit_code == 0, done.output
    assert "1 skipped, most: not a picture in a known format" in done.output
    assert f"Now try: pixace-tf fit {out}" in done.output
    for wrong in ("0/2", "3/2", "1", "a/b"):
        refused = CliRunner().invoke(main, [*arguments, "--shard", wrong])
        assert refused.exit_code == 2
        assert "be like 1/4" in refused.output or "one of" in refused.output


def test_a_job_travels_without_what_it_has_opened(folder, tmp_path):
    job = Job(str(folder), str(tmp_path), TOKENIZER.get_config())
    assert job.images.num_chunks == 1
    copy = pickle.loads(pickle.dumps(job))
    assert "images" not in vars(copy)
    assert copy == job


@pytest.mark.soak
def test_killed_processes_change_nothing(tmp_path):
    images = tmp_path / "images"
    cartoons.draw_folder(str(images), 600)
    command = [sys.executable, "-m", "pixace_tf", "tokenize", str(images)]
    options = ["--image-size", "8", "--chunk-size", "20"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    subprocess.run([*command, str(straight), *options], check=True)
    rng = np.random.default_rng(0)
    for _ in range(4):
        before = len(list(killed.glob("chunk-*.json")))
        process = subprocess.Popen([*command, str(killed), *options])
        while len(list(killed.glob("chunk-*.json"))) == before:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "manifest.json").exists()
    subprocess.run([*command, str(killed), *options], check=True)
    assert content(killed) == content(straight)


@pytest.mark.soak
def test_beam_writes_what_the_plain_command_writes(folder, shards, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pixace_tf", "tokenize", str(folder)]
    options = ["--image-size", "8", "--chunk-size", "64"]
    runner = [
        *("--runner", "DirectRunner"),
        *("--runner-option", "direct_num_workers=2"),
        *("--runner-option", "direct_running_mode=multi_processing"),
    ]
    subprocess.run([*command, str(out), *options, *runner], check=True)
    assert content(out) == content(shards.path)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"

    def write_half():
        with storage.new_file(path) as temporary:
            pathlib.Path(temporary).write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert not os.listdir(tmp_path)
    assert token_shards.write_shard(path, np.zeros(0))["count"] == 0
    assert not path.exists()

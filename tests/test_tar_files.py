import io
import tarfile

import pytest
from PIL import Image

from pixace_tf.data import decoding, tar_files
from pixace_tf.data.tar_files import ENDING, TarSource
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError

TOKENIZER = PixelTokenizer((4, 4))


def png(level):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), level).save(buffer, "PNG")
    return buffer.getvalue()


def save_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def read(pattern):
    """The gray level and the label of each image."""
    source = TarSource(str(pattern), TOKENIZER, 1000)
    found = []
    for chunk in range(source.num_chunks):
        small = source.read(chunk)
        levels = small.images[:, 0, 0, 0].tolist()
        found += zip(levels, small.labels, strict=True)
    return found


@pytest.mark.parametrize("name", ["a [16px].tar", "a{0..1}.tar", "a?*.tar"])
def test_a_path_that_exists_is_no_pattern(tmp_path, name):
    save_tar(tmp_path / name, {"0.png": png(7)})
    assert read(tmp_path / name) == [(7, "")]


@pytest.mark.parametrize(
    "pattern",
    ["a-{08..10}.tar", "a-{08,09,10}.tar", "{a,b}-*.tar", "a-{0{8,9},10}.tar"],
)
def test_braces_are_expanded_as_by_a_shell(tmp_path, pattern):
    for number in (8, 9, 10):
        members = {"0.png": png(number)}
        save_tar(tmp_path / f"a-{number:02}.tar", members)
    save_tar(tmp_path / "b-1.tar", {"0.png": png(11)})
    levels = [level for level, _ in read(tmp_path / pattern)]
    assert levels == [8, 9, 10] + [11] * pattern.startswith("{a")


def test_a_file_that_is_missing_from_a_range_is_named(tmp_path):
    save_tar(tmp_path / "a-0.tar", {"0.png": png(0)})
    with pytest.raises(UserError, match=r"no tar file .*a-1\.tar"):
        read(tmp_path / "a-{0..1}.tar")


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_compressed_tar_files_are_read(tmp_path, kind):
    path = tmp_path / f"a.tar{kind and '.'}{kind}"
    save_tar(path, {"0.png": png(7)}, f"w:{kind}")
    assert ENDING.search(str(path))
    assert read(path) == [(7, "")]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if kind else 540])

    with pytest.raises(UserError, match="is broken"):
        read(path)


def test_backslashes_in_names_divide_folders(tmp_path):
    save_tar(tmp_path / "a.tar", {"cat\\0.png": png(1), "dog/1.png": png(2)})
    assert read(tmp_path / "a.tar") == [(1, "cat"), (2, "dog")]


def test_numbers_after_dots_are_part_of_the_name(tmp_path):
    members = {
        "frame.0001.png": png(1),
        "frame.0001.cls": b"cat",
        "frame.0001.mask.png": png(255),
        "frame.0002.png": png(2),
        "frame.0002.cls": b"dog",
        "frame.png": png(3),
    }
    save_tar(tmp_path / "a.tar", members)
    assert read(tmp_path / "a.tar") == [(1, "cat"), (2, "dog"), (3, "")]


def test_names_that_begin_alike_do_not_fill_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    save_tar(path, {f"frame.a{i}.png": png(i) for i in range(200)})
    taken = []
    members = tar_files._members
    monkeypatch.setattr(
        tar_files,
        "_members",
        lambda tar: (taken.append(m) or m for m in members(tar)),
    )
    for done, _ in enumerate(tar_files._samples(str(path))):
        assert len(taken) - done <= 65
    assert done == 199


def test_images_of_any_format_come_as_a_tar_file_is_read(tmp_path, monkeypatch):
    """Formats that only Pillow reads, too."""
    monkeypatch.setattr(decoding, "num_cores", lambda: 2)
    kinds = ("bmp", "gif", "webp", "tiff", "avif", "ppm", "tga")
    image = Image.new("RGB", (4, 4), "red")
    contents = {}
    for i in range(210):
        kind, buffer = kinds[i % len(kinds)], io.BytesIO()
        image.save(buffer, kind)
        contents[f"{i:03}.{kind}"] = buffer.getvalue()
    save_tar(tmp_path / "a.tar", contents)
    taken = []
    samples = tar_files._samples
    monkeypatch.setattr(
        tar_files,
        "_samples",
        lambda path: (taken.append(s) or s for s in samples(path)),
    )
    ahead = []
    source = TarSource(str(tmp_path / "a.tar"), TOKENIZER, 1000)
    small = source.read(0, lambda done, _: ahead.append(len(taken) - done))
    assert len(small.images) == 210
    assert not small.skipped
    assert max(ahead) < 80

import http.server
import io
import os
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from pixace_tf.data import image_files
from pixace_tf.data.tokenizer import PixelTokenizer

PICTURE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
)


def scan_of(root):
    result = image_files.scan(root)
    return (
        [p.path for p in result.loads],
        {s.path: s.reason for s in result.skipped},
    )


def small(path):
    tokenizer = PixelTokenizer((40, 30))
    return tokenizer.decode(image_files.read(str(path))).numpy().astype(int)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGB", {"interlace": 1}),
        ("PNG", "P", {}),
        ("PNG", "L", {}),
        ("PNG", "1", {}),
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}),
        ("JPEG", "L", {"quality": 95}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("BMP", "RGB", {}),
        ("GIF", "P", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("TIFF", "RGB", {}),
    ],
)
def test_every_kind_loads_as_pillow_shows_it(tmp_path, kind, mode, options):
    image = PICTURE.convert(mode)
    path = tmp_path / "picture.dat"
    image.save(path, kind, **options)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(small(path) - expected).max() <= 1


def test_sixteen_bit_grey_is_scaled(tmp_path):
    grey = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(40, 30)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    expected = np.round(grey / 257)[..., None]
    assert np.abs(small(tmp_path / "grey.png") - expected).max() <= 1


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = PICTURE.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(small(tmp_path / "a.png"), PICTURE)


def test_animations_give_their_first_frame(tmp_path):
    other = Image.new("RGB", PICTURE.size)
    path = tmp_path / "a.webp"
    PICTURE.save(path, save_all=True, append_images=[other], lossless=True)
    np.testing.assert_array_equal(small(path), PICTURE)


def test_broken_files_are_skipped_with_a_reason(tmp_path):
    PICTURE.save(tmp_path / "good.png")
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        buffer = io.BytesIO()
        PICTURE.save(buffer, kind)
        half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
        (tmp_path / f"half.{kind}").write_bytes(half)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    bomb = io.BytesIO()
    PICTURE.convert("L").save(bomb, "PNG")
    bomb = bytearray(bomb.getvalue())
    bomb[16:24] = (9000).to_bytes(4) * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4)
    (tmp_path / "bomb.png").write_bytes(bomb)
    loads, skipped = scan_of(tmp_path)
    assert loads == ["good.png"]
    assert len(skipped) == 8
    assert skipped["empty.jpg"] == "empty file"
    assert "known format" in skipped["text.jpg"]
    assert "64 megapixels" in skipped["bomb.png"]
    assert "broken" in skipped["half.JPEG"]


def test_odd_names_and_links_have_a_sane_outcome(tmp_path):
    odd = [b"a b.png", b"new\nline.png", b"caf\xe9.png", b"-rf.png"]
    for name in odd:
        PICTURE.save(tmp_path / os.fsdecode(name), "PNG")
    (tmp_path / "folder.jpg").mkdir()
    PICTURE.save(tmp_path / "folder.jpg" / "inside.png")
    PICTURE.save(tmp_path / ".hidden.png")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe.png")
    loads, skipped = scan_of(tmp_path)
    expected = [os.fsdecode(name) for name in odd] + ["folder.jpg/inside.png"]
    assert loads == sorted(expected)
    assert set(skipped) == {
        ".hidden.png",
        "dangling.png",
        "circle.png",
        "loop",
        "pipe.png",
    }


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (["a.png", "b/c.png"], {("", ""), ("", "b")}),
        (["cat/a.png", "dog/x/a.png"], {("", "cat"), ("", "dog")}),
        (["train/a.png", "val/a.png"], {("train", ""), ("validation", "")}),
        (
            ["train/cat/a.png", "val/cat/a.png"],
            {("train", "cat"), ("validation", "cat")},
        ),
        (["train/cat/a.png"], {("", "cat")}),
        (["val/cat/a.png"], {("", "val")}),
        (["train/a.png", "bus/a.png"], {("", "train"), ("", "bus")}),
    ],
)
def test_folders_give_parts_and_labels(tmp_path, layout, expected):
    for path in layout:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        PICTURE.save(tmp_path / path)
    loads = image_files.scan(tmp_path).loads
    assert len(loads) == len(layout)
    assert {(p.part, p.label) for p in loads} == expected


@pytest.fixture
def server(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    PICTURE.convert("CMYK").save(tmp_path / "b.jpg")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_pictures_are_read_over_http(server, tmp_path):
    np.testing.assert_array_equal(small(f"{server}/a.png"), PICTURE)
    np.testing.assert_array_equal(
        small(f"{server}/b.jpg"), small(tmp_path / "b.jpg")
    )


def test_a_failed_download_names_the_address(server, monkeypatch):
    with pytest.raises(ValueError, match=r"none\.png: download failed"):
        image_files.read(f"{server}/none.png")
    monkeypatch.setattr(image_files, "MAX_DOWNLOAD_BYTES", 100)
    with pytest.raises(ValueError, match="larger than"):
        image_files.read(f"{server}/a.png")


def test_what_does_not_speak_http_is_one_clear_error():
    for address in ("http://localhost:abc/x.png", "http://local host/a.png"):
        with pytest.raises(ValueError, match="download failed"):
            image_files.read(address)


def test_broken_exif_does_not_stop_a_picture(tmp_path):
    path = tmp_path / "a.webp"
    PICTURE.save(path, lossless=True, exif=b"Exif\0\0no TIFF header")
    np.testing.assert_array_equal(small(path), PICTURE)


def test_a_run_folder_among_the_pictures_is_no_source(tmp_path):
    (tmp_path / "runs" / "a" / "pictures").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "run.json").touch()
    PICTURE.save(tmp_path / "runs" / "a" / "pictures" / "new.png")
    PICTURE.save(tmp_path / "good.png")
    loads, skipped = scan_of(tmp_path)
    assert loads == ["good.png"]
    assert skipped == {"runs/a": "a run folder"}


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        image_files.read(str(tmp_path / "none.png"))
    with pytest.raises(ValueError, match="There is no folder"):
        image_files.scan(tmp_path / "none")

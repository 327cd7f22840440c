import contextlib
import http.server
import io
import os
import pathlib
import socket
import threading
import warnings
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pixace_tf import storage
from pixace_tf.cli import main
from pixace_tf.data import cartoons, image_files
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.errors import UserError
from pixace_tf.painting import local, sheets
from pixace_tf.painting.request import Request

IMAGE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
)


def scan_of(root):
    result = image_files.scan(root)
    return result.loads, {s.path: s.reason for s in result.skipped}


def small(path):
    tokenizer = PixelTokenizer((40, 30))
    return tokenizer.read(path).astype(int)


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
        ("AVIF", "RGB", {}),
        ("AVIF", "RGBA", {}),
        ("TGA", "RGB", {}),
        ("TGA", "RGB", {"compression": "tga_rle"}),
    ],
)
def test_every_kind_loads_as_pillow_shows_it(tmp_path, kind, mode, options):
    image = IMAGE.convert(mode)
    path = tmp_path / "picture.dat"
    image.save(path, kind, **options)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(small(path) - expected).max() <= 1


def test_sixteen_bit_grey_is_scaled(tmp_path):
    grey = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(40, 30)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    expected = np.round(grey / 257)[..., None]
    assert np.abs(small(tmp_path / "grey.png") - expected).max() <= 1


def turned_png(place):
    """A PNG that is upright only by an orientation, told in some place."""
    exif, text = Image.Exif(), PngInfo()
    exif[0x0112] = 6
    if "xmp" in place:
        text.add_itxt("XML:com.adobe.xmp", 'tiff:Orientation="6"')
    elif "profile" in place:
        raw = exif.tobytes().hex()
        text.add_text("Raw profile type exif", f"\nexif\n{len(raw)}\n{raw}")
    options = {"exif": exif} if place.endswith("EXIF") else {"pnginfo": text}
    buffer = io.BytesIO()
    turned = IMAGE.transpose(Image.Transpose.ROTATE_90)
    turned.save(buffer, "PNG", **options)
    content = buffer.getvalue()
    if not place.startswith("late"):
        return content
    kind = b"eXIf" if place.endswith("EXIF") else b"iTXt"
    kind = b"tEXt" if "profile" in place else kind
    start = content.index(kind) - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    rest = content[:start] + content[end:]
    return rest[:-12] + content[start:end] + rest[-12:]


@pytest.mark.parametrize(
    "place",
    ["EXIF", "profile", "xmp", "late EXIF", "late profile", "late xmp"],
)
def test_an_orientation_is_found_wherever_a_png_has_it(tmp_path, place):
    (tmp_path / "a.png").write_bytes(turned_png(place))
    np.testing.assert_array_equal(small(tmp_path / "a.png"), IMAGE)
    assert not image_files.inspect(tmp_path / "a.png").is_plain
    assert not image_files.read_header(tmp_path / "a.png").is_plain


def test_comments_behind_the_pixels_leave_a_png_plain(tmp_path):
    content = turned_png("late xmp").replace(b"XML:com.adobe.xmp", b"c" * 17)
    start = content.index(b"iTXt")
    end = start + 4 + int.from_bytes(content[start - 4 : start])
    checksum = zlib.crc32(content[start:end]).to_bytes(4)
    content = content[:end] + checksum + content[end + 4 :]
    (tmp_path / "a.png").write_bytes(content)
    assert image_files.inspect(tmp_path / "a.png").is_plain


def test_a_check_of_headers_decodes_nothing(tmp_path, monkeypatch):
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF"):
        IMAGE.save(tmp_path / f"a.{kind}", kind)
    exif = Image.Exif()
    exif[0x0112] = 6
    IMAGE.save(tmp_path / "exif.png", exif=exif)
    decoded = []
    get_decoder = Image._getdecoder
    monkeypatch.setattr(
        Image, "_getdecoder", lambda *a: decoded.append(a) or get_decoder(*a)
    )
    for path in tmp_path.iterdir():
        image_files.read_header(path)
    assert not decoded
    image_files.scan(tmp_path)
    assert len(decoded) == 6


def test_animations_give_their_first_frame(tmp_path):
    other = Image.new("RGB", IMAGE.size)
    path = tmp_path / "a.webp"
    IMAGE.save(path, save_all=True, append_images=[other], lossless=True)
    np.testing.assert_array_equal(small(path), IMAGE)


def test_broken_files_are_skipped_with_a_reason(tmp_path):
    IMAGE.save(tmp_path / "good.png")
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        buffer = io.BytesIO()
        IMAGE.save(buffer, kind)
        half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
        (tmp_path / f"half.{kind}").write_bytes(half)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    bomb = io.BytesIO()
    IMAGE.convert("L").save(bomb, "PNG")
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


def test_an_icon_is_refused_with_the_way_out(tmp_path):
    IMAGE.save(tmp_path / "a.ico", sizes=[(30, 40)])
    assert scan_of(tmp_path)[1]["a.ico"].endswith("as a PNG file")
    content = (tmp_path / "a.ico").read_bytes()
    with pytest.raises(UserError, match="an icon"):
        image_files.load(io.BytesIO(content))


@pytest.mark.parametrize("name", ["a.zip", "a.tar.zst", "a.TGZ", "a.tbz2"])
def test_an_archive_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"archive.*`pixace-tf tokenize`"):
        image_files.scan(tmp_path / name)


def test_odd_names_and_links_have_a_sane_outcome(tmp_path):
    odd = [b"a b.png", b"new\nline.png", b"caf\xe9.png", b"-rf.png"]
    for name in odd:
        IMAGE.save(tmp_path / os.fsdecode(name), "PNG")
    (tmp_path / "folder.jpg").mkdir()
    IMAGE.save(tmp_path / "folder.jpg" / "inside.png")
    IMAGE.save(tmp_path / ".hidden.png")
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


def save_at(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        IMAGE.save(folder / path)


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
        (
            ["train/cat/a.png", "validation/x/y/a.png"],
            {("train", "cat"), ("validation", "x")},
        ),
        (
            ["train/cat/a.png", "test/cat/a.png"],
            {("train", "cat"), ("validation", "cat")},
        ),
        (["train/cat/a.png"], {("", "cat")}),
        (["val/cat/a.png"], {("validation", "cat")}),
        (["test/cat/a.png"], {("validation", "cat")}),
        (["cat/a.png", "val/a.png"], {("", "cat"), ("", "val")}),
        (["train/a.png", "bus/a.png"], {("", "train"), ("", "bus")}),
    ],
)
def test_folders_give_parts_and_labels(tmp_path, layout, expected):
    save_at(tmp_path, *layout)
    places = image_files.list_files(tmp_path).places
    assert image_files.scan(tmp_path).loads == list(places)
    assert len(places) == len(layout)
    assert set(places.values()) == expected


def test_a_test_folder_beside_a_validation_folder_is_left_out(tmp_path):
    paths = ("train/a.png", "val/a.png", "test/cat/a.png", "test/cat/b.png")
    save_at(tmp_path, *paths)
    loads, skipped = scan_of(tmp_path)
    assert loads == ["train/a.png", "val/a.png"]
    assert skipped == {"test": "kept for testing: the folder test/"}


def test_files_outside_the_parts_are_skipped(tmp_path):
    save_at(tmp_path, "train/a.png", "test/a.png", "b.png")
    loads, skipped = scan_of(tmp_path)
    assert loads == ["test/a.png", "train/a.png"]
    assert skipped == {"b.png": "lies outside test/ and train/"}


@pytest.fixture
def server(tmp_path):
    IMAGE.save(tmp_path / "a.png")
    IMAGE.convert("CMYK").save(tmp_path / "b.jpg")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            asked.append(self.path)

    asked = []
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()
        thread.join()


def test_pictures_are_read_over_http(server, tmp_path):
    server, _ = server
    np.testing.assert_array_equal(small(f"{server}/a.png"), IMAGE)
    np.testing.assert_array_equal(
        small(f"{server}/b.jpg"), small(tmp_path / "b.jpg")
    )


def test_a_failed_download_names_the_address(server, monkeypatch):
    server, _ = server
    with pytest.raises(ValueError, match=r"none\.png: download failed"):
        image_files.read(f"{server}/none.png")
    monkeypatch.setattr(image_files, "MAX_DOWNLOAD_BYTES", 100)
    with pytest.raises(ValueError, match="larger than"):
        image_files.read(f"{server}/a.png")


@contextlib.contextmanager
def answering(answer):
    """Serve one connection on loopback; `answer` gets its socket."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        thread.join()


def test_a_download_ends_in_time_though_its_headers_drip(monkeypatch):
    monkeypatch.setattr(image_files, "DOWNLOAD_TIMEOUT_S", 0.3)
    is_over = threading.Event()

    def drip(connection):
        connection.sendall(b"HTTP/1.0 200 OK\r\nX: ")
        while not is_over.wait(0.05):
            connection.sendall(b"x")

    with answering(drip) as address:
        with pytest.raises(UserError, match="takes too long"):
            image_files.read(address)
        is_over.set()


@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1/a.png", "file:///etc/hostname", "data:,a"]
)
def test_redirects_lead_to_http_only(target):
    head = f"HTTP/1.0 302 Found\r\nLocation: {target}\r\n\r\n".encode()
    with (
        answering(lambda connection: connection.sendall(head)) as address,
        pytest.raises(UserError, match=r"a\.png: download failed"),
    ):
        image_files.read(address)


def test_an_address_is_downloaded_once_for_image_and_mask(server, tmp_path):
    server, asked = server
    rgba = np.full((40, 30, 4), 255, np.uint8)
    rgba[:20, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "mask.png")
    tokenizer = PixelTokenizer((8, 6), trim=True)
    for image, mask, expected in (
        ("a.png", f"{server}/mask.png", {"/a.png", "/mask.png"}),
        ("mask.png", "alpha", {"/mask.png"}),
    ):
        asked.clear()
        request = Request([f"{server}/{image}"], mask=mask)
        small = tokenizer.read(request.images[0])
        local.hidden_pixels(request, small[None], tokenizer)
        assert len(asked) == len(expected)
        assert set(asked) == expected


def test_what_does_not_speak_http_is_one_clear_error():
    for address in ("http://localhost:abc/x.png", "http://local host/a.png"):
        with pytest.raises(ValueError, match="download failed"):
            image_files.read(address)


def test_broken_exif_does_not_stop_a_picture(tmp_path):
    path = tmp_path / "a.webp"
    IMAGE.save(path, lossless=True, exif=b"Exif\0\0no TIFF header")
    np.testing.assert_array_equal(small(path), IMAGE)


def test_a_run_folder_among_the_pictures_is_no_source(tmp_path):
    (tmp_path / "runs" / "a" / "pictures").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "run.json").touch()
    IMAGE.save(tmp_path / "runs" / "a" / "pictures" / "new.png")
    IMAGE.save(tmp_path / "good.png")
    loads, skipped = scan_of(tmp_path)
    assert loads == ["good.png"]
    assert skipped == {"runs/a": "a run folder"}


@pytest.mark.parametrize(
    "ending", [".png", ".jpg", ".webp", ".tiff", ".gif", ".PNG"]
)
def test_saved_images_are_no_source(tmp_path, ending):
    sheets.save_image(IMAGE, tmp_path / f"new{ending}")
    IMAGE.save(tmp_path / f"photo{ending}")
    scanned = image_files.scan(tmp_path)
    assert scanned.loads == [f"photo{ending}"]
    skipped = image_files.Skipped(f"new{ending}", "made by pixace-tf")
    assert scanned.skipped == [skipped]
    with pytest.raises(UserError, match="made by pixace-tf"):
        image_files.read_header(tmp_path / f"new{ending}", allow_own=False)


def test_saved_images_can_be_read_by_name(tmp_path):
    sheets.save_image(IMAGE, tmp_path / "new.png")
    np.testing.assert_array_equal(small(tmp_path / "new.png"), IMAGE)


def test_plots_and_tiles_are_no_source_but_cartoons_are(tmp_path):
    cartoons.draw_folder(tmp_path / "drawn", 2)
    history = [{"seconds": 1.0, "bits_per_pixel": 2.0}]
    sheets.save_learning_curve(history, tmp_path / "curve.png")
    sheets.save_tiles(np.asarray(IMAGE)[None], tmp_path / "tiles")
    loads, skipped = scan_of(tmp_path)
    assert len(loads) == 2
    assert set(skipped) == {"curve.png", "tiles/000.png"}


def test_a_marked_folder_is_no_source_unless_it_is_named(tmp_path):
    save_at(tmp_path, "photo.png", "report/samples/new.png")
    storage.mark_folder(tmp_path / "report")
    loads, skipped = scan_of(tmp_path)
    assert loads == ["photo.png"]
    assert skipped == {"report": "made by pixace-tf"}
    assert scan_of(tmp_path / "report")[0] == ["samples/new.png"]


def test_a_scan_tells_how_far_it_is(tmp_path):
    save_at(tmp_path, *(f"{i:02}.png" for i in range(40)))
    (tmp_path / "bad.png").write_text("bad")
    told = []
    image_files.scan(tmp_path, progress=lambda *counts: told.append(counts))
    assert told == [(done, 41) for done in range(1, 42)]


def fill_folder(path):
    with storage.new_folder(path):
        pass


PATH_TAKERS = {
    "scan": image_files.scan,
    "inspect": lambda path: image_files.inspect(path / "a.png"),
    "normalize": lambda path: image_files.normalize(path / "a.png"),
    "read": lambda path: image_files.read(path / "a.png"),
    "list_files": lambda path: list(
        image_files.file_states(image_files.list_files(path))
    ),
    "printable": image_files.printable,
    "draw_folder": lambda path: cartoons.draw_folder(path / "new", 1),
    "check_image_path": lambda path: sheets.check_image_path(path / "b.png"),
    "save_image": lambda path: sheets.save_image(IMAGE, path / "b.png"),
    "save_tiles": lambda path: sheets.save_tiles(
        np.asarray(IMAGE)[None], path / "tiles"
    ),
    "write_atomic": lambda path: storage.write_atomic(path / "b", b""),
    "write_json": lambda path: storage.write_json(path / "b", []),
    "write_npz": lambda path: storage.write_npz(path / "b.npz", {}, {}),
    "read_npz": lambda path: storage.read_npz(path / "a.npz"),
    "mark_folder": storage.mark_folder,
    "new_folder": lambda path: fill_folder(path / "new"),
    "remove_folder": storage.remove_folder,
    "remove_unfinished": storage.remove_unfinished,
}


class OtherPath(os.PathLike):
    """A path that is neither a string nor a pathlib.Path."""

    def __init__(self, path):
        self._path = pathlib.Path(path)

    def __fspath__(self):
        return str(self._path)

    def __truediv__(self, name):
        return OtherPath(self._path / name)


@pytest.mark.parametrize("name", PATH_TAKERS)
def test_paths_may_be_path_objects(tmp_path, name):
    IMAGE.save(tmp_path / "a.png")
    storage.write_npz(str(tmp_path / "a.npz"), {}, {})
    PATH_TAKERS[name](OtherPath(tmp_path))


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        image_files.read(str(tmp_path / "none.png"))
    with pytest.raises(UserError, match="There is no folder"):
        image_files.scan(tmp_path / "none")


def save_with_broken_metadata(path):
    """Pillow warns of it."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05" + bytes(8)
    IMAGE.save(path, exif=exif)


def test_the_library_leaves_the_filters_of_warnings_alone(
    tmp_path, monkeypatch
):
    """They belong to the process, and threads would restore them wrongly."""

    def fail(**options):
        raise AssertionError

    save_with_broken_metadata(tmp_path / "a.jpg")
    before = [*warnings.filters]
    with monkeypatch.context() as patch:
        patch.setattr(warnings, "catch_warnings", fail)
        with pytest.warns(UserWarning, match="Corrupt EXIF"):
            image_files.inspect(tmp_path / "a.jpg")
    assert warnings.filters == before


def test_commands_do_not_pass_on_warnings_of_broken_metadata(tmp_path):
    save_with_broken_metadata(tmp_path / "a.jpg")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = CliRunner().invoke(main, ["scan", str(tmp_path)])
    assert result.output == "1 load, 0 skipped.\n"
    assert not told

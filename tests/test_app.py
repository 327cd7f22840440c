"""The page, in a real browser."""

import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_export import make_run

from pixace_tf.data import cartoons
from pixace_tf.painting import local, sheets
from pixace_tf.runs import run_config

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: apt-get install chromium"
)
pytest.importorskip("gradio", reason="the extra [app] is not installed")
TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def address(trained_run):
    """The page of a run, served by the command."""
    command = [sys.executable, "-m", "pixace_tf", "app", trained_run.path]
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        yield re.search(r"http://127.0.0.1:\d+", line)[0]
        assert process.poll() is None, "the page did not live until the end"
        process.terminate()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, which may talk to its own server only."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(TIMEOUT_MS)
    elsewhere = []
    page.on(
        "request",
        lambda request: (
            elsewhere.append(request.url)
            if not request.url.startswith((address, "data:", "blob:"))
            else None
        ),
    )
    page.goto(address)
    page.get_by_role("button", name="Finish it").wait_for()
    yield page
    page.close()
    assert not elsewhere


@pytest.fixture
def cat(tmp_path):
    path = tmp_path / "cat.png"
    cartoons.draw("cat", "3").save(path)
    return str(path)


def upload(page, path):
    page.locator("input[type=file]").first.set_input_files(path)


def source_of(page, name):
    return page.locator(f"#{name} img").get_attribute("src")


def wait_for_another(page, name, source):
    page.wait_for_function(
        "([name, source]) => {"
        "  const image = document.querySelector(`#${name} img`);"
        "  return image && image.src && image.src !== source &&"
        "    image.complete; }",
        arg=[name, source],
    )


def download(page, button):
    page.wait_for_timeout(500)
    with page.expect_download() as waiting:
        page.locator("button:visible, a:visible").filter(
            has_text="Download the sheet"
        ).first.click()
    with open(waiting.value.path(), "rb") as file:
        return Image.open(io.BytesIO(file.read()))


@needs_chromium
@pytest.mark.soak
def test_without_a_run_the_page_offers_all(browser, trained_run, tmp_path):
    for name in ("first", "second"):
        path = tmp_path / "saved_models" / name
        shutil.copytree(trained_run.path, path)
    sheets.save_image(
        Image.new("RGB", (60, 20)),
        tmp_path / "saved_models" / "first" / run_config.COMPLETED_FILE,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pixace_tf", "app", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        line = process.stdout.readline()
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(re.search(r"http://127.0.0.1:\d+", line)[0])
        choice = page.get_by_label("Model")
        choice.click()
        offered = page.get_by_role("option")
        names = [offered.nth(i).inner_text() for i in range(offered.count())]
        assert {"first", "second"} <= set(names)
        page.get_by_role("option", name="first").click()
        page.get_by_role("heading", name="first").wait_for()
        # A picture that is finished already.
        page.locator("#completed img").wait_for()
        choice.click()
        page.get_by_role("option", name="second").click()
        page.get_by_role("heading", name="second").wait_for()
        page.get_by_role("button", name="Finish it").wait_for()
        page.close()
    finally:
        process.terminate()
        process.communicate(timeout=20)


@needs_chromium
@pytest.mark.slow
def test_upload_drag_finish_download(page, cat, tmp_path):
    upload(page, cat)
    page.locator("#kept img").wait_for()
    half = source_of(page, "kept")
    slider = page.locator("#keep input[type=range]")
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=5)
    page.mouse.up()
    wait_for_another(page, "kept", half)
    assert 0.15 < float(slider.input_value()) < 0.35
    page.get_by_role("button", name="Finish it").click()
    page.locator("#completed img").wait_for()
    page.wait_for_timeout(3000)
    sheet = download(page, "Download the sheet")
    # Original, kept, and four completions, side by side.
    assert sheet.format == "PNG"
    assert sheet.width > 5 * sheet.height
    page.screenshot(path=tmp_path / "page.png")


@needs_chromium
@pytest.mark.soak
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_what_is_brushed_is_painted_anew(page, cat, tmp_path, width):
    page.set_viewport_size({"width": width, "height": 860})
    upload(page, cat)
    page.locator("#kept img").wait_for()
    page.get_by_label("Brush over what is new").check()
    canvas = page.locator("#drawing canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    # The picture lies on the canvas with a white margin, tools upon both.
    seen = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("L")
    is_drawn = np.asarray(seen) < 240
    rows = np.flatnonzero(is_drawn.mean(axis=1) > 0.6)
    columns = np.flatnonzero(is_drawn[rows].mean(axis=0) > 0.25)
    top, bottom = rows[0], rows[-1] + 1
    left, right = columns[0], columns[-1] + 1
    assert (right - left) / (bottom - top) == pytest.approx(12 / 8, rel=0.1)
    # A stroke from the 7th to the 9th of 12 columns, in the 3rd of 8 rows.
    y = box["y"] + top + (2.5 / 8) * (bottom - top)
    xs = [box["x"] + left + x / 12 * (right - left) for x in (6.5, 8.5)]
    page.mouse.move(xs[0], y)
    page.mouse.down()
    page.mouse.move(xs[1], y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1500)
    page.screenshot(path=tmp_path / "brushed.png")
    page.get_by_role("button", name="Finish it").click()
    page.locator("#completed img").wait_for()
    page.wait_for_timeout(3000)
    sheet = download(page, "Download the sheet")
    page.screenshot(path=tmp_path / "finished.png", full_page=True)
    # The second picture of the sheet shows what was kept.
    scale = 192 // 12
    kept = np.asarray(sheet.convert("RGB")).astype(int)
    tile = kept[-8 * scale - 6 : -6, 12 * scale + 12 : 24 * scale + 12]
    is_gray = np.abs(tile - tile.mean(axis=-1, keepdims=True)).max(-1) < 6
    hidden = (is_gray & (abs(tile.mean(-1) - 223) < 14)).reshape(
        8, scale, 12, scale
    )
    hidden = hidden.mean(axis=(1, 3)) > 0.5
    rows, columns = np.nonzero(hidden)
    assert rows.min() >= 1
    assert rows.max() <= 3
    assert 5 <= columns.min() <= 7
    assert 7 <= columns.max() <= 9


@needs_chromium
@pytest.mark.slow
def test_a_bad_file_is_told_and_the_page_goes_on(page, cat, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture at all")
    upload(page, str(bad))
    page.get_by_text("bad.png", exact=False).first.wait_for()
    upload(page, cat)
    page.locator("#kept img").wait_for()


@needs_chromium
@pytest.mark.slow
def test_new_pictures_and_palettes(page, cat):
    page.get_by_role("tab", name="New pictures").click()
    page.get_by_role("button", name="Paint").click()
    page.locator("#painted img").wait_for()
    anything = source_of(page, "painted")
    page.get_by_role("combobox", name="What").locator("visible=true").click()
    page.get_by_role("option", name="dog").click()
    page.get_by_role("button", name="Paint").click()
    wait_for_another(page, "painted", anything)
    page.get_by_role("tab", name="Palette").click()
    upload(page, cat)
    page.locator("#palette img").wait_for()
    before = source_of(page, "palette")
    page.get_by_label("RGB").check()
    wait_for_another(page, "palette", before)


def test_a_watched_picture_grows_row_by_row(tmp_path):
    from pixace_tf import app

    run = make_run(tmp_path / "run", "transformer")
    picture = np.asarray(cartoons.draw("cat", "3"))
    frames = []
    done = local.complete(run, [picture], keep=0.5, watch=frames.append)
    assert len(frames) == 4  # of 8 rows, half are drawn
    np.testing.assert_array_equal(frames[-1], done.images)
    height, width = run.tokenizer.image_size
    cover = sheets.hide_after(np.zeros((height, width, 3), np.uint8), 0)
    covered = [
        int(np.all(image == cover, axis=(1, 2)).sum())
        for image in np.array(frames)[:, 0, 0, 0]
    ]
    assert covered == [3, 2, 1, 0]
    studio = app.Studio(local.LocalPainter(run), "run")
    shown = list(studio.complete(picture, 0.5, 2, 1.0, 0))
    assert [sheet is None for _, sheet in shown[:-1]] == [True] * (
        len(shown) - 1
    )
    assert shown[-1][1].width > shown[-1][0].width
    with pytest.raises(ValueError, match="Choose a picture"):
        next(studio.complete(None, 0.5, 2, 1.0, 0))


def test_the_page_does_not_smooth_pixel_art_without_alpha(tmp_path):
    from pixace_tf import app

    run = make_run(tmp_path / "run", "transformer")
    run.tokenizer.resize = "native"
    studio = app.Studio(local.LocalPainter(run), "run")
    small = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    blocks = np.asarray(studio.preview(small, 1))
    assert len(np.unique(blocks.reshape(-1, 3), axis=0)) == 96
    drawn = local.generate(run, 3, seed=1)[0]
    *_, (sheet, _) = studio.generate(3, 1.0, 1)
    expected = sheets.grid(drawn, is_smooth=False)
    np.testing.assert_array_equal(np.asarray(sheet), np.asarray(expected))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("The file /home/ann/my-runs/a/run.json is", "The file run.json is"),
        ("'/home/ann/my runs/a b.png' has", "'a b.png' has"),
        (
            "There is no run folder '/home/ann'.",
            "There is no run folder 'ann'.",
        ),
        ("/tmp/gradio/1f/cat.png: no picture", "cat.png: no picture"),
        ("Could not reach http://host:8501/v1/x", None),
        ("4.5 bits/pixel and/or 1 / 2", None),
    ],
)
def test_messages_name_no_folders_of_the_host(text, shown):
    from pixace_tf import app

    assert app.without_folders(text) == (shown or text)


def test_a_file_system_that_fails_is_told_without_its_path():
    import gradio as gr

    from pixace_tf import app

    with pytest.raises(gr.Error) as error, app._messages():
        os.listdir("/no/such/folder")
    assert "No such file" in str(error.value)
    assert "folder" not in str(error.value)


def test_errors_become_messages(tmp_path):
    import gradio as gr

    from pixace_tf import app

    studio = app.Studio(local.LocalPainter(make_run(tmp_path / "run")), "run")
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    with pytest.raises(gr.Error, match=r"bad\.png"):
        app._messages()(studio.choose)(str(bad))
    Image.new("1", (5000, 4000)).save(tmp_path / "large.png")
    with pytest.raises(gr.Error, match=r"^'large\.png: .* 16 megapixels"):
        app._messages()(studio.choose)(str(tmp_path / "large.png"))
    with pytest.raises(gr.Error, match="Choose a file"):
        app._messages()(studio.choose)("http://127.0.0.1:9/cat.png")
    with pytest.raises(gr.Error, match="Choose a picture"):
        list(app._stream(studio.complete)(None, 0.5, 1, 1.0, 0))

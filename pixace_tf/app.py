"""A web page: finish pictures, paint new ones, look at palettes.

Nothing leaves the machine: no analytics, no fonts or scripts from elsewhere.
"""

import concurrent.futures
import contextlib
import functools
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Gradio reads this when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import numpy as np
from PIL import Image

from pixace_tf.data.image_files import (
    MAX_SERVED_PIXELS,
    printable,
    read_header,
)
from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError
from pixace_tf.painting import masks, sheets
from pixace_tf.painting.painter import Painter
from pixace_tf.painting.request import ImageLike, Request, generation

MAX_FILE_SIZE = "32mb"
MAX_WAITING = 64
# Uploads and images of the page are deleted after this time.
CACHE_S = 3600
FRAME_S = 0.05
MAX_SEED = 2**31 - 1
# Side of the images on the page, in pixels.
SIDE = 192
TOP, BRUSH = "Keep the top", "Brush over what is new"
# Chosen for no label.
ANYTHING = "Anything"
_STROKE = "rgb(255, 64, 129)"
_CSS = "footer {display: none !important}"
# Within `gr.render`, components are not interactive by default.
_INPUT: dict[str, Any] = {"interactive": True}
# Events that take much memory and time share one queue.
_ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_id": "one",
    "concurrency_limit": 1,
}
# An image or a grid to show, and the sheet when it is finished.
_Shown = Iterator[tuple[Image.Image, Image.Image | None]]


class Studio:
    """The actions of the page with one model, without the components.

    Args:
        painter: Paints with a run or on a server.
        title: Name of the model.
        finished: A sheet of completed images to show at first.
    """

    def __init__(
        self,
        painter: Painter,
        title: str,
        finished: Image.Image | None = None,
    ) -> None:
        self._painter = painter
        self.title = title
        self.labels = list(painter.labels)
        self.is_smooth = painter.is_smooth
        self.are_pairs = painter.are_pairs
        self.examples = painter.examples()
        self.finished = finished

    def choose(self, image: ImageLike) -> tuple[ImageLike, np.ndarray]:
        """Return an image (a path or an array) and how the model sees it."""
        # A visitor must not make this machine fetch an address.
        if isinstance(image, str) and not os.path.isfile(image):
            raise UserError("Choose a file.")
        if isinstance(image, str):
            try:
                read_header(image, MAX_SERVED_PIXELS)
            except UserError as error:
                name = printable(os.path.basename(image))
                raise UserError(f"{name}: {error}") from None
        return image, self._painter.shrink(image)

    def preview(self, small: np.ndarray | None, keep: float) -> Any:
        """Return the image with a cover over the pixels to paint."""
        if small is None:
            return None
        if self.are_pairs:  # All of it is kept.
            return self.enlarge(small)
        is_hidden = Request(keep=keep).hidden_in(*small.shape[:2])
        return self.enlarge(sheets.hide(small, is_hidden))

    def enlarge(self, small: np.ndarray) -> Image.Image:
        """Return a small image as the page shows it: RGB."""
        large = sheets.enlarge(small, _scale(small), self.is_smooth)
        return sheets.flatten(large)

    def complete(
        self,
        image: ImageLike | None,
        keep: float,
        samples: float,
        temperature: float,
        seed: float,
        small: np.ndarray | None = None,
        kind: str = TOP,
        drawing: dict[str, Any] | None = None,
        label: str = ANYTHING,
        guidance: float = 1.0,
    ) -> _Shown:
        """Yield completions while they grow, at last with the sheet.

        The image is a path or an array, `small` how the model sees it. `TOP`
        keeps the share `keep`; `BRUSH` scales the strokes of `drawing`, a value
        of `gr.ImageEditor`, to `small`. `ANYTHING` ignores the guidance.
        """
        if image is None:
            raise UserError("Choose a picture first.")
        mask = None
        if kind == BRUSH and small is not None:
            mask = _brushed(drawing or {}, small.shape[:2])
            if not mask.any():
                raise UserError("Brush over what should be new first.")
        request = Request(
            [image],
            keep=keep if mask is None and not self.are_pairs else None,
            mask=mask,
            samples=int(samples),
            **_options(temperature, seed, label, guidance),
        )
        for images, done in _growing(self._painter.complete, request):
            if done is None:
                yield self._row(images[0, 0]), None
            else:
                scale = _scale(done.kept[0])
                sheet = done.sheet(scale, is_smooth=self.is_smooth)
                yield self._row(done.images[0, 0]), sheet

    def generate(
        self,
        count: float,
        temperature: float,
        seed: float,
        label: str = ANYTHING,
        guidance: float = 1.0,
    ) -> _Shown:
        """Yield new images while they grow, at last as the sheet too."""
        options = _options(temperature, seed, label, guidance)
        request = generation(int(count), **options)
        for images, done in _growing(self._painter.generate, request):
            sheet = sheets.grid(
                (images if done is None else done)[0],
                is_smooth=self.is_smooth,
            )
            yield sheet, None if done is None else sheet

    def _row(self, images: np.ndarray) -> Image.Image:
        return sheets.contact_sheet(
            [[sheets.Tile(pixels) for pixels in images]],
            scale=_scale(images[0]),
            is_smooth=self.is_smooth,
        )

    def palette(
        self,
        image: ImageLike | None,
        first: int,
        second: int,
        third: int,
        color_space: str,
    ) -> Any:
        """Return the image beside the image in a palette."""
        if image is None:
            return None
        from pixace_tf.data.tokenizer import PixelTokenizer
        from pixace_tf.painting.palette_sheet import palette_sheet

        widths = int(first), int(second), int(third)
        palette = Palette(color_space.lower(), widths)
        tokenizer = PixelTokenizer((64, 64), palette)
        return palette_sheet([image], [tokenizer], scale=5)


def build(
    names: Sequence[str], open_model: Callable[[str], Studio]
) -> gr.Blocks:
    """Lay out the page of one or more models.

    A model is opened when a visitor chooses it.
    """
    with gr.Blocks(
        title=f"pixace-tf: {names[0]}" if len(names) == 1 else "pixace-tf",
        analytics_enabled=False,
        delete_cache=(CACHE_S, CACHE_S),
    ) as page:
        name = gr.Dropdown(
            list(names),
            value=names[0],
            label="Model",
            visible=len(names) > 1,
            elem_id="model",
        )

        @gr.render(inputs=name, concurrency_limit=None)
        def show(name: str) -> None:
            with _messages():
                studio = open_model(name)
            _studio(studio)

    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def _studio(studio: Studio) -> None:
    """Lay out the components for a model."""
    gr.Markdown(
        f"# {studio.title}\nChoose a picture, keep a part of it, and see how "
        "it goes on."
    )
    image = gr.State()
    small = gr.State()
    with gr.Row():
        with gr.Column(scale=1, min_width=340):
            cover, chosen = _choose_image(studio, image, small)
        # Without `selected`, no tab would be open after a change of model.
        with gr.Column(scale=3), gr.Tabs(selected="finish"):
            with gr.Tab("Finish the picture", id="finish"):
                _completions(studio, image, small, cover)
            with gr.Tab("New pictures", id="new"):
                _new_images(studio)
            with gr.Tab("Palette", id="palette"):
                _palettes(studio, image, chosen)


def _choose_image(
    studio: Studio, image: gr.State, small: gr.State
) -> tuple[list[Any], list[Any]]:
    """Add components to choose an image and the part of it to keep.

    Returns:
        The components for kind, share to keep, and drawing; and the events
        after which an image is chosen.
    """
    upload = gr.UploadButton(
        "Upload a picture", file_types=["image"], variant="primary", **_INPUT
    )
    kind = gr.Radio(
        [TOP, BRUSH],
        value=TOP,
        show_label=False,
        container=False,
        visible=not studio.are_pairs,
        **_INPUT,
    )
    with gr.Column() as by_share:
        kept = gr.Image(
            label="What is kept",
            format="png",
            interactive=False,
            height=250,
            buttons=[],
            elem_id="kept",
        )
        keep = gr.Slider(
            *(0, 1, 0.5),
            step=0.01,
            label="Keep",
            visible=not studio.are_pairs,
            elem_id="keep",
            **_INPUT,
        )
    with gr.Column(visible=False) as by_brush:
        drawing = _drawing()
    gallery = _gallery(studio)

    choose = _messages()(studio.choose)

    def pick(event: gr.SelectData) -> Any:
        return choose(studio.examples[event.index])

    both = [image, small]
    chosen = [
        upload.upload(choose, upload, both, **_ONE_AT_A_TIME),
        gallery.select(pick, None, both, **_ONE_AT_A_TIME),
    ]
    keep.input(
        studio.preview,
        [small, keep],
        kept,
        show_progress="hidden",
        trigger_mode="always_last",
    )
    shown = [e.success(studio.preview, [small, keep], kept) for e in chosen]
    switched = kind.change(
        lambda kind: [gr.Column(visible=kind == k) for k in (TOP, BRUSH)],
        kind,
        [by_share, by_brush],
    )
    for event in (*chosen, switched):
        event.success(
            functools.partial(_canvas, studio), [kind, small], drawing
        )
    return [kind, keep, drawing], shown


def _drawing() -> gr.ImageEditor:
    return gr.ImageEditor(
        show_label=False,
        type="numpy",
        format="png",
        sources=(),
        transforms=(),
        layers=False,
        buttons=[],
        brush=gr.Brush(SIDE // 12, [_STROKE], color_mode="fixed"),
        eraser=gr.Eraser(SIDE // 12),
        canvas_size=(SIDE, SIDE),
        elem_id="drawing",
        **_INPUT,
    )


def _gallery(studio: Studio) -> gr.Gallery:
    if len(studio.examples):
        gr.Markdown("Or pick one:")
    return gr.Gallery(
        [studio.enlarge(e) for e in studio.examples],
        show_label=False,
        columns=3,
        height="auto",
        allow_preview=False,
        format="png",
        interactive=False,
        buttons=[],
        visible=bool(len(studio.examples)),
    )


def _canvas(studio: Studio, kind: str, small: np.ndarray | None) -> Any:
    """Return an enlarged image to draw on."""
    if small is None or kind != BRUSH:
        return None
    return np.asarray(studio.enlarge(small))


def _brushed(drawing: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Return the small pixels that strokes touch, bool `(height, width)`."""
    touched = np.zeros(size)
    for layer in drawing.get("layers") or ():
        alpha = Image.fromarray(np.asarray(layer)[..., 3])
        shrunk = alpha.resize(size[::-1], Image.Resampling.BOX)
        touched = np.maximum(touched, np.asarray(shrunk))
    return masks.is_painted(touched)


def _completions(
    studio: Studio, image: gr.State, small: gr.State, cover: list[Any]
) -> None:
    kind, keep, drawing = cover
    settings, label = _settings(studio, "Completions", 4, 4)
    go = gr.Button("Finish it", variant="primary")
    go.click(
        _stream(studio.complete),
        [image, keep, *settings, small, kind, drawing, *label],
        [_painting("completed", studio.finished), _download()],
        show_progress="hidden",
        **_ONE_AT_A_TIME,
    )


def _new_images(studio: Studio) -> None:
    settings, label = _settings(studio, "Pictures", 16, 9)
    go = gr.Button("Paint", variant="primary")
    go.click(
        _stream(studio.generate),
        [*settings, *label],
        [_painting("painted"), _download()],
        show_progress="hidden",
        **_ONE_AT_A_TIME,
    )


def _palettes(studio: Studio, image: gr.State, chosen: list[Any]) -> None:
    with gr.Row():
        space = gr.Radio(
            ["HSV", "RGB"], value="HSV", label="Color space", **_INPUT
        )
        choices: list[Any] = [
            gr.Slider(0, 8, n, step=1, label=f"Bits of {name}", **_INPUT)
            for n, name in (
                (5, "hue or red"),
                (4, "saturation or green"),
                (4, "value or blue"),
            )
        ]
    choices.append(space)
    shown = _painting("palette")
    update = _messages()(studio.palette), [image, *choices], shown
    for event in chosen:
        event.success(*update, **_ONE_AT_A_TIME)
    for choice in choices:
        choice.change(*update, show_progress="hidden", **_ONE_AT_A_TIME)


def launch(page: gr.Blocks, host: str, port: int) -> str:
    """Serve the page in the background; return its address.

    `127.0.0.1` lets in this machine only; port 0 chooses a free port. An
    OSError says that the port is in use.
    """
    font = ["system-ui", "sans-serif"]
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        max_file_size=MAX_FILE_SIZE,
        theme=gr.themes.Soft(font=font, font_mono=["monospace"]),
        css=_CSS,
        quiet=True,
        share=False,
        prevent_thread_lock=True,
    )
    return str(address)


def _stream(
    handler: Callable[..., _Shown],
) -> Callable[..., Iterator[tuple[Image.Image, Any]]]:
    """Turn sheets into downloads, and errors into messages."""

    @functools.wraps(handler)
    def call(*arguments: Any) -> Iterator[tuple[Image.Image, Any]]:
        # The page copies a file before it asks for the next value.
        with _messages(), tempfile.TemporaryDirectory() as folder:
            for shown, sheet in handler(*arguments):
                if sheet is None:
                    yield shown, gr.skip()
                else:
                    path = os.path.join(folder, "pixace.png")
                    sheets.save_image(sheet, path)
                    yield shown, _download(path)

    return call


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """Turn errors that a visitor can fix into messages on the page."""
    try:
        yield
    except (UserError, OSError) as error:
        text = str(error)
        # A ServerError is an OSError without a number.
        if isinstance(error, OSError) and error.errno is not None:
            text = error.strerror or "The file system failed."
        text = without_folders(text)
        raise gr.Error(text, duration=8, print_exception=False) from None


def without_folders(text: str) -> str:
    """Replace the paths in a text by file names; web addresses stay.

    Visitors of the page must not see the folders of the host.
    """
    quoted = re.sub(r"(['\"])/(?:[^'\"\n]*/)?([^'\"/\n]*)\1", r"\1\2\1", text)
    return re.sub(r"(?<![\w/:.<])(?:/[^\s/'\"]+)*/(?=[^\s/])", "", quoted)


def _growing(
    function: Callable[..., Any], request: Request
) -> Iterator[tuple[Any, Any]]:
    """Run a painter's method in a thread.

    Yields:
        The growing images and None, at most once in `FRAME_S`; at the end None
        and the result.
    """
    frames: queue.Queue[np.ndarray | None] = queue.Queue()
    result: concurrent.futures.Future[Any] = concurrent.futures.Future()
    is_closed = threading.Event()

    def show(images: np.ndarray) -> None:
        if is_closed.is_set():
            raise RuntimeError("The visitor has left.")
        frames.put(images)

    def work() -> None:
        try:
            result.set_result(function(request, watch=show))
        except Exception as error:
            result.set_exception(error)
        frames.put(None)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (images := frames.get()) is not None:
            if frames.empty():
                yield images, None
                time.sleep(FRAME_S)
        yield None, result.result()
    finally:
        is_closed.set()


def _scale(pixels: np.ndarray) -> int:
    return max(1, round(SIDE / max(pixels.shape[:2])))


def _download(path: str | None = None) -> gr.DownloadButton:
    """Return a button, which is disabled without a sheet."""
    return gr.DownloadButton(
        "Download the sheet", path, interactive=path is not None
    )


def _painting(name: str, begin_with: Image.Image | None = None) -> gr.Image:
    return gr.Image(
        begin_with,
        show_label=False,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name,
    )


def _settings(
    studio: Studio, name: str, largest: int, value: int
) -> tuple[list[Any], list[Any]]:
    """Add components for number, temperature and seed; and for a label."""
    with gr.Row():
        settings = [
            gr.Slider(1, largest, value, step=1, label=name, **_INPUT),
            gr.Slider(
                0.5,
                1.5,
                0.9,
                step=0.05,
                label="Temperature",
                info="Higher values are wilder.",
                **_INPUT,
            ),
            gr.Number(
                0,
                label="Seed",
                info="The same seed paints the same.",
                precision=0,
                minimum=0,
                maximum=MAX_SEED,
                **_INPUT,
            ),
        ]
    if not studio.labels:
        return settings, []
    names = [(printable(name), name) for name in studio.labels]
    with gr.Row():
        label = [
            gr.Dropdown([ANYTHING, *names], label="What", **_INPUT),
            gr.Slider(
                1,
                5,
                2,
                step=0.5,
                label="Guidance",
                info="Higher values are more typical.",
                **_INPUT,
            ),
        ]
    return settings, label


def _options(
    temperature: float, seed: float, label: str, guidance: float
) -> dict[str, Any]:
    """Return the fields of a `Request` for the choices on the page."""
    options = {"temperatures": (temperature,), "seed": int(seed or 0)}
    if label == ANYTHING:
        return options
    return {**options, "label": label, "guidance": guidance}

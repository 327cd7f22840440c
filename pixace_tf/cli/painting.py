"""Commands that paint, with a run or on a server."""

import dataclasses
import functools
import importlib.util
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from pixace_tf.cli.group import import_tensorflow, main, say
from pixace_tf.cli.options import (
    CHANNELS,
    handing_over,
    sampling,
    served,
    together,
)
from pixace_tf.cli.terminal import preview, show
from pixace_tf.sampling import (
    MAX_GUIDANCE,
    MAX_SERVED_PARTICLES,
    NUM_PARTICLES,
    NUM_SECOND_PARTICLES,
)

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from pixace_tf.painting.color_limit import ColorLimit
    from pixace_tf.painting.painter import Painter
    from pixace_tf.painting.request import Request


@dataclasses.dataclass(frozen=True)
class Output:
    """Options that say where pictures go besides the contact sheet."""

    scale: int | None = None
    background: tuple[int, int, int] | None = None
    tiles: str | None = None
    counts: str | None = None
    sheet: str | None = None
    sheet_gap: int = 0
    sheet_margin: int = 0
    is_shown: bool = True

    def check(self, out: str, request: "Request") -> None:
        """Raise an error if something could not be written."""
        from pixace_tf.painting import sheets, sprite_sheet

        sheets.check_image_path(out)
        if self.sheet is not None:
            sprite_sheet.check_path(self.sheet)
        elif self.sheet_gap or self.sheet_margin:
            raise click.UsageError("A gap and a margin need --sheet.")
        if self.counts is not None:
            if request.only_colors is None:
                raise click.UsageError("--counts needs --only-colors.")
            sheets.check_folder(self.counts)

    def write(
        self,
        sheet: "Image.Image",
        rows: "list[tuple[str, np.ndarray]]",
        out: str,
        limit: "ColorLimit | None",
    ) -> None:
        """Write everything, and show the contact sheet.

        `rows` are pictures with their captions.
        """
        from PIL import Image

        from pixace_tf.painting import sheets
        from pixace_tf.painting.sprite_sheet import SpriteSheet

        to_image = Image.fromarray if limit is None else limit.indexed
        images = [pixels for _, row in rows for pixels in row]
        sheets.save_image(sheet, out)
        if self.tiles is not None:
            sheets.save_tiles(images, self.tiles, to_image)
        if self.counts is not None and limit is not None:
            limit.save_counts(images, self.counts)
        if self.sheet is not None:
            sprites = SpriteSheet(rows, self.sheet_gap, self.sheet_margin)
            sprites.save(self.sheet, to_image)
        show(sheet, self.is_shown)


labels = together(
    click.option(
        "--label",
        metavar="NAME",
        help="Class to paint: one of the class folders that RUN has learned. "
        "generate also takes all, for a row of each.",
    ),
    click.option(
        "--guidance",
        type=click.FloatRange(1, MAX_GUIDANCE),
        default=1.0,
        help="How strongly to follow --label: 1 is off, 2 a good start.",
    ),
)

sprites = together(
    click.option(
        "--sheet",
        metavar="FILE",
        help="Also write a sprite sheet: a PNG of all pictures at their own "
        "size, and beside it a JSON file that tells where they are, in the "
        "form that Aseprite exports.",
    ),
    click.option(
        "--sheet-gap",
        type=click.IntRange(0, 1024),
        default=0,
        help="Pixels between the pictures of --sheet.",
    ),
    click.option(
        "--sheet-margin",
        type=click.IntRange(0, 1024),
        default=0,
        help="Pixels around the pictures of --sheet.",
    ),
)


@main.command()
@click.argument("paths", metavar="[RUN] IMAGE...", nargs=-1, required=True)
@click.option(
    "--out", default="completed.png", help="The contact sheet to write."
)
@click.option(
    "--keep",
    type=click.FloatRange(0, 1),
    help="Share of each picture to keep, from the top.  [default: 0.5; with "
    "--given 0]",
)
@click.option(
    "--prefix-length",
    type=click.IntRange(0),
    help="Pixels to keep, row by row, instead of --keep.",
)
@click.option(
    "--cover",
    metavar="SIDE[:SHARE]",
    help="Hide the top, bottom, left, right (half of the picture) or center "
    "(a quarter) instead. Top, left and right need a RUN of fit --orders.",
)
@click.option(
    "--mask",
    metavar="FILE",
    help="Paint where this picture is white instead. It needs the aspect ratio "
    "of the IMAGEs; any size will do. alpha paints where they are transparent.",
)
@click.option(
    "--vary",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Hide about this share of the picture instead, in patches that differ "
    "from sample to sample: --vary 0.3 --samples 8 gives eight siblings.",
)
@click.option(
    "--seamless",
    is_flag=True,
    help="Paint the border anew, so that the picture fits to itself on all "
    "sides; the sheet shows it three times three.",
)
@click.option(
    "--given",
    type=CHANNELS,
    default=(),
    help="Keep these channels of what is painted: value draws other colors, "
    "alpha fills the shape anew. A run of HSV has hue, saturation and value, "
    "one of RGB red, green and blue; alpha,value gives two.",
)
@click.option(
    "--particles",
    type=click.IntRange(1),
    help="Ways to fill a region, weighed by the pixels kept behind it; more "
    f"fit better and take longer.  [default: {NUM_PARTICLES}; on a server "
    f"{MAX_SERVED_PARTICLES}, which is also its maximum]",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=1,
    help="Completions for each picture and temperature.",
)
@click.option(
    "--best",
    type=click.IntRange(1),
    default=1,
    help="Draws for each completion, of which the likeliest one is kept.",
)
@labels
@sampling
@preview
@served
@handing_over(output=Output)
def complete(
    paths: tuple[str, ...],
    out: str,
    server: str | None,
    model: str,
    output: Output,
    **arguments: Any,
) -> None:
    """Keep a part of each IMAGE (path or http address), and paint the rest.

    The upper half is kept by default. The sheet shows the original, the kept
    part, and one column of completions for each temperature and sample. A RUN
    of fit --pairs keeps all of each IMAGE, and paints the picture it turns
    into.

    \b
    Examples:
      pixace-tf complete saved_models/animals cat.jpg dog.png
      pixace-tf complete saved_models/animals cat.jpg --keep 0.3 --samples 4
      pixace-tf complete saved_models/animals cat.jpg --temperature 0.9,1.0,1.1
      pixace-tf complete saved_models/animals cat.jpg --cover center
      pixace-tf complete saved_models/animals cat.jpg --mask hole.png
      pixace-tf complete saved_models/animals cat.jpg --given value --samples 4
      pixace-tf complete saved_models/animals cat.jpg --vary 0.3 --samples 8
      pixace-tf complete --server http://localhost:8501 --model animals cat.jpg
    """
    from pixace_tf import console
    from pixace_tf.painting.request import Request

    run_path, images = (None, paths) if server else (paths[0], paths[1:])
    if not images:
        raise click.UsageError("Give RUN and then at least one IMAGE.")
    request = Request(images, **arguments)
    output.check(out, request)
    painter = _open_painter(run_path, server, model)
    limit = _color_limit(painter, request)
    with console.ProgressBar("Completing") as bar:
        completions = painter.complete(request, bar.count)
    tiles = completions.images.reshape(-1, *completions.kept.shape[1:])
    is_smooth = painter.is_smooth and limit is None
    shown = completions.repeated() if request.seamless else completions
    sheet = shown.sheet(output.scale, output.background, is_smooth)
    output.write(sheet, [("", tiles)], out, limit)
    if limit is not None:
        others = sum(not limit.has_all(pixels) for pixels in tiles)
        if others:
            say(
                f"{others} of {len(tiles)} pictures keep pixels of other "
                "colors, so they are not indexed."
            )
    say(f"{len(images)} pictures completed: {out}")


@main.command()
@click.argument("run_path", metavar="[RUN]", type=click.Path(), required=False)
@click.option("--out", default="new.png", help="The contact sheet to write.")
@click.option("--count", type=click.IntRange(1), default=16)
@click.option(
    "--symmetric",
    is_flag=True,
    help="Give the right half the shape of the left one; its colors are free. "
    "For runs with transparency.",
)
@click.option(
    "--seamless",
    is_flag=True,
    help="Paint tiles that fit to themselves on all sides, such as floors and "
    "walls; the sheet shows them three times three.",
)
@click.option(
    "--particles",
    type=click.IntRange(1),
    help="Ways to paint what --symmetric and --seamless leave open, weighed by "
    f"how they fit.  [default: {NUM_SECOND_PARTICLES}]",
)
@labels
@sampling
@sprites
@preview
@served
@handing_over(output=Output)
def generate(
    run_path: str | None,
    server: str | None,
    model: str,
    out: str,
    count: int,
    label: str | None,
    temperatures: tuple[float, ...],
    output: Output,
    **arguments: Any,
) -> None:
    """Paint new pictures, in a grid; the k-th has the seed SEED + k.

    Several temperatures give one row of pictures each, and so does each label
    with --label all.

    \b
    Examples:
      pixace-tf generate saved_models/animals
      pixace-tf generate saved_models/animals --count 8 --temperature 0.9,1.0
      pixace-tf generate saved_models/animals --label cat --guidance 2
      pixace-tf generate saved_models/animals --label all --count 8
      pixace-tf generate saved_models/animals --sheet sprites.png --sheet-gap 1
      pixace-tf generate saved_models/animals --only-colors pico-8.hex
      pixace-tf generate saved_models/sprites --max-colors 8
      pixace-tf generate saved_models/sprites --symmetric
      pixace-tf generate saved_models/sprites --label floor --seamless
      pixace-tf generate --server grpc://localhost:8500 --model animals
    """
    from pixace_tf import console
    from pixace_tf.data.image_files import printable
    from pixace_tf.painting import sheets
    from pixace_tf.painting.request import generation

    request = generation(
        count, label=label, temperatures=temperatures, **arguments
    )
    output.check(out, request)
    painter = _open_painter(run_path, server, model)
    limit = _color_limit(painter, request)
    is_panel = label == "all" and bool(painter.labels)
    rows = []  # Each with the caption of its pictures.
    for name in painter.labels if is_panel else [label]:
        with console.ProgressBar("Painting") as bar:
            drawn = painter.generate(
                dataclasses.replace(request, label=name), bar.count
            )
        for temperature, row in zip(temperatures, drawn, strict=True):
            parts = [printable(str(name))] if is_panel else []
            if len(temperatures) > 1:
                parts.append(f"T {temperature:g}")
            rows.append((", ".join(parts), row))
    is_smooth = painter.is_smooth and limit is None
    shown = rows
    if request.seamless:
        shown = [(caption, sheets.repeat(row)) for caption, row in rows]
    output.write(_sheet(shown, output, is_smooth), rows, out, limit)
    say(f"{sum(len(row) for _, row in rows)} new pictures: {out}")


def _color_limit(painter: "Painter", request: "Request") -> "ColorLimit | None":
    """Return the only colors to paint; say if some of them are not painted."""
    limit = painter.color_limit(request)
    if limit is not None and limit.num_merged:
        count = limit.num_merged
        say(
            f"{count} of the {len(limit.colors.rgb)} colors are for this run "
            "the same as an earlier color, which is painted instead; fit with "
            "more --bit-widths tells them apart."
        )
    return limit


def _sheet(
    rows: list[tuple[str, "np.ndarray"]], output: Output, is_smooth: bool
) -> "Image.Image":
    """Return a sheet of rows with captions; print those without a font."""
    from pixace_tf.painting import sheets

    if len(rows) == 1:
        images = rows[0][1]
        return sheets.grid(images, output.scale, output.background, is_smooth)
    captions = [caption for caption, _ in rows]
    shown = sheets.readable(captions)
    for number, caption in zip(shown, captions, strict=True):
        if number != caption:
            say(f"{number}: {caption}")
    tiles = [
        [sheets.Tile(pixels, caption) for pixels in row]
        for caption, (_, row) in zip(shown, rows, strict=True)
    ]
    return sheets.contact_sheet(
        tiles,
        scale=output.scale,
        background=output.background,
        is_smooth=is_smooth,
    )


@main.command()
@click.argument("run_path", metavar="[RUN]", type=click.Path(), required=False)
@served
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on; 0.0.0.0 accepts every machine that can "
    "reach this one.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    help="0 takes a free one.",
)
def app(
    run_path: str | None, server: str | None, model: str, host: str, port: int
) -> None:
    """Serve a web page to try RUN: finish pictures, paint new ones.

    Without RUN the page offers the runs in saved_models/ and in the box. It
    needs `pip install 'pixace-tf[app]'` and works without internet.

    \b
    Examples:
      pixace-tf app
      pixace-tf app saved_models/animals
      pixace-tf app --server grpc://localhost:8500 --model animals
    """
    if importlib.util.find_spec("gradio") is None:
        raise click.UsageError("The page needs: pip install 'pixace-tf[app]'")
    if None not in (server, run_path):
        raise click.UsageError("Give either RUN or --server.")
    paths = {model: ""} if server else _run_paths(run_path)
    from PIL import Image

    from pixace_tf import app as page
    from pixace_tf.runs.run_config import COMPLETED_FILE

    # Each of them holds its compiled programs.
    @functools.lru_cache(maxsize=4)
    def load(name: str) -> page.Studio:
        painter = _open_painter(paths[name] or None, server, model)
        finished = os.path.join(paths[name], COMPLETED_FILE)
        if server is not None or not os.path.exists(finished):
            return page.Studio(painter, name)
        with Image.open(finished) as sheet:
            return page.Studio(painter, name, sheet.convert("RGB"))

    loading = threading.Lock()

    def open_model(name: str) -> page.Studio:
        with loading:
            return load(name)

    address = page.launch(page.build(list(paths), open_model), host, port)
    say(f"Open {address} in a browser; Ctrl-C ends it.")
    # The page answers before the model is loaded. With several models, an
    # unusable one must not end the page.
    if len(paths) == 1:
        open_model(next(iter(paths)))
    while True:
        time.sleep(3600)


def _run_paths(run_path: str | None) -> dict[str, str]:
    """Return the folder of a run, or of every known run, by name."""
    from pixace_tf.runs import catalog
    from pixace_tf.runs.run_config import read_config

    if run_path is not None:
        path = catalog.locate(run_path, say)
        read_config(path)
        return {os.path.basename(os.path.abspath(path)): path}
    paths = {run.name: run.path for run in catalog.known_runs()}
    if not paths:
        raise click.UsageError("There is no run yet; see pixace-tf fit.")
    return paths


def _open_painter(
    run_path: str | None, server: str | None, model: str
) -> "Painter":
    """Return a painter with a run or with a model on a server."""
    if (run_path is None) == (server is None):
        raise click.UsageError("Give either RUN or --server.")
    if server is None:
        from pixace_tf.painting.local import LocalPainter
        from pixace_tf.runs.run_folder import load_run

        run = load_run(str(run_path), say=say)
        if run.engine is None:
            import_tensorflow()
        return LocalPainter(run)
    if server.startswith("grpc:"):
        import_tensorflow()
    from pixace_tf.painting.served import ServedPainter
    from pixace_tf.painting.wire import Server

    return ServedPainter(Server(server, model))

"""Draws the figures of "How it works", as SVG files with text as text.

Command:  python docs/drawings.py
Hardware: any
Time:     seconds
Expected: docs/images/*.svg, the same each time
"""

import colorsys
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import (
    Circle,
    FancyArrowPatch,
    FancyBboxPatch,
    PathPatch,
    Polygon,
    Rectangle,
)
from matplotlib.path import Path

IMAGES = pathlib.Path(__file__).parent / "images"
WIDTH = 700
INK, QUIET, LINE, PAPER = "#2b2b33", "#6b6b76", "#9a9aa6", "#ffffff"
BLUE, PALE_BLUE, ORANGE, PALE = "#3b6fb6", "#cfdff3", "#e07b39", "#ececf1"
SKY, FUR, LIGHT, DARK, PINK = (
    "#b8dcf4",
    "#e8923c",
    "#fbe9d3",
    "#2b2b33",
    "#e58f9b",
)
GOOD, BAD = "#3c8d53", "#b5483a"


class Drawing:
    """A white sheet of `WIDTH` units, y downwards.

    Args:
        height: Of the sheet.
    """

    def __init__(self, height: int) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH / 100, height / 100))
        self.axes: Any = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.axes.axis("off")
        self.add(Rectangle((0, 0), WIDTH, height, color=PAPER))

    def add(self, patch: Any) -> None:
        """Put a patch on top."""
        self.axes.add_patch(patch)

    def text(self, x: float, y: float, text: str, **options: Any) -> None:
        """Write text, by default with its middle at a place."""
        settings = {"ha": "center", "va": "center", "size": 9, "color": INK}
        self.axes.text(x, y, text, **{**settings, **options})

    def note(self, x: float, y: float, text: str, **options: Any) -> None:
        """Write quiet text."""
        self.text(x, y, text, **{"color": QUIET, "size": 8.5, **options})

    def box(
        self, x: float, y: float, width: float, height: float, text: str
    ) -> None:
        """Draw a box with text in it."""
        style = "round,pad=0,rounding_size=8"
        self.add(
            FancyBboxPatch(
                (x, y), width, height, style, fc=PALE_BLUE, ec=BLUE, lw=1.2
            )
        )
        self.text(x + width / 2, y + height / 2, text)

    def arrow(self, *points: tuple[float, float], color: str = INK) -> None:
        """Draw a line through points, with a head at the last one."""
        if len(points) > 2:
            self.line(points[:-1], color)
        self.add(
            FancyArrowPatch(
                *points[-2:],
                arrowstyle="-|>",
                mutation_scale=11,
                shrinkA=0,
                shrinkB=0,
                lw=1.3,
                color=color,
            )
        )

    def line(self, points: Sequence[tuple[float, float]], color: str) -> None:
        """Draw a line through points."""
        self.axes.plot(*zip(*points, strict=True), color=color, lw=1.3)

    def cells(
        self, x: float, y: float, side: float, colors: Sequence[Sequence[Any]]
    ) -> None:
        """Draw pixels as squares; None leaves one out."""
        squares: dict[Any, list[tuple[float, float]]] = {}
        for row, line in enumerate(colors):
            for column, color in enumerate(line):
                place = x + side * column, y + side * row
                if color is not None:
                    squares.setdefault(color, []).append(place)
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * side
        for color, places in squares.items():
            path = Path.make_compound_path(
                *[Path(corners + place, closed=True) for place in places]
            )
            self.add(PathPatch(path, fc=color, ec=PAPER, lw=0.5))

    def save(self, name: str) -> None:
        """Write the file, without a date and with fixed identifiers."""
        settings = {
            "svg.fonttype": "none",
            "svg.hashsalt": "pixace-tf",
            "font.family": "sans-serif",
        }
        with mpl.rc_context(settings):
            path = IMAGES / f"{name}.svg"
            self.figure.savefig(path, metadata={"Date": None, "Creator": None})


def rgb(color: str) -> np.ndarray:
    """Return the channels of a `#rrggbb` color, from 0 to 1."""
    digits = color.lstrip("#")
    return np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def hexadecimal(channels: Sequence[float]) -> str:
    """Return the `#rrggbb` color of channels from 0 to 1."""
    return "#" + "".join(f"{round(255 * c):02x}" for c in channels)


# The face of a cat, from back to front: colors and shapes, from 0 to 1.
HEAD, MUZZLE = (0.5, 0.58, 0.33), (0.5, 0.72, 0.13)
EARS = (
    ((0.19, 0.14), (0.2, 0.52), (0.47, 0.3)),
    ((0.81, 0.14), (0.8, 0.52), (0.53, 0.3)),
)
EYES = ((0.37, 0.53, 0.06), (0.63, 0.53, 0.06))
NOSE = (0.5, 0.67, 0.04)
FACE = (
    *((FUR, ear) for ear in EARS),
    *((FUR, HEAD), (LIGHT, MUZZLE), (PINK, NOSE)),
    *((DARK, eye) for eye in EYES),
)


def draw_face(drawing: Drawing, x: float, y: float, side: float) -> None:
    """Draw the face, as a picture of any size would show it."""
    drawing.add(Rectangle((x, y), side, side, color=SKY))
    for color, shape in FACE:
        if isinstance(shape[0], tuple):
            corners = np.array(shape) * side + (x, y)
            drawing.add(Polygon(corners, color=color, lw=0))
        else:
            center = x + shape[0] * side, y + shape[1] * side
            drawing.add(Circle(center, shape[2] * side, color=color, lw=0))


def small_face(size: int, scale: int = 8) -> np.ndarray:
    """Return the face scaled down, `(size, size, 3)` from 0 to 1."""
    places = (np.arange(size * scale) + 0.5) / (size * scale)
    x, y = np.meshgrid(places, places)
    image = np.tile(rgb(SKY), (*x.shape, 1))
    for color, shape in FACE:
        if isinstance(shape[0], tuple):
            points = np.stack([x.ravel(), y.ravel()], axis=-1)
            inside = Path(shape).contains_points(points).reshape(x.shape)
        else:
            inside = np.hypot(x - shape[0], y - shape[1]) < shape[2]
        image[inside] = rgb(color)
    blocks = image.reshape(size, scale, size, scale, 3)
    return blocks.mean(axis=(1, 3))


def quantized(pixel: Sequence[float]) -> tuple[int, int, int]:
    """Return hue, saturation and value of a pixel in 5, 4 and 4 bits."""
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    return round(hue * 32) % 32, round(saturation * 15), round(value * 15)


def color_of(hue: int, saturation: int, value: int) -> str:
    """Return the `#rrggbb` color of levels in 5, 4 and 4 bits."""
    return hexadecimal(
        colorsys.hsv_to_rgb(hue / 32, saturation / 15, value / 15)
    )


def way() -> None:
    """Draw the way of a picture."""
    drawing, size, cell = Drawing(330), 10, 12
    side = size * cell
    small = small_face(size)
    levels = [[quantized(pixel) for pixel in row] for row in small]
    colors = [[color_of(*pixel) for pixel in row] for row in levels]
    # Three rows of tokens, from the eyes on.
    tokens = [h | s << 5 | v << 9 for row in levels for h, s, v in row][50:62]
    shades = [color for row in colors for color in row][50:62]
    top, bottom = 34, 186
    lefts = 20, 190, 360, 530
    draw_face(drawing, lefts[0], top, side)
    drawing.cells(
        lefts[1], top, cell, [[hexadecimal(p) for p in row] for row in small]
    )
    drawing.cells(lefts[2], top, cell, colors)
    for i in range(12):
        x, y = lefts[3] + 37.5 * (i % 4), top + 30 * (i // 4)
        drawing.add(Rectangle((x, y), 35, 18, fc=PALE, lw=0))
        drawing.add(Rectangle((x, y + 18), 35, 6, fc=shades[i], lw=0))
        drawing.text(x + 17, y + 9, str(tokens[i]), size=8)
    drawing.note(lefts[3] + 75, top + 103, "... one after the other")
    for left, text in zip(
        lefts,
        ("a picture file", "scaled down", "13 bits for a color", "tokens"),
        strict=True,
    ):
        width = 150 if left == lefts[3] else side
        drawing.text(left + width / 2, top - 14, text, weight="bold")
    for left in lefts[:3]:
        drawing.arrow((left + side + 8, top + 60), (left + 162, top + 60))
    drawing.box(
        lefts[3], bottom + 10, 150, 70, "the model predicts\nthe next token"
    )
    drawing.arrow((lefts[3] + 75, top + 115), (lefts[3] + 75, bottom + 4))
    heights = (8, 22, 12, 74, 38, 10, 5, 16)
    for i, height in enumerate(heights):
        color = ORANGE if i == 3 else LINE
        corner = lefts[2] + 4 + 14.5 * i, bottom + 84 - height
        drawing.add(Rectangle(corner, 11, height, color=color, lw=0))
    half = [*colors[:5], [*colors[5][:4], ORANGE]]
    drawing.add(Rectangle((lefts[1], bottom), side, side, color=PALE))
    drawing.cells(lefts[1], bottom, cell, half)
    drawing.cells(lefts[0], bottom, cell, colors)
    for i in (3, 2, 1):
        start = lefts[i] - 8, bottom + 45
        drawing.arrow(start, (lefts[i - 1] + side + 10, bottom + 45))
    drawing.note(lefts[2] + 60, bottom + 97, "probabilities: draw one")
    back = bottom + 131
    drawing.arrow(
        (lefts[1] + 60, bottom + side + 3),
        (lefts[1] + 60, back),
        (lefts[3] + 75, back),
        (lefts[3] + 75, bottom + 84),
        color=QUIET,
    )
    drawing.note(430, back - 9, "one pixel at a time")
    drawing.note(lefts[0] + 60, bottom + side + 12, "a new picture")
    drawing.save("way")


def neighbors() -> None:
    """Draw the twelve causal neighbors of a pixel."""
    drawing, side = Drawing(240), 40
    x, y = 20, 20
    near = {(r, c) for r in (0, 1) for c in range(2, 7)} | {(2, 2), (2, 3)}
    number = 0
    for row in range(5):
        for column in range(9):
            is_earlier = (row, column) < (2, 4)
            color = PALE if is_earlier else PAPER
            if (row, column) in near:
                color = PALE_BLUE
            elif (row, column) == (2, 4):
                color = ORANGE
            corner = x + side * column, y + side * row
            drawing.add(
                Rectangle(corner, side, side, fc=color, ec=LINE, lw=0.8)
            )
            if (row, column) in near:
                number += 1
                center = corner[0] + side / 2, corner[1] + side / 2
                drawing.text(*center, str(number), color=BLUE, size=11)
    drawing.text(x + 4.5 * side, y + 2.5 * side, "?", size=14, color=PAPER)
    legend = (
        (ORANGE, "the pixel to be predicted"),
        (PALE_BLUE, "its 12 neighbors, given directly"),
        (PALE, "earlier pixels, seen through attention"),
        (PAPER, "later pixels, not known yet"),
    )
    for i, (color, text) in enumerate(legend):
        corner = 400, 40 + 46 * i
        drawing.add(Rectangle(corner, 24, 24, fc=color, ec=LINE, lw=0.8))
        drawing.text(434, corner[1] + 12, text, ha="left")
    drawing.save("neighbors")


def patches() -> None:
    """Draw the two stacks of the multiscale decoder."""
    drawing = Drawing(330)
    colors = ("#86a9d4", "#9fbcdf", "#86a9d4", "#9fbcdf")
    lefts = [20 + 133 * i for i in range(5)]
    for i, left in enumerate(lefts):
        is_last = i == 4
        for k in range(16):
            color = PAPER if is_last else colors[i]
            corner = left + 7.6 * k, 44
            drawing.add(Rectangle(corner, 7.6, 22, fc=color, ec=LINE, lw=0.5))
        text = "patch 5: to be painted" if is_last else f"patch {i + 1}"
        drawing.text(left + 61, 28, text)
        if not is_last:
            drawing.arrow((left + 61, 70), (left + 61, 96))
    drawing.box(20, 100, 653, 44, "global stack: one step for each patch")
    drawing.arrow((lefts[4] + 61, 146), (lefts[4] + 61, 186))
    drawing.note(
        lefts[4] + 50, 166, "a context for each of its 16 pixels", ha="right"
    )
    drawing.box(
        20, 190, 653, 44, "local stack: pixel by pixel, inside the patch"
    )
    shades = ("#e8923c", "#e8923c", "#d9822f", "#b8dcf4", "#b8dcf4", "#c5e2f5")
    for k in range(16):
        corner = 20 + 40.8 * k, 262
        color = shades[k] if k < 6 else ORANGE if k == 6 else PAPER
        drawing.add(Rectangle(corner, 40.8, 30, fc=color, ec=LINE, lw=0.8))
    drawing.text(20 + 40.8 * 6.5, 277, "?", size=12, color=PAPER)
    drawing.arrow((20 + 40.8 * 6.5, 236), (20 + 40.8 * 6.5, 259))
    drawing.note(20, 308, "the 16 pixels of patch 5: six are there", ha="left")
    drawing.save("patches")


def chain_head() -> None:
    """Draw how the chain head predicts a color."""
    drawing = Drawing(300)
    drawing.box(6, 92, 124, 76, "what the decoder\nknows of a pixel")
    base, hues = 170, 32
    charts = (
        ("value", 154, 16, 12, "bright?"),
        ("saturation, given the value", 330, 16, 10, "colorful?"),
        ("hue, given both", 506, hues, 2, "which color?"),
    )
    for title, left, count, chosen, question in charts:
        width = 150 / count
        for i in range(count):
            near = np.exp(-(((i - chosen) / (count / 9)) ** 2))
            height = 8 + 74 * near + 7 * ((5 * i) % 4) / 3
            tint = (
                [0.88] * 3
                if count == 16
                else colorsys.hsv_to_rgb(i / hues, 0.4, 0.95)
            )
            color = ORANGE if i == chosen else hexadecimal(tint)
            corner = left + width * i, base - height
            drawing.add(
                Rectangle(
                    corner, width * 0.8, height, fc=color, ec=LINE, lw=0.4
                )
            )
        drawing.text(left + 75, 60, title, weight="bold")
        drawing.note(left + 75, base + 14, f"{count} logits: {question}")
    for start in (132, 307, 483):
        drawing.arrow((start, 130), (start + 18, 130))
    # The colors that remain: a gray, all hues of it, and the color.
    known = ([(0, 0, 12)], [(4 * i, 10, 12) for i in range(8)], [(2, 10, 12)])
    for (_, left, _, _, _), stripes in zip(charts, known, strict=True):
        x, width = left + 55, 40 / len(stripes)
        drawing.arrow((left + 75, base + 26), (left + 75, base + 46))
        for i, stripe in enumerate(stripes):
            corner = x + width * i, base + 50
            color = color_of(*stripe)
            drawing.add(
                Rectangle(corner, width, 34, fc=color, ec=color, lw=0.4)
            )
        drawing.add(Rectangle((x, base + 50), 40, 34, fill=False, ec=LINE))
    for left, text in ((154, "12 of 15"), (330, "10 of 15"), (506, "2 of 31")):
        drawing.note(left + 75, base + 98, text)
    drawing.text(
        WIDTH / 2,
        20,
        "16 + 16 + 32 = 64 logits, for the 8,192 colors of HSV 544",
        size=10,
    )
    drawing.save("chain-head")


def orders_and_particles() -> None:
    """Draw raster orders, and particles that fill a hole."""
    drawing, side = Drawing(430), 116
    cases = (
        ("lower half hidden:", "the plain order", (0, 0.5, 1, 0.5)),
        ("upper half hidden:", "upside down", (0, 0, 1, 0.5)),
        ("right half hidden:", "by columns", (0.5, 0, 0.5, 1)),
        ("left half hidden:", "columns from the right", (0, 0, 0.5, 1)),
    )
    for i, (first, second, (x, y, width, height)) in enumerate(cases):
        left, top = 30 + 175 * i, 46
        drawing.add(Rectangle((left, top), side, side, fc=PALE_BLUE, ec=BLUE))
        corner = left + side * x, top + side * y
        drawing.add(
            Rectangle(corner, side * width, side * height, fc=PALE, ec=LINE)
        )
        for k in range(6):
            at = (k + 0.5) / 6
            ends = (
                ((0.06, at), (0.94, at)) if i < 2 else ((at, 0.06), (at, 0.94))
            )
            flipped = [(1 - a, b) if i == 3 else (a, b) for a, b in ends]
            turned = [(a, 1 - b) if i == 1 else (a, b) for a, b in flipped]
            start, end = ((left + side * a, top + side * b) for a, b in turned)
            drawing.arrow(start, end, color=QUIET)
            drawing.note(
                left - 11 if i < 2 else start[0],
                start[1] if i < 2 else top + side + 10,
                str(k + 1),
            )
        drawing.text(left + side / 2, 16, first)
        drawing.text(left + side / 2, 32, second, weight="bold")
    top, cell = 238, 11
    drawing.text(350, 212, "A hole, with kept pixels behind it", weight="bold")

    def picture(kind: str) -> list[list[str | None]]:
        """A band that goes down to the right; the hole is filled by kind."""
        colors: list[list[str | None]] = []
        for row in range(9):
            middle = row - 0.5
            is_hole_row = 3 <= row < 7
            if is_hole_row:
                middle = {"fit": middle, "down": 2.5, "left": 4.5 - row}.get(
                    kind, middle
                )
            line: list[str | None] = []
            for column in range(9):
                is_hole = is_hole_row and 1 <= column < 8
                color = FUR if abs(column - middle) < 1.2 else SKY
                line.append(None if is_hole and kind == "hole" else color)
            colors.append(line)
        return colors

    lefts = 20, 178, 302, 426, 584
    texts = ("what is kept", "particle 1", "particle 2", "particle 3", "chosen")
    kinds = "hole", "down", "fit", "left", "fit"
    for left, text, kind in zip(lefts, texts, kinds, strict=True):
        if kind == "hole":
            corner = left + cell, top + 3 * cell
            drawing.add(
                Rectangle(corner, 7 * cell, 4 * cell, fc=PALE, ec=LINE, lw=0.6)
            )
        drawing.cells(left, top, cell, picture(kind))
        drawing.text(left + 4.5 * cell, top + 9 * cell + 14, text)
    for left, kind in zip(lefts[1:4], kinds[1:4], strict=True):
        color, text = (
            (GOOD, "fits: copied")
            if kind == "fit"
            else (BAD, "unlikely: dropped")
        )
        corner = left - 2, top + 7 * cell - 1
        drawing.add(
            Rectangle(
                corner, 9 * cell + 4, 2 * cell + 3, fill=False, ec=color, lw=1.6
            )
        )
        drawing.text(left + 4.5 * cell, top + 9 * cell + 31, text, color=color)
    for start, text in ((128, "fill"), (534, "choose")):
        drawing.arrow((start, top + 50), (start + 40, top + 50))
        drawing.note(start + 20, top + 36, text)
    drawing.note(
        350,
        top + 166,
        "The frames show the kept pixels behind the hole, which weigh each "
        "particle.",
    )
    drawing.save("orders-and-particles")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for draw in (way, neighbors, patches, chain_head, orders_and_particles):
        draw()

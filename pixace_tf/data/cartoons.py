"""Draws cartoon animal faces from a seed, as images to train on."""

import colorsys
import dataclasses
import itertools
import math
import pathlib
import random
import tempfile

from PIL import Image, ImageDraw

from pixace_tf.console import ProgressCallback, counted
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath

IMAGE_SIZE = 96
_OVERSAMPLING = 3
_INK = (45, 38, 42)
_WHITE = (252, 250, 246)

Color = tuple[int, int, int]
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Species:
    """The look of one species, in units of half a head.

    Attributes:
        fur: `(hue in degrees, saturation, value)` triples to choose from.
        ears: "pointed", "round", "long", "floppy", "folded" or "eyes".
        head: Half width and half height of the head.
        muzzle: "light", "snout", "mask" or "none".
        patches: Whether dark patches surround the eyes.
    """

    fur: tuple[tuple[float, float, float], ...]
    ears: str
    head: tuple[float, float] = (1.0, 0.92)
    muzzle: str = "light"
    patches: bool = False
    whiskers: bool = False


SPECIES = {
    "bear": Species(
        ((28, 0.62, 0.55), (24, 0.55, 0.42), (35, 0.5, 0.7)), "round"
    ),
    "cat": Species(
        ((30, 0.7, 0.95), (30, 0.08, 0.55), (250, 0.1, 0.35), (40, 0.25, 0.95)),
        "pointed",
        whiskers=True,
    ),
    "dog": Species(
        ((32, 0.55, 0.8), (25, 0.6, 0.5), (38, 0.25, 0.95)),
        "floppy",
        head=(0.92, 1.0),
    ),
    "fox": Species(
        ((18, 0.82, 0.93), (12, 0.78, 0.85)),
        "pointed",
        head=(1.05, 0.86),
        muzzle="mask",
    ),
    "frog": Species(
        ((105, 0.6, 0.72), (130, 0.55, 0.6), (85, 0.65, 0.78)),
        "eyes",
        head=(1.1, 0.82),
        muzzle="none",
    ),
    "panda": Species(((40, 0.03, 0.97),), "round", muzzle="none", patches=True),
    "pig": Species(
        ((350, 0.3, 0.97), (5, 0.35, 0.93)), "folded", muzzle="snout"
    ),
    "rabbit": Species(
        ((30, 0.06, 0.93), (28, 0.3, 0.75), (220, 0.1, 0.65)),
        "long",
        head=(0.85, 0.82),
        whiskers=True,
    ),
}


def draw_folder(
    path: StrPath,
    count: int,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> list[str]:
    """Draw images into class folders.

    The species take turns; the `seed` determines the images. `progress` is
    called with the number of images drawn, and `count`.

    Returns:
        The paths of the images.

    Raises:
        UserError: If `count` is not positive or the folder is not empty.
    """
    root = pathlib.Path(path)
    if count < 1:
        raise UserError(f"count must be positive. Received: count={count}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{str(root)!r} exists and is not an empty folder.")
    root.parent.mkdir(parents=True, exist_ok=True)
    names = []
    # The folder is renamed at the end, so it is complete or missing.
    with tempfile.TemporaryDirectory(prefix=".draw-", dir=root.parent) as new:
        folder = pathlib.Path(new, "images")
        for i in counted(range(count), count, progress):
            species = sorted(SPECIES)[i % len(SPECIES)]
            names.append(f"{species}/{species}-{i // len(SPECIES):05d}.png")
            (folder / species).mkdir(parents=True, exist_ok=True)
            draw(species, f"{seed}-{i}").save(folder / names[-1])
        folder.rename(root)
    return [str(root / name) for name in names]


def draw(species: str, seed: str) -> Image.Image:
    """Draw one face of `SPECIES`, an RGB image of `IMAGE_SIZE` a side."""
    rng = random.Random(f"{species}-{seed}")
    side = IMAGE_SIZE * _OVERSAMPLING
    image = Image.new("RGB", (side, side))
    canvas = ImageDraw.Draw(image)
    _draw_background(canvas, side, rng)
    look = SPECIES[species]
    scale = side * rng.uniform(0.29, 0.35)
    drop = 0.16 if look.ears == "long" else 0.05
    center = (
        side * (0.5 + rng.uniform(-0.06, 0.06)),
        side * (0.5 + drop + rng.uniform(-0.04, 0.05)),
    )
    pen = _Pen(canvas, center, scale, rng.gauss(0, 0.13))
    _Face(pen, look, rng).draw()
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)


@dataclasses.dataclass(frozen=True)
class _Pen:
    """Draws in face coordinates: the head is a circle of radius 1 at 0."""

    canvas: ImageDraw.ImageDraw
    center: Point
    scale: float
    tilt: float

    def polygon(self, points: list[Point], color: Color) -> None:
        self.canvas.polygon([self._place(p) for p in points], color)

    def ellipse(
        self,
        x: float,
        y: float,
        half_width: float,
        half_height: float,
        color: Color,
        turn: float = 0.0,
    ) -> None:
        points = []
        for i in range(48):
            dx = half_width * math.cos(i * math.tau / 48)
            dy = half_height * math.sin(i * math.tau / 48)
            dx, dy = _turned(dx, dy, turn)
            points.append((x + dx, y + dy))
        self.polygon(points, color)

    def line(self, points: list[Point], width: float, color: Color) -> None:
        placed = [self._place(p) for p in points]
        thickness = round(width * self.scale)
        self.canvas.line(placed, color, thickness, joint="curve")

    def _place(self, point: Point) -> Point:
        x, y = _turned(*point, self.tilt)
        left, top = self.center
        return left + self.scale * x, top + self.scale * y


def _turned(x: float, y: float, angle: float) -> Point:
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos - y * sin, x * sin + y * cos


class _Face:
    """One face: the parts from back to front."""

    def __init__(self, pen: _Pen, look: Species, rng: random.Random) -> None:
        self._pen, self._look, self._rng = pen, look, rng
        hue, saturation, value = rng.choice(look.fur)
        hue += rng.uniform(-8, 8)
        saturation *= rng.uniform(0.85, 1.1)
        value *= rng.uniform(0.9, 1.04)
        self._fur = _color(hue, saturation, value)
        self._dark = _color(hue, saturation * 1.05, value * 0.72)
        self._light = _color(hue, saturation * 0.3, min(value * 1.35, 0.98))
        if look.patches:
            self._dark = (52, 48, 54)
        # The head turns a little: its features shift together.
        self._x, self._y = rng.uniform(-0.14, 0.14), rng.uniform(-0.06, 0.1)
        self._mood = rng.uniform(0.4, 1.0)

    def draw(self) -> None:
        for side in (-1, 1):
            self._draw_ear(side)
        half_width, half_height = self._look.head
        self._pen.ellipse(0, 0, half_width, half_height, self._fur)
        self._draw_muzzle()
        for side in (-1, 1):
            self._draw_eye(side)
        self._draw_cheeks()
        self._draw_nose_and_mouth()
        if self._look.whiskers:
            self._draw_whiskers()

    def _draw_ear(self, side: int) -> None:
        pen, ears = self._pen, self._look.ears
        inner = _color(350, 0.35, 0.95)
        if ears == "pointed":
            for size, color in ((1.0, self._fur), (0.58, inner)):
                tip = (side * (0.78 + 0.02 * size), -0.72 - 0.62 * size)
                left = (side * (0.74 - 0.5 * size), -0.62 - 0.12 * size)
                right = (side * (0.74 + 0.26 * size), -0.5 + 0.1 * size)
                pen.polygon([tip, left, right], color)
        elif ears == "round":
            color = self._dark if self._look.patches else self._fur
            pen.ellipse(side * 0.76, -0.72, 0.37, 0.37, color)
            if not self._look.patches:
                pen.ellipse(side * 0.76, -0.7, 0.2, 0.2, self._dark)
        elif ears == "long":
            turn = side * 0.16
            pen.ellipse(side * 0.42, -1.25, 0.24, 0.68, self._fur, turn)
            pen.ellipse(side * 0.42, -1.2, 0.12, 0.5, inner, turn)
        elif ears == "floppy":
            pen.ellipse(side * 0.95, -0.1, 0.28, 0.68, self._dark, -side * 0.2)
        elif ears == "folded":
            corners = (0.2, -0.8), (0.92, -1.12), (0.95, -0.42)
            pen.polygon([(side * x, y) for x, y in corners], self._dark)
        else:
            pen.ellipse(side * 0.55, -0.72, 0.36, 0.36, self._fur)

    def _draw_muzzle(self) -> None:
        pen, x, y = self._pen, self._x, self._y
        if self._look.muzzle == "light":
            pen.ellipse(x, 0.42 + y, 0.5, 0.36, self._light)
        elif self._look.muzzle == "mask":
            for side in (-1, 1):
                cheek = x + side * 0.46, 0.36 + y
                pen.ellipse(*cheek, 0.46, 0.34, _WHITE, -side * 0.5)
            pen.ellipse(x, 0.48 + y, 0.3, 0.34, _WHITE)
        elif self._look.muzzle == "snout":
            pen.ellipse(x, 0.32 + y, 0.42, 0.3, self._dark)

    def _draw_eye(self, side: int) -> None:
        pen = self._pen
        is_frog = self._look.ears == "eyes"
        x = side * (0.55 if is_frog else 0.4) + self._x * 0.8
        y = (-0.74 if is_frog else -0.14) + self._y
        size = 0.17
        if self._look.patches:
            pen.ellipse(x, y + 0.04, 0.27, 0.34, self._dark, side * 0.5)
        if is_frog or self._look.patches:
            pen.ellipse(x, y, 0.21, 0.21, _WHITE)
            size = 0.21 * 0.62
        pen.ellipse(x + self._x * 0.3, y, size, size * 1.1, _INK)
        glint = 0.36 * size
        pen.ellipse(x - glint + self._x * 0.3, y - glint, glint, glint, _WHITE)

    def _draw_cheeks(self) -> None:
        if self._mood > 0.7 and not self._look.patches:
            red, green, blue = self._fur
            pink = ((red + 250) // 2, (green + 110) // 2, (blue + 120) // 2)
            for side in (-1, 1):
                cheek = side * 0.66 + self._x, 0.26 + self._y
                self._pen.ellipse(*cheek, 0.15, 0.11, pink)

    def _draw_nose_and_mouth(self) -> None:
        pen, x, y = self._pen, self._x, self._y
        if self._look.muzzle == "snout":
            for side in (-1, 1):
                pen.ellipse(x + side * 0.16, 0.31 + y, 0.07, 0.11, _INK)
            self._draw_smile(x, 0.66 + y, 0.26)
        elif self._look.ears == "eyes":
            self._draw_smile(x, 0.26 + y, 0.62)
        elif self._look.whiskers:
            pink = _color(350, 0.5, 0.9)
            points = [(x - 0.13, 0.2 + y), (x + 0.13, 0.2 + y), (x, 0.36 + y)]
            pen.polygon(points, pink)
            self._draw_smile(x, 0.42 + y, 0.24)
        else:
            pen.ellipse(x, 0.26 + y, 0.17, 0.12, _INK)
            self._draw_smile(x, 0.48 + y, 0.26)

    def _draw_smile(self, x: float, y: float, half_width: float) -> None:
        depth = half_width * 0.75 * self._mood
        points = [
            (x + half_width * t / 8, y + depth * (1 - (t / 8) ** 2))
            for t in range(-8, 9)
        ]
        self._pen.line(points, 0.075, _INK)

    def _draw_whiskers(self) -> None:
        for side, slope in itertools.product((-1, 1), (-0.12, 0.06)):
            start = (self._x + side * 0.34, 0.42 + self._y)
            end = (self._x + side * 1.08, 0.36 + self._y + slope * 1.6)
            self._pen.line([start, end], 0.035, _INK)


def _draw_background(
    canvas: ImageDraw.ImageDraw, side: int, rng: random.Random
) -> None:
    hue = rng.uniform(0, 360)
    soft = _color(hue, rng.uniform(0.2, 0.5), rng.uniform(0.85, 1.0))
    other = _color(hue + rng.choice((30, 180)), 0.4, rng.uniform(0.7, 0.95))
    kind = rng.choice(("plain", "gradient", "hills", "sun", "dots"))
    canvas.rectangle((0, 0, side, side), soft)
    if kind == "gradient":
        for y in range(side):
            share = y / side
            pairs = zip(soft, other, strict=True)
            mixed = tuple(round(a + (b - a) * share) for a, b in pairs)
            canvas.line((0, y, side, y), mixed)
    elif kind == "hills":
        canvas.rectangle((0, 0, side, side), _color(200, 0.3, 0.97))
        green = _color(rng.uniform(85, 140), 0.5, 0.75)
        top = rng.uniform(0.55, 0.75)
        canvas.ellipse((-0.4 * side, top * side, 1.1 * side, 2 * side), green)
    elif kind == "sun":
        x = rng.choice((0.0, 1.0)) * side
        radius = 0.42 * side
        canvas.ellipse((x - radius, -radius, x + radius, radius), other)
    elif kind == "dots":
        radius = side * 0.05
        for row, column in itertools.product(range(4), repeat=2):
            left = (column + 0.25 + 0.5 * (row % 2)) * side / 4 - radius
            top = (row + 0.5) * side / 4 - radius
            box = (left, top, left + 2 * radius, top + 2 * radius)
            canvas.ellipse(box, other)


def _color(hue: float, saturation: float, value: float) -> Color:
    saturation, value = min(max(saturation, 0), 1), min(max(value, 0), 1)
    rgb = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    red, green, blue = (round(255 * c) for c in rgb)
    return red, green, blue

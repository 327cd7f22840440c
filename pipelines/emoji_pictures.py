"""Emoji to learn from: five free sets as PNG, in Unicode's groups.

The script fetches packages of Iconify with `npm pack` (noto, noto-v1 and
fxemoji: Apache-2.0; fluent-emoji and fluent-emoji-flat: MIT) and draws their
SVG with resvg. Drawings of the same subject, in any set and skin tone, stay
together in train/ or in val/. Two tones of each emoji are kept. Each training
picture gets variants that are slightly rotated, scaled and shifted, so that a
model cannot memorize the few thousand drawings.

Command:  python pipelines/emoji_pictures.py data/emoji
Needs:    npm, and pip install resvg-py
Hardware: any
Time:     6 minutes
Expected: some 62,000 pictures in train/, 400 in val/
"""

import hashlib
import io
import json
import math
import pathlib
import random
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any

import click
from PIL import Image

# Sets without groups take them from the sets before them.
SETS = ("noto", "fluent-emoji-flat", "noto-v1", "fxemoji", "fluent-emoji")
# Unicode's names for the groups of fxemoji.
RENAMED = {
    "Nature": "Animals & Nature",
    "Places": "Travel & Places",
    "Objects": "Objects",
    "Symbols": "Symbols",
    "Flags": "Flags",
}
SIDE = 96
# Limits of a variant: rotation in degrees, shift as a share of the side, scale.
TURN, SHIFT, SCALES = 8.0, 0.04, (0.84, 1.04)
VALIDATION_SHARE = 0.05
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
# The Fluent sets leave out "-skin-tone"; a traffic light has colors, no tone.
_TONE = re.compile(
    rf"-({'|'.join(sorted(TONES, key=len, reverse=True))})"
    r"(-skin-tone|(?<!traffic-light)(?<!car-light)$)"
)
_GENDER = re.compile(r"\b(wo)?m[ae]n\b|\bpersons?\b|\bpeople\b")


@click.command()
@click.argument("out", type=click.Path(path_type=pathlib.Path))
@click.option(
    "--variants",
    default=7,
    show_default=True,
    help="Variants of each training picture.",
)
def main(out: pathlib.Path, variants: int) -> None:
    """Write the pictures to OUT/train/GROUP and OUT/val/GROUP."""
    import resvg_py

    groups: dict[str, str] = {}
    counts = {"train": 0, "val": 0}
    with tempfile.TemporaryDirectory() as scratch:
        for name in SETS:
            package = fetch(name, scratch)
            group_of = groups_of(package)
            for icon, svg in drawings(package):
                key = subject(icon)
                group = groups.setdefault(key, group_of.get(icon, ""))
                if not group or not is_kept(icon):
                    continue
                part = "val" if share_of(key) < VALIDATION_SHARE else "train"
                folder = out / part / group.replace(" & ", " and ")
                folder.mkdir(parents=True, exist_ok=True)
                png = resvg_py.svg_to_bytes(svg, width=SIDE, height=SIDE)
                file = folder / f"{name}-{icon}.png"
                file.write_bytes(bytes(png))
                counts[part] += 1
                for i in range(variants if part == "train" else 0):
                    varied = vary(png, random.Random(f"{file.name}-{i}"))
                    varied.save(file.with_stem(f"{file.stem}-{i + 1}"))
                    counts[part] += 1
    click.echo(f"{counts['train']} to train, {counts['val']} to validate")


def fetch(name: str, folder: str) -> dict[str, Any]:
    """Return the JSON files of a set by their names without the suffix."""
    package = f"@iconify-json/{name}"
    done = subprocess.run(
        ["npm", "pack", "--silent", package],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    archive = pathlib.Path(folder, done.stdout.split()[-1])
    files = {}
    with tarfile.open(archive) as tar:
        for part in ("icons", "metadata"):
            try:
                file = tar.extractfile(f"package/{part}.json")
            except KeyError:
                continue
            assert file is not None
            files[part] = json.load(file)
    return files


def groups_of(package: dict[str, Any]) -> dict[str, str]:
    """Return the Unicode group of each icon, where the set gives one."""
    groups = package.get("metadata", {}).get("categories", {})
    is_unicode = "Smileys & Emotion" in groups
    names = {g: g if is_unicode else RENAMED.get(g, "") for g in groups}
    return {icon: names[g] for g, icons in groups.items() for icon in icons}


def drawings(package: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the SVG of each icon."""
    icons = package["icons"]
    for name, icon in sorted(icons["icons"].items()):
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        yield (
            name,
            '<svg xmlns="http://www.w3.org/2000/svg" '
            'xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>',
        )


def subject(icon: str) -> str:
    """Return the subject of an icon, without gender and skin tone."""
    plain = _GENDER.sub("", _TONE.sub("", icon))
    return re.sub(r"[^a-z0-9]", "", plain.lower()) or icon


def is_kept(icon: str) -> bool:
    """Return whether an icon is kept among the skin tones of its emoji."""
    tones = [tone for tone, _ in _TONE.findall(icon)]
    if not tones:
        return True
    return tones == [TONES[int(share_of(_TONE.sub("", icon)) * len(TONES))]]


def vary(png: bytes, rng: random.Random) -> Image.Image:
    """Return a picture slightly rotated, scaled and shifted."""
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    turn = math.radians(rng.uniform(-TURN, TURN))
    scale = rng.uniform(*SCALES)
    shift_x, shift_y = (SIDE * rng.uniform(-SHIFT, SHIFT) for _ in range(2))
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    # The affine map from a new pixel to its place in the old picture.
    x, y = SIDE / 2 + shift_x, SIDE / 2 + shift_y
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        (
            cos,
            sin,
            SIDE / 2 - cos * x - sin * y,
            -sin,
            cos,
            SIDE / 2 + sin * x - cos * y,
        ),
        Image.Resampling.BICUBIC,
    )


def share_of(key: str) -> float:
    """Return a number in [0, 1) that depends on the text alone."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


if __name__ == "__main__":
    main()

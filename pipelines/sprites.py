"""The model `sprites` of the box: a roguelike's tiles, by what they show.

The artists of Dungeon Crawl Stone Soup have dedicated its tiles to everyone
(CC0 1.0):

    git clone --depth 1 https://github.com/crawl/tiles

The script links those of a release into class folders below FOLDER, one for
each label, prints how many there are, and trains; killed, it goes on when it is
called again. Left out are the pieces of the user interface, numbers, cursors
and small icons, and what is too odd to name.

Command:  python pipelines/sprites.py tiles/releases/Nov-2015 \
              sprites-by-label --max-minutes 100
Hardware: 2 CPU cores, or a GPU
Time:     as given
Expected: 29 labels, from 28 tiles (staff) to 379 (wall), and 16 potions and 19
          plants that are linked twice; 3,399 tiles of a copy of that folder
          that lacked a tenth of it
"""

import collections
import pathlib
import subprocess
import sys

import click

# Labels by the beginnings of paths, of which the longest counts.
LABELS = {
    "UNUSED/armour": "armour",
    "UNUSED/features": "feature",
    "UNUSED/food": "food",
    "UNUSED/monsters": "monster",
    "UNUSED/spells": "spell",
    "UNUSED/spells/components": "",
    "UNUSED/weapons": "weapon",
    "dngn": "feature",
    "dngn/altars": "altar",
    "dngn/doors": "door",
    "dngn/floor": "floor",
    "dngn/floor/slime_overlay": "",
    "dngn/gateways": "gate",
    "dngn/statues": "statue",
    "dngn/trees": "plant",
    "dngn/unseen": "",
    "dngn/wall": "wall",
    "dngn/wall/shadow": "",
    "dngn/water": "water",
    "effect": "effect",
    "gui/abilities": "spell",
    "gui/invocations": "spell",
    "gui/spells": "spell",
    "item/amulet": "jewel",
    "item/armour": "armour",
    "item/book": "book",
    "item/food": "food",
    "item/gold": "treasure",
    "item/misc": "treasure",
    "item/potion": "potion",
    "item/ring": "jewel",
    "item/rod": "staff",
    "item/scroll": "book",
    "item/staff": "staff",
    "item/wand": "staff",
    "item/weapon": "weapon",
    "misc/blood": "blood",
    "mon": "monster",
    "mon/animals": "animal",
    "mon/aquatic": "animal",
    "mon/demonspawn/black_sun": "",
    "mon/demonspawn/blood_saint": "",
    "mon/demonspawn/chaos_champion": "",
    "mon/demonspawn/corrupter": "",
    "mon/demonspawn/warmonger": "",
    "mon/draco/draco-base": "dragon",
    "mon/draco/draco-job": "",
    "mon/dragons": "dragon",
    "mon/fungi_plants": "plant",
    "mon/nonliving": "elemental",
    "mon/panlord": "",
    "mon/sprint": "elemental",
    "mon/statues": "statue",
    "mon/statues/overlay": "",
    "mon/tentacles": "tentacle",
    "mon/tentacles/eldritch_corners": "",
    "mon/tentacles/kraken_corners": "",
    "mon/tentacles/starspawn_corners": "",
    "mon/tentacles/vine_corners": "",
    "mon/undead": "undead",
    "player": "clothes",
    "player/base": "body",
    "player/felids": "animal",
    "player/hand1": "held",
    "player/hand2": "held",
    "player/transform": "body",
    "player/transform/dragon": "dragon",
}
# How the small icons upon the pictures of items are called.
ICON = "/i-"
# Smaller classes become no labels, so their tiles are linked twice.
MIN_TILES = 20


def label_of(path: str) -> str:
    """Return the label of a file, "" if it is left out."""
    if ICON in path:
        return ""
    found = [prefix for prefix in LABELS if path.startswith(prefix)]
    return LABELS[max(found, key=len)] if found else ""


def link_by_label(images: pathlib.Path, folder: pathlib.Path) -> dict[str, int]:
    """Link the tiles into class folders; return how many each label has.

    The name of a link begins with the path of its tile, so the variants of a
    tile still differ in their last number only.
    """
    tiles = collections.defaultdict[str, list[pathlib.Path]](list)
    for path in sorted(images.rglob("*.png")):
        if label := label_of(path.relative_to(images).as_posix()):
            tiles[label].append(path)
    for label, paths in tiles.items():
        for again in ("", "again-") if len(paths) < MIN_TILES else ("",):
            for path in paths:
                name = "-".join(path.relative_to(images).parts)
                link = folder / label / f"{again}{name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(path.resolve())
    return {label: len(paths) for label, paths in sorted(tiles.items())}


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False))
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--name", default="sprites", help="Name of the run.")
@click.option("--max-minutes", type=float, help="Minutes of training.")
@click.option("--preset", default="micro", help="Size of the model.")
@click.option("--links-only", is_flag=True, help="Do not train.")
def main(
    images: str,
    folder: str,
    name: str,
    max_minutes: float | None,
    preset: str,
    links_only: bool,
) -> None:
    """Link the tiles below IMAGES into FOLDER by label, and train on them."""
    counts = link_by_label(pathlib.Path(images), pathlib.Path(folder))
    for label, count in counts.items():
        twice = ", each linked twice" if count < MIN_TILES else ""
        click.echo(f"{count:5} {label}{twice}")
    click.echo(f"{sum(counts.values()):5} in all, {len(counts)} labels")
    if links_only:
        return
    fit = ["fit", folder, "--name", name, "--pixel-art", "--orders", "--labels"]
    fit += ["--preset", preset]
    if max_minutes is not None:
        fit += ["--max-minutes", str(max_minutes)]
    subprocess.run([sys.executable, "-m", "pixace_tf", *fit], check=True)


if __name__ == "__main__":
    main()

"""The sheets of the guide to sprites, by a model of a roguelike's tiles.

The artists of Dungeon Crawl Stone Soup have dedicated its tiles to everyone
(CC0 1.0):

    git clone --depth 1 https://github.com/crawl/tiles

Their folder is `tiles/releases/Nov-2015`. The script trains, unless the run is
there already, and paints two sheets: new tiles as they come, and others in
sixteen given colors alone.

Command:  python pipelines/sprites.py tiles/releases/Nov-2015
Hardware: 2 CPU cores
Time:     55 minutes beside other work, less alone
Expected: 1.67 bits/pixel on validation, when variants of a sprite still lay on
          both sides of the split; pipelines/results/sprites-new.png and
          sprites-colors.png
"""

import os
import subprocess
import sys
import tempfile

import click

COLORS = """
000000 222034 45283c 663931 8f563b df7126 d9a066 eec39a
fbf236 99e550 37946e 306082 5b6ee1 cbdbfc 847e87 ac3232
"""


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False))
@click.option("--name", default="sprites", help="Name of the run.")
@click.option("--epochs", default=6, help="Passes over the tiles.")
@click.option(
    "--out", default="pipelines/results", help="Folder of the sheets."
)
def main(images: str, name: str, epochs: int, out: str) -> None:
    """Train on IMAGES, and paint the sheets."""
    run = os.path.join("saved_models", name)
    if not os.path.exists(run):
        size = ["--preset", "nano", "--epochs", str(epochs), "--no-labels"]
        size += ["--head", "chain"]  # As it was when the sheets were made.
        _run("fit", images, "--name", name, "--pixel-art", *size)
    sheet = os.path.join(out, "sprites-{}.png").format
    paint = ["generate", run, "--scale", "3", "--no-preview"]
    _run(*paint, "--count", "24", "--out", sheet("new"))
    with tempfile.NamedTemporaryFile("w", suffix=".hex") as colors:
        colors.write("\n".join(COLORS.split()))
        colors.flush()
        only = ["--only-colors", colors.name, "--seed", "100"]
        _run(*paint, *only, "--count", "16", "--out", sheet("colors"))


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pixace_tf", *arguments], check=True)


if __name__ == "__main__":
    main()

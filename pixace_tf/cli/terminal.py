"""Pictures in a terminal."""

import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from PIL import Image

# Of a preview, at most.
MAX_COLUMNS = 100

preview = click.option(
    "--preview/--no-preview",
    "is_shown",
    default=True,
    help="Show the sheet here too, where this is a terminal.",
)


def show(image: "Image.Image", is_shown: bool) -> None:
    """Show an image, with what the terminal can do.

    Terminals that speak Kitty's graphics protocol or Sixel show its pixels,
    others half blocks of color.

    Args:
        image: RGB.
        is_shown: Whether to; without a terminal nothing is shown anyway.
    """
    if not is_shown or not _has_terminal():
        return
    # It asks the terminal what it can do as soon as it is imported.
    from rich.console import Console
    from textual_image.renderable import Image as Picture

    console = Console()
    width = min(console.width, MAX_COLUMNS)
    console.print(Picture(image, width=width, height="auto"))


def _has_terminal() -> bool:
    """Tell whether there is a terminal that says how large it is."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    size = os.get_terminal_size(sys.stdout.fileno())
    return size.columns > 0 and size.lines > 0

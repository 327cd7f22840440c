"""Previews of pictures in a terminal."""

import logging
import os
import sys
from typing import TYPE_CHECKING

import click

from pixace_tf.console import is_terminal

if TYPE_CHECKING:
    from PIL import Image
    from rich.text import Text

# Largest width of a preview, in columns.
MAX_COLUMNS = 100
# Environment variables of terminals that can show pixels.
_GRAPHICS = ("KITTY_WINDOW_ID", "WEZTERM_PANE", "KONSOLE_VERSION", "WT_SESSION")
_GRAPHICS_TERMS = ("kitty", "ghostty", "foot", "mlterm", "contour")
_GRAPHICS_PROGRAMS = ("iTerm.app", "WezTerm", "ghostty", "vscode")

preview = click.option(
    "--preview/--no-preview",
    "is_shown",
    default=True,
    help="Also show the sheet in the terminal.",
)


def show(image: "Image.Image", is_shown: bool) -> None:
    """Show an RGB image, if asked to and if there is a terminal.

    Terminals that are known for Kitty's graphics protocol or Sixel show the
    pixels; all others show colored half blocks.
    """
    if not is_shown or not _has_terminal():
        return
    from rich.console import Console

    console = Console()
    width = min(console.width, MAX_COLUMNS)
    if _may_show_pixels():
        # When imported, this module queries the terminal, and logs a traceback
        # if there is no answer.
        logging.getLogger("textual_image").setLevel(logging.CRITICAL)
        from textual_image.renderable import Image as Picture

        console.print(Picture(image, width=width, height="auto"))
    else:
        console.print(half_blocks(image, width))


def half_blocks(image: "Image.Image", width: int) -> "Text":
    """Return an image as text of that many columns, two pixels a character."""
    from PIL import Image
    from rich.text import Text

    num_lines = max(1, round(width * image.height / image.width / 2))
    small = image.convert("RGB").resize(
        (width, 2 * num_lines), Image.Resampling.BOX
    )
    pixels = small.tobytes()
    text = Text(no_wrap=True, end="")
    for line in range(num_lines):
        for column in range(width):
            places = (3 * ((2 * line + i) * width + column) for i in (0, 1))
            above, below = (f"#{pixels[k : k + 3].hex()}" for k in places)
            text.append("▀", f"{above} on {below}")
        text.append("\n")
    return text


def _may_show_pixels() -> bool:
    environment = os.environ
    return (
        any(name in environment for name in _GRAPHICS)
        or any(t in environment.get("TERM", "") for t in _GRAPHICS_TERMS)
        or environment.get("TERM_PROGRAM", "") in _GRAPHICS_PROGRAMS
    )


def _has_terminal() -> bool:
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        return False
    size = os.get_terminal_size(sys.stdout.fileno())
    return os.environ.get("TERM") != "dumb" and min(size) > 0

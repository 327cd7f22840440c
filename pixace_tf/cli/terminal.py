"""Pictures in a terminal."""

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
# Variables by which terminals that can show pixels make themselves known.
_GRAPHICS = ("KITTY_WINDOW_ID", "WEZTERM_PANE", "KONSOLE_VERSION", "WT_SESSION")
_GRAPHICS_TERMS = ("kitty", "ghostty", "foot", "mlterm", "contour")
_GRAPHICS_PROGRAMS = ("iTerm.app", "WezTerm", "ghostty", "vscode")

preview = click.option(
    "--preview/--no-preview",
    "is_shown",
    default=True,
    help="Show the sheet in the terminal, too.",
)


def show(image: "Image.Image", is_shown: bool) -> None:
    """Show an image in the terminal, as well as the terminal can.

    Terminals that are known for Kitty's graphics protocol or Sixel are asked
    for it and show the pixels; all others show colored half blocks.

    Args:
        image: RGB.
        is_shown: Whether to show it; without a terminal it never is.
    """
    if not is_shown or not _has_terminal():
        return
    from rich.console import Console

    console = Console()
    width = min(console.width, MAX_COLUMNS)
    if _may_show_pixels():
        # The module queries the terminal when it is imported, and would log
        # the traceback of a query without an answer.
        logging.getLogger("textual_image").setLevel(logging.CRITICAL)
        from textual_image.renderable import Image as Picture

        console.print(Picture(image, width=width, height="auto"))
    else:
        console.print(half_blocks(image, width))


def half_blocks(image: "Image.Image", width: int) -> "Text":
    """Return an image as text, two pixels of a column in each character.

    Args:
        image: RGB.
        width: Columns of the text.
    """
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
    """Return whether the terminal is one that can show pixels."""
    environment = os.environ
    return (
        any(name in environment for name in _GRAPHICS)
        or any(t in environment.get("TERM", "") for t in _GRAPHICS_TERMS)
        or environment.get("TERM_PROGRAM", "") in _GRAPHICS_PROGRAMS
    )


def _has_terminal() -> bool:
    """Return whether there is a terminal whose size is known."""
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        return False
    if os.environ.get("TERM") == "dumb":
        return False
    size = os.get_terminal_size(sys.stdout.fileno())
    return size.columns > 0 and size.lines > 0

"""What --pixel-art and --tiles stand for, where nothing else is given."""

from typing import Any

from pixace_tf.console import Say
from pixace_tf.errors import UserError
from pixace_tf.model.presets import COPY
from pixace_tf.training.training_arguments import NATIVE, TrainingArguments

# Larger tiles do not become the image size by themselves.
MAX_TILE_SIDE = 64


def settled(arguments: TrainingArguments, say: Say) -> TrainingArguments:
    """Resolve `pixel_art` and `tiles` to other arguments, and say so.

    Arguments that are given stay as they are.

    Raises:
        UserError: If `anchor` is given and images are resampled.
    """
    chosen: dict[str, Any] = {}
    tiles = arguments.tiles
    if tiles is not None and max(tiles) <= MAX_TILE_SIDE:
        chosen["image_size"] = tiles
    if arguments.pixel_art:
        chosen["resize"] = NATIVE
        if arguments.given.get("resize", NATIVE) == NATIVE:
            chosen |= _all_colors(arguments)
    kept = {n: v for n, v in chosen.items() if n not in arguments.given}
    arguments = arguments.replaced(**kept)
    if "anchor" in arguments.given and arguments.resize != NATIVE:
        raise UserError("anchor needs resize native, or pixel_art.")
    height, width = arguments.image_size
    if arguments.pixel_art and arguments.resize == NATIVE:
        say(
            f"Pixel art: pictures keep their pixels ({arguments.anchor} of a "
            f"{height}x{width} canvas); larger ones are skipped, unless their "
            "pixels are enlarged by a whole factor."
        )
        if arguments.alpha == 0:
            say("Without alpha, transparent pixels become white.")
    elif "image_size" in kept:
        say(f"The pictures have {height}x{width} pixels, as the tiles do.")
    return arguments


def _all_colors(arguments: TrainingArguments) -> dict[str, Any]:
    """Return the palette of all colors, if the head for it is not refused."""
    is_open = not {"color_space", "bit_widths"} & arguments.given.keys()
    if is_open and arguments.head in (None, COPY):
        return {"color_space": "rgb", "bit_widths": (8, 8, 8)}
    return {}


def suggestion(source: str) -> str:
    """Return the line that suggests --pixel-art for a folder."""
    return (
        f"{source} looks like pixel art: with --pixel-art, fit keeps every "
        "pixel as it is."
    )

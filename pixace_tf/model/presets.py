"""Named model sizes.

`pico` is for trying things out in seconds. `micro` learns most within an hour
on a laptop's CPU, `nano` in some hours, `small` in a day or on a GPU. `base`
has the size of the 2020 original and needs a GPU. `pixace-tf fit --help` shows
how many parameters they have.
"""

from pixace_tf.data.palette import ALPHA, Palette
from pixace_tf.errors import UserError

# Layers, width, heads and feed-forward width of a stack.
_Stack = tuple[int, int, int, int]


def _stack(sizes: _Stack, prefix: str = "") -> dict[str, int]:
    names = ("num_layers", "hidden_dim", "num_heads", "intermediate_dim")
    return {prefix + n: size for n, size in zip(names, sizes, strict=True)}


def _decoders(
    flat: _Stack, global_: _Stack, local: _Stack
) -> dict[str, dict[str, int]]:
    return {
        "multiscale": {**_stack(global_), **_stack(local, "local_")},
        "transformer": _stack(flat),
        "reformer": _stack(flat),
    }


# The flat, the global and the local stack of each preset.
PRESETS = {
    "pico": _decoders((2, 32, 2, 64), (2, 64, 2, 128), (1, 32, 2, 64)),
    "micro": _decoders((4, 64, 2, 256), (4, 128, 2, 512), (2, 64, 2, 128)),
    "nano": _decoders((4, 128, 4, 512), (4, 192, 3, 768), (2, 128, 4, 256)),
    "small": _decoders((6, 256, 8, 1024), (6, 384, 6, 1536), (2, 192, 6, 384)),
    "base": _decoders((6, 512, 8, 2048), (6, 512, 8, 2048), (2, 256, 8, 512)),
}
# The preset if nothing else determines the size.
FALLBACK_PRESET = "nano"
# Ways to predict the color of a pixel; see `color_head` and `copy_head`.
COPY = "copy"
HEADS = ("chain", "mixture", "packed", COPY)
# The mixture head uses mixtures for channels with at least this many levels.
MIN_MIXTURE_LEVELS = 64
# Peaks of the schedule; wider models need lower ones.
LEARNING_RATES = {
    "pico": 3e-3,
    "micro": 6e-3,
    "nano": 6e-3,
    "small": 4e-3,
    "base": 1e-3,
}
PATCH_LENGTH = 16
HASHING_DECODERS = ("reformer",)


def mixture_channels(palette: Palette) -> tuple[int, ...]:
    """Return the channels that are mixtures.

    A hue, being a circle, is not, nor is alpha, which is mostly 0 or full.
    """
    return tuple(
        c
        for c, levels in enumerate(palette.channel_sizes)
        if levels >= MIN_MIXTURE_LEVELS
        and c not in (palette.circular_channel, ALPHA)
    )


def default_head(palette: Palette, is_pixel_art: bool = False) -> str:
    """Return the head that learns a palette best."""
    if is_pixel_art:
        return COPY
    return "mixture" if mixture_channels(palette) else "chain"


def head_hidden_dim(head: str, preset: str, decoder: str) -> int | None:
    """Return the width of the head's hidden layers, None for the decoder's.

    Few pixels have a new color, for which alone the copy head has such layers.
    """
    is_narrow = (preset, decoder) == ("micro", "multiscale")
    return 128 if is_narrow and head != COPY else None


def decoder_config(
    preset: str,
    decoder: str,
    image_width: int = 32,
    num_hashes: int = 0,
    num_layers: int | None = None,
    hidden_dim: int | None = None,
) -> dict[str, int]:
    """Return the sizes of a decoder, arguments of its constructor.

    Args:
        preset: One of `PRESETS`.
        decoder: `"multiscale"`, `"transformer"` or `"reformer"`.
        image_width: Pixels of a row. Patches of the multiscale decoder have
            about 16 pixels and divide a row evenly if the width allows it.
        num_hashes: Rounds of LSH attention of the reformer; 0 is exact.
        num_layers: Overrides the layers of the (global) stack.
        hidden_dim: Overrides the width of the (global) stack, a multiple of the
            preset's width per head; heads and feed-forward width follow.

    Raises:
        UserError: If a name is unknown, a size is out of range, or
            `num_hashes` is given for a decoder that does not hash.
    """
    if preset not in PRESETS:
        raise UserError(
            f"preset must be one of {', '.join(PRESETS)}. Received: {preset!r}"
        )
    if decoder not in PRESETS[preset]:
        raise UserError(
            f"decoder must be one of {', '.join(PRESETS[preset])}. "
            f"Received: {decoder!r}"
        )
    sizes = dict(PRESETS[preset][decoder])
    if num_layers is not None:
        if num_layers < 1:
            raise UserError(
                f"num_layers must be positive. Received: {num_layers}"
            )
        sizes["num_layers"] = num_layers
    if hidden_dim is not None:
        sizes.update(_widened(sizes, hidden_dim))
    if num_hashes:
        if decoder not in HASHING_DECODERS or num_hashes < 0:
            raise UserError(
                "num_hashes must be 0, or positive for the decoder "
                f"{' or '.join(HASHING_DECODERS)}. Received: "
                f"num_hashes={num_hashes}, decoder={decoder!r}"
            )
        sizes["num_hashes"] = num_hashes
    if decoder == "multiscale":
        fitting = [n for n in range(10, 25) if image_width % n == 0]
        sizes["patch_length"] = min(
            fitting or [PATCH_LENGTH], key=lambda n: abs(n - PATCH_LENGTH)
        )
    return sizes


def _widened(sizes: dict[str, int], hidden_dim: int) -> dict[str, int]:
    head_dim = sizes["hidden_dim"] // sizes["num_heads"]
    if hidden_dim < 1 or hidden_dim % head_dim:
        raise UserError(
            f"hidden_dim must be a positive multiple of {head_dim}, the width "
            f"of a head. Received: hidden_dim={hidden_dim}"
        )
    wider = sizes["intermediate_dim"] // sizes["hidden_dim"]
    return {
        "hidden_dim": hidden_dim,
        "num_heads": hidden_dim // head_dim,
        "intermediate_dim": wider * hidden_dim,
    }

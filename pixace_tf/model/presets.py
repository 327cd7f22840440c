"""Named model sizes.

`pico` is for trying things out in seconds. `micro` learns most within an hour
on a laptop's CPU, `nano` in some hours, `small` in a day or on a GPU. `base`
has the size of the 2020 original and wants a GPU. `pixace-tf fit --help` tells
their parameters.
"""

from pixace_tf.data.palette import Palette
from pixace_tf.errors import UserError

PRESETS: dict[str, dict[str, dict[str, int]]] = {
    "pico": {
        "multiscale": {
            "num_layers": 2,
            "hidden_dim": 64,
            "num_heads": 2,
            "intermediate_dim": 128,
            "local_num_layers": 1,
            "local_hidden_dim": 32,
            "local_num_heads": 2,
            "local_intermediate_dim": 64,
        },
        "transformer": {
            "num_layers": 2,
            "hidden_dim": 32,
            "num_heads": 2,
            "intermediate_dim": 64,
        },
    },
    "micro": {
        "multiscale": {
            "num_layers": 4,
            "hidden_dim": 128,
            "num_heads": 2,
            "intermediate_dim": 512,
            "local_num_layers": 2,
            "local_hidden_dim": 64,
            "local_num_heads": 2,
            "local_intermediate_dim": 128,
        },
        "transformer": {
            "num_layers": 4,
            "hidden_dim": 64,
            "num_heads": 2,
            "intermediate_dim": 256,
        },
    },
    "nano": {
        "multiscale": {
            "num_layers": 4,
            "hidden_dim": 192,
            "num_heads": 3,
            "intermediate_dim": 768,
            "local_num_layers": 2,
            "local_hidden_dim": 128,
            "local_num_heads": 4,
            "local_intermediate_dim": 256,
        },
        "transformer": {
            "num_layers": 4,
            "hidden_dim": 128,
            "num_heads": 4,
            "intermediate_dim": 512,
        },
    },
    "small": {
        "multiscale": {
            "num_layers": 6,
            "hidden_dim": 384,
            "num_heads": 6,
            "intermediate_dim": 1536,
            "local_num_layers": 2,
            "local_hidden_dim": 192,
            "local_num_heads": 6,
            "local_intermediate_dim": 384,
        },
        "transformer": {
            "num_layers": 6,
            "hidden_dim": 256,
            "num_heads": 8,
            "intermediate_dim": 1024,
        },
    },
    "base": {
        "multiscale": {
            "num_layers": 6,
            "hidden_dim": 512,
            "num_heads": 8,
            "intermediate_dim": 2048,
            "local_num_layers": 2,
            "local_hidden_dim": 256,
            "local_num_heads": 8,
            "local_intermediate_dim": 512,
        },
        "transformer": {
            "num_layers": 6,
            "hidden_dim": 512,
            "num_heads": 8,
            "intermediate_dim": 2048,
        },
    },
}

for _sizes in PRESETS.values():
    _sizes["reformer"] = _sizes["transformer"]

# Where nothing says how large a model may be.
FALLBACK_PRESET = "nano"
# How the color of a pixel is predicted; see `color_head`.
HEADS = ("chain", "mixture", "packed")
# Channels with so many levels are mixtures in the head of that name.
MIN_MIXTURE_LEVELS = 64
# Peaks of the schedule; wider models want less.
LEARNING_RATES = {
    "pico": 3e-3,
    "micro": 6e-3,
    "nano": 6e-3,
    "small": 4e-3,
    "base": 1e-3,
}
# Width of the chain head's hidden layers, where it is not the decoder's.
HEAD_HIDDEN_DIMS = {("micro", "multiscale"): 128}
PATCH_LENGTH = 16
HASHING_DECODERS = ("reformer",)


def mixture_channels(palette: Palette) -> tuple[int, ...]:
    """Return the channels that the mixture head gives mixtures.

    A hue is none of them, since it is a circle.
    """
    return tuple(
        c
        for c, levels in enumerate(palette.channel_sizes)
        if levels >= MIN_MIXTURE_LEVELS and c != palette.circular_channel
    )


def default_head(palette: Palette) -> str:
    """Return the head that learns a palette best."""
    return "mixture" if mixture_channels(palette) else "chain"


def decoder_config(
    preset: str,
    decoder: str,
    image_width: int = 32,
    num_hashes: int = 0,
    num_layers: int | None = None,
    hidden_dim: int | None = None,
) -> dict[str, int]:
    """Return the sizes of a decoder.

    Args:
        preset: `"pico"`, `"micro"`, `"nano"`, `"small"` or `"base"`.
        decoder: `"multiscale"`, `"transformer"` or `"reformer"`.
        image_width: Pixels of a row. The patches of the multiscale decoder are
            about 16 pixels and, where the width allows it, fill rows evenly.
        num_hashes: Rounds of LSH attention of the reformer; 0 is exact.
        num_layers: Layers of the (global) stack instead of the preset's.
        hidden_dim: Width of the (global) stack instead of the preset's, a
            multiple of its width per head; heads and feed-forward follow.

    Returns:
        Arguments for the decoder's constructor.

    Raises:
        UserError: If a name is unknown, the decoder does not hash, or a size
            is out of range.
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

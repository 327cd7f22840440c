"""The measured figures in a few words: for a terminal, and for the page."""

from typing import Any

# What the simple methods are called, from weak to strong.
RIVALS = {
    "png": "PNG files",
    "webp": "WebP files",
    "unigram": "colors alone",
    "left": "left neighbor",
    "left_and_above": "left and above",
}


def rivals(figures: dict[str, Any]) -> dict[str, float]:
    """Return the bits per pixel of the simple methods that were measured.

    Args:
        figures: As `measure` returns them.

    Returns:
        By key, in the order of `RIVALS`.
    """
    lossless = figures["lossless"]
    bits = {
        **{name: lossless[name]["bits_per_pixel"] for name in ("png", "webp")},
        **(figures["baselines"] or {}),
    }
    return {name: bits[name] for name in RIVALS if name in bits}


def summary(figures: dict[str, Any]) -> str:
    """Return the measured figures as lines of text.

    Args:
        figures: As `measure` returns them.
    """
    error = figures["bits_per_pixel_standard_error"]
    spread = "" if error is None else f" +- {error:.3f}"
    channels = ", ".join(
        f"{name} {bits:.3f}" for name, bits in figures["channels"].items()
    )
    bound = " at most" if figures["bits_per_dim_residual"] else ""
    palette = figures["palette"]
    quality, difference = palette["psnr"], palette["ciede2000"]
    fidelity = "exact" if quality is None else f"{quality:.2f} dB PSNR"
    if difference is not None:
        fidelity += f", CIEDE2000 {difference:.2f}"
    pictures = f"{figures['pictures']} ({figures['skipped']} skipped"
    if figures["in_training"]:
        pictures += f", {figures['in_training']} learned from"
    lines = {
        "model": f"{figures['bits_per_pixel']:.3f}{spread} bits/pixel "
        f"({channels})",
        "": f"{figures['bits_per_dim']:.3f} bits/dim{bound}",
        **{
            RIVALS[name]: f"{bits:.3f} bits/pixel"
            for name, bits in reversed(rivals(figures).items())
        },
        "palette": f"{palette['name']}, {fidelity}, "
        f"{palette['colors_used']} of {palette['codes']} colors used",
        "pictures": f"{pictures})",
    }
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in lines.items())

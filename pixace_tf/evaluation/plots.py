"""Plots and sheets of an evaluation, as PNG bytes.

Bits are bits per pixel. Colors differ in lightness too.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pixace_tf.data import fidelity
from pixace_tf.evaluation.evidence import Evidence, detokenize
from pixace_tf.evaluation.metrics import BASELINE_NAMES, baseline_bits
from pixace_tf.painting.sheets import Tile, contact_sheet
from pixace_tf.runs.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHANNEL_COLORS = ("#1f3b57", "#3f7cac", "#95c5e0", "#d3e5ef")
_BASELINE_COLOR = "#b9b4ab"
_DPI = 144
_MAX_DOTS = 8192
_SHEET_COLUMNS = 8


def likelihood_bars(figures: dict[str, Any]) -> bytes:
    """Draw the figures of `measure`: the model, by channel, and baselines."""
    others = baseline_bits(figures)
    names = [*(BASELINE_NAMES[name] for name in others), "this model"]
    axes, figure = _axes(7.2, 0.9 + 0.42 * len(names))
    widths = list(others.values())
    axes.barh(range(len(widths)), widths, color=_BASELINE_COLOR)
    left = 0.0
    for (channel, bits), color in zip(
        figures["channels"].items(), _CHANNEL_COLORS, strict=False
    ):
        axes.barh(len(widths), bits, left=left, color=color, label=channel)
        left += bits
    for place, width in enumerate([*widths, left]):
        axes.text(width, place, f" {width:.2f}", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1.12 * max([*widths, left]))
    axes.set_xlabel("bits per pixel: shorter is better")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    return _plot(figure)


def bits_by_place(bits: np.ndarray) -> bytes:
    """Draw a map of mean bits, float `(height, width)`."""
    height, width = bits.shape
    axes, figure = _axes(4.8, 0.6 + 3.8 * min(max(height / width, 0.3), 2))
    # On a scale with the first pixel, all others would look dark.
    top = bits.ravel()[1:].max(initial=0)
    drawn = axes.imshow(bits, cmap="magma", vmin=0, vmax=top)
    axes.set(xlabel="column", ylabel="row")
    figure.colorbar(drawn, label="bits per pixel", extend="max")
    return _plot(figure)


def expected_sheet(evidence: Evidence, bits: np.ndarray) -> bytes:
    """Show the images with the fewest bits `(N,)`, then those with the most."""
    order = np.argsort(bits, kind="stable")
    count = min(_SHEET_COLUMNS, -(-len(order) // 2))
    rows = [
        [Tile(evidence.quantized[i], f"{bits[i]:.2f}") for i in row]
        for row in (order[:count], order[::-1][:count])
    ]
    return png(contact_sheet(rows))


def palette_sheet(evidence: Evidence) -> bytes:
    """Show images, and below them the same in the colors of the palette."""
    above, below = [], []
    shown = evidence.sample(_SHEET_COLUMNS)
    for original, quantized in zip(shown.images, shown.quantized, strict=True):
        quality = fidelity.psnr(original, quantized)
        caption = "exact" if np.isinf(quality) else f"{quality:.1f} dB"
        above.append(Tile(original, "original"))
        below.append(Tile(quantized, caption))
    return png(contact_sheet([above, below]))


def color_map(run: Run) -> bytes:
    """Draw some thousand colors by the two main axes of their embedding."""
    tokenizer = run.tokenizer
    count = tokenizer.palette.vocabulary_size
    codes = np.arange(count)
    if count > _MAX_DOTS:
        codes = np.random.default_rng(0).choice(count, _MAX_DOTS, replace=False)
    codes = codes.astype(np.int32)
    codes = codes[tokenizer.palette.is_canonical(codes)]
    embedded = np.asarray(run.model.embed(codes), np.float64)
    embedded -= embedded.mean(axis=0)
    variances, directions = np.linalg.eigh(embedded.T @ embedded)
    shares = variances / max(variances.sum(), np.finfo(float).tiny)
    places = embedded @ directions[:, -1:-3:-1]
    # The tokenizer takes whole images only.
    length = tokenizer.sequence_length
    padded = np.resize(codes, (-(-len(codes) // length), length))
    channels = tokenizer.palette.num_image_channels
    colors = detokenize(padded, tokenizer).reshape(-1, channels)
    colors = colors[: len(codes)] / 255
    axes, figure = _axes(5.4, 5.0)
    axes.scatter(places[:, 0], places[:, 1], c=colors, s=9, linewidths=0)
    axes.set_facecolor("#f1f0ee")
    axes.set_aspect("equal", "datalim")
    axes.set_xlabel(f"first component: {shares[-1]:.0%} of the variance")
    axes.set_ylabel(f"second component: {shares[-2]:.0%}")
    return _plot(figure)


def probe_by_layer(probe: dict[str, Any]) -> bytes:
    """Draw the accuracy of each layer, from the figures of `probe_layers`."""
    axes, figure = _axes(6.4, 3.8)
    numbers = [layer["layer"] for layer in probe["layers"]]
    for key, label, style in (
        ("accuracy", "unseen pictures", "o-"),
        ("cross_validation", "training pictures, cross-validated", "o:"),
    ):
        shares = [100 * layer[key] for layer in probe["layers"]]
        axes.plot(numbers, shares, style, color="#3f7cac", label=label)
    for key, label, style in (
        ("raw_pixels", "raw pixels", "--"),
        ("majority_class", "always the most common class", ":"),
    ):
        axes.axhline(100 * probe[key], color="#7a746a", ls=style, label=label)
    axes.set_xticks(numbers)
    axes.set(xlabel="layer", ylabel="right answers, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _plot(figure)


def png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _axes(width: float, height: float) -> "tuple[Axes, Figure]":
    """Return axes in a figure of a size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure.add_subplot(), figure


def _plot(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()

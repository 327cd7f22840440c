"""Plots of an evaluation, as PNG bytes.

Bits per pixel throughout; colors that also differ in lightness.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from pixace_tf.data.color_codes import is_canonical
from pixace_tf.evaluation.learned import decode
from pixace_tf.evaluation.summary import RIVALS, rivals
from pixace_tf.runs.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHANNEL_COLORS = ("#1f3b57", "#3f7cac", "#95c5e0")
_RIVAL_COLOR = "#b9b4ab"
_DPI = 144
_MAX_DOTS = 8192


def likelihood_bars(figures: dict[str, Any]) -> bytes:
    """Draw the model, stacked by channel, above its rivals.

    Args:
        figures: `channels`, `baselines` and `lossless` of an account.
    """
    others = rivals(figures)
    names = [*(RIVALS[name] for name in others), "this model"]
    axes, figure = _axes(7.2, 0.9 + 0.42 * len(names))
    widths = list(others.values())
    axes.barh(range(len(widths)), widths, color=_RIVAL_COLOR)
    left = 0.0
    for (channel, bits), color in zip(
        figures["channels"].items(), _CHANNEL_COLORS, strict=True
    ):
        axes.barh(len(widths), bits, left=left, color=color, label=channel)
        left += bits
    for place, width in enumerate([*widths, left]):
        axes.text(width, place, f" {width:.2f}", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1.12 * max([*widths, left]))
    axes.set_xlabel("bits per pixel: shorter is better")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return _png(figure)


def bits_by_place(bits: np.ndarray) -> bytes:
    """Draw where pixels are hard to guess.

    Args:
        bits: float `(height, width)`, means over pictures.
    """
    height, width = bits.shape
    axes, figure = _axes(4.8, 0.6 + 3.8 * min(max(height / width, 0.3), 2))
    # The first pixel would leave all others in the dark.
    top = bits.ravel()[1:].max(initial=0)
    drawn = axes.imshow(bits, cmap="magma", vmin=0, vmax=top)
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    figure.colorbar(drawn, label="bits per pixel", extend="max")
    return _png(figure)


def color_map(run: Run) -> bytes:
    """Draw the embedded colors on the plane of their two main components.

    Args:
        run: A trained model; some thousands of its codes are shown.
    """
    tokenizer, model = run.tokenizer, run.model
    count = tokenizer.vocabulary_size
    codes = np.arange(count)
    if count > _MAX_DOTS:
        codes = np.random.default_rng(0).choice(count, _MAX_DOTS, replace=False)
    codes = codes.astype(np.int32)
    palette = tokenizer.bit_widths, tokenizer.color_space
    codes = codes[np.asarray(is_canonical(codes, *palette))]
    embedded = np.asarray(model.embed(codes), np.float64)
    embedded -= embedded.mean(axis=0)
    variances, directions = np.linalg.eigh(embedded.T @ embedded)
    shares = variances / max(variances.sum(), np.finfo(float).tiny)
    places = embedded @ directions[:, -1:-3:-1]
    length = tokenizer.sequence_length
    padded = np.resize(codes, (-(-len(codes) // length), length))
    colors = decode(padded, tokenizer).reshape(-1, 3)[: len(codes)] / 255
    axes, figure = _axes(5.4, 5.0)
    axes.scatter(places[:, 0], places[:, 1], c=colors, s=9, linewidths=0)
    axes.set_facecolor("#f1f0ee")
    axes.set_aspect("equal", "datalim")
    axes.set_xlabel(f"first component: {shares[-1]:.0%} of the variance")
    axes.set_ylabel(f"second component: {shares[-2]:.0%}")
    return _png(figure)


def probe_by_layer(probe: dict[str, Any]) -> bytes:
    """Draw the probe's accuracy after each layer.

    Args:
        probe: What `probe_layers` returns.
    """
    axes, figure = _axes(6.4, 3.8)
    numbers = [layer["layer"] for layer in probe["layers"]]
    for key, label, style in (
        ("accuracy", "pictures it has not seen", "o-"),
        ("cross_validation", "training pictures, cross-validated", "o:"),
    ):
        shares = [100 * layer[key] for layer in probe["layers"]]
        axes.plot(numbers, shares, style, color="#3f7cac", label=label)
    for key, label, style in (
        ("raw_pixels", "raw pixels", "--"),
        ("majority_class", "always the commonest class", ":"),
    ):
        axes.axhline(100 * probe[key], color="#7a746a", ls=style, label=label)
    axes.set_xticks(numbers)
    axes.set_xlabel("layer")
    axes.set_ylabel("right answers, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _png(figure)


def _axes(width: float, height: float) -> "tuple[Axes, Figure]":
    """Return axes of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure.add_subplot(), figure


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()

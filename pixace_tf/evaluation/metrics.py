"""The figures of a model that need no new images.

Shapes: N images, T pixels.
"""

import dataclasses
import datetime
import importlib.metadata
import os
import platform
from typing import Any

import numpy as np

from pixace_tf.console import ProgressBar
from pixace_tf.data import fidelity
from pixace_tf.errors import UserError
from pixace_tf.evaluation.baselines import count_models, lossless_bits_per_pixel
from pixace_tf.evaluation.evidence import Evidence, are_among, evenly_spaced
from pixace_tf.machine import num_cores
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling.likelihood import Scorer, bits_per_dim

# From weak to strong.
BASELINE_NAMES = {
    "png": "PNG files",
    "webp": "WebP files",
    "unigram": "colors alone",
    "left": "left neighbor",
    "left_and_above": "left and above",
}
# The slowest WebP takes long, and these are enough for two decimals.
_MAX_FILES = 256
_PACKAGES = ("pixace-tf", "tensorflow", "keras", "keras-nlp", "numpy", "pillow")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The likelihood of images, and the fidelity of the palette.

    Attributes:
        figures: JSON-ready, means over images:

            - `bits_per_pixel` of the tokens, and `channels`, its parts in the
              order of the model;
            - `bits_per_dim` of the 8-bit images (`likelihood.bits_per_dim`);
              the palette alone costs `bits_per_dim_residual` of it;
            - standard errors of both over images, None for one image;
            - `baselines`: bits per pixel of `baselines.count_models`, None if
              the training images are lost;
            - `lossless`: `bits_per_pixel` and `bits_per_dim` of `png` and
              `webp` files of up to 256 `pictures` in the colors of the palette;
            - `palette`: its `name` and number of `codes`, `psnr` in dB (None
              if exact; also as `palette_psnr`), the mean `ciede2000`
              difference (None without scikit-image), numbers of colors;
            - `pictures`, `skipped` files, and the number of images that were
              `in_training` or `in_validation` (None if unknown);
            - `training_pictures`, of which `training_pictures_kept` by the run
              and `training_pictures_compared` with;
            - `record`: command, date, run, its arguments, versions, machine.
        bits: float32 `(N, T)`, the cost of each pixel.
    """

    figures: dict[str, Any]
    bits: np.ndarray


def measure(
    evidence: Evidence, num_skipped: int = 0, command: str | None = None
) -> Measurement:
    """Measure likelihood and palette; skipped files and command are recorded.

    Raises:
        UserError: If the likelihood is not finite.
    """
    channel_bits = _channel_bits(evidence)
    palette = _palette(evidence)
    figures = {
        **_likelihood(evidence, channel_bits),
        "baselines": _baselines(evidence),
        "lossless": _lossless(evidence.quantized),
        "palette_psnr": palette["psnr"],
        "palette": palette,
        "pictures": len(evidence.images),
        "skipped": num_skipped,
        **_seen_before(evidence),
        "record": {"command": command, **_record(evidence.run)},
    }
    return Measurement(json_ready(figures), channel_bits.sum(axis=-1))


def _channel_bits(evidence: Evidence) -> np.ndarray:
    """Return the cost of each channel, float32 `(N, T, channels)`."""
    run = evidence.run
    with ProgressBar("Scoring") as bar:
        scorer = Scorer(run.model, jit_compile=run.jit_compile)
        channel_bits = scorer.channel_bits(evidence.token_ids, bar.count)
    if not np.isfinite(channel_bits).all():
        raise UserError(
            f"The model of {run.path!r} gives no finite likelihood: its "
            "weights are damaged. Train it again."
        )
    return channel_bits


def _likelihood(evidence: Evidence, channel_bits: np.ndarray) -> dict[str, Any]:
    token_ids, tokenizer = evidence.token_ids, evidence.run.tokenizer
    bits = channel_bits.sum(axis=-1)
    per_image = bits.mean(axis=1, dtype=np.float64)
    per_dim = bits_per_dim(bits, token_ids, tokenizer)
    # The cost of the palette alone, as if tokens cost nothing.
    residual = bits_per_dim(np.zeros_like(bits), token_ids, tokenizer)
    channels = channel_bits.mean(axis=(0, 1), dtype=np.float64)
    names = tokenizer.palette.channel_names
    return {
        "bits_per_pixel": per_image.mean(),
        "bits_per_pixel_standard_error": _standard_error(per_image),
        "channels": dict(zip(names, channels, strict=True)),
        "bits_per_dim": per_dim.mean(),
        "bits_per_dim_standard_error": _standard_error(per_dim),
        "bits_per_dim_residual": residual.mean(),
    }


def _standard_error(values: np.ndarray) -> float | None:
    if len(values) < 2:
        return None
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _baselines(evidence: Evidence) -> dict[str, float] | None:
    if evidence.training is None:
        return None
    tokenizer = evidence.run.tokenizer
    with ProgressBar("Counting") as bar:
        bits = count_models(
            evidence.training.token_ids,
            evidence.token_ids,
            tokenizer.image_size,
            tokenizer.palette.num_colors,
            bar.count,
        )
    return {name: float(values.mean()) for name, values in bits.items()}


def _lossless(quantized: np.ndarray) -> dict[str, Any]:
    chosen = quantized[evenly_spaced(len(quantized), _MAX_FILES)]
    with ProgressBar("Packing") as bar:
        sizes = lossless_bits_per_pixel(chosen, bar.count)
    files = {
        name: {
            "bits_per_pixel": bits,
            "bits_per_dim": bits / quantized.shape[-1],
        }
        for name, bits in sizes.items()
    }
    return {"pictures": len(chosen), **files}


def _palette(evidence: Evidence) -> dict[str, Any]:
    images, quantized = evidence.images, evidence.quantized
    tokenizer = evidence.run.tokenizer
    return {
        "name": tokenizer.palette.name,
        "codes": tokenizer.palette.num_colors,
        "psnr": fidelity.psnr(images, quantized),
        "ciede2000": _color_difference(images, quantized),
        "colors_used": fidelity.count_colors(quantized),
        "colors_in_pictures": fidelity.count_colors(images),
    }


def _color_difference(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the mean CIEDE2000 difference, computed image by image."""
    try:
        return float(
            np.mean(list(map(fidelity.color_difference, first, second)))
        )
    except ImportError:
        return None


def _seen_before(evidence: Evidence) -> dict[str, int | None]:
    training = evidence.training
    if training is None:
        return dict.fromkeys(
            (
                "in_training",
                "in_validation",
                "training_pictures",
                "training_pictures_kept",
                "training_pictures_compared",
            )
        )
    validated = are_among(evidence.token_ids, training.validation_token_ids)
    in_training = int(np.sum(~evidence.is_held_out))
    is_whole = training.num_kept == training.num_images
    return {
        "in_training": in_training if is_whole else None,
        "in_validation": int(np.sum(validated)),
        "training_pictures": training.num_images,
        "training_pictures_kept": training.num_kept,
        "training_pictures_compared": len(training.token_ids),
    }


def _record(run: Run) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.isoformat(timespec="seconds"),
        "run": os.path.abspath(run.path),
        "image_size": run.tokenizer.image_size,
        "decoder": run.model.get_config()["decoder"],
        "parameters": run.model.num_parameters,
        "arguments": run.arguments,
        "versions": {p: importlib.metadata.version(p) for p in _PACKAGES},
        "machine": f"{platform.platform()}, {num_cores()} cores",
    }


def json_ready(value: Any) -> Any:
    """Return plain Python values, None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def baseline_bits(figures: dict[str, Any]) -> dict[str, float]:
    """Return bits per pixel by name, in the order of `BASELINE_NAMES`."""
    lossless = figures["lossless"]
    bits = {
        **{name: lossless[name]["bits_per_pixel"] for name in ("png", "webp")},
        **(figures["baselines"] or {}),
    }
    return {name: bits[name] for name in BASELINE_NAMES if name in bits}


def summary(figures: dict[str, Any]) -> str:
    """Return the figures of a measurement as lines of text for a terminal."""
    error = figures["bits_per_pixel_standard_error"]
    spread = "" if error is None else f" +- {error:.3f}"
    channels = ", ".join(
        f"{name} {bits:.3f}" for name, bits in figures["channels"].items()
    )
    bound = " at most" if figures["bits_per_dim_residual"] else ""
    palette = figures["palette"]
    psnr, difference = palette["psnr"], palette["ciede2000"]
    quality = "exact" if psnr is None else f"{psnr:.2f} dB PSNR"
    if difference is not None:
        quality += f", CIEDE2000 {difference:.2f}"
    used = f"{palette['colors_used']} of {palette['codes']} colors used"
    notes = f"{figures['skipped']} skipped"
    if figures["in_training"]:
        notes += f", {figures['in_training']} from training"
    lines = {
        "model": f"{figures['bits_per_pixel']:.3f}{spread} bits/pixel "
        f"({channels})",
        "": f"{figures['bits_per_dim']:.3f} bits/dim{bound}",
        **{
            BASELINE_NAMES[name]: f"{bits:.3f} bits/pixel"
            for name, bits in reversed(baseline_bits(figures).items())
        },
        "palette": f"{palette['name']}, {quality}, {used}",
        "pictures": f"{figures['pictures']} ({notes})",
    }
    compared = figures["training_pictures_compared"]
    if compared and compared < figures["training_pictures_kept"]:
        lines["compared with"] = (
            f"{compared:,} of {figures['training_pictures']:,} for training"
        )
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in lines.items())

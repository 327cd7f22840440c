"""The figures of a model on given pictures, without drawing anything new.

Shapes: N pictures, T pixels.
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
from pixace_tf.data.token_dataset import tokenize
from pixace_tf.evaluation.baselines import (
    count_models,
    lossless_bits_per_pixel,
    num_canonical_codes,
)
from pixace_tf.evaluation.learned import (
    LearnedPictures,
    are_among,
    decode,
    read_learned,
    spread,
)
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling.likelihood import Scorer, bits_per_dim

# WebP takes its time; so many files tell enough.
_MAX_FILES = 256
_PACKAGES = ("pixace-tf", "tensorflow", "keras", "keras-nlp", "numpy", "pillow")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the figures are taken from.

    Attributes:
        run: The model.
        images: uint8 `(N, height, width, 3)`, before the palette.
        labels: str `(N,)`, "" for none.
        token_ids: int32 `(N, T)`.
        shown: uint8 `(N, height, width, 3)`, in the colors of the palette.
        learned: What the model has learned from, None where that is lost.
        held_out: bool `(N,)`: it has not learned from this picture.
    """

    run: Run
    images: np.ndarray
    labels: np.ndarray
    token_ids: np.ndarray
    shown: np.ndarray
    learned: LearnedPictures | None
    held_out: np.ndarray


def gather(run: Run, images: np.ndarray, labels: list[str]) -> Evidence:
    """Prepare pictures to evaluate a run on.

    Args:
        run: A trained model.
        images: uint8 `(N, height, width, 3)`, N at least 1.
        labels: The class of each one, "" for none.

    Raises:
        ValueError: If the run's tokens are damaged.
    """
    token_ids = tokenize(images, run.tokenizer)
    learned = read_learned(run)
    held_out = (
        np.ones(len(images), bool)
        if learned is None
        else ~are_among(token_ids, learned.train)
    )
    return Evidence(
        run,
        images,
        np.array(labels, str),
        token_ids,
        decode(token_ids, run.tokenizer),
        learned,
        held_out,
    )


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What the model makes of the evidence.

    Attributes:
        figures: JSON-ready, means over pictures:

            - `bits_per_pixel` of the tokens, and `channels`, its parts in the
              order of the model;
            - `bits_per_dim` of the 8-bit pictures (`likelihood.bits_per_dim`),
              of which `bits_per_dim_residual` is what the palette hides;
            - standard errors of both over pictures, None for one picture;
            - `baselines`: bits per pixel of `baselines.count_models`, None
              where the training pictures are lost;
            - `lossless`: of `png` and `webp` files of up to 256 `pictures` in
              the colors of the palette, `bits_per_pixel` and per dimension;
            - `palette`: its `name` and number of `codes`, `psnr` in dB (None
              where exact; also as `palette_psnr`), the mean `ciede2000`
              difference (None without scikit-image), different colors;
            - `pictures`, `skipped` files, and how many pictures the model has
              seen `in_training` or `in_validation` (None where that is lost);
            - `record`: command, date, run, its arguments, versions, machine.
        bits: float32 `(N, T)`, the cost of each pixel.
    """

    figures: dict[str, Any]
    bits: np.ndarray


def measure(
    evidence: Evidence, skipped: int = 0, command: str | None = None
) -> Measurement:
    """Measure likelihood and palette.

    Args:
        evidence: What to measure.
        skipped: Files that did not load, for the record.
        command: What was called, for the record.

    Raises:
        ValueError: If the model gives no finite likelihood.
    """
    run, token_ids = evidence.run, evidence.token_ids
    with ProgressBar("Scoring") as bar:
        channel_bits = Scorer(run.model).channel_bits(token_ids, bar.count)
    bits = channel_bits.sum(axis=-1)
    if not np.isfinite(bits).all():
        raise ValueError(
            f"The model of {run.path!r} gives no finite likelihood: its "
            "weights are damaged. Train it anew."
        )
    per_picture = bits.mean(axis=1, dtype=np.float64)
    dims = bits_per_dim(bits, token_ids, run.tokenizer)
    # What the tokens would leave to tell if they came for free.
    hidden = bits_per_dim(np.zeros_like(bits), token_ids, run.tokenizer)
    parts = channel_bits.mean(axis=(0, 1), dtype=np.float64)
    palette = _palette(evidence)
    figures = {
        "bits_per_pixel": per_picture.mean(),
        "bits_per_pixel_standard_error": _standard_error(per_picture),
        "channels": dict(zip(run.model.channel_names, parts, strict=True)),
        "bits_per_dim": dims.mean(),
        "bits_per_dim_standard_error": _standard_error(dims),
        "bits_per_dim_residual": hidden.mean(),
        "baselines": _baselines(evidence),
        "lossless": _lossless(evidence.shown),
        "palette_psnr": palette["psnr"],
        "palette": palette,
        "pictures": len(token_ids),
        "skipped": skipped,
        **_seen(evidence),
        "record": {"command": command, **_record(run)},
    }
    return Measurement(json_ready(figures), bits)


def _standard_error(values: np.ndarray) -> float | None:
    if len(values) < 2:
        return None
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _baselines(evidence: Evidence) -> dict[str, float] | None:
    if evidence.learned is None:
        return None
    tokenizer = evidence.run.tokenizer
    with ProgressBar("Counting") as bar:
        bits = count_models(
            evidence.learned.train,
            evidence.token_ids,
            tokenizer.image_size,
            num_canonical_codes(tokenizer),
            bar.count,
        )
    return {name: float(values.mean()) for name, values in bits.items()}


def _lossless(shown: np.ndarray) -> dict[str, Any]:
    chosen = shown[spread(len(shown), _MAX_FILES)]
    with ProgressBar("Packing") as bar:
        sizes = lossless_bits_per_pixel(chosen, bar.count)
    return {
        "pictures": len(chosen),
        **{
            name: {"bits_per_pixel": bits, "bits_per_dim": bits / 3}
            for name, bits in sizes.items()
        },
    }


def _palette(evidence: Evidence) -> dict[str, Any]:
    images, shown = evidence.images, evidence.shown
    tokenizer = evidence.run.tokenizer
    return {
        "name": tokenizer.name,
        "codes": num_canonical_codes(tokenizer),
        "psnr": fidelity.psnr(images, shown),
        "ciede2000": _color_difference(images, shown),
        "colors_used": fidelity.count_colors(shown),
        "colors_in_pictures": fidelity.count_colors(images),
    }


def _color_difference(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the mean CIEDE2000 difference, picture by picture."""
    try:
        differences = [
            fidelity.color_difference(*pair)
            for pair in zip(first, second, strict=True)
        ]
    except ImportError:
        return None
    return float(np.mean(differences))


def _seen(evidence: Evidence) -> dict[str, int | None]:
    learned = evidence.learned
    if learned is None:
        return {"in_training": None, "in_validation": None}
    validated = are_among(evidence.token_ids, learned.validation)
    return {
        "in_training": int(np.sum(~evidence.held_out)),
        "in_validation": int(np.sum(validated)),
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
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
    }


def json_ready(value: Any) -> Any:
    """Return plain Python values; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value

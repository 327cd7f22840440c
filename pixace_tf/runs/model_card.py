"""The card of a model: the README.md of a run, here and on the Hub.

Its text is in `export_card.md`, `hub_card.md` and `litert_card.md`.
"""

import importlib.resources
import os
import shlex
import urllib.parse
from collections.abc import Sequence

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.runs.known_run import KnownRun
from pixace_tf.runs.run_config import (
    COMPLETED_FILE,
    PAINTER_FILE,
    SAMPLES_FILE,
    TOKENS_FILE,
    best_entry,
)
from pixace_tf.sampling import MAX_SERVED_PARTICLES, NUM_CODES
from pixace_tf.sampling.engine import ModelFacts

CARD_FILE = "README.md"
_MARK = "<!-- Written by pixace-tf; delete this line to keep your changes. -->"


def is_own(path: storage.StrPath) -> bool:
    """Return whether a user wrote or changed the README.md of a run."""
    try:
        with open(os.path.join(path, CARD_FILE), encoding="utf-8") as file:
            return _MARK not in file.read()
    except FileNotFoundError:
        return False


def for_hub(path: str, address: str) -> str:
    """Return the card of a trained run for an address `hf://USER/NAME`."""
    known = KnownRun.read(address.rpartition("/")[2], path)
    return _card("hub_card.md", known, (SAMPLES_FILE,), run=address)


def for_export(path: str, version: str) -> str:
    """Return the card of a trained run with exported versions, as Markdown."""
    name = os.path.basename(os.path.abspath(path))
    known = KnownRun.read(name, path)
    height, width = known.image_size
    return _card(
        "export_card.md",
        known,
        (SAMPLES_FILE, COMPLETED_FILE),
        version,
        run=shlex.quote(path),
        volume=shlex.quote(f"{os.path.abspath(path)}:/models/{name}:ro"),
        name=shlex.quote(name),
        url_name=urllib.parse.quote(name, safe=""),
        particles=MAX_SERVED_PARTICLES,
        labels=", ".join(known.labels)
        or "this model knows none, so it is empty",
        channels=", ".join(known.palette.channel_names),
        half=height * width // 2,
        length=height * width,
    )


def for_litert(path: str, facts: ModelFacts) -> str:
    """Return the card of a painter file that is used on its own."""
    name = os.path.basename(os.path.abspath(path))
    known = KnownRun.read(name, path)
    height, width = known.image_size
    return _card(
        "litert_card.md",
        known,
        (),
        file=PAINTER_FILE,
        height=height,
        width=width,
        length=facts.sequence_length,
        draws=facts.num_draws,
        codes=NUM_CODES,
        stride=facts.prefill_stride,
        half=height * width // 2 // facts.prefill_stride * facts.prefill_stride,
        mode="RGBA" if known.palette.has_alpha else "RGB",
        channels=known.palette.num_image_channels,
        first=facts.token_range[0],
        last=facts.token_range[-1],
        labels=", ".join(
            f"{number} {label}"
            for number, label in enumerate(("none", *facts.labels))
        ),
    )


def _card(
    template: str,
    known: KnownRun,
    pictures: Sequence[str],
    version: str = "",
    **values: str | int,
) -> str:
    height, width = known.image_size
    rows = {
        "images": known.source + _counts(known.path),
        "image size": f"{width}x{height} pixels, {known.resize}",
        "palette": f"{known.palette.name}, "
        f"{known.palette.vocabulary_size:,} codes",
        "decoder": known.decoder,
        "parameters": f"{known.num_parameters():,}" if known.num_bytes else "",
        "labels": ", ".join(known.labels),
        "validation": _validation(known.path),
        "version": version,
        "made with": ", ".join(map(" ".join, known.versions.items())),
    }
    cells = {k: value.replace("|", r"\|") for k, value in rows.items() if value}
    links = [
        f"![{name.partition('.')[0]}]({name})\n\n"
        for name in pictures
        if os.path.exists(os.path.join(known.path, name))
    ]
    text = importlib.resources.files(__package__).joinpath(template)
    return text.read_text(encoding="utf-8").format(
        mark=_MARK,
        title=known.name,
        pictures="".join(links),
        rows="\n".join(f"| {name} | {cell} |" for name, cell in cells.items()),
        **values,
    )


def _counts(path: str) -> str:
    """Return how many images a run has learned from, if it still tells."""
    try:
        with storage.open_npz(os.path.join(path, TOKENS_FILE)) as file:
            train = file.meta.get("num_train") or file.shapes["train"][0]
            validation = file.shapes["validation"][0]
    except (UserError, LookupError, TypeError):
        return ""
    return f": {train:,} for training, {validation:,} for validation"


def _validation(path: str) -> str:
    best = best_entry(path)
    if best is None:
        return ""
    text = f"{best['val_bits_per_pixel']:.3f} bits/pixel"
    if {"epoch", "seconds"} <= set(best):
        minutes = best["seconds"] / 60
        text += f" after {best['epoch']:.4g} epochs, {minutes:.1f} minutes"
    return text

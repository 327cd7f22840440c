"""The card of a model: the README.md of a run, here and on the Hub."""

import os
import shlex
import urllib.parse
from collections.abc import Sequence

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.runs.known_run import KnownRun
from pixace_tf.runs.run_config import (
    COMPLETED_FILE,
    SAMPLES_FILE,
    TOKENS_FILE,
    best_entry,
)
from pixace_tf.sampling import MAX_SERVED_PARTICLES

CARD_FILE = "README.md"
_MARK = "<!-- Written by pixace-tf; delete this line to keep your changes. -->"
_HEADER = f"""\
---
library_name: pixace-tf
pipeline_tag: unconditional-image-generation
tags:
- image-generation
- image-completion
- autoregressive
---
{_MARK}
"""

_USE = """\
## Use it

```sh
pixace-tf generate {run} --out new.png
pixace-tf complete {run} cat.jpg --out completed.png
```
"""

_HUB = """\
This needs pixace-tf with its extra `hub`. Each command says which commit it
uses; add that to the address, as in `{run}@COMMIT`, to stay with this version.
The images that the model has learned from are not in this repository.
"""

_SERVE = """\
## Serve it

With a stock TensorFlow Serving, without pixace-tf on the server:

```sh
docker run --rm -p 8501:8501 -v {volume} \\
  -e MODEL_NAME={name} tensorflow/serving:2.20.0 \\
  --rest_api_timeout_in_ms=600000
pixace-tf complete --server http://localhost:8501 --model {name} cat.jpg
```

Over REST, with one image in each row and every input given:

```sh
printf '{{"instances": [{{"image_bytes": {{"b64": "%s"}},
  "prefix_length": {half}, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
  "min_p": 0.0, "seed": 0}}]}}' "$(base64 < cat.jpg | tr -d '\\n')" |
  curl -s http://localhost:8501/v1/models/{url_name}:predict -d @-
```

Any region, painted where `hole.png` is white:

```sh
printf '{{"signature_name": "fill", "instances": [{{
  "image_bytes": {{"b64": "%s"}}, "mask_bytes": {{"b64": "%s"}},
  "particles": 16, "label": "", "guidance": 1.0, "temperature": 1.0,
  "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}}]}}' \\
  "$(base64 < cat.jpg | tr -d '\\n')" "$(base64 < hole.png | tr -d '\\n')" |
  curl -s http://localhost:8501/v1/models/{url_name}:predict -d @-
```

- `complete`, the default, takes `image_bytes`, `prefix_length`,
  `temperature`, `top_k`, `top_p`, `min_p` and `seed`;
- `complete_tokens` takes `token_ids` instead of `image_bytes`;
- `fill` takes `mask_bytes` (JPEG or PNG of the image's aspect, or of its small
  size; empty paints everything), `particles` (1 to {particles}), `label`
  ({labels}) and `guidance` (1 is off) instead of a prefix; `image_bytes` may be
  empty;
- `generate` takes neither an image nor a prefix;
- `score` takes `image_bytes` alone.

All return `image_bytes` (PNG; from `score` the image scaled down),
`token_ids` and `bits_per_pixel`; `fill` also returns `mask`, the painted
pixels.

`prefix_length` counts pixels in raster order, 0 to {length}. The same seed
gives the same image, alone or in a batch. The client has to turn a JPEG upright
by its EXIF data. A picture that does not load or a value out of range is
refused with its whole batch; `pixace-tf complete` checks both before it sends
them.
"""


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
    return _card(known, _HUB, run=address)


def for_export(path: str, version: str) -> str:
    """Return the card of a trained run with exported versions, as Markdown."""
    name = os.path.basename(os.path.abspath(path))
    known = KnownRun.read(name, path)
    height, width = known.image_size
    return _card(
        known,
        _SERVE,
        version,
        (SAMPLES_FILE, COMPLETED_FILE),
        run=shlex.quote(path),
        volume=shlex.quote(f"{os.path.abspath(path)}:/models/{name}:ro"),
        name=shlex.quote(name),
        url_name=urllib.parse.quote(name, safe=""),
        particles=MAX_SERVED_PARTICLES,
        labels=", ".join(known.labels)
        or "this model knows none, so it is empty",
        half=height * width // 2,
        length=height * width,
    )


def _card(
    known: KnownRun,
    usage: str,
    version: str = "",
    pictures: Sequence[str] = (SAMPLES_FILE,),
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
    lines = [f"| {name} | {cell} |" for name, cell in cells.items()]
    links = [
        f"![{name.partition('.')[0]}]({name})\n"
        for name in pictures
        if os.path.exists(os.path.join(known.path, name))
    ]
    return "\n".join(
        [
            _HEADER,
            f"# {known.name}\n",
            "A model that finishes half-covered pictures and paints new ones.",
            "",
            *links,
            "| | |",
            "|---|---|",
            *lines,
            "",
            f"{_USE}\n{usage}".format(**values),
        ]
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

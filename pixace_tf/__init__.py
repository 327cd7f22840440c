"""Learn to finish half-covered pictures and to paint new ones.

    from pixace_tf import complete, load_run

    run = load_run("saved_models/animals")
    complete(run, ["cat.jpg"], samples=4).sheet().save("completed.png")

Names are imported on first use. Painting imports no TensorFlow, which takes
seconds.
"""

import importlib
import sys
from typing import Any

from pixace_tf import machine

if sys.platform == "win32":
    sys.exit("pixace-tf does not run on Windows itself; use it inside WSL 2.")

machine.provide_home()

_MODULES = {
    "PixaceCausalLM": "model.causal_lm",
    "PixelTokenizer": "data.tokenizer",
    "Sampler": "sampling.sampler",
    "TrainingArguments": "training.training_arguments",
    "complete": "painting.local",
    "fit": "training.fit",
    "generate": "painting.local",
    "load_run": "runs.run_folder",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

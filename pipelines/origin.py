"""The origin of figures: command, hardware, versions and date."""

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys

from pixace_tf.machine import num_cores

_ALL_BUT_RESULTS = ":/", ":(top,exclude)pipelines/results"


def origin(*packages: str) -> list[str]:
    """Return lines of Markdown about this run.

    Args:
        packages: Further packages whose versions are named.
    """
    script = os.path.join("pipelines", os.path.basename(sys.argv[0]))
    names = ("pixace-tf", "tensorflow", "keras", "keras-nlp", *packages)
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    return [
        f"- command: `python {shlex.join([script, *sys.argv[1:]])}`",
        f"- hardware: {num_cores()} CPU cores, {_processor()}",
        f"- versions: {versions}, Python {platform.python_version()}",
        f"- date: {datetime.date.today()}, commit {_commit()}",
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit, marked dirty if more than the results differ."""
    commit = _git("rev-parse", "--short", "HEAD")
    # The results that a run writes are no change of the program.
    changed = _git("status", "--porcelain", "-uno", *_ALL_BUT_RESULTS)
    return f"{commit or 'unknown'}{'-dirty' if changed else ''}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return done.stdout.strip()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = re.findall(r"model name\s*:\s*(.*)", file.read())
    except OSError:
        names = []
    return names[0] if names else platform.machine()

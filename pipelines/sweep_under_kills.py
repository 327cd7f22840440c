"""Does a sweep survive the death of its processes?

Runs the same sweep twice, undisturbed and with kills (SIGKILL) of random
workers and of the chief, and compares what was recorded.

Command:  python pipelines/sweep_under_kills.py --trials 20 --kills 3
Hardware: 2 CPU cores
Time:     about 20 minutes
Expected: every trial completed in both, with the same figures; it fails
          otherwise
"""

import contextlib
import itertools
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator

import click
import psutil

from pixace_tf.data import cartoons
from pixace_tf.tuning import results
from pixace_tf.tuning.launcher import ID
from pixace_tf.tuning.space import load_sweep
from pixace_tf.tuning.sweep import tune

Trials = list[results.Trial]


@click.command()
@click.option("--trials", default=20)
@click.option("--kills", default=3, help="Of workers; the chief's is extra.")
@click.option("--workers", default=2)
@click.option("--seed", default=0)
def main(trials: int, kills: int, workers: int, seed: int) -> None:
    """Sweep with and without kills."""
    with tempfile.TemporaryDirectory() as root:
        pictures = os.path.join(root, "pictures")
        cartoons.draw_folder(pictures, 48)
        calm = sweep(pictures, os.path.join(root, "calm"), trials, workers)
        folder = os.path.join(root, "killed")
        with killing(folder, kills, seed) as killed:
            disturbed = sweep(pictures, folder, trials, workers)
    for name, found in (("calm", calm), ("killed", disturbed)):
        ended = sum(t.is_completed for t in found)
        (best,) = results.best_trials(found, "bits_per_pixel")
        click.echo(
            f"{name}: {ended} of {len(found)} trials completed, best "
            f"{best.name} with {best.figures['bits_per_pixel']:.6f} bits/pixel"
        )
    click.echo(f"killed: {', '.join(killed)}")
    assert len(killed) == kills + 1, "The sweep was over too soon."
    assert _bits(calm) == _bits(disturbed), "The figures differ."


def sweep(pictures: str, folder: str, trials: int, workers: int) -> Trials:
    """Run a sweep of tiny models; return its trials."""
    widths = list(itertools.product((3, 4, 5), (2, 3, 4), (3, 4, 5)))[:trials]
    tune(
        pictures,
        sweeps_dir=os.path.dirname(folder),
        name=os.path.basename(folder),
        bit_widths=widths,
        image_size=[(8, 8)],
        preset="pico",
        epochs=1,
        batch_size=8,
        jit_compile=False,
        min_psnr=0,
        workers=workers,
        say=lambda line: None,
    )
    return results.read_trials(folder, load_sweep(folder))


@contextlib.contextmanager
def killing(folder: str, kills: int, seed: int = 0) -> Iterator[list[str]]:
    """Kill workers of a sweep at random moments, and the chief once.

    Args:
        folder: The sweep's.
        kills: Of workers.
        seed: Of who and when.

    Yields:
        The names of those that were killed, one by one.
    """
    chance = random.Random(seed)
    targets = ["chief", *["worker"] * kills]
    chance.shuffle(targets)
    killed: list[str] = []
    is_over = threading.Event()

    def work() -> None:
        for target in targets:
            while not is_over.wait(0.2):
                busy = sum(t.status == "RUNNING" for t in _trials(folder))
                found = [p for p in _roles(folder) if target in p[0]]
                if busy and found and _trials(folder):
                    break
            # Anywhere within a trial: before, in, or after its training.
            if is_over.wait(chance.uniform(0, 10)):
                return
            found = [p for p in _roles(folder) if target in p[0]]
            if found:
                name, pid = chance.choice(found)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(name)

    killer = threading.Thread(target=work)
    killer.start()
    try:
        yield killed
    finally:
        is_over.set()
        killer.join()


def _bits(trials: Trials) -> dict[str, float]:
    return {t.name: t.figures["bits_per_pixel"] for t in trials}


def _roles(folder: str) -> list[tuple[str, int]]:
    """Return name and process of each chief and worker of a sweep."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[-2:] == ["pixace_tf.tuning.role", folder]:
                found.append((process.environ()[ID], process.pid))
    return found


def _trials(folder: str) -> Trials:
    try:
        return results.read_trials(folder, load_sweep(folder))
    except (ValueError, FileNotFoundError):
        return []


if __name__ == "__main__":
    started = time.monotonic()
    main(standalone_mode=False)
    click.echo(f"{time.monotonic() - started:.0f} seconds")

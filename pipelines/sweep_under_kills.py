"""Does a sweep survive the death of its processes?

Runs the same sweep twice: once undisturbed, and once with kills (SIGKILL), each
followed by a restart of the same command. Each sweep has two commands that
share its folder, as two machines would. Compares what was recorded.

Command:  python pipelines/sweep_under_kills.py --trials 20 --kills 4
Hardware: 2 CPU cores
Time:     about 20 minutes
Expected: every trial completes in both sweeps, with the same figures; it fails
          otherwise
"""

import itertools
import os
import random
import subprocess
import sys
import tempfile
import time

import click
import psutil

from pixace_tf.data import cartoons
from pixace_tf.tuning import results
from pixace_tf.tuning.space import load_sweep

Trials = list[results.Trial]
_MACHINES = 2


@click.command()
@click.option("--trials", default=20)
@click.option("--kills", default=4)
@click.option("--seed", default=0, help="Chooses what is killed, and when.")
def main(trials: int, kills: int, seed: int) -> None:
    """Sweep with and without kills."""
    with tempfile.TemporaryDirectory() as root:
        pictures = os.path.join(root, "pictures")
        cartoons.draw_folder(pictures, 48)
        found = {}
        for name, count in (("calm", 0), ("killed", kills)):
            command = sweep_command(pictures, os.path.join(root, name), trials)
            folder = os.path.join(root, name, "sweep")
            found[name] = sweep(command, folder, count, random.Random(seed))
    for name, ended in found.items():
        (best,) = results.best_trials(ended, "bits_per_pixel")
        click.echo(
            f"{name}: {sum(t.is_completed for t in ended)} of {len(ended)} "
            f"trials completed, best {best.name} with "
            f"{best.figures['bits_per_pixel']:.6f} bits/pixel"
        )
    bits = [
        {t.name: t.figures["bits_per_pixel"] for t in ended}
        for ended in found.values()
    ]
    assert bits[0] == bits[1], "The figures differ."


def sweep_command(pictures: str, sweeps_dir: str, trials: int) -> list[str]:
    """Return the command line of a sweep of tiny models."""
    every = itertools.product((3, 4, 5), (2, 3, 4), (3, 4, 5))
    widths = [f"--bit-widths={a},{b},{c}" for a, b, c in every]
    return [
        *(
            sys.executable,
            "-m",
            "pixace_tf",
            "tune",
            pictures,
            *widths[:trials],
        ),
        *("--name", "sweep", "--sweeps-dir", sweeps_dir, "--image-size", "8"),
        *("--preset", "pico", "--epochs", "1", "--batch-size", "8"),
        *("--no-jit-compile", "--min-psnr", "0"),
    ]


def sweep(
    command: list[str], folder: str, kills: int, chance: random.Random
) -> Trials:
    """Run a sweep by two commands; return its trials.

    Args:
        command: The command line.
        folder: The sweep's.
        kills: How often one of the commands is killed and restarted.
        chance: Chooses which one, and when.
    """
    running = [_start(command) for _ in range(_MACHINES)]
    for _ in range(kills):
        while not any(_is_training(process) for process in running):
            assert any(p.poll() is None for p in running), "Too soon over."
            time.sleep(0.2)
        victims = [i for i in range(_MACHINES) if _is_training(running[i])]
        index = chance.choice(victims)
        # Anywhere within a trial: before, in, or after its training.
        time.sleep(chance.uniform(0, 10))
        running[index].kill()
        running[index].wait()
        running[index] = _start(command)
    assert all(process.wait() == 0 for process in running)
    return results.read_trials(folder, load_sweep(folder))


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _is_training(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None and bool(
        psutil.Process(process.pid).children()
    )


if __name__ == "__main__":
    started = time.monotonic()
    main(standalone_mode=False)
    click.echo(f"{time.monotonic() - started:.0f} seconds")

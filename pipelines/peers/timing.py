"""How a subject of the benchmark is timed, in a process of its own."""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

REPEATS = 7


def rates(
    work: Callable[[], Any],
    units: float,
    seconds: float,
    repeats: int = REPEATS,
) -> dict:
    """Time some work again and again.

    Args:
        work: Does it once, and returns when it is done.
        units: What one piece of work is, in the unit of the rates.
        seconds: After these no further repetition begins; there are three at
            least.
        repeats: The most repetitions.

    Returns:
        `first_seconds`, compilation included, and `per_second`, one rate for
        each repetition after the first.
    """
    first = _seconds(work)
    times: list[float] = []
    while len(times) < 3 or (len(times) < repeats and sum(times) < seconds):
        times.append(_seconds(work))
    return {
        "first_seconds": first,
        "per_second": [units / elapsed for elapsed in times],
    }


def extrapolated_rates(
    work: Callable[[int], Any], most: int, units: float, seconds: float
) -> dict:
    """Time as many steps as fit into some seconds, and infer the rest.

    What comes before the first step, such as a prefill, is timed by itself and
    counted once.

    Args:
        work: Does a number of steps.
        most: The number of steps to infer the time of.
        units: What one step is.
        seconds: For one repetition.

    Returns:
        `per_second` as `rates`, and how many `steps` were done each time.
    """
    work(1)
    one = statistics.median(_seconds(lambda: work(1)) for _ in range(3))
    per_step = max(_seconds(lambda: work(9)) - one, 1e-6) / 8
    steps = max(9, min(most, int((seconds - one) / per_step)))
    done = rates(lambda: work(steps), 1, seconds)["per_second"]
    times = [one + (most - 1) * (1 / rate - one) / (steps - 1) for rate in done]
    return {"per_second": [units * most / t for t in times], "steps": steps}


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak_bytes() -> int:
    """Return the most memory this process has held so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(*functions: Callable[..., dict]) -> None:
    """Run the function named on the command line; print its result.

    The second argument holds its arguments as JSON; the result is the last
    line of the output.
    """
    name, arguments = sys.argv[1:]
    chosen = {function.__name__: function for function in functions}[name]
    result = chosen(**json.loads(arguments))
    print(json.dumps(result), flush=True)

"""How a subject of the benchmark is timed, in a process of its own."""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

REPEATS = 7
SECONDS = 20.0


def rates(work: Callable[[], Any], units: float, seconds: float) -> dict:
    """Time some work again and again.

    Args:
        work: Does it once, and returns when it is done.
        units: What one piece of work is, in the unit of the rates.
        seconds: After these no further repetition begins; there are three at
            least.

    Returns:
        `first_seconds`, compilation included, and `per_second`, one rate for
        each repetition after the first.
    """
    begin = time.perf_counter()
    work()
    first = time.perf_counter() - begin
    times: list[float] = []
    while len(times) < 3 or (len(times) < REPEATS and sum(times) < seconds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return {
        "first_seconds": first,
        "per_second": [units / elapsed for elapsed in times],
    }


def some_rates(
    work: Callable[[int], Any], most: int, units: float, seconds: float
) -> dict:
    """Time as many steps as fit into some seconds.

    Args:
        work: Does a number of steps.
        most: The largest number of steps.
        units: What one step is.
        seconds: As in `rates`.

    Returns:
        As `rates`; `steps` tells how many were done each time.
    """
    begin = time.perf_counter()
    work(4)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    work(8)
    per_step = (time.perf_counter() - begin) / 8
    steps = max(8, min(most, int(seconds / per_step)))
    result = rates(lambda: work(steps), units * steps, seconds)
    return {**result, "first_seconds": first, "steps": steps}


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

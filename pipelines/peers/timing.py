"""How a subject of the benchmark is timed, in a process of its own."""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any


def rates(work: Callable[[], Any], units: float, seconds: float) -> None:
    """Time some work, anew in each round of the benchmark.

    The first time, compilation included, is told as `first_seconds`, then the
    rate of each round as `per_second`.

    Args:
        work: Does it once, and returns when it is done.
        units: Size of one piece of work, in the unit of the rates.
        seconds: How long a round repeats it, at least.
    """
    goes_on = tell({"first_seconds": _seconds(work)})
    while goes_on:
        count, spent = 0, 0.0
        while spent < seconds:
            spent += _seconds(work)
            count += 1
        goes_on = tell({"per_second": units * count / spent})


def extrapolated_rates(
    work: Callable[[int], Any], most: int, units: float, seconds: float
) -> None:
    """Time as many steps as fit into some seconds, and infer the rest.

    What comes before the first step, such as a prefill, is timed by itself and
    counted once.

    Args:
        work: Does a number of steps.
        most: The number of steps to infer the time of.
        units: Size of one step.
        seconds: For one round.
    """
    first = _seconds(lambda: work(1))
    one = statistics.median(_seconds(lambda: work(1)) for _ in range(3))
    per_step = max(_seconds(lambda: work(9)) - one, 1e-6) / 8
    steps = max(9, min(most, int((seconds - one) / per_step)))
    goes_on = tell({"first_seconds": first})
    while goes_on:
        spent = _seconds(lambda: work(steps))
        spent = one + (most - 1) * max(spent - one, 1e-6) / (steps - 1)
        goes_on = tell({"per_second": units * most / spent})


def tell(answer: dict[str, Any]) -> bool:
    """Give the benchmark an answer, and wait until it asks for the next.

    Returns:
        Whether it does; else this process is to end.
    """
    print(json.dumps(answer), flush=True)
    return bool(sys.stdin.readline())


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak_bytes() -> int:
    """Return the most memory this process has held so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(*functions: Callable[..., dict | None]) -> None:
    """Run the function named on the command line.

    The second argument holds its arguments as JSON. A function tells its
    answers itself or returns the only one.
    """
    name, arguments = sys.argv[1:]
    chosen = {function.__name__: function for function in functions}[name]
    answer = chosen(**json.loads(arguments))
    if answer is not None:
        tell(answer)

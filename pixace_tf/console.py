"""What long work shows in a terminal, or in a log where there is none."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

DELAY_S = 2.0
LOG_INTERVAL_S = 30.0

# Told how many of how many are done.
ProgressCallback = Callable[[int, int], None]


class ProgressBar:
    """A bar that appears when work takes longer than two seconds.

    In a terminal it is redrawn in place on standard error; elsewhere a line is
    printed now and then.

    Args:
        title: What is going on.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._is_terminal = sys.stderr.isatty()
        self._printed_at = time.monotonic()
        self._bar: tqdm[Any] = tqdm(
            total=1.0,
            desc=title,
            delay=DELAY_S,
            leave=False,
            dynamic_ncols=True,
            disable=not self._is_terminal,
            bar_format="{desc}: {percentage:3.0f}% |{bar:10}|{postfix}",
        )

    def update(self, share: float, note: str = "") -> None:
        """Show how far the work is.

        Args:
            share: In `[0, 1]`.
            note: A few words behind the bar.
        """
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(min(share, 1.0) - self._bar.n)
        now = time.monotonic()
        if not self._is_terminal and now - self._printed_at > LOG_INTERVAL_S:
            self._printed_at = now
            print(f"{self._title}: {share:4.0%} {note}", file=sys.stderr)

    def count(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self.update(done / max(total, 1), f"{done}/{total}")

    def above(self) -> contextlib.AbstractContextManager[None]:
        """Make room to print lines above the bar."""
        return self._bar.external_write_mode()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def track(title: str) -> Any:
    """Return a function that wraps an iterable in a progress bar.

    Args:
        title: What is going on.

    Returns:
        A function of an iterable and its length.
    """

    def wrap(iterable: Iterable[Any], total: int) -> Iterator[Any]:
        with ProgressBar(title) as bar:
            for done, item in enumerate(iterable, 1):
                bar.count(done, total)
                yield item

    return wrap

"""Standard streams, and the progress of long work in a terminal or log."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress

# Called with the number of items done and their total, 0 if it is unknown.
ProgressCallback = Callable[[int, int], None]

DELAY_S = 2.0
LOG_INTERVAL_S = 30.0
_STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}


def open_standard_streams() -> None:
    """Open the null device in place of closed standard streams.

    Otherwise the next file to be opened would take the place of a closed
    stream, and receive the messages that libraries write there.
    """
    for number, (name, mode) in enumerate(_STREAMS.items()):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            assert handle == number  # The lowest free number.
        if getattr(sys, name) is None:
            stream = open(number, mode, closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is an open terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # None, or a closed stream.
        return False


class ProgressBar:
    """A bar that appears when work takes longer than two seconds.

    If standard error is not a terminal, a line is printed every half minute
    instead. `count` is a `ProgressCallback`:

        with ProgressBar("Reading images") as bar:
            scan(folder, progress=bar.count)

    Args:
        title: A few words about the work.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._is_terminal = is_terminal(sys.stderr)
        self._begin = self._printed_at = time.monotonic()
        self._bar: Progress | None = None

    def update(self, share: float, note: str = "") -> None:
        """Show which share of the work, in `[0, 1]`, is done, and a note."""
        now = time.monotonic()
        if self._is_terminal:
            if self._bar is None and now - self._begin >= DELAY_S:
                self._bar = _start_bar(self._title)
            if self._bar is not None:
                (task,) = self._bar.task_ids
                self._bar.update(task, completed=min(share, 1.0), note=note)
        elif now - self._printed_at > LOG_INTERVAL_S:
            self._printed_at = now
            click.echo(f"{self._title}: {share:4.0%} {note}", err=True)

    def count(self, done: int, total: int) -> None:
        """Show how many items are done; a `ProgressCallback`."""
        if total:
            self.update(done / total, f"{done}/{total}")
        else:
            self.update(0.0, f"{done}")

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Hide the bar while lines are printed."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start_bar(title: str) -> "Progress":
    # Short commands save the import, which takes 0.1 s.
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}: {task.percentage:3.0f}%"),
        BarColumn(10),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        # Redirected lines would move from standard output to standard error.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bar.add_task(escape(title), total=1.0, note="")
    bar.start()
    return bar

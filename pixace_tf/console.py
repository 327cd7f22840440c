"""Standard streams, and the progress of long work in a terminal or log."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.progress import Progress

# Called with the number of items done and their total, 0 if it is unknown.
ProgressCallback = Callable[[int, int], None]
# Receives each line of a report.
Say = Callable[[str], None]
_Item = TypeVar("_Item")

# At most this many lines of one kind are shown.
MAX_LINES = 20
DELAY_S = 2.0
LOG_INTERVAL_S = 30.0
_STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}


def open_standard_streams() -> None:
    """Open the null device in place of closed standard streams.

    Otherwise the next file to be opened would take the place of a closed stream
    and receive what libraries write there.
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


def counted(
    items: Iterable[_Item], total: int, progress: ProgressCallback | None
) -> Iterator[_Item]:
    """Yield items and report how many are done."""
    for done, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress(done, total)


def say_some(say: Say, lines: Sequence[str]) -> None:
    """Say the first 20 lines, and how many more there are."""
    for line in lines[:MAX_LINES]:
        say(line)
    if len(lines) > MAX_LINES:
        say(f"... and {len(lines) - MAX_LINES} more.")


class ProgressBar(contextlib.AbstractContextManager["ProgressBar"]):
    """A bar that appears when work takes longer than two seconds.

    If standard error is not a terminal, a line is printed every half minute
    instead. `title` is a few words about the work.

        with ProgressBar("Reading images") as bar:
            scan(folder, progress=bar.count)
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._is_terminal = is_terminal(sys.stderr)
        self._begin = self._printed_at = time.monotonic()
        self._bar: Progress | None = None

    def update(self, share: float, note: str = "") -> None:
        """Show which share of the work, in `[0, 1]`, is done, and a note."""
        now = time.monotonic()
        if not self._is_terminal:
            if now - self._printed_at > LOG_INTERVAL_S:
                self._printed_at = now
                click.echo(f"{self._title}: {share:4.0%} {note}", err=True)
        elif self._bar or now - self._begin >= DELAY_S:
            self._bar = self._bar or _start_bar(self._title)
            (task,) = self._bar.task_ids
            self._bar.update(task, completed=min(share, 1.0), note=note)

    def count(self, done: int, total: int) -> None:
        """Show how many items are done; a `ProgressCallback`."""
        note = f"{done}/{total}" if total else f"{done}"
        self.update(done / total if total else 0.0, note)

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Hide the bar while lines are printed."""
        if self._bar is not None:
            self._bar.stop()
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.start()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

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


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard standard error, output of C++ included."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

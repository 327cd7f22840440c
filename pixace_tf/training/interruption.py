"""Signals that ask a training to stop, obeyed between two steps."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


class InterruptedTraining(KeyboardInterrupt):
    """Training was stopped by a signal; the checkpoint is written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """Remembers that a signal asked to stop.

    The first SIGINT or SIGTERM is remembered, the second acts at once.
    """

    def __init__(self) -> None:
        self.signum = 0

    def check(self, *_: object) -> None:
        """Raise InterruptedTraining if a signal came."""
        if self.signum:
            raise InterruptedTraining(self.signum)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for signals; outside the main thread, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)
        }

        def remember(signum: int, _: object) -> None:
            self.signum = signum
            os.write(2, b"\nStopping after this step; again stops at once.\n")
            for each, handler in before.items():
                signal.signal(each, handler)

        for each in before:
            signal.signal(each, remember)
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

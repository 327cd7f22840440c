"""Signals that stop a training between two steps."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


class InterruptedTraining(KeyboardInterrupt):
    """A signal stopped the training; the checkpoint is written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; the second one acts at once."""

    def __init__(self) -> None:
        self.signum = 0

    def check(self, *_: object) -> None:
        """Raise `InterruptedTraining` if there was a signal."""
        if self.signum:
            raise InterruptedTraining(self.signum)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for signals; outside the main thread, this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)
        }

        def restore() -> None:
            for each, handler in before.items():
                signal.signal(each, handler)

        def remember(signum: int, _: object) -> None:
            self.signum = signum
            os.write(2, b"\nStopping after this step; again stops at once.\n")
            restore()

        for each in before:
            signal.signal(each, remember)
        try:
            yield
        finally:
            restore()

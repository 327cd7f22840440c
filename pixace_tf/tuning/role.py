"""A chief or a worker of a sweep, as keras-tuner's variables say.

    KERASTUNER_TUNER_ID=... KERASTUNER_ORACLE_IP=... KERASTUNER_ORACLE_PORT=...
        python -m pixace_tf.tuning.role SWEEP_FOLDER

The launcher starts it, and starts it again.
"""

import os
import sys
import threading
import time

from pixace_tf.tuning.space import GAVE_UP, WORKERS
from pixace_tf.tuning.tuner import (
    FatalRuntimeError,
    SweepTuner,
    end_process_on_errors,
    is_chief,
)

# A worker shows every half second that it lives, but machines may stall.
SILENCE_S = 60.0
# Workers ask twice a second whether there is more to do.
FAREWELL_S = 10.0


def serve(tuner: SweepTuner) -> None:
    """Serve the oracle until every trial has ended.

    keras-tuner's server would wait for ever for a worker that is gone; here
    its trial goes to the next one.
    """
    server = threading.Thread(target=tuner.search, daemon=True)
    server.start()
    silence = Silence(os.path.join(tuner.folder, WORKERS))
    while not tuner.oracle.is_exhausted:
        time.sleep(1)
        if not server.is_alive() and not tuner.oracle.is_exhausted:
            raise RuntimeError("The oracle's server has died; see above.")
        for tuner_id in tuner.oracle.busy_workers():
            if silence.seconds(tuner_id) > SILENCE_S:
                tuner.oracle.release(tuner_id)
    server.join(FAREWELL_S)


class Silence:
    """How long workers have been silent, by this machine's own clock.

    Args:
        folder: Where each live worker touches a file of its name.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._heard: dict[str, tuple[float, float]] = {}

    def seconds(self, tuner_id: str) -> float:
        """Return the seconds since a worker was seen to touch its file."""
        try:
            touched = os.path.getmtime(os.path.join(self._folder, tuner_id))
        except OSError:
            touched = 0.0
        now = time.monotonic()
        if self._heard.get(tuner_id, (None, 0))[0] != touched:
            self._heard[tuner_id] = touched, now
        return now - self._heard[tuner_id][1]


if __name__ == "__main__":
    one = SweepTuner(sys.argv[1])
    if is_chief():
        end_process_on_errors(one.oracle)
        serve(one)
        # The server's threads would wait for workers that are gone.
        os._exit(0)
    try:
        one.search()
    except FatalRuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(GAVE_UP)

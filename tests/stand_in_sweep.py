"""A sweep whose trials take milliseconds: real processes, no TensorFlow.

    python stand_in_sweep.py FOLDER TRIALS WORKERS   # work on a sweep
    python stand_in_sweep.py FOLDER train TRIAL_ID   # what it starts
    python stand_in_sweep.py FOLDER wait TRIAL_ID    # the same, without end

The first prints each trial that it begins.
"""

import fcntl
import json
import os
import pathlib
import sys
import time


def train(folder, trial_id):
    """Train as `fit` does: one process at a time, and only once."""
    run = pathlib.Path(folder, "runs", trial_id)
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (run / "figures.json").exists():
            return
        time.sleep(0.02)
        (run / "new").write_text(json.dumps({"bits": 1.0}))
        os.replace(run / "new", run / "figures.json")
        with open(run / "log", "a") as log:
            log.write("trained\n")


def wait(folder, trial_id):
    """Wait for a signal, and tell that it came."""
    from pixace_tf.training.interruption import StopRequest
    from pixace_tf.tuning.workers import end_with_parent

    stop = StopRequest()
    with stop.listening():
        end_with_parent()
        print("waiting", flush=True)
        while not stop.signum:
            time.sleep(0.01)
    pathlib.Path(folder, f"{trial_id} saved").touch()


def work(folder, count, num_workers):
    """Work on a sweep, like a command on one of many machines."""
    from pixace_tf.training.interruption import StopRequest
    from pixace_tf.tuning import trials, workers

    def oracle(found, state):
        if len(found) == count:
            return None
        return trials.Proposal(f"{len(found):04d}", {}, {})

    def command(trial_id):
        print(trial_id, flush=True)
        return [sys.executable, "-S", __file__, folder, "train", trial_id]

    stop = StopRequest()
    workers.work(
        trials.Search(folder, oracle),
        command,
        num_workers,
        workers.Limits(),
        stop,
    )


if __name__ == "__main__":
    if sys.argv[2] in ("train", "wait"):
        {"train": train, "wait": wait}[sys.argv[2]](sys.argv[1], sys.argv[3])
    else:
        work(sys.argv[1], *map(int, sys.argv[2:]))

"""The tuner: keras-tuner's loop, each trial in a process of its own."""

import contextlib
import io
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import grpc
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FailedTrialError, FatalRuntimeError
from keras_tuner.src import config
from keras_tuner.src.distribute import oracle_client

from pixace_tf.tuning import processes
from pixace_tf.tuning.oracle import make_oracle
from pixace_tf.tuning.space import (
    FIGURES_FILE,
    LOGS,
    RUNS,
    TUNER,
    WORKERS,
    PixaceHyperModel,
    load_sweep,
)

config.DEBUG = False  # It prints the traceback of every failed trial.
# A chief that was killed is back long before that.
_PATIENCE_S = 300.0
_PAUSE_S = 0.5


class SweepTuner(BaseTuner):
    """Runs the trials of a sweep, as keras-tuner's variables say.

    By itself it searches; as a chief it serves an oracle; as a worker it asks
    the chief. A trial that fails is recorded, and the search goes on.

    Args:
        folder: The sweep's.
        on_poll: Called some times a second.
    """

    def __init__(
        self, folder: str, on_poll: Callable[[], None] = lambda: None
    ) -> None:
        self.oracle: Any
        self.folder = folder
        self.sweep = load_sweep(folder)
        self._on_poll = on_poll
        for name in (TUNER, WORKERS, LOGS, RUNS):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(
                make_oracle(self.sweep),
                PixaceHyperModel(self.sweep),
                directory=folder,
                project_name=TUNER,
            )
        if self._is_worker():
            self.oracle = _PatientClient(self.oracle)

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Train one trial in a process of its own.

        Returns:
            Its figures; see `trial.measure`.

        Raises:
            FailedTrialError: If it failed, with the reason in one line.
        """
        trial_id, values = trial.trial_id, trial.hyperparameters.values
        log = os.path.join(self.folder, LOGS, f"{trial_id}.log")
        process = processes.start(
            "pixace_tf.tuning.trial",
            [self.folder, trial_id, json.dumps(values)],
            log,
        )
        try:
            code = processes.wait_within(
                process,
                self.sweep.time_limit_s,
                self.sweep.memory_limit_bytes,
                self._beat,
            )
        except processes.LimitExceededError as error:
            raise FailedTrialError(str(error)) from None
        if code:
            raise FailedTrialError(processes.reason(code, log))
        path = os.path.join(self.folder, RUNS, trial_id, FIGURES_FILE)
        with open(path, encoding="utf-8") as file:
            figures: dict[str, float] = json.load(file)
        return figures

    def pre_create_trial(self) -> None:
        """Wait a little before the next trial.

        Otherwise keras-tuner asks again at once while there is nothing to do.
        """
        time.sleep(_PAUSE_S)
        self._beat()

    def on_trial_end(self, trial: Any) -> None:
        """Report a trial, with the reason in one line where it failed."""
        if trial.message:  # A traceback, of which the last line tells.
            last = trial.message.strip().splitlines()[-1]
            trial.message = last.partition(": ")[2] or last
        super().on_trial_end(trial)

    def save(self) -> None:
        """Write the state; it is all in the oracle."""
        if not self._is_worker():
            self.oracle.save()

    def reload(self) -> None:
        """Go on from what was saved."""
        if not self._is_worker():
            self.oracle.reload()

    def _populate_initial_space(self) -> None:
        # Without building a model: the space has no conditions to find.
        space = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(space)
        self.oracle.update_space(space)

    def _get_tuner_fname(self) -> str:
        # The oracle's state is all of the tuner's, whoever ran it before.
        return os.path.join(self.project_dir, "oracle.json")

    def _beat(self) -> None:
        """Show the chief, through the shared folder, that a worker lives."""
        with contextlib.suppress(OSError):  # Next time, perhaps.
            pathlib.Path(self.folder, WORKERS, self.tuner_id).touch()
        self._on_poll()


class _PatientClient:
    """A client of the chief's oracle that bears the chief's being restarted."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # An hour otherwise, for a chief that is gone.
        oracle_client.TIMEOUT = _PATIENCE_S

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return self._patiently(value) if callable(value) else value

    def _patiently(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def patient(*args: Any, **kwargs: Any) -> Any:
            end = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    return call(*args, **kwargs)
                except grpc.RpcError as error:
                    is_away = error.code() is grpc.StatusCode.UNAVAILABLE
                    if not is_away or time.monotonic() > end:
                        raise FatalRuntimeError(
                            f"The chief does not answer: {error.details()}"
                        ) from None
                time.sleep(_PAUSE_S)

        return patient

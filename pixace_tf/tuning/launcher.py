"""The launcher: owns chief and workers, and starts again what dies."""

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Callable

from pixace_tf.errors import UserError
from pixace_tf.tuning import processes
from pixace_tf.tuning.space import GAVE_UP, LOGS

ID = "KERASTUNER_TUNER_ID"
ADDRESS = "KERASTUNER_ORACLE_IP"
PORT = "KERASTUNER_ORACLE_PORT"
# Of one process of a sweep.
MAX_DEATHS = 20
_POLL_S = 0.5
_FAREWELL_S = 30.0


@dataclasses.dataclass
class Member:
    """A process that the launcher keeps alive.

    Attributes:
        tuner_id: Its name for keras-tuner; a chief's holds "chief".
        log: Where its output goes.
        process: The running one, None when it has done its work.
        deaths: How often it has died.
    """

    tuner_id: str
    log: str
    process: processes.Process | None = None
    deaths: int = 0

    @property
    def is_chief(self) -> bool:
        """Whether it serves the oracle."""
        return "chief" in self.tuner_id


def is_distributed() -> bool:
    """Tell whether keras-tuner's variables give this machine a role."""
    return ADDRESS in os.environ


def local_roles(workers: int) -> tuple[list[str], dict[str, str]]:
    """Return the names of a chief and workers here, and their variables.

    Args:
        workers: How many workers this machine shall have. Where keras-tuner's
            variables are set they say whether it has the chief too.

    Raises:
        UserError: If some of the variables are missing, or there is no work.
    """
    if not is_distributed():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        names = ["chief", *(f"worker-{i}" for i in range(workers))]
        return names, {ADDRESS: "127.0.0.1", PORT: port}
    missing = [name for name in (ID, PORT) if name not in os.environ]
    if missing:
        raise UserError(f"{ADDRESS} is set, but not {' and '.join(missing)}.")
    name = os.environ[ID]
    if "chief" in name:
        host = socket.gethostname().replace("chief", "first")
        return [name, *(f"{host}-{i}" for i in range(workers))], {}
    if not workers:
        raise UserError("A machine without a chief needs --workers.")
    return [f"{name}-{i}" for i in range(workers)], {}


def launch(
    folder: str,
    names: list[str],
    variables: dict[str, str],
    on_poll: Callable[[], None],
) -> None:
    """Run the processes of a sweep until it is over.

    Args:
        folder: The sweep's.
        names: Of chief and workers, as `local_roles` returns them.
        variables: For their environment.
        on_poll: Called some times a second.

    Raises:
        UserError: If one dies again and again.
    """
    logs = os.path.join(folder, LOGS)
    os.makedirs(logs, exist_ok=True)
    members = [Member(n, os.path.join(logs, f"{n}.log")) for n in names]
    try:
        for member in members:
            _start(member, folder, variables)
        over_at = None
        while any(member.process for member in members):
            time.sleep(_POLL_S)
            on_poll()
            for member in members:
                _look_after(member, folder, variables)
            is_over = _is_over(members)
            if is_over and over_at is None:
                over_at = time.monotonic()
            if over_at and time.monotonic() - over_at > _FAREWELL_S:
                break
    finally:
        with contextlib.ExitStack() as each:  # All, even after an error.
            for member in members:
                if member.process is not None:
                    each.callback(processes.stop, member.process)


def _start(member: Member, folder: str, variables: dict[str, str]) -> None:
    member.process = processes.start(
        "pixace_tf.tuning.role",
        [folder],
        member.log,
        {**variables, ID: member.tuner_id},
    )


def _look_after(member: Member, folder: str, variables: dict[str, str]) -> None:
    """See whether a process has ended, and start it again if too early."""
    code = None if member.process is None else member.process.poll()
    if code is None:
        return
    assert member.process is not None
    processes.stop(member.process)
    member.process = None
    if code == 0:
        return
    if code == GAVE_UP:
        raise UserError(processes.reason(code, member.log))
    member.deaths += 1
    if member.deaths > MAX_DEATHS:
        raise UserError(
            f"{member.tuner_id} died {member.deaths} times: "
            f"{processes.reason(code, member.log)}"
        )
    _start(member, folder, variables)


def _is_over(members: list[Member]) -> bool:
    """Tell whether the chief has ended, or all the workers of this machine."""
    chiefs = [m for m in members if m.is_chief]
    workers = [m for m in members if not m.is_chief]
    if chiefs and not any(m.process for m in chiefs):
        return True
    return bool(workers) and not any(m.process for m in workers)

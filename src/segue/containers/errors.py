"""What can go wrong with a server that is started, watched and stopped from here."""

from typing import Any, Literal

from segue.core.errors import SegueError

__all__ = ["ContainerError", "Kind"]

Kind = Literal[
    "docker_missing",
    "command_missing",
    "pull",
    "name_conflict",
    "port_in_use",
    "refused",
    "oom",
    "exited",
    "timeout",
    "wrong_model",
    "not_found",
]
"""docker_missing: no Docker engine answers, or its library is not installed. command_missing: the program of a process
is not here. refused: the engine would not start it, for the reason in the text. not_found: none has this name."""


class ContainerError(SegueError):
    """``kind`` is for programs, the text for people; it ends with the server's last lines where there are any.

    What the failed start had created is removed by the time this is raised.
    """

    def __init__(self, kind: Kind, message: str, *, logs: str = "", exit_code: int | None = None) -> None:
        super().__init__(f"{message}\n{logs}" if logs else message)
        self.kind: Kind = kind
        self.message = message
        self.logs = logs
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:  # the text alone would not unpickle into ``kind`` and ``message``
        return _restore, (self.kind, self.message, self.logs, self.exit_code)


def _restore(kind: Kind, message: str, logs: str, exit_code: int | None) -> ContainerError:
    return ContainerError(kind, message, logs=logs, exit_code=exit_code)

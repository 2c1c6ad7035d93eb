"""What Container asks of the place where servers run: a Docker engine, or this machine's processes."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from segue.containers.spec import ContainerSpec

__all__ = ["OURS", "Labels", "Record", "RunState", "Runtime", "free_port", "is_port_free", "owner_of_this_process"]

OURS = "segue.container"
"""Label of everything that was started from here; without it nothing is ever stopped or removed."""
MODEL, OWNER, KEPT, PORT = "segue.model-id", "segue.owner", "segue.kept", "segue.port"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    status: Literal["running", "exited"]
    exit_code: int | None = None
    is_oom: bool = False
    """Ended by the kernel or by a memory limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What is remembered with a server, so that another process can find it."""

    model_id: str | None
    is_kept: bool
    """It is to outlive the process that started it."""
    owner: str
    """Host, id and start time of that process."""

    port: int | None = None
    """Of a container without a network of its own."""

    def as_mapping(self) -> dict[str, str]:
        labels = {OURS: "1", MODEL: self.model_id or "", KEPT: str(self.is_kept).lower(), OWNER: self.owner}
        return labels if self.port is None else labels | {PORT: str(self.port)}

    @classmethod
    def from_mapping(cls, labels: Mapping[str, str]) -> "Labels | None":
        """None: it is not one of ours."""
        if OURS not in labels:
            return None
        port = labels.get(PORT, "")
        return cls(
            model_id=labels.get(MODEL) or None,
            is_kept=labels.get(KEPT) == "true",
            owner=labels.get(OWNER, ""),
            port=int(port) if port.isdecimal() else None,
        )

    @property
    def is_abandoned(self) -> bool:
        """The process that should have removed it is gone, and was on this machine."""
        host, _, rest = self.owner.rpartition("/")
        pid, _, started = rest.partition("@")
        if self.is_kept or host != socket.gethostname() or not pid.isdecimal():
            return False
        return start_time(int(pid)) != started


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A server that exists, running or not."""

    id: str
    name: str
    image: str
    """For a process: its command."""
    url: str | None
    """None while it has no port."""
    labels: Labels | None
    """None: not one of ours."""


class Runtime(Protocol):
    """Every method raises ContainerError(docker_missing) when the engine is not there."""

    def prepare(self, spec: ContainerSpec) -> None:
        """Whatever may take long: get the image. Raises ContainerError(pull)."""

    def start(self, spec: ContainerSpec, labels: Labels, secrets: Mapping[str, str]) -> Record:
        """Start it and return at once. Raises ContainerError, and then leaves nothing behind."""

    def find(self, name: str) -> Record | None: ...

    def records(self) -> list[Record]:
        """Those that are ours."""

    def state(self, id: str) -> RunState | None:
        """None: it is gone."""

    def logs(self, id: str, num_lines: int) -> str:
        """The last lines of its output; empty if it is gone."""

    def wait(self, id: str, seconds: float) -> None:
        """Until it ends, at most so long."""

    def stop(self, id: str, grace_s: float) -> None:
        """SIGTERM, and SIGKILL ``grace_s`` later. Nothing happens to what has ended or is gone."""

    def remove(self, id: str) -> None:
        """End it if need be, and forget it. Nothing happens if it is gone."""

    def close(self) -> None: ...


def owner_of_this_process() -> str:
    return f"{socket.gethostname()}/{os.getpid()}@{start_time(os.getpid())}"


def start_time(pid: int) -> str | None:
    """When the process started, in a form that is only good for comparing; None: there is no such process.

    A process id alone may belong to another program by now.
    """
    try:
        # proc(5): field 22 is starttime; the name in field 2 may hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    listed = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() or None


def free_port(host: str | None) -> int:
    with _listener(host, 0) as listener:
        port: int = listener.getsockname()[1]
        return port


def is_port_free(host: str | None, port: int) -> bool:
    with contextlib.suppress(OSError), _listener(host, port):
        return True
    return False


def _listener(host: str | None, port: int) -> socket.socket:
    family = socket.AF_INET6 if host is not None and ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        # A port whose last connections are still in TIME_WAIT can be served; one with a listener cannot.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host or "0.0.0.0", port))  # noqa: S104
    except BaseException:
        listener.close()
        raise
    return listener

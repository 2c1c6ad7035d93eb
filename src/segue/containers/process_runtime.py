"""Servers as plain processes of this machine, with the life of a container: for where there is no Docker.

Each has a folder with ``record.json`` and ``output.log`` under the cache folder, so that other processes find it.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from segue.containers.errors import ContainerError
from segue.containers.runtime import Labels, Record, RunState, free_port, is_port_free, start_time
from segue.containers.spec import ContainerSpec
from segue.core.config import ServeConfig, cache_folder, environment
from segue.core.options import option_table

__all__ = ["ProcessRuntime"]

_POLL_S = 0.05
_CONTAINERS_ONLY = ("devices", "cpus", "memory", "volumes", "network", "ipc", "privileged")
"""Fields that need a container."""
_OF_THE_MACHINE = frozenset(
    {"HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "NUM_THREADS", "OMP_NUM_THREADS"}
)
"""Options that say where the server is, not what it does."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """``record.json``."""

    name: str
    pid: int
    started: str | None
    command: str
    url: str
    labels: dict[str, str]

    @property
    def id(self) -> str:
        """Not the name alone: a handle must not stop what another has started later under the same name."""
        return f"{self.name}@{self.pid}.{self.started}"

    def record(self) -> Record:
        labels = Labels.from_mapping(self.labels)
        return Record(id=self.id, name=self.name, image=self.command, url=self.url, labels=labels)


class ProcessRuntime:
    """``folder`` holds what is remembered; servers in different folders do not know of each other."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder() / "processes"
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self, spec: ContainerSpec) -> None:
        pass

    def start(self, spec: ContainerSpec, labels: Labels, secrets: Mapping[str, str]) -> Record:
        ignored = [name for name in _CONTAINERS_ONLY if getattr(spec, name)]
        if ignored:
            logger.warning("%s: a process runs without %s; that needs a container", spec.name, ", ".join(ignored))
        spec = replace(spec, port=spec.port or free_port(spec.host))
        if not is_port_free(spec.host, spec.port):
            raise ContainerError("port_in_use", f"port {spec.port} is in use by another program")
        assert spec.name is not None, "Container names what it starts"
        home = self._folder / spec.name
        try:
            home.mkdir(parents=True)
        except FileExistsError:
            raise ContainerError("name_conflict", f"there is a server named '{spec.name}' already") from None
        child = None
        try:
            child = _spawn(spec, secrets, home / "output.log")
            entry = _remember(spec, labels, child.pid, home)
        except BaseException:
            if child is not None:
                _kill(child)
            shutil.rmtree(home, ignore_errors=True)
            raise
        self._children[entry.id] = child
        return entry.record()

    def find(self, name: str) -> Record | None:
        entry = self._read(name)
        return None if entry is None else entry.record()

    def records(self) -> list[Record]:
        if not self._folder.is_dir():
            return []
        found = (self.find(home.name) for home in sorted(self._folder.iterdir()))
        return [record for record in found if record is not None]

    def state(self, id: str) -> RunState | None:
        entry = self._entry(id)
        if entry is None:
            return None
        child = self._children.get(id)
        if child is None:
            is_running = entry.started is not None and start_time(entry.pid) == entry.started
            return RunState(status="running" if is_running else "exited")
        code = child.poll()
        if code is None:
            return RunState(status="running")
        return RunState(status="exited", exit_code=code, is_oom=code == -signal.SIGKILL)

    def logs(self, id: str, num_lines: int) -> str:
        entry = self._entry(id)
        return "" if entry is None else _tail(self._folder / entry.name / "output.log", num_lines)

    def wait(self, id: str, seconds: float) -> None:
        child = self._children.get(id)
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
            return
        until = time.monotonic() + seconds
        while (state := self.state(id)) and state.status == "running" and time.monotonic() < until:
            time.sleep(min(_POLL_S, seconds))

    def stop(self, id: str, grace_s: float) -> None:
        entry = self._entry(id)
        if entry is None or not self._is_running(id):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(entry.pid, signal.SIGTERM)
        self.wait(id, grace_s)
        if self._is_running(id):
            logger.warning("%s did not end within %g s of SIGTERM, and is killed", entry.name, grace_s)
            _kill_group(entry.pid)
            self.wait(id, 10.0)

    def remove(self, id: str) -> None:
        entry = self._entry(id)
        if entry is None:
            return
        self.stop(id, 0.0)
        self._children.pop(id, None)
        if start_time(entry.pid) is None:
            # A launcher that crashed may leave workers behind, in its group. While there are any, no other process can
            # have the group's number; if there are none, a process that has it by now shows in start_time.
            _kill_group(entry.pid)
        shutil.rmtree(self._folder / entry.name, ignore_errors=True)

    def close(self) -> None:
        pass

    def _is_running(self, id: str) -> bool:
        state = self.state(id)
        return state is not None and state.status == "running"

    def _entry(self, id: str) -> _Entry | None:
        entry = self._read(id.rpartition("@")[0])
        return entry if entry is not None and entry.id == id else None

    def _read(self, name: str) -> _Entry | None:
        try:
            return _Entry(**json.loads((self._folder / name / "record.json").read_text("utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None


def _spawn(spec: ContainerSpec, secrets: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    argv = spec.process_argv(segue_serve=(sys.executable, "-m", "segue", "serve"))
    with log.open("wb") as output:
        try:
            return subprocess.Popen(  # noqa: S603
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_machine_environment() | _gpu_environment(spec) | dict(spec.env) | dict(secrets),
                start_new_session=True,  # Ctrl-C in the terminal is ours to handle, and a group can be killed whole
            )
        except OSError as error:
            raise ContainerError("command_missing", f"'{argv[0]}' cannot be started: {error}") from None


def _remember(spec: ContainerSpec, labels: Labels, pid: int, home: Path) -> _Entry:
    entry = _Entry(
        name=home.name,
        pid=pid,
        started=start_time(pid),
        command=" ".join(spec.command or ("segue", "serve")),
        url=f"http://{_reachable(spec.host)}:{spec.port}",
        labels=dict(spec.labels) | labels.as_mapping(),
    )
    partial = home / "record.json.partial"
    partial.write_text(json.dumps(asdict(entry)), "utf-8")
    partial.replace(home / "record.json")
    return entry


def _machine_environment() -> dict[str, str]:
    """This process's variables without the launcher's options, which a container would not see either."""
    options = {variable for entry in option_table(ServeConfig) for variable in entry.env}
    return {name: value for name, value in environment().items() if name not in options - _OF_THE_MACHINE}


def _gpu_environment(spec: ContainerSpec) -> dict[str, str]:
    if spec.gpus == "all":
        return {}
    ids = tuple(str(index) for index in range(spec.gpus)) if isinstance(spec.gpus, int) else spec.gpus or ()
    return {"CUDA_VISIBLE_DEVICES": ",".join(ids)}


def _reachable(host: str | None) -> str:
    if host in (None, "0.0.0.0", "::"):  # noqa: S104
        return "127.0.0.1"
    return f"[{host}]" if ":" in str(host) else str(host)


def _kill(child: "subprocess.Popen[bytes]") -> None:
    _kill_group(child.pid)
    child.wait()


def _kill_group(pid: int) -> None:
    """``pid`` leads a group of its own (``start_new_session``)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _tail(path: Path, num_lines: int, limit_bytes: int = 1 << 20) -> str:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - limit_bytes))
            return b"\n".join(log.read().splitlines()[-num_lines:]).decode("utf-8", "replace") if num_lines else ""
    except FileNotFoundError:
        return ""

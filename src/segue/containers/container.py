"""One server: started, waited for, watched, stopped, and never left behind."""

import atexit
import logging
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from segue.containers.errors import ContainerError, Kind
from segue.containers.runtime import Labels, Record, RunState, Runtime, owner_of_this_process
from segue.containers.spec import ContainerSpec, default_name
from segue.core.config import environment

if TYPE_CHECKING:
    from segue.client import Client

__all__ = ["Container", "ContainerStatus", "open_runtime"]

START_TIMEOUT_S = 600.0
NUM_ERROR_LINES = 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.25
_ABORT_GRACE_S = 5.0
_MEMORY_WORDS = re.compile(r"out of memory|not enough memory|MemoryError", re.IGNORECASE)
_PORT_WORDS = re.compile(r"address (already|is already) in use|port \d+ is (in use|taken)|Errno 98", re.IGNORECASE)
_SIGKILL_CODES = (137, -9)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStatus:
    name: str
    state: Literal["absent", "running", "exited"]
    is_ready: bool = False
    """Its ``/health`` says that it can generate."""
    url: str | None = None
    model_id: str | None = None
    image: str | None = None
    exit_code: int | None = None


class Container:
    """A server with a life: ``with Container(spec) as server: server.client().generate("Once upon")``.

    What is started is removed by ``stop``, at the end of the ``with``, when a start fails or is interrupted, and when
    this process ends; with ``keep`` it outlives this process, for ``Container.attach`` or ``segue container down``.

    Args:
        runtime: "docker" (or whatever speaks its API: DOCKER_HOST), "process", or an own Runtime.
        environ: Where the values of ``spec.secrets`` come from; default: this process's environment.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        *,
        runtime: Runtime | Literal["docker", "process"] = "docker",
        keep: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.spec = spec if spec.name else replace(spec, name=default_name("segue", spec.model_id))
        self._runtime = open_runtime(runtime) if isinstance(runtime, str) else runtime
        self._owns_runtime = isinstance(runtime, str)
        self._keep = keep
        environ = environment() if environ is None else environ
        self._secrets = {name: environ[name] for name in spec.secrets if environ.get(name)}
        self._record: Record | None = None

    @classmethod
    def attach(
        cls,
        name: str,
        *,
        runtime: Runtime | Literal["docker", "process"] = "docker",
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """The one that was started under this name, by any process. It is not stopped when this one ends.

        Raises ContainerError: not_found, or name_conflict when it is not one of ours.
        """
        opened = open_runtime(runtime) if isinstance(runtime, str) else runtime
        try:
            record = opened.find(name)
            if record is None:
                raise ContainerError("not_found", f"there is no server named '{name}'")
            model_id = _ours(record).model_id
        except BaseException:
            if isinstance(runtime, str):
                opened.close()
            raise
        spec = ContainerSpec(image=record.image, name=name, model_id=model_id)
        attached = cls(spec, runtime=opened, keep=True, environ=environ)
        attached._owns_runtime = isinstance(runtime, str)
        attached._record = record
        return attached

    @property
    def name(self) -> str:
        assert self.spec.name is not None
        return self.spec.name

    @property
    def id(self) -> str | None:
        """The engine's id; None while it is not started."""
        return None if self._record is None else self._record.id

    @property
    def url(self) -> str:
        """Raises ContainerError(not_found) while it is not started."""
        if self._record is None or self._record.url is None:
            raise ContainerError("not_found", f"'{self.name}' is not running")
        return self._record.url

    def client(self, **settings: Any) -> "Client":
        """A new client of this server, with its key. The caller closes it."""
        from segue.client import Client

        return Client(self.url, **{"api_key": self._secrets.get("API_KEY"), "environment": {}, **settings})

    def start(self, *, wait: bool = True, timeout: float = START_TIMEOUT_S) -> Self:
        """Start it, and by default wait until it answers. While it runs, a second call only waits.

        A leftover of the same name is replaced: one that has ended, or whose owner died without removing it.

        Raises:
            ContainerError: ``kind`` says why; nothing is left behind.
        """
        if self._has_ended():
            self.stop()
        is_new = self._record is None
        if is_new:
            self._make_room()
            self._runtime.prepare(self.spec)
        try:
            if is_new:
                self._create()
            if wait:
                self.wait_ready(timeout)
        except BaseException:
            self.stop(grace=_ABORT_GRACE_S)
            raise
        return self

    def wait_ready(self, timeout: float = START_TIMEOUT_S) -> None:
        """Until ``/health`` is well and ``/info`` names the model, at most ``timeout`` seconds.

        Raises ContainerError: exited, oom, port_in_use as soon as the server has ended; timeout; wrong_model.
        """
        until = time.monotonic() + timeout
        pause_s = _FIRST_PAUSE_S
        with self.client(max_retries=0) as client:
            while True:
                self._check_running()
                left_s = until - time.monotonic()
                if left_s <= 0:
                    raise self._error("timeout", f"'{self.name}' was not ready within {timeout:g} s")
                if client.health(timeout=min(5.0, left_s), deadline=min(5.0, left_s)):
                    break
                self._runtime.wait(self._id(), min(pause_s, left_s))
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
            self._check_running()  # the answer may have been another server's, on a port that ours did not get
            self._check_model(client)

    def status(self) -> ContainerStatus:
        record = self._record or self._runtime.find(self.name)
        state = None if record is None or record.labels is None else self._runtime.state(record.id)
        if record is None or state is None:
            return ContainerStatus(name=self.name, state="absent")
        return ContainerStatus(
            name=self.name,
            state=state.status,
            is_ready=state.status == "running" and self._is_healthy(record),
            url=record.url,
            model_id=record.labels.model_id if record.labels else None,
            image=record.image,
            exit_code=state.exit_code,
        )

    def logs(self, num_lines: int = 100) -> str:
        """The last lines of the server's output, without the values of ``spec.secrets``."""
        if self._record is None:
            return ""
        text = self._runtime.logs(self._record.id, num_lines)
        for value in self._secrets.values():
            text = text.replace(value, "[redacted]")
        return text.rstrip("\n")

    def stop(self, *, grace: float = 30.0, remove: bool = True) -> None:
        """SIGTERM, ``grace`` seconds for running requests, then SIGKILL; then forget it. Twice is once."""
        if self._record is not None:
            self._runtime.stop(self._record.id, grace)
            if remove or self.spec.auto_remove:
                self._runtime.remove(self._record.id)
                self._record = None
        atexit.unregister(self._end_with_interpreter)

    def close(self) -> None:
        """Let go of the engine, not of the server."""
        if self._owns_runtime:
            self._runtime.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop(grace=30.0 if error is None else _ABORT_GRACE_S)
        finally:
            self.close()

    def _end_with_interpreter(self) -> None:
        try:
            self.stop(grace=_ABORT_GRACE_S)
        except ContainerError as error:
            logger.warning("'%s' may still be running: %s", self.name, error)

    def _id(self) -> str:
        if self._record is None:
            raise ContainerError("not_found", f"'{self.name}' is not running")
        return self._record.id

    def _has_ended(self) -> bool:
        state = None if self._record is None else self._runtime.state(self._record.id)
        return self._record is not None and (state is None or state.status == "exited")

    def _make_room(self) -> None:
        existing = self._runtime.find(self.name)
        if existing is None:
            return
        labels = _ours(existing)
        state = self._runtime.state(existing.id)
        if state is not None and state.status == "running" and not labels.is_abandoned:
            raise ContainerError(
                "name_conflict", f"'{self.name}' is running already: `segue container down {self.name}` ends it"
            )
        logger.info("Removing what was left of '%s'", self.name)
        self._runtime.remove(existing.id)

    def _create(self) -> None:
        """In a thread of its own, where no Ctrl-C can cut it in two: what has been made is known, and so removed."""
        labels = Labels(model_id=self.spec.model_id, is_kept=self._keep, owner=owner_of_this_process())

        def create() -> None:
            self._record = self._runtime.start(self.spec, labels, self._secrets)

        if not self._keep:
            atexit.register(self._end_with_interpreter)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(create).result()

    def _check_running(self) -> None:
        state = self._runtime.state(self._id())
        if state is None:
            raise ContainerError("exited", f"'{self.name}' was removed by somebody else while it was starting")
        if state.status == "exited":
            raise self._exit_error(state)

    def _exit_error(self, state: RunState) -> ContainerError:
        lines = self.logs(NUM_ERROR_LINES)
        ended = f"'{self.name}' ended with code {state.exit_code} before it was ready"
        if state.is_oom or state.exit_code in _SIGKILL_CODES:
            limit = f"; its limit is {self.spec.memory}" if self.spec.memory else ""
            return self._error("oom", f"'{self.name}' was killed, most likely for lack of memory{limit}", state)
        if _PORT_WORDS.search(lines):
            return self._error("port_in_use", f"{ended}: its port is in use", state)
        if _MEMORY_WORDS.search(lines):
            return self._error("oom", f"{ended}: it ran out of memory", state)
        return self._error("exited", ended, state)

    def _error(self, kind: Kind, message: str, state: RunState | None = None) -> ContainerError:
        exit_code = None if state is None else state.exit_code
        return ContainerError(kind, message, logs=self.logs(NUM_ERROR_LINES), exit_code=exit_code)

    def _check_model(self, client: "Client") -> None:
        from segue.client import TGIError

        if self.spec.model_id is None:
            return
        try:
            served = client.info(timeout=5.0).model_id
        except TGIError as error:
            raise self._error("wrong_model", f"'{self.name}' does not say what it serves: {error}") from error
        if served is not None and served.rstrip("/") != self.spec.model_id.rstrip("/"):
            raise self._error("wrong_model", f"'{self.name}' serves '{served}', not '{self.spec.model_id}'")

    def _is_healthy(self, record: Record) -> bool:
        from segue.client import Client

        if record.url is None:
            return False
        with Client(record.url, environment={}, max_retries=0) as client:
            return client.health(timeout=2.0)


def open_runtime(name: Literal["docker", "process"]) -> Runtime:
    """Raises ContainerError(docker_missing)."""
    if name == "process":
        from segue.containers.process_runtime import ProcessRuntime

        return ProcessRuntime()
    from segue.containers.docker_runtime import DockerRuntime

    return DockerRuntime()


def _ours(record: Record) -> Labels:
    if record.labels is None:
        raise ContainerError(
            "name_conflict", f"the name '{record.name}' belongs to a container that was not started from here"
        )
    return record.labels

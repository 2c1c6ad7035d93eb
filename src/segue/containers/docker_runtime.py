"""Containers through the Docker API: of Docker, and of Podman's service, which speaks it too."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from segue.containers.errors import ContainerError
from segue.containers.runtime import OURS, Labels, Record, RunState, free_port, is_port_free
from segue.containers.spec import ContainerSpec, Gpus
from segue.core.config import environment

__all__ = ["DockerRuntime", "create_arguments"]

_RUNNING = ("running", "paused", "restarting")
_NAME_TAKEN = ("is already in use by", "already in use by container")
_PORT_TAKEN = ("address already in use", "port is already allocated", "ports are not available")

logger = logging.getLogger(__name__)


class DockerRuntime:
    """The engine of ``base_url``, of DOCKER_HOST, or of the current Docker context.

    Raises ContainerError(docker_missing) if none answers.
    """

    def __init__(self, base_url: str | None = None) -> None:
        self._docker = _library()
        self._client = self._connect(base_url)

    def prepare(self, spec: ContainerSpec) -> None:
        errors = self._docker.errors
        with self._reaching(), contextlib.suppress(errors.NotFound):
            self._client.images.get(spec.image)
            return
        logger.info("Pulling %s", spec.image)
        repository, tag = self._docker.utils.parse_repository_tag(spec.image)
        try:
            # Unlike ``images.pull``, this tells what went wrong.
            for progress in self._client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
                if "error" in progress:
                    raise _pull_error(spec.image, progress["error"])
        except errors.APIError as error:
            raise _pull_error(spec.image, error.explanation or error) from error
        except OSError as error:
            raise _no_engine(error) from error

    def start(self, spec: ContainerSpec, labels: Labels, secrets: Mapping[str, str]) -> Record:
        if spec.network == "host":
            spec, labels = self._on_host(spec, labels)
        container = None
        try:
            with self._explained(spec):
                container = self._client.containers.create(**create_arguments(spec, labels, secrets))
                container.start()
                container.reload()
            return self._record(container)
        except BaseException:
            if container is not None:
                self.remove(container.id)
            raise

    def find(self, name: str) -> Record | None:
        container = self._get(name)
        # The engine also finds by the beginning of an id.
        return self._record(container) if container is not None and container.name == name else None

    def records(self) -> list[Record]:
        with self._reaching():
            found = self._client.containers.list(all=True, filters={"label": OURS}, ignore_removed=True)
        return sorted((self._record(container) for container in found), key=lambda record: record.name)

    def state(self, id: str) -> RunState | None:
        container = self._get(id)
        if container is None:
            return None
        state = container.attrs["State"]
        if state["Status"] in _RUNNING:
            return RunState(status="running")
        return RunState(status="exited", exit_code=state.get("ExitCode"), is_oom=bool(state.get("OOMKilled")))

    def logs(self, id: str, num_lines: int) -> str:
        container = self._get(id)
        if container is None:
            return ""
        with self._reaching():
            output: bytes = container.logs(tail="all" if self._is_podman() else num_lines)
        lines = output.splitlines()
        return b"\n".join(lines[max(0, len(lines) - num_lines) :]).decode("utf-8", "replace")

    def wait(self, id: str, seconds: float) -> None:
        time.sleep(seconds)

    def stop(self, id: str, grace_s: float) -> None:
        container = self._get(id)
        if container is not None and container.status in _RUNNING:
            with self._reaching(), contextlib.suppress(self._docker.errors.NotFound):
                container.stop(timeout=round(grace_s))

    def remove(self, id: str) -> None:
        container = self._get(id)
        if container is not None:
            with self._reaching(), contextlib.suppress(self._docker.errors.NotFound):
                container.remove(force=True, v=True)

    def close(self) -> None:
        self._client.close()

    def _connect(self, base_url: str | None) -> Any:
        variables = environment()
        try:
            if base_url is None and variables.get("DOCKER_HOST"):
                return self._docker.from_env(environment=variables)
            context = None if base_url is not None else self._docker.ContextAPI.get_current_context()
            if context is None:
                return self._docker.DockerClient(base_url=base_url, version="auto")
            return self._docker.DockerClient(base_url=context.Host, tls=context.TLSConfig or False, version="auto")
        except (self._docker.errors.DockerException, OSError, ValueError) as error:  # ValueError: an odd DOCKER_HOST
            raise _no_engine(error) from error

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Our errors instead of the library's, but for NotFound, which often is an answer."""
        errors = self._docker.errors
        try:
            yield
        except errors.NotFound:
            raise
        except errors.APIError as error:
            raise ContainerError("refused", f"the engine says: {error.explanation or error}") from error
        except OSError as error:  # what the HTTP library below raises
            raise _no_engine(error) from error

    def _is_podman(self) -> bool:
        """Its ``tail`` loses lines that were written in pieces, such as Python's last words (seen with 4.3)."""
        return any("Podman" in part["Name"] for part in self._client.version().get("Components") or ())

    def _get(self, name_or_id: str) -> Any:
        with self._reaching(), contextlib.suppress(self._docker.errors.NotFound):
            return self._client.containers.get(name_or_id)
        return None

    def _record(self, container: Any) -> Record:
        labels = Labels.from_mapping(container.labels)
        return Record(
            id=container.id,
            name=container.name,
            image=container.attrs["Config"]["Image"] if "Config" in container.attrs else "",
            url=self._url(container, labels),
            labels=labels,
        )

    def _url(self, container: Any, labels: Labels | None) -> str | None:
        host = self._engine_host() or "127.0.0.1"
        if labels is not None and labels.port is not None:
            return f"http://{host}:{labels.port}"
        for published in (container.attrs.get("NetworkSettings", {}).get("Ports") or {}).values():
            for binding in published or ():
                address = binding.get("HostIp") or ""
                if self._engine_host() is None and address not in ("", "0.0.0.0", "::"):  # noqa: S104
                    host = f"[{address}]" if ":" in address else address
                return f"http://{host}:{binding['HostPort']}"
        return None

    def _engine_host(self) -> str | None:
        """The machine of a remote engine; None: this one."""
        parts = urlsplit(self._client.api.base_url)
        is_remote = parts.hostname not in (None, "localhost", "localunixsocket", "localnpipe", "127.0.0.1")
        return parts.hostname if is_remote and not parts.scheme.startswith("http+") else None

    def _on_host(self, spec: ContainerSpec, labels: Labels) -> tuple[ContainerSpec, Labels]:
        """The port is the server's own: the engine neither chooses nor checks it."""
        if self._engine_host() is None:
            spec = replace(spec, port=spec.port or free_port(None))
            if not is_port_free(None, spec.port):
                raise ContainerError("port_in_use", f"port {spec.port} is in use by another program")
        elif not spec.port:
            raise ContainerError("refused", "on the network of another machine a port has to be given")
        return spec, replace(labels, port=spec.port)

    @contextlib.contextmanager
    def _explained(self, spec: ContainerSpec) -> Iterator[None]:
        """As ``_reaching``, for the creation of a container."""
        errors = self._docker.errors
        try:
            yield
        except errors.ImageNotFound as error:  # removed since it was looked for
            raise _pull_error(spec.image, error.explanation) from error
        except errors.APIError as error:
            raise _refusal(spec, str(error.explanation or error)) from error
        except OSError as error:
            raise _no_engine(error) from error


def create_arguments(spec: ContainerSpec, labels: Labels, secrets: Mapping[str, str]) -> dict[str, Any]:
    """``spec`` as the Docker library's ``containers.create`` takes it: what ``spec.docker_argv`` asks for."""
    arguments: dict[str, Any] = {
        "image": spec.image,
        "command": spec.server_args,
        "name": spec.name,
        "environment": spec.server_env | dict(secrets),
        "labels": dict(spec.labels) | labels.as_mapping(),
        "volumes": list(spec.volumes),
        "privileged": spec.privileged,
        "device_requests": _device_requests(spec.gpus, spec.devices),
    }
    if spec.network != "host":
        outside = spec.port or None
        published = outside if spec.host is None else (spec.host, outside)
        arguments["ports"] = {f"{spec.inner_port}/tcp": published}
    optional = {
        "shm_size": spec.shm_size,
        "mem_limit": spec.memory,
        "nano_cpus": None if spec.cpus is None else round(spec.cpus * 1e9),
        "ipc_mode": spec.ipc,
        "network": spec.network,
    }
    return arguments | {name: value for name, value in optional.items() if value is not None}


def _device_requests(gpus: Gpus, devices: tuple[str, ...]) -> list[dict[str, Any]]:
    """In the API's words, which the library passes on as they are."""
    requests: list[dict[str, Any]] = []
    if isinstance(gpus, tuple):
        requests.append({"DeviceIDs": list(gpus), "Capabilities": [["gpu"]]})
    elif gpus is not None:
        requests.append({"Count": -1 if gpus == "all" else gpus, "Capabilities": [["gpu"]]})
    if devices:
        requests.append({"Driver": "cdi", "DeviceIDs": list(devices)})
    return requests


def _refusal(spec: ContainerSpec, reason: str) -> ContainerError:
    lowered = reason.lower()
    if any(words in lowered for words in _PORT_TAKEN):
        return ContainerError("port_in_use", f"port {spec.port} is in use by another program: {reason}")
    if any(words in lowered for words in _NAME_TAKEN):
        return ContainerError("name_conflict", f"there is a container named '{spec.name}' already")
    return ContainerError("refused", f"the engine does not start '{spec.name}': {reason}")


def _pull_error(image: str, reason: object) -> ContainerError:
    return ContainerError("pull", f"the image '{image}' is not here, and cannot be pulled: {reason}")


def _no_engine(reason: object) -> ContainerError:
    return ContainerError(
        "docker_missing",
        f"no Docker engine answers ({reason}); start one, name one in DOCKER_HOST, or use the process runtime",
    )


def _library() -> Any:
    try:
        import docker
    except ImportError as error:
        raise ContainerError(
            "docker_missing", "the Docker library is missing: pip install 'segue[containers]'"
        ) from error
    return docker

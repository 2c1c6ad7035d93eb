"""What to run, as one frozen value: from it come the arguments of ``docker run``, of the Docker API, of a process."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.core.options import Option, option_table

__all__ = ["ContainerSpec", "Gpus", "OptionValue", "default_name"]

OptionValue = str | int | float | bool | tuple[str, ...]
Gpus = Literal["all"] | int | tuple[str, ...] | None
"""All, so many, the ids or UUIDs of certain ones, or none."""

GOOGLE_IMAGES = "us-docker.pkg.dev/deeplearning-platform-release/"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """One server in a container, or, with ``runtime="process"``, as a plain process.

    Raises ConfigError for values that cannot work, and for a secret that would show in process lists.
    """

    image: str
    model_id: str | None = None
    """What the server is to serve, and must say in ``/info`` that it does; None: what the image decides."""
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """More of the launcher's options, by the names of its flags in snake_case: ``{"max_total_tokens": 4096}``."""
    options_as: Literal["flags", "env"] = "flags"
    """Whether model and options are given behind the image's name, or as environment variables."""
    args: tuple[str, ...] = ()
    """Further arguments behind the image's name, as they are."""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ("HF_TOKEN",)
    """Variables that the server gets with the value they have here, where they have one. Never part of an argv.

    With ``API_KEY`` among them the server asks for that key, and ``Container.client`` sends it.
    """

    name: str | None = None
    host: str | None = "127.0.0.1"
    """Address of this machine on which the port is published; None: every one."""
    port: int = 0
    """Port of this machine; 0: any that is free."""
    container_port: int | None = None
    """Port that the server listens on inside; None: 8080 in Google's images, else 80."""

    gpus: Gpus = None
    devices: tuple[str, ...] = ()
    """CDI devices, such as ``nvidia.com/gpu=0``."""
    cpus: float | None = None
    memory: str | None = None
    """Such as ``4g``; a server that needs more is ended by the kernel."""
    shm_size: str | None = "1g"
    volumes: tuple[str, ...] = ()
    """``/host/folder:/data`` or ``volume:/data:ro``."""
    network: str | None = None
    """``host``: no network of its own, ``port`` is the server's own port."""
    ipc: str | None = None
    privileged: bool = False
    auto_remove: bool = False
    """``--rm`` by hand. What ``Container`` starts it removes itself, after reading its last lines."""
    labels: Mapping[str, str] = field(default_factory=dict)

    command: tuple[str, ...] | None = None
    """For ``runtime="process"``: what to start instead of ``segue serve``; gets the launcher's flags."""

    def __post_init__(self) -> None:
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise ConfigError(f"'{self.name}' is no container name: letters, digits, '_', '.' and '-' only")
        for label, port in (("port", self.port), ("container_port", self.container_port or 0)):
            if not 0 <= port <= 65535:
                raise ConfigError(f"`{label}` must be a port number, not {port}")
        unknown = sorted(set(self.options) - set(_known_options()))
        if unknown:
            raise ConfigError(
                f"the launcher has no option {', '.join(unknown)}; what only one image has goes in `args`"
            )
        if "model_id" in self.options or "port" in self.options or "hostname" in self.options:
            raise ConfigError("`model_id` and `port` are fields of the spec; the server listens on every address")
        self._refuse_secrets()

    def _refuse_secrets(self) -> None:
        shown = [name for name in (*self.env, *self.options) if _SECRET_NAME.search(name)]
        shown += [arg for arg in self.args if arg.startswith("--") and _SECRET_NAME.search(arg.partition("=")[0])]
        if shown:
            raise ConfigError(
                f"{shown[0]} would show in process lists: set it in the environment, name it in `secrets`"
            )

    @property
    def inner_port(self) -> int:
        if self.network == "host":
            return self.port
        if self.container_port is not None:
            return self.container_port
        return 8080 if self.image.startswith(GOOGLE_IMAGES) else 80

    @property
    def server_env(self) -> dict[str, str]:
        """Variables without the secrets."""
        env = {name.upper(): _text(value) for name, value in self._options().items()} if self._gives_env() else {}
        if self.network == "host":
            env["PORT"] = str(self.port)
        elif self.container_port is not None:
            env["PORT"] = str(self.container_port)
        return env | dict(self.env)

    @property
    def server_args(self) -> list[str]:
        """What stands behind the image's name."""
        flags = [] if self._gives_env() else launcher_flags(self._options())
        return [*flags, *self.args]

    def docker_argv(self, *, detach: bool | None = None) -> list[str]:
        """``docker run …``, to be read or run by hand. ``detach`` (``-d``) by default when it has a name."""
        argv = ["docker", "run"]
        argv += ["-d"] if (self.name is not None if detach is None else detach) else []
        argv += ["--rm"] if self.auto_remove else []
        argv += ["--name", self.name] if self.name else []
        argv += ["-p", self._published()] if self.network != "host" else []
        argv += ["--gpus", gpus_text(self.gpus)] if self.gpus is not None else []
        for flag, value in (
            ("--cpus", None if self.cpus is None else f"{self.cpus:g}"),
            ("--memory", self.memory),
            ("--shm-size", self.shm_size),
            ("--ipc", self.ipc),
            ("--network", self.network),
        ):
            argv += [flag, value] if value is not None else []
        argv += ["--privileged"] if self.privileged else []
        for flag, values in (
            ("--device", self.devices),
            ("-v", self.volumes),
            ("--label", [f"{key}={value}" for key, value in self.labels.items()]),
            ("-e", [f"{key}={value}" for key, value in self.server_env.items()]),
            ("-e", self.secrets),
        ):
            argv += [part for value in values for part in (flag, value)]
        return [*argv, self.image, *self.server_args]

    def process_argv(self, segue_serve: tuple[str, ...] = ("segue", "serve")) -> list[str]:
        """The same server without a container, on ``port``."""
        listening: dict[str, OptionValue] = {"hostname": self.host or "0.0.0.0", "port": self.port}  # noqa: S104
        return [*(self.command or segue_serve), *launcher_flags(self._options() | listening), *self.args]

    def _gives_env(self) -> bool:
        return self.options_as == "env"

    def _options(self) -> dict[str, OptionValue]:
        return ({"model_id": self.model_id} if self.model_id is not None else {}) | dict(self.options)

    def _published(self) -> str:
        outside = str(self.port) if self.port else ""
        if self.host is not None:
            return f"{_bracketed(self.host)}:{outside}:{self.inner_port}"
        return f"{outside}:{self.inner_port}" if outside else str(self.inner_port)


def default_name(prefix: str, model_id: str | None) -> str:
    """``prefix`` and the model's name, in the letters that a container's name may have."""
    words = re.sub(r"[^a-zA-Z0-9_.-]+", "-", model_id or "server").strip("-")
    return f"{prefix}-{words}"


def gpus_text(gpus: Gpus) -> str:
    """As ``docker run --gpus`` reads it: several ids are quoted inside, since a comma separates its fields."""
    if isinstance(gpus, tuple):
        devices = f"device={','.join(gpus)}"
        return devices if len(gpus) == 1 else f'"{devices}"'
    return str(gpus)


def launcher_flags(options: Mapping[str, OptionValue]) -> list[str]:
    known = _known_options()
    argv: list[str] = []
    for name, value in options.items():
        if not known[name].is_switch:
            argv += [f"--{name.replace('_', '-')}", _text(value)]
        elif value is True:
            argv.append(f"--{name.replace('_', '-')}")
    return argv


def _text(value: OptionValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _known_options() -> dict[str, Option]:
    return {entry.name: entry for entry in option_table(ServeConfig)}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

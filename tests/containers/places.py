"""One of the two runtimes with ``tiny_server.py`` in it; other processes of a test open the same one."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.containers import Container, ContainerSpec
from segue.containers.docker_runtime import DockerRuntime
from segue.containers.process_runtime import ProcessRuntime
from segue.containers.runtime import Runtime

TINY = Path(__file__).with_name("tiny_server.py")
TINY_IMAGE = "localhost/segue-test-tiny:latest"


@dataclass
class Place:
    kind: str
    where: str
    """A folder, or the engine's address."""
    runtime: Runtime

    def spec(self, behaviour: str = "", **fields: Any) -> ContainerSpec:
        defaults: dict[str, Any] = {
            "image": TINY_IMAGE,
            "command": (sys.executable, str(TINY)),
            "name": "segue-test",
            "model_id": "my/model",
            "shm_size": None,
            "secrets": (),
        }
        env = {"TINY_BEHAVIOUR": behaviour, **fields.pop("env", {})}
        return ContainerSpec(env=env, **{**defaults, **fields})

    def container(
        self, behaviour: str = "", *, keep: bool = False, environ: Mapping[str, str] | None = None, **fields: Any
    ) -> Container:
        return Container(self.spec(behaviour, **fields), runtime=self.runtime, keep=keep, environ=environ or {})

    def names(self) -> list[str]:
        return [record.name for record in self.runtime.records()]


def open_place(kind: str, where: str) -> Place:
    return Place(kind, where, ProcessRuntime(Path(where)) if kind == "process" else DockerRuntime(where))

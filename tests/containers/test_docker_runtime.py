"""What only a container engine can show."""

import gc
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from containers.places import TINY_IMAGE, Place, open_place

from segue.containers import Container, ContainerError, ContainerSpec
from segue.containers.docker_runtime import DockerRuntime, create_arguments
from segue.containers.runtime import Labels

LIBRARY_LEAKS = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
"""The Docker library does not close a socket that could not connect."""
LABELS = Labels(model_id="my/model", is_kept=False, owner="here/1@2")


@pytest.fixture
def docker(tiny_image: str, engine_url: str) -> Iterator[Place]:
    place = open_place("docker", engine_url)
    yield place
    for record in place.runtime.records():
        place.runtime.remove(record.id)
    place.runtime.close()


@pytest.mark.parametrize(
    ("gpus", "devices", "requests"),
    [
        (None, (), []),
        ("all", (), [{"Count": -1, "Capabilities": [["gpu"]]}]),
        (2, (), [{"Count": 2, "Capabilities": [["gpu"]]}]),
        (("0", "3"), (), [{"DeviceIDs": ["0", "3"], "Capabilities": [["gpu"]]}]),
        (None, ("nvidia.com/gpu=0",), [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}]),
    ],
)
def test_gpus_in_the_words_of_the_api(gpus: Any, devices: tuple[str, ...], requests: list[dict[str, Any]]) -> None:
    spec = ContainerSpec(image="segue", name="x", gpus=gpus, devices=devices)
    assert create_arguments(spec, LABELS, {})["device_requests"] == requests


def test_api_and_command_line_make_the_same_container(docker: Place, engine_url: str, engine: Any) -> None:
    program = shutil.which("docker")
    if program is None:
        pytest.skip("there is no docker command to compare with")
    fields: dict[str, Any] = {
        "options": {"max_total_tokens": 64},
        "args": ("--json-output",),
        "env": {"LOG_LEVEL": "debug"},
        "port": 18080,
        "cpus": 1.5,
        "memory": "256m",
        "shm_size": "64m",
        "ipc": "private",
        "volumes": ("/tmp:/data:ro",),
        "labels": {"team": "nlp"},
    }
    spec = docker.spec(name="segue-test-cli", **fields)
    argv = spec.docker_argv(detach=False)
    subprocess.run([program, "-H", engine_url, "create", *argv[2:]], check=True, capture_output=True)
    by_hand = engine.containers.get("segue-test-cli")
    try:
        container = Container(docker.spec(**fields), runtime=docker.runtime, environ={}).start(wait=False)
        ours = engine.containers.get(container.id)
        assert _essence(ours) == _essence(by_hand)
        container.stop(grace=1)
    finally:
        by_hand.remove(force=True)


def _essence(container: Any) -> dict[str, Any]:
    host, config = container.attrs["HostConfig"], container.attrs["Config"]
    names = ("Binds", "PortBindings", "NanoCpus", "Memory", "ShmSize", "IpcMode", "NetworkMode", "Privileged")
    labels = {key: value for key, value in config["Labels"].items() if not key.startswith("segue.")}
    # Podman adds HOME when it starts one.
    env = sorted(variable for variable in config["Env"] if not variable.startswith(("HOME=", "HOSTNAME=")))
    return {name: host[name] for name in names} | {"labels": labels, "env": env, "command": config["Cmd"]}


def test_memory_limit_is_named(docker: Place) -> None:
    with pytest.raises(ContainerError) as caught:
        docker.container("eats memory", memory="64m").start(timeout=60)
    assert caught.value.kind == "oom"
    assert "its limit is 64m" in str(caught.value)
    assert docker.names() == []


def test_container_of_somebody_else_is_left_alone(docker: Place, engine: Any) -> None:
    other = engine.containers.create(TINY_IMAGE, name="segue-test")
    try:
        for attempt in (docker.container().start, lambda: Container.attach("segue-test", runtime=docker.runtime)):
            with pytest.raises(ContainerError) as caught:
                attempt()
            assert caught.value.kind == "name_conflict"
        assert docker.container().status().state == "absent"
        other.reload()
    finally:
        other.remove(force=True)


def test_name_is_not_taken_for_an_id(docker: Place) -> None:
    with docker.container() as container:
        assert docker.runtime.find((container.id or "")[:12]) is None


def test_image_that_cannot_be_had(docker: Place) -> None:
    with pytest.raises(ContainerError) as caught:
        Container(ContainerSpec(image="localhost:1/no/image:1"), runtime=docker.runtime, environ={}).start()
    assert caught.value.kind == "pull"
    assert "localhost:1/no/image:1" in str(caught.value)


def test_what_the_engine_refuses(docker: Place) -> None:
    with pytest.raises(ContainerError) as caught:
        docker.container(network="no-such-network").start()
    assert caught.value.kind == "refused"
    assert "no-such-network" in str(caught.value)
    assert docker.names() == []


def test_network_of_the_host(docker: Place) -> None:
    with docker.container(network="host") as container:
        assert container.status().is_ready
        assert Container.attach("segue-test", runtime=docker.runtime).url == container.url


def test_port_that_is_taken_on_the_network_of_the_host(docker: Place) -> None:
    """Which the engine does not notice."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ContainerError) as caught:
        docker.container(network="host", port=other.getsockname()[1]).start()
    assert caught.value.kind == "port_in_use"
    assert docker.names() == []


@LIBRARY_LEAKS
def test_no_engine(tmp_path: Any) -> None:
    with pytest.raises(ContainerError) as caught:
        DockerRuntime(f"unix://{tmp_path}/nobody.sock")
    assert caught.value.kind == "docker_missing"
    del caught
    gc.collect()


@LIBRARY_LEAKS
def test_engine_from_the_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(ContainerError, match="DOCKER_HOST") as caught:
        Container(ContainerSpec(image="segue"))
    assert caught.value.kind == "docker_missing"
    del caught
    gc.collect()

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client.tgi_server import TgiServer

from segue.conformance.check import SUCCESS, verdict
from segue.conformance.container import CONTAINER, Deployment, run_container
from segue.conformance.lab import Target
from segue.containers import Container, ContainerSpec
from segue.containers.process_runtime import ProcessRuntime

TESTS = Path(__file__).parents[1]
PROGRAM = Path(__file__).with_name("served_tgi.py")
NAMES = [
    "container_command",
    "container_deployment",
    "container_connectivity",
    "endpoint_handler_creation",
    "text_generation",
    "generation_params",
    "streaming_generation",
    "health_check",
    "container_shutdown",
    "shutdown_command",
]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(tmp_path)
    yield runtime
    for record in runtime.records():
        runtime.remove(record.id)


def _container(runtime: ProcessRuntime, **fields: Any) -> Container:
    settings: dict[str, Any] = {
        "image": "served",
        "model_id": "m",
        "name": "checked",
        "command": (sys.executable, str(PROGRAM)),
        "env": {"PYTHONPATH": str(TESTS)},
        "secrets": ("API_KEY",),
    }
    return Container(ContainerSpec(**{**settings, **fields}), runtime=runtime, environ={"API_KEY": "secret-key"})


def test_names_are_those_of_the_seed_system() -> None:
    assert [check.name for check in CONTAINER] == NAMES


def test_a_good_server_passes_and_is_gone_afterwards(runtime: ProcessRuntime) -> None:
    results = run_container(Deployment(_container(runtime)))
    assert results == dict.fromkeys(NAMES, SUCCESS)
    assert runtime.records() == []


def test_a_server_that_runs_already_is_neither_started_nor_stopped(server: TgiServer) -> None:
    results = run_container(Deployment(None, Target(server.url, "m", "secret-key")))
    verdicts = {name: verdict(result) for name, result in results.items()}
    skipped = {"container_command", "container_deployment", "container_shutdown", "shutdown_command"}
    assert {name for name, each in verdicts.items() if each == "Skipped"} == skipped
    assert {each for name, each in verdicts.items() if name not in skipped} == {SUCCESS}
    assert {seen.key for seen in server.posts} == {"secret-key"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"command": (sys.executable, "-c", "raise SystemExit('no such model')")}, "no such model"),
        ({"model_id": "another"}, "serves 'm', not 'another'"),
        ({"command": ("/no/such/program",)}, "cannot be started"),
    ],
)
def test_what_does_not_start_fails_with_its_reason(
    runtime: ProcessRuntime, fields: dict[str, Any], reason: str
) -> None:
    results = run_container(Deployment(_container(runtime, **fields)))
    assert results["container_deployment"].startswith("Failed: ContainerError: ")
    assert reason in results["container_deployment"]
    for name in NAMES[2:8]:
        assert results[name] == "Skipped: no server was started"
    assert runtime.records() == []


def test_an_interrupt_leaves_nothing_behind(runtime: ProcessRuntime) -> None:
    def interrupt(name: str, result: object, seconds: float) -> None:
        if name == "text_generation":
            assert runtime.records() != []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_container(Deployment(_container(runtime)), on_result=interrupt)
    assert runtime.records() == []


def test_a_secret_in_the_command_fails(runtime: ProcessRuntime) -> None:
    results = run_container(Deployment(_container(runtime, labels={"API_KEY": "secret-key"})))
    assert results["container_command"] == "Failed: the command shows the value of API_KEY"

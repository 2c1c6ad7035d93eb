"""The checks of a server in a container: from its start to the end of it. Each needs what the one before left."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from segue.client import Client, TGIError
from segue.conformance.check import SUCCESS, Check, CheckFailed, CheckSkipped, Results, collect, expect, status_of
from segue.conformance.lab import Target, prompt_for
from segue.containers import Container, ContainerError

__all__ = ["CONTAINER", "Deployment", "run_container"]

_NOT_OURS = "somebody else runs this server"


@dataclass(slots=True)
class Deployment:
    """The server under way. ``container`` None: one that runs already, at ``target``."""

    container: Container | None
    target: Target | None = None
    start_timeout_s: float = 600.0
    is_debugged: bool = False

    def own(self) -> Container:
        if self.container is None:
            raise CheckSkipped(_NOT_OURS)
        return self.container

    def start(self) -> None:
        container = self.own()
        container.start(timeout=self.start_timeout_s)
        with container.client() as client:
            self.target = Target(container.url, client.info().model_id, is_debugged=self.is_debugged)

    def stop(self) -> None:
        if self.container is not None:
            self.container.stop()

    def client(self) -> Client:
        """Raises CheckSkipped when there is no server to ask."""
        if self.target is None:
            raise CheckSkipped("no server was started")
        if self.container is not None:
            return self.container.client(environment=self.target.environment)
        return Client(self.target.url, api_key=self.target.api_key, environment=self.target.environment)

    @property
    def prompt(self) -> str:
        assert self.target is not None
        return prompt_for(self.target.model_id)


def container_command(deployment: Deployment) -> None:
    """``docker run`` with the model, and without a secret's value."""
    spec = deployment.own().spec
    argv = spec.docker_argv()
    expect(argv[:2] == ["docker", "run"], f"the command begins with {argv[:2]}")
    has_model = spec.model_id is None or any(spec.model_id in part for part in argv)
    expect(has_model, f"the command does not name {spec.model_id}")
    with_values = [name for name in spec.secrets if any(part.startswith(f"{name}=") for part in argv)]
    expect(not with_values, f"the command shows the value of {', '.join(with_values)}")


def container_deployment(deployment: Deployment) -> None:
    """It starts, and is ready when ``start`` comes back."""
    deployment.start()
    status = deployment.own().status()
    expect(status.state == "running" and status.is_ready, f"it is {status.state}, ready: {status.is_ready}")


def container_connectivity(deployment: Deployment) -> None:
    """``/info`` names the model."""
    with deployment.client() as client:
        served = client.info().model_id
    expect(served, "/info names no model")
    asked = None if deployment.container is None else deployment.container.spec.model_id
    expect(asked in (None, served), f"{asked} was to be served, /info names {served}")


def endpoint_handler_creation(deployment: Deployment) -> None:
    """A client of the container asks the container."""
    with deployment.client() as client:
        result = client.generate(deployment.prompt, max_new_tokens=1)
        expect(client.stats().endpoints_count == 1, "there is more than one endpoint")
        expect(result.response.endpoint in client.stats().endpoints, f"{result.response.endpoint} answered")


def text_generation(deployment: Deployment) -> None:
    with deployment.client() as client:
        result = client.generate(deployment.prompt, max_new_tokens=10)
    expect(result.details and result.details.generated_tokens >= 1, "nothing was generated")


def generation_params(deployment: Deployment) -> None:
    """20 tokens at temperature 0.7, and the same again with the same seed."""
    with deployment.client() as client:
        first, second = (
            client.generate(deployment.prompt, max_new_tokens=20, temperature=0.7, seed=11) for _ in range(2)
        )
    expect(first.details and first.details.generated_tokens <= 20, "max_new_tokens is not minded")
    expect(first.generated_text == second.generated_text, "the same seed gave two texts")


def streaming_generation(deployment: Deployment) -> None:
    with deployment.client() as client, client.generate(deployment.prompt, max_new_tokens=10, stream=True) as stream:
        events = list(stream)
    expect(len(events) > 1, f"{len(events)} event came")
    expect(events[-1].generated_text is not None, "the last event has no generated_text")


def health_check(deployment: Deployment) -> None:
    with deployment.client() as client:
        expect(client.health(), "/health does not answer with success")


def container_shutdown(deployment: Deployment) -> None:
    """After ``stop`` nothing answers at its address."""
    container = deployment.own()
    with deployment.client() as client:
        container.stop()
        expect(not client.health(), "a stopped server still answers")


def shutdown_command(deployment: Deployment) -> None:
    """What was stopped is gone, its name is free, and a second stop does nothing."""
    container = deployment.own()
    container.stop()
    state = container.status().state
    expect(state == "absent", f"after stop it is {state}")


CONTAINER = collect(
    container_command,
    container_deployment,
    container_connectivity,
    endpoint_handler_creation,
    text_generation,
    generation_params,
    streaming_generation,
    health_check,
    container_shutdown,
    shutdown_command,
)


def run_container(
    deployment: Deployment,
    *,
    on_result: Callable[[str, object, float], None] = lambda name, result, seconds: None,
) -> Results:
    """Whatever happens, what was started is stopped at the end."""
    results: Results = {}
    try:
        for check in CONTAINER:
            began = time.monotonic()
            results[check.name] = result = _run(check, deployment)
            on_result(check.name, result, time.monotonic() - began)
    finally:
        deployment.stop()
    return results


def _run(check: Check[Deployment], deployment: Deployment) -> str:
    try:
        check.run(deployment)
    except (CheckSkipped, CheckFailed, ContainerError, TGIError) as error:
        return status_of(error)
    return SUCCESS

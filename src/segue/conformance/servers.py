"""The server that is checked: one that runs already, or one that is started for it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from segue.client import Client, TGIError, read_environment
from segue.conformance.container import Deployment
from segue.conformance.lab import Target
from segue.conformance.options import CheckOptions
from segue.containers import Container, ContainerError, ContainerSpec

__all__ = ["CannotStartError", "UnreachableError", "deployment", "running_target"]

_MAX_KEYS = 3


class UnreachableError(Exception):
    """No TGI server answers where one was said to be."""


class CannotStartError(Exception):
    """This machine cannot start what the checks need: no Docker, no image, no memory, no such model …"""


@contextmanager
def running_target(options: CheckOptions, environ: Mapping[str, str]) -> Iterator[Target]:
    """The server of ``container_url``, else one that is started as a process and stopped again.

    Raises UnreachableError, CannotStartError.
    """
    if options.container_url is not None:
        yield _target_of_url(options, environ)
        return
    container = Container(_process_spec(options), runtime="process", environ=_with_key(options, environ))
    try:
        try:
            container.start()
        except ContainerError as error:
            raise CannotStartError(str(error)) from error
        with container.client() as client:
            model_id = client.info().model_id
        yield Target(container.url, model_id, options.api_key, is_debugged=read_environment(environ).debug)
    finally:
        container.stop()
        container.close()


@contextmanager
def deployment(options: CheckOptions, environ: Mapping[str, str]) -> Iterator[Deployment]:
    """What the container checks start; with a ``container_url`` the server there, which they cannot start or stop.

    Raises UnreachableError, CannotStartError.
    """
    if options.container_url is not None:
        yield Deployment(None, _target_of_url(options, environ))
        return
    is_process = options.runtime == "process"
    spec = _process_spec(options) if is_process else _container_spec(options)
    try:
        container = Container(spec, runtime="process" if is_process else "docker", environ=_with_key(options, environ))
    except ContainerError as error:
        raise CannotStartError(error.message) from error
    try:
        yield Deployment(container, is_debugged=read_environment(environ).debug)
    finally:
        container.stop()
        container.close()


def _target_of_url(options: CheckOptions, environ: Mapping[str, str]) -> Target:
    assert options.container_url is not None
    variables = read_environment(environ)
    keys = tuple(key for key, _ in variables.numbered[:_MAX_KEYS])
    target = Target(options.container_url, options.model, options.api_key, keys, is_debugged=variables.debug)
    # The hosted API does not say what it serves; it is believed to serve what the URL names.
    return (
        target
        if target.is_hosted
        else Target(target.url, _served_model(target), target.api_key, keys, is_debugged=variables.debug)
    )


def _served_model(target: Target) -> str:
    with Client(target.root, api_key=target.api_key, max_retries=0, environment=target.environment) as client:
        try:
            return client.info(timeout=10.0).model_id
        except TGIError as error:
            raise UnreachableError(f"no TGI server answers at {target.root}: {error}") from error


def _process_spec(options: CheckOptions) -> ContainerSpec:
    return ContainerSpec(image="segue", model_id=options.model, name=_name(), secrets=("HF_TOKEN", "API_KEY"))


def _container_spec(options: CheckOptions) -> ContainerSpec:
    gpu = options.gpu_device
    return ContainerSpec(
        image=f"{options.docker_registry}:{options.container_tag}",
        model_id=options.model,
        name=_name(),
        gpus=None if gpu is None else "all" if gpu == "all" else (gpu,),
        secrets=("HF_TOKEN", "API_KEY"),
    )


def _name() -> str:
    return f"segue-check-{os.getpid()}"


def _with_key(options: CheckOptions, environ: Mapping[str, str]) -> dict[str, str]:
    """A server that is started asks for the key that was given, and for none otherwise."""
    without = {name: value for name, value in environ.items() if name != "API_KEY"}
    return without if options.api_key is None else {**without, "API_KEY": options.api_key}

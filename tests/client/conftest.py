"""A server for each test, and either client of it with one face."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from client.tgi_server import TgiServer

from segue.client import AsyncClient, AsyncStream, Client
from segue.client.async_client import AsyncModels


@pytest.fixture
def server() -> Iterator[TgiServer]:
    with TgiServer() as running:
        yield running


class Blocking:
    """An AsyncClient, or a part of one, that can be called like a Client."""

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self._target, self._runner = target, runner

    def __getattr__(self, name: str) -> Any:
        return self._wrap(getattr(self._target, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            result = self._target(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return self._wrap(self._runner.run(call()))

    def __iter__(self) -> Iterator[Any]:
        async def advance() -> Any:
            return await anext(self._target, None)

        while (event := self._runner.run(advance())) is not None:
            yield event

    def _wrap(self, value: Any) -> Any:
        is_part = (
            callable(value) or isinstance(value, AsyncClient | AsyncModels | AsyncStream) or hasattr(value, "__anext__")
        )
        return Blocking(value, self._runner) if is_part else value


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes a Client, or an AsyncClient that behaves like one."""
    made: list[Any] = []
    with asyncio.Runner() as runner:

        def make(*args: Any, **kwargs: Any) -> Any:
            kwargs.setdefault("environment", {})
            if request.param == "sync":
                client: Any = Client(*args, **kwargs)
            else:
                client = Blocking(AsyncClient(*args, **kwargs), runner)
            made.append(client)
            return client

        yield make
        for client in made:
            client.close()

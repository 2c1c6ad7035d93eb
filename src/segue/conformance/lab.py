"""What a check of a live server works with: a fault proxy before the server, and clients that go through it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from segue.client import AsyncClient, Endpoint, EndpointPool, RetryPolicy, TGIError
from segue.conformance.check import CheckFailed
from segue.conformance.fault_proxy import FaultProxy

__all__ = ["NO_RETRIES", "NUM_TOKENS", "Lab", "Target", "errors_in", "fails_with", "prompt_for"]

NO_RETRIES = RetryPolicy(max_retries=0)
QUICK_RETRIES = RetryPolicy(initial_delay=0.05, jitter=0.0)
NUM_TOKENS = 6
_HOSTED = ("api-inference.huggingface.co", "router.huggingface.co")
_KNOWN_ROUTES = ("/generate_stream", "/generate", "/v1")


@dataclass(frozen=True, slots=True)
class Target:
    """The server that is checked."""

    url: str
    model_id: str
    api_key: str | None = None
    keys: tuple[str, ...] = ()
    """Keys that the server knows, for the checks of several; empty: made up, and replaced on the way."""
    is_debugged: bool = False

    @property
    def is_hosted(self) -> bool:
        return urlsplit(self.url).hostname in _HOSTED

    @property
    def root(self) -> str:
        url = self.url.rstrip("/")
        route = next((route for route in _KNOWN_ROUTES if url.endswith(route)), "")
        return url if self.is_hosted else url.removesuffix(route)

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the clients: the process's own says nothing about this server."""
        return {"HF_TGI_DEBUG": "1"} if self.is_debugged else {}


def prompt_for(model_id: str, text: str = "Once upon a time") -> str:
    """T5 is told what to do with a text."""
    is_t5 = "t5" in model_id.lower()
    return f"summarize: {text}" if is_t5 and not text.startswith(("translate:", "summarize:")) else text


class Lab:
    """Of one check: a proxy of its own, so that nothing is left from another."""

    def __init__(self, target: Target, proxy: FaultProxy) -> None:
        self.target = target
        self.proxy = proxy
        self.prompt = prompt_for(target.model_id)

    @property
    def keys(self) -> tuple[str, ...]:
        """At least three, all different."""
        made_up = tuple(f"segue-check-key-{number}" for number in range(1, 4))
        return self.target.keys if len(self.target.keys) >= 3 else made_up

    def endpoint(self, key_number: int = 0, **settings: Any) -> Endpoint:
        """The proxy with one of ``keys``."""
        dialect: Any = "hosted" if self.target.is_hosted else "tgi"
        return Endpoint(**{"url": self.proxy.url, "api_key": self.keys[key_number], "dialect": dialect, **settings})

    def pool(self, *endpoints: Endpoint, strategy: str = "round_robin") -> EndpointPool:
        return EndpointPool(endpoints or (self.endpoint(),), strategy)

    def client(self, pool: EndpointPool | None = None, retry: RetryPolicy = QUICK_RETRIES) -> AsyncClient:
        return AsyncClient(pool=pool or self.pool(), retry=retry, environment=self.target.environment)

    def gaps(self) -> list[float]:
        """Seconds between arrivals at the proxy: its clock, not the client's word."""
        times = [seen.arrived_at for seen in self.proxy.generations]
        return [after - before for before, after in pairwise(times)]

    async def generate_many(self, client: AsyncClient, count: int, **options: Any) -> list[Any]:
        """So many generations at once; what each gave, or its error."""
        calls = (client.generate(self.prompt, max_new_tokens=NUM_TOKENS, **options) for _ in range(count))
        return await asyncio.gather(*calls, return_exceptions=True)


@contextmanager
def fails_with(kind: type[TGIError]) -> Iterator[list[TGIError]]:
    """The block must raise ``kind``; gives a list that holds the error then. Raises CheckFailed."""
    caught: list[TGIError] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
        return
    except TGIError as error:
        raise CheckFailed(f"{kind.__name__} was due, {type(error).__name__} came: {error}") from error
    raise CheckFailed(f"{kind.__name__} was due, but the call went well")


def errors_in(outcomes: Sequence[Any]) -> list[BaseException]:
    return [outcome for outcome in outcomes if isinstance(outcome, BaseException)]

"""What Client and AsyncClient have in common: settings, and calls made from arguments. No I/O."""

import copy
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Self, TypedDict, TypeVar

import httpx

from segue._version import __version__
from segue.client import _calls
from segue.client._calls import Messages
from segue.client._debug import log_to_stderr
from segue.client._environment import Environment, read_environment
from segue.client._flow import Exchange, Flow, Sleep
from segue.client._wire import Call
from segue.client.endpoint import Endpoint
from segue.client.errors import APITimeoutError, AuthenticationError, PermissionDeniedError, TGIError
from segue.client.limiter import Signal
from segue.client.options import (
    DEFAULT_TIMEOUT,
    ChatOptions,
    CompletionOptions,
    GenerateOptions,
    Options,
    Timeout,
    split,
)
from segue.client.pool import EndpointPool
from segue.client.retry import RetryPolicy
from segue.client.stats import PoolStats
from segue.client.types import ChatCompletion, ChatTokenization, Completion, GenerateResult

__all__ = ["HTTP_SETTINGS", "ClientBase"]

H = TypeVar("H")
R = TypeVar("R")

USER_AGENT = f"segue/{__version__}"
# Slots bound the connections, so httpx need not. Servers close an idle connection after 5 s (uvicorn) or more: one that
# is let go earlier is never reused in the moment that the server closes it.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)

# TGI's own default for max_concurrent_requests: what comes beyond is answered with 429.
SINGLE_URL_CONCURRENCY = 128


HEALTH_TIMEOUT_S = 5.0


class HttpSettings(TypedDict):
    limits: httpx.Limits
    headers: dict[str, str]


HTTP_SETTINGS: HttpSettings = {"limits": LIMITS, "headers": {"user-agent": USER_AGENT}}


def new_request_id() -> str:
    return uuid.uuid4().hex


class ClientBase(Generic[H]):
    """Holds settings; the subclasses hold the connections, an ``H``."""

    def __init__(
        self,
        base_url: str | Endpoint | None = None,
        *,
        endpoints: Iterable[Endpoint | str] | None = None,
        pool: EndpointPool | None = None,
        api_key: str | None = None,
        model: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        max_retries: int | None = None,
        retry: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        http_client: H | None = None,
        request_id_factory: Callable[[], str] = new_request_id,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if sum(given is not None for given in (base_url, endpoints, pool)) > 1:
            raise TypeError("base_url, endpoints and pool exclude each other")
        if api_key is not None and not isinstance(base_url, str | None):
            raise TypeError("an Endpoint has its own api_key")
        if api_key is not None and (endpoints is not None or pool is not None):
            raise TypeError("api_key belongs to base_url; each Endpoint has its own")
        variables = read_environment(environment)
        if variables.debug:
            log_to_stderr()
        if pool is None:  # an empty pool is false, and may be filled later
            given = _default_endpoints(base_url, api_key, variables) if endpoints is None else endpoints
            pool = EndpointPool(given)
        self.pool = pool
        self.model = model
        self.retry = retry or RetryPolicy()
        self.options = Options(timeout=timeout, max_retries=max_retries, extra_headers=headers or {})
        self._new_request_id = request_id_factory
        self._owns_http = http_client is None
        self._connect(http_client)

    def _connect(self, http_client: H | None) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pool!r})"

    def with_options(self, *, model: str | None = None, retry: RetryPolicy | None = None, **options: Any) -> Self:
        """A client with other defaults that shares endpoints and connections with this one.

        ``options`` are those of ``CallOptions``. Closing either closes the connections of both.
        """
        changed = copy.copy(self)
        changed.options = self.options.with_changes(options)
        changed.model = model or self.model
        changed.retry = retry or self.retry
        return changed

    def stats(self) -> PoolStats:
        """Counters of all endpoints and their sums."""
        return self.pool.stats()

    def _exchange(self, call: Call[R], options: Options, new_signal: Callable[[], Signal]) -> Exchange[R]:
        request_id = options.request_id or self._new_request_id()
        return Exchange(call, options, self.pool, self.retry, request_id, new_signal)

    def _num_slots(self) -> int:
        return sum(state.endpoint.max_concurrent for state in self.pool.states())

    def _health_options(self, changes: Mapping[str, Any]) -> Options:
        return self.options.with_changes({"timeout": HEALTH_TIMEOUT_S, **changes, "max_retries": 0})

    def _health_flow(self, options: Options, new_signal: Callable[[], Signal]) -> Flow[bool]:
        try:
            return (yield from self._exchange(_calls.HEALTH, options, new_signal).ask())
        except TGIError:
            return False

    def _check_flow(self, options: Options, new_signal: Callable[[], Signal]) -> Flow[dict[str, bool]]:
        states = [self.pool.state(options.endpoint)] if options.endpoint else self.pool.states()
        healthy: dict[str, bool] = {}
        for state in states:
            healthy[state.id] = yield from self._health_flow(replace(options, endpoint=state.id), new_signal)
            state.mark_health(healthy[state.id])
        return healthy

    def _ready_flow(
        self, timeout_s: float, poll_s: float, endpoint: str | None, new_signal: Callable[[], Signal]
    ) -> Flow[None]:
        until = self.pool.clock() + timeout_s
        options = replace(self.options, max_retries=0, timeout=HEALTH_TIMEOUT_S)
        for id in [endpoint] if endpoint else self.pool.ids:
            last: TGIError | None = None
            while True:
                left_s = max(until - self.pool.clock(), 0.001)
                asked = replace(options, endpoint=id, deadline=min(left_s, HEALTH_TIMEOUT_S))
                try:
                    yield from self._exchange(_calls.HEALTH, asked, new_signal).ask()
                    break
                except (AuthenticationError, PermissionDeniedError):
                    raise
                except TGIError as error:
                    # The last attempt may be cut short by our own limit, which explains nothing.
                    is_ours = isinstance(error, APITimeoutError) and error.phase == "deadline"
                    last = last if is_ours and last is not None else error
                    if self.pool.clock() + poll_s >= until:
                        message = f"endpoint {id} is not ready after {timeout_s} s: {last}"
                        raise APITimeoutError(message, phase="deadline") from last
                yield Sleep(poll_s)
            self.pool.state(id).mark_health(True)

    def _options(self, changes: Mapping[str, Any]) -> Options:
        return self.options.with_changes(changes)

    def _generate_call(
        self, prompt: str, stream: bool, details: bool, arguments: Mapping[str, Any]
    ) -> tuple[Call[GenerateResult], Options]:
        parameters, changes = split(arguments, GenerateOptions)
        options = self._options(changes)
        return _calls.generate(prompt, parameters, options.extra_body, stream=stream, details=details), options

    def _chat_call(
        self, messages: Messages, model: str | None, stream: bool, arguments: Mapping[str, Any]
    ) -> tuple[Call[ChatCompletion], Options]:
        parameters, changes = split(arguments, ChatOptions)
        options = self._options(changes)
        return _calls.chat(messages, model or self.model, parameters, options.extra_body, stream=stream), options

    def _completion_call(
        self, prompt: str | Sequence[str], model: str | None, stream: bool, arguments: Mapping[str, Any]
    ) -> tuple[Call[Completion], Options]:
        parameters, changes = split(arguments, CompletionOptions)
        options = self._options(changes)
        call = _calls.completions(prompt, model or self.model, parameters, options.extra_body, stream=stream)
        return call, options

    def _chat_tokenize_call(
        self, messages: Messages, model: str | None, arguments: Mapping[str, Any]
    ) -> tuple[Call[ChatTokenization], Options]:
        parameters, changes = split(arguments, ChatOptions)
        options = self._options(changes)
        return _calls.chat_tokenize(messages, model or self.model, parameters, options.extra_body), options


def _default_endpoints(
    base_url: str | Endpoint | None, api_key: str | None, environment: Environment
) -> list[Endpoint]:
    if isinstance(base_url, Endpoint):
        return [base_url]
    if base_url is not None:
        key = environment.key_for(base_url) if api_key is None else api_key
        return [Endpoint(base_url, api_key=key, max_concurrent=SINGLE_URL_CONCURRENCY, queue_size=None)]
    endpoints = environment.endpoints()
    if not endpoints:
        raise ValueError("no endpoint: pass base_url or endpoints, or set TGI_BASE_URL")
    return endpoints

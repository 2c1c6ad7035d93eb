"""Endpoints by the old names: settings as dicts, counters as dicts."""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from segue.client import BreakerState, Client, Endpoint, EndpointPool, RetryPolicy, read_environment

__all__ = ["EndpointBook", "UnknownEndpointError"]

HOSTED_URL = "https://api-inference.huggingface.co"
DEFAULT_MODEL = "mistralai/Mistral-7B-Instruct-v0.2"

SETTINGS = (
    "api_key",
    "max_retries",
    "initial_retry_delay",
    "backoff_factor",
    "max_retry_delay",
    "queue_enabled",
    "max_concurrent_requests",
    "queue_size",
)


class UnknownEndpointError(KeyError, ValueError):
    """No endpoint has this id. A KeyError for new code, a ValueError for old."""

    def __str__(self) -> str:
        return str(self.args[0])


class EndpointBook:
    """The attributes that ``create_endpoint`` names are its defaults."""

    def __init__(
        self,
        resources: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.resources = dict(resources or {})
        self.metadata = dict(metadata or {})
        self.max_retries = 5
        self.initial_retry_delay = 1.0
        self.backoff_factor = 2.0
        self.max_retry_delay = 16.0
        self.queue_enabled = True
        self.max_concurrent_requests = 5
        self.queue_size = 100
        variables = read_environment(environment)
        container_url = self.metadata.get("hf_container_url") or variables.base_url
        self.is_hosted = not container_url
        self.base_url = str(container_url or HOSTED_URL).rstrip("/")
        self.default_model = str(self.metadata.get("model_id") or variables.model or DEFAULT_MODEL)
        given = self.metadata.get("hf_api_key") or self.metadata.get("hf_api_token")
        self.api_token: str | None = given or variables.key_for(self.base_url)
        self._pool = EndpointPool()
        self._client = Client(pool=self._pool, environment=environment)
        number = 1
        while key := self.metadata.get(f"hf_api_key_{number}"):
            name = self.create_endpoint(f"hf_api_key_{number}", str(key))
            self._pool.update(name, model=self.metadata.get(f"model_id_{number}"))
            number += 1

    def create_endpoint(
        self,
        endpoint_id: str | None = None,
        api_key: str | None = None,
        max_retries: int | None = None,
        initial_retry_delay: float | None = None,
        backoff_factor: float | None = None,
        max_retry_delay: float | None = None,
        queue_enabled: bool | None = None,
        max_concurrent_requests: int | None = None,
        queue_size: int | None = None,
    ) -> str:
        """An endpoint with its own key, limits, line, retries and counters; returns its id.

        What is not given is the backend's. Raises ValueError if the id is taken or a setting makes no sense.
        """
        given = (
            api_key,
            max_retries,
            initial_retry_delay,
            backoff_factor,
            max_retry_delay,
            queue_enabled,
            max_concurrent_requests,
            queue_size,
        )
        settings = {
            name: self._default(name) if value is None else value for name, value in zip(SETTINGS, given, strict=True)
        }
        id = endpoint_id or f"endpoint_{int(time.time())}_{uuid.uuid4().hex[:8]}"
        return self._pool.add(Endpoint(self.base_url, id=id, **_to_endpoint(settings)))

    def get_endpoint(self, endpoint_id: str | None = None) -> dict[str, Any]:
        """Settings of an endpoint, which is made if it is not there; None is the first, or a new one."""
        if endpoint_id is None:
            endpoint_id = self._pool.ids[0] if len(self._pool) else self.create_endpoint()
        elif endpoint_id not in self._pool:
            self.create_endpoint(endpoint_id)
        return self._settings(endpoint_id)

    def update_endpoint(self, endpoint_id: str, **changes: Any) -> dict[str, Any]:
        """Change settings, by the names of ``create_endpoint``. Raises UnknownEndpointError, TypeError, ValueError."""
        self._known(endpoint_id)
        if unknown := changes.keys() - set(SETTINGS):
            raise TypeError(f"no setting {min(unknown)!r}; there are: {', '.join(SETTINGS)}")
        settings = {**self._settings(endpoint_id), **changes}
        self._pool.update(endpoint_id, **_to_endpoint({name: settings[name] for name in SETTINGS}))
        return self._settings(endpoint_id)

    def get_stats(self, endpoint_id: str | None = None) -> dict[str, Any]:
        """Counters of an endpoint, or of all with their sums. Raises UnknownEndpointError."""
        if endpoint_id is None:
            return self._pool.stats().as_dict()
        return self._pool.endpoint_stats(self._known(endpoint_id)).as_dict()

    def reset_stats(self, endpoint_id: str | None = None) -> None:
        """Raises UnknownEndpointError."""
        self._pool.reset_stats(None if endpoint_id is None else self._known(endpoint_id))

    @property
    def endpoints(self) -> dict[str, dict[str, Any]]:
        return {id: self._settings(id) for id in self._pool.ids}

    @property
    def current_requests(self) -> int:
        """Requests that hold a slot."""
        return self._pool.stats().global_current_requests

    @property
    def request_queue(self) -> range:
        """As long as the line: ``len(backend.request_queue)``."""
        return range(self._pool.stats().global_queue_size)

    def check_circuit_breaker(self, endpoint_id: str | None = None) -> bool:
        """Whether requests are let through, by this endpoint or by any. Raises UnknownEndpointError."""
        ids = self._pool.ids if endpoint_id is None else [self._known(endpoint_id)]
        states = [self._pool.endpoint_stats(id).breaker_state for id in ids]
        return not states or BreakerState.CLOSED in states

    def close(self) -> None:
        self._client.close()

    def _default(self, setting: str) -> Any:
        return self.api_token if setting == "api_key" else getattr(self, setting)

    def _known(self, endpoint_id: str) -> str:
        if endpoint_id not in self._pool:
            known = ", ".join(self._pool.ids) or "none"
            raise UnknownEndpointError(f"no endpoint {endpoint_id!r}; there are: {known}")
        return endpoint_id

    def _settings(self, id: str) -> dict[str, Any]:
        endpoint = self._pool.get(id)
        retry = endpoint.retry or RetryPolicy()
        values = (
            endpoint.api_key,
            retry.max_retries,
            retry.initial_delay,
            retry.factor,
            retry.max_delay,
            endpoint.queue_enabled,
            endpoint.max_concurrent,
            endpoint.queue_size,
        )
        return {"endpoint_id": id, "model": endpoint.model, **dict(zip(SETTINGS, values, strict=True))}


def _to_endpoint(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the old names → arguments of Endpoint."""
    retry = RetryPolicy(
        max_retries=settings["max_retries"],
        initial_delay=settings["initial_retry_delay"],
        factor=settings["backoff_factor"],
        max_delay=settings["max_retry_delay"],
    )
    return {
        "api_key": settings["api_key"],
        "retry": retry,
        "queue_enabled": settings["queue_enabled"],
        "max_concurrent": settings["max_concurrent_requests"],
        "queue_size": settings["queue_size"],
    }

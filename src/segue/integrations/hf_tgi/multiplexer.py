"""Several keys, each with a backend of its own."""

import itertools
import threading
from collections.abc import Mapping
from typing import Any

from segue.integrations.hf_tgi.backend import hf_tgi

__all__ = ["HFTGIMultiplexer"]

DEFAULT_MODEL = "google/t5-efficient-tiny"


class HFTGIMultiplexer:
    """``metadata`` and ``environment`` go to every backend."""

    def __init__(
        self, metadata: Mapping[str, Any] | None = None, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._metadata = dict(metadata or {})
        self._environment = environment
        self._lock = threading.Lock()
        self._backends: dict[str, hf_tgi] = {}
        self._num_uses: dict[str, int] = {}
        self._last_used: dict[str, int] = {}
        self._turn = itertools.count(1)

    def add_hf_tgi_key(self, key_name: str, api_key: str, model_id: str | None = None, max_concurrent: int = 5) -> str:
        """Returns ``key_name``; a key of that name is replaced."""
        metadata = {**self._metadata, "hf_api_key": api_key, "model_id": model_id or DEFAULT_MODEL}
        backend = hf_tgi({}, metadata, environment=self._environment)
        backend.max_concurrent_requests = max_concurrent
        with self._lock:
            self._backends[key_name] = backend
            self._num_uses[key_name] = self._last_used[key_name] = 0
        return key_name

    def get_hf_tgi_client(self, key_name: str | None = None, strategy: str = "round-robin") -> hf_tgi:
        """The named key's backend, else by strategy: round-robin (used longest ago), least-loaded, or the first.

        Raises ValueError if there is none.
        """
        with self._lock:
            if not self._backends:
                raise ValueError("No HF TGI API keys have been added")
            if key_name is not None and key_name not in self._backends:
                raise ValueError(f"no key {key_name!r}; there are: {', '.join(self._backends)}")
            names = list(self._backends)
            if key_name is None and strategy == "round-robin":
                key_name = min(names, key=self._last_used.__getitem__)
            elif key_name is None and strategy == "least-loaded":
                key_name = min(names, key=lambda name: self._backends[name].current_requests)
            name = key_name or names[0]
            self._num_uses[name] += 1
            self._last_used[name] = next(self._turn)
            return self._backends[name]

    def get_usage_stats(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``{"hf_tgi": {key name: {usage, queue_size, current_requests, model_id, total_requests}}}``.

        ``usage`` is how often the key was handed out, ``total_requests`` how many requests it has made.
        """
        with self._lock:
            backends, num_uses = dict(self._backends), dict(self._num_uses)
        return {"hf_tgi": {name: _usage(backend, num_uses[name]) for name, backend in backends.items()}}

    def close(self) -> None:
        for backend in self._backends.values():
            backend.close()


def _usage(backend: hf_tgi, num_uses: int) -> dict[str, Any]:
    stats = backend.get_stats()
    return {
        "usage": num_uses,
        "queue_size": stats["global_queue_size"],
        "current_requests": stats["global_current_requests"],
        "model_id": backend.default_model,
        "total_requests": stats["total_requests"],
    }

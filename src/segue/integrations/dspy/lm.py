"""A ``dspy.BaseLM``."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import dspy

from segue.client import AsyncClient, Client, EndpointPool
from segue.client.types import ChatCompletion
from segue.integrations.dspy.chat_bodies import chat_body, openai_response
from segue.integrations.loop_clients import LoopClients

__all__ = ["SegueLM"]


class SegueLM(dspy.BaseLM):  # type: ignore[misc]
    """A chat model at ``base_url``, or behind an ``EndpointPool``. ``n`` choices are ``n`` requests, made at once.

    ``options`` are defaults of the requests: top_p, stop, seed, …. Raises the errors of ``segue.client``.
    DSPy 3.4 warns that this way of extending it ends with 3.5; ``SegueEngine`` is the other.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        model: str = "tgi",
        pool: EndpointPool | None = None,
        api_key: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        callbacks: list[Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, temperature=temperature, max_tokens=max_tokens, cache=False, **options)
        self.callbacks = list(callbacks or [])
        self.base_url = base_url
        self._client = Client(base_url, api_key=api_key) if pool is None else Client(pool=pool)
        self._async_clients = LoopClients(lambda: AsyncClient(pool=self._client.pool))

    @property
    def supports_function_calling(self) -> bool:
        return True

    @property
    def supports_response_schema(self) -> bool:
        return True

    @property
    def supported_params(self) -> set[str]:
        return {
            "frequency_penalty",
            "logprobs",
            "max_tokens",
            "presence_penalty",
            "response_format",
            "seed",
            "stop",
            "temperature",
            "tool_choice",
            "tools",
            "top_logprobs",
            "top_p",
        }

    def forward(self, prompt: str | None = None, messages: list[Any] | None = None, **kwargs: Any) -> Any:
        bodies = self._bodies(prompt, messages, kwargs)
        if len(bodies) == 1:
            return openai_response([self._answer(bodies[0])])
        with ThreadPoolExecutor(len(bodies)) as threads:
            return openai_response(list(threads.map(self._answer, bodies)))

    async def aforward(self, prompt: str | None = None, messages: list[Any] | None = None, **kwargs: Any) -> Any:
        client = self._async_clients.get()
        bodies = self._bodies(prompt, messages, kwargs)
        answers = await asyncio.gather(*(client.chat(body["messages"], extra_body=body) for body in bodies))
        return openai_response(answers)

    def dump_state(self) -> dict[str, Any]:
        """Without keys. Raises ValueError for a pool: it is not a setting."""
        if self.base_url is None:
            raise ValueError("a SegueLM with a pool, or from the environment, cannot be saved")
        return {**super().dump_state(), "base_url": self._client.pool.get(self._client.pool.ids[0]).display_url}

    @classmethod
    def load_state(cls, state: dict[str, Any], **_: Any) -> Self:
        known = {name: value for name, value in state.items() if name not in ("model_type", "cache", "num_retries")}
        known.pop("_dspy_lm_class", None)
        return cls(**known)

    def close(self) -> None:
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections that ``acall`` has opened in this event loop."""
        await self._async_clients.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.copy()  # DSPy copies programs deeply; connections are shared

    def _answer(self, body: dict[str, Any]) -> ChatCompletion:
        return self._client.chat(body["messages"], extra_body=body)

    def _bodies(self, prompt: str | None, messages: list[Any] | None, kwargs: dict[str, Any]) -> list[dict[str, Any]]:
        """One for each choice; a seed counts up, or all would be the same."""
        options = {**self.kwargs, **kwargs}
        turns = messages if messages is not None else [{"role": "user", "content": prompt}]
        body = chat_body(self.model, turns, options)
        seed = body.get("seed")
        return [
            body if index == 0 or seed is None else {**body, "seed": seed + index}
            for index in range(options.get("n") or 1)
        ]

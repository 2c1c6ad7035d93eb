"""The class: requests by the old names, handlers, and the checks of an endpoint."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from segue.client import AsyncClient, CallOptions, NotFoundError, TGIError, ValidationError
from segue.integrations.hf_tgi.chat import Messages, chat_body, delta_of, has_no_chat, marked_up
from segue.integrations.hf_tgi.requests import REAL, Requests
from segue.integrations.loop_clients import LoopClients

__all__ = ["hf_tgi"]

logger = logging.getLogger("segue.integrations.hf_tgi")

TEST_PROMPT = "Complete this sentence: The quick brown fox"
HANDLER_PARAMETERS: Mapping[str, Any] = {
    "max_new_tokens": 1024,
    "temperature": 0.7,
    "top_p": 0.9,
    "do_sample": True,
    "return_full_text": False,
}
BATCH_SIZE = 32
"""Requests at once that ``request_tgi_endpoint`` believes a registered URL to take."""


class hf_tgi(Requests):
    """Hosted models, or a server of one's own, through endpoints that have keys and limits.

    ``metadata``: hf_api_key or hf_api_token; model_id; hf_container_url (a server instead of the hosted API);
    hf_api_key_1, model_id_1, …: endpoints of their own, named as their key. What is missing comes from the environment
    (``segue.client._environment``). The attributes that ``create_endpoint`` names are its defaults.
    """

    def __init__(
        self,
        resources: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(resources, metadata, environment=environment)
        self._registered: dict[str, list[str]] = {}
        self._batch_sizes: dict[str, int] = {}
        self._async_clients = LoopClients(lambda: AsyncClient(pool=self._pool, environment=environment))

    async def aclose(self) -> None:
        """Close the connections that handlers have opened in this event loop."""
        await self._async_clients.close()

    # handlers

    def create_remote_text_generation_endpoint_handler(
        self, endpoint_url: str | None = None, api_key: str | None = None, endpoint_id: str | None = None
    ) -> Callable[..., Any]:
        """``await handler(prompt or messages, **parameters)`` → text, with ``stream=True`` an async iterator of texts.

        Does not block the event loop. Raises UnknownEndpointError.
        """
        options = self._options(api_key, None, endpoint_id, None)

        async def handler(prompt: str | Messages, **parameters: Any) -> str | AsyncIterator[str]:
            is_stream = bool(parameters.pop("stream", False))
            given = {**HANDLER_PARAMETERS, **parameters}
            if is_stream:
                return self._deltas(endpoint_url, prompt, given, options)
            return await self._text(endpoint_url, prompt, given, options)

        return handler

    def create_hf_tgi_endpoint_handler(
        self,
        model: str | None = None,
        endpoint: str | None = None,
        endpoint_type: str | None = None,
        batch: Sequence[Any] | None = None,
    ) -> Callable[..., Any]:
        """``handler(prompt or payload, parameters=None)`` → text, blocking.

        Goes to ``endpoint``, or to the URL that ``request_tgi_endpoint`` finds for the model and the batch.
        """
        url = self.request_tgi_endpoint(model, endpoint, endpoint_type, batch) or self._generate_url(model)

        def handler(prompt: str | Mapping[str, Any], parameters: Mapping[str, Any] | None = None) -> str:
            payload: dict[str, Any] = dict(prompt) if isinstance(prompt, Mapping) else {"inputs": prompt}
            if parameters:
                payload["parameters"] = {**(payload.get("parameters") or {}), **parameters}
            answer = self.make_post_request_hf_tgi(url, payload)
            return str((answer[0] if isinstance(answer, list) else answer)["generated_text"])

        return handler

    def format_request(self, handler: Callable[..., Any], text_input: str, **parameters: Any) -> Any:
        """What ``handler`` answers to the text, or with parameters to ``{inputs, parameters}``."""
        return handler({"inputs": text_input, "parameters": parameters}) if parameters else handler(text_input)

    def init(
        self, endpoint_url: str | None = None, api_key: str | None = None, model_name: str | None = None
    ) -> tuple[str, str | None, Callable[..., Any], range, int]:
        """Register a URL for a model; (URL, key, handler, line, batch size)."""
        url = endpoint_url or self._generate_url(model_name)
        urls = self._registered.setdefault(model_name or self.default_model, [])
        if url not in urls:
            urls.append(url)
        self._batch_sizes.setdefault(url, BATCH_SIZE)
        handler = self.create_remote_text_generation_endpoint_handler(url, api_key)
        return url, api_key, handler, self.request_queue, self._batch_sizes[url]

    def request_tgi_endpoint(
        self,
        model: str | None,
        endpoint: str | None = None,
        endpoint_type: str | None = None,
        batch: Sequence[Any] | None = None,
    ) -> str | None:
        """The URL that takes a batch of this size for the model, None if none is registered.

        ``endpoint_type`` is remote or local, and may be left out: a URL says it. Raises ValueError if the batch is
        larger than every registered URL takes.
        """
        size = len(batch) if batch is not None else 1
        urls = self._registered.get(model or self.default_model, [])
        if endpoint is not None and endpoint not in self._batch_sizes:
            return endpoint
        wanted = [endpoint] if endpoint is not None else [url for url in urls if _is_type(url, endpoint_type)]
        for url in wanted:
            if size <= self._batch_sizes[url]:
                return url
        if wanted:
            raise ValueError(f"a batch of {size} is too large for all endpoints of {model or self.default_model}")
        return None

    # checks

    def test_hf_tgi_endpoint(
        self,
        endpoint_url: str | None = None,
        api_token: str | None = None,
        model_id: str | None = None,
        endpoint_id: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Whether 50 tokens can be had; never raises for what the server does. Raises UnknownEndpointError."""
        model = model_id or self.default_model
        payload = {"inputs": TEST_PROMPT, "parameters": {"max_new_tokens": 50}}
        options = self._options(api_token, request_id, endpoint_id, None)
        result: dict[str, Any] = {"model": model}
        try:
            answer = self._post(endpoint_url or self._generate_url(model), payload, options)
            text = (answer.json[0] if isinstance(answer.json, list) else answer.json)["generated_text"]
            result |= {"success": True, "message": text, "implementation_type": REAL}
            result["request_id"] = answer.response.request_id
        except (TGIError, KeyError, TypeError) as error:
            result |= {
                "success": False,
                "message": str(error) or type(error).__name__,
                "implementation_type": "(ERROR)",
            }
            result["request_id"] = getattr(error, "request_id", request_id)
        return result

    def test_tgi_endpoint(
        self, endpoint_url: str | None = None, api_key: str | None = None, model_name: str | None = None
    ) -> bool:
        return bool(self.test_hf_tgi_endpoint(endpoint_url, api_key, model_name)["success"])

    def __test__(
        self, endpoint_url: str, endpoint_handler: Callable[..., Any], endpoint_label: str, api_key: str | None = None
    ) -> bool:
        """Whether the handler, blocking or not, answers a prompt; the outcome is logged."""
        try:
            answer = endpoint_handler(TEST_PROMPT)
            if inspect.isawaitable(answer):
                with ThreadPoolExecutor(1) as thread:  # this one may have a running loop
                    answer = thread.submit(asyncio.run, _finish(answer, self)).result()
        except Exception as error:
            logger.warning("%s at %s failed: %s", endpoint_label, endpoint_url, error)
            return False
        logger.info("%s at %s answers", endpoint_label, endpoint_url)
        return answer is not None

    async def _text(
        self, url: str | None, prompt: str | Messages, parameters: Mapping[str, Any], options: CallOptions
    ) -> str:
        client = self._async_clients.get()
        if not isinstance(prompt, str):
            try:
                body = chat_body(prompt, parameters)
                answer = (await client.request("POST", self._chat_url(url), json=body, **options)).json
                return answer["choices"][0]["message"].get("content") or ""
            except (NotFoundError, ValidationError) as error:
                if not has_no_chat(error):
                    raise
                prompt = marked_up(prompt)
        body = {"inputs": prompt, "parameters": dict(parameters)}
        answer = (await client.request("POST", self._generate_url(url), json=body, **options)).json
        return str((answer[0] if isinstance(answer, list) else answer)["generated_text"])

    async def _deltas(
        self, url: str | None, prompt: str | Messages, parameters: Mapping[str, Any], options: CallOptions
    ) -> AsyncIterator[str]:
        client = self._async_clients.get()
        if not isinstance(prompt, str):
            try:
                body = {**chat_body(prompt, parameters), "stream": True}
                async with await client.stream_request("POST", self._chat_url(url), json=body, **options) as stream:
                    async for event in stream:
                        yield delta_of(event)
                return
            except (NotFoundError, ValidationError) as error:
                if not has_no_chat(error):
                    raise
                prompt = marked_up(prompt)
        body = {"inputs": prompt, "parameters": dict(parameters), "stream": True}
        target = self._generate_url(url, is_stream=True)
        async with await client.stream_request("POST", target, json=body, **options) as stream:
            async for event in stream:
                yield delta_of(event)


async def _finish(answer: Any, backend: hf_tgi) -> Any:
    try:
        return await answer
    finally:
        await backend.aclose()


def _is_type(url: str, endpoint_type: str | None) -> bool:
    is_local = "://localhost" in url or "://127." in url or "://[::1]" in url
    return endpoint_type is None or (endpoint_type == "local") == is_local

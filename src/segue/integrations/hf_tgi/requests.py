"""Requests by the old names."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from segue.client import CallOptions, NotFoundError, ValidationError
from segue.client.types import RawResponse
from segue.integrations.hf_tgi.chat import (
    Messages,
    chat_body,
    chunks,
    has_no_chat,
    marked_up,
    prompt_parameters,
    usage_of,
)
from segue.integrations.hf_tgi.endpoints import EndpointBook

__all__ = ["Requests"]

REAL = "(REAL)"


class Requests(EndpointBook):
    PRIORITY_HIGH = 0
    PRIORITY_NORMAL = 1
    PRIORITY_LOW = 2

    # raw

    def make_post_request_hf_tgi(
        self,
        endpoint_url: str,
        data: Mapping[str, Any],
        api_token: str | None = None,
        stream: bool = False,
        request_id: str | None = None,
        endpoint_id: str | None = None,
        *,
        api_key: str | None = None,
        priority: int | None = None,
    ) -> Any:
        """POST ``data`` to exactly this URL; returns the parsed body, or with ``stream`` an iterator of events.

        The key is ``api_token`` (or ``api_key``, the same), else the endpoint's. Raises UnknownEndpointError.
        """
        token = api_token or api_key
        if stream:
            return self._events(endpoint_url, data, self._options(token, request_id, endpoint_id, priority))
        return self._post(endpoint_url, data, self._options(token, request_id, endpoint_id, priority)).json

    def make_stream_request_hf_tgi(
        self, endpoint_url: str, data: Mapping[str, Any], api_key: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """POST ``data`` with ``stream``; events as they come. Raises IncompleteStreamError if the end is missing."""
        return self._events(endpoint_url, data, self._options(api_key, None, None, None))

    def make_request_with_endpoint(
        self, endpoint_id: str, data: Mapping[str, Any], request_id: str | None = None
    ) -> Any:
        """POST ``data`` for generation through this endpoint. Raises UnknownEndpointError."""
        model = self._pool.get(self._known(endpoint_id)).model
        return self._post(self._generate_url(model), data, self._options(None, request_id, endpoint_id, None)).json

    def queue_with_priority(self, request_info: Mapping[str, Any], priority: int | None = None) -> "Future[Any]":
        """``make_post_request_hf_tgi(**request_info)`` from a thread of its own; a future of its result.

        In the line a lower ``priority`` goes first.
        """
        future: Future[Any] = Future()
        level = self.PRIORITY_NORMAL if priority is None else priority

        def run() -> None:
            try:
                future.set_result(self.make_post_request_hf_tgi(**request_info, priority=level))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    # generation

    def generate_text(
        self,
        model_id: str | None,
        inputs: str,
        parameters: Mapping[str, Any] | None = None,
        api_token: str | None = None,
        request_id: str | None = None,
        endpoint_id: str | None = None,
        *,
        priority: int | None = None,
    ) -> dict[str, Any]:
        """The server's answer, the first one if it is a list; with ``request_id`` if one was given."""
        options = self._options(api_token, request_id, endpoint_id, priority)
        answer = self._post(self._generate_url(model_id), _payload(inputs, parameters), options).json
        return {**_first(answer), **_given(request_id=request_id)}

    def stream_generate(
        self,
        model_id: str | None,
        inputs: str,
        parameters: Mapping[str, Any] | str | None = None,
        api_token: str | None = None,
        request_id: str | None = None,
        endpoint_id: str | None = None,
        *,
        api_key: str | None = None,
        **more_parameters: Any,
    ) -> Iterator[dict[str, Any]]:
        """Events of a generation. The oldest way works too: ``(endpoint_url, prompt, api_key, **parameters)``."""
        if isinstance(parameters, str):
            parameters, api_key = None, parameters
        payload = _payload(inputs, {**(parameters or {}), **more_parameters})
        url = self._generate_url(model_id, is_stream=True)
        for event in self._events(url, payload, self._options(api_token or api_key, request_id, endpoint_id, None)):
            yield {**event, **_given(request_id=request_id)}

    def run_inference(
        self,
        model_id: str,
        inputs: str,
        parameters: Mapping[str, Any] | None = None,
        priority: int | None = None,
        request_id: str | None = None,
        endpoint_id: str | None = None,
    ) -> dict[str, Any]:
        answer = self.generate_text(
            model_id, inputs, parameters, request_id=request_id, endpoint_id=endpoint_id, priority=priority
        )
        return {
            "model": model_id,
            "task": "text-generation",
            "outputs": [answer["generated_text"]],
            "implementation_type": REAL,
            "backend": "hf_tgi",
            "raw_response": answer,
            **_given(request_id=request_id, endpoint_id=endpoint_id),
        }

    def chat(
        self,
        model: str | None,
        messages: Messages,
        options: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        endpoint_id: str | None = None,
    ) -> dict[str, Any]:
        """An answer by the model's own chat template, or to a marked-up prompt where the server has no chat."""
        given = dict(options or {})
        request_id, endpoint_id = given.get("request_id", request_id), given.get("endpoint_id", endpoint_id)
        how = self._options(None, request_id, endpoint_id, None)
        try:
            answer = self._post(self._chat_url(model), chat_body(messages, given), how)
            text = answer.json["choices"][0]["message"].get("content") or ""
        except (NotFoundError, ValidationError) as error:
            if not has_no_chat(error):
                raise
            payload = _payload(marked_up(messages), prompt_parameters(given))
            answer = self._post(self._generate_url(model), payload, how)
            text = _first(answer.json)["generated_text"]
        return {
            "text": text,
            "model": model or self.default_model,
            "usage": usage_of(answer),
            "implementation_type": REAL,
            **_given(request_id=request_id),
        }

    def stream_chat(
        self,
        model: str | None,
        messages: Messages,
        options: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        endpoint_id: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Chunks ``{text, done, model}``; the last one is ``done``, and empty."""
        given = dict(options or {})
        request_id, endpoint_id = given.get("request_id", request_id), given.get("endpoint_id", endpoint_id)
        how = self._options(None, request_id, endpoint_id, None)
        head = {"model": model or self.default_model, **_given(request_id=request_id)}
        try:
            yield from chunks(self._events(self._chat_url(model), chat_body(messages, given), how), head)
        except (NotFoundError, ValidationError) as error:
            if not has_no_chat(error):
                raise
            payload = _payload(marked_up(messages), prompt_parameters(given))
            yield from chunks(self._events(self._generate_url(model, is_stream=True), payload, how), head)

    def _post(self, url: str, data: Mapping[str, Any], options: CallOptions) -> RawResponse:
        return self._client.request("POST", url, json=data, **options)

    def _events(self, url: str, data: Mapping[str, Any], options: CallOptions) -> Iterator[dict[str, Any]]:
        with self._client.stream_request("POST", url, json={**data, "stream": True}, **options) as stream:
            yield from stream

    def _options(
        self, api_token: str | None, request_id: str | None, endpoint_id: str | None, priority: int | None
    ) -> CallOptions:
        options: CallOptions = {"endpoint": self._pinned(endpoint_id), "request_id": request_id}
        if api_token:
            options["extra_headers"] = {"authorization": f"Bearer {api_token}"}
        if priority is not None:
            options["priority"] = priority
        return options

    def _pinned(self, endpoint_id: str | None) -> str | None:
        """Without a wish: the backend's own key, or, if it has none, any of the endpoints."""
        if endpoint_id is not None:
            return self._known(endpoint_id)
        if self.api_token is None and len(self._pool):
            return None
        if "default" not in self._pool:
            self.create_endpoint("default")
        return "default"

    def _generate_url(self, model: str | None, *, is_stream: bool = False) -> str:
        model = model or self.default_model
        if _is_url(model):
            return f"{model}_stream" if is_stream and model.endswith("/generate") else model
        if self.is_hosted:
            return f"{self.base_url}/models/{model}"
        return f"{self.base_url}/generate_stream" if is_stream else f"{self.base_url}/generate"

    def _chat_url(self, model: str | None) -> str:
        base = self.base_url
        if self.is_hosted or (model is not None and _is_url(model)):
            base = self._generate_url(model)
        return f"{base.removesuffix('_stream').removesuffix('/generate').rstrip('/')}/v1/chat/completions"


def _is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def _payload(inputs: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"inputs": inputs, **({"parameters": dict(parameters)} if parameters else {})}


def _first(answer: Any) -> dict[str, Any]:
    return dict(answer[0] if isinstance(answer, list) else answer)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

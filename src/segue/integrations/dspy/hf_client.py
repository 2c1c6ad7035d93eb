"""``HFClientTGI``: the class that DSPy had up to 2.5."""

import copy
import json
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Self

import httpx

from segue.client import APIStatusError, Client, Endpoint, EndpointPool, InvalidResponseError, TGIError
from segue.client.types import GenerateResult
from segue.core.errors import SegueError

__all__ = ["HFClientTGI", "TGIResponseError"]

# What the program sets for itself, not for the server.
_OWN = ("model", "port", "url", "n", "num_return_sequences", "max_tokens", "temperature", "presence_penalty")
_SAMPLING = ("top_p", "top_k", "typical_p")
_HTTP = ("headers", "timeout", "verify", "cert")
MAX_CONCURRENT = 128


class TGIResponseError(SegueError):
    """The server answered with an error, or with no answer; the cause says which."""

    def __init__(self, cause: TGIError) -> None:
        super().__init__(f"Received invalid JSON response from server: {cause}")
        self.status_code = cause.status_code if isinstance(cause, APIStatusError) else None


class HFClientTGI:
    """Completions from TGI servers that serve ``model`` at ``url`` and one or several ports.

    ``kwargs`` are defaults of the requests, in OpenAI's words: temperature (0.1 and less is greedy, unless ``n`` > 1 or
    ``do_sample``), max_tokens, n, stop, frequency_penalty; TGI's own parameters are understood too, an unknown name
    raises TypeError. Requests go to the least loaded port that is up, and are repeated where that is safe.

    ``http_request_kwargs``: headers, timeout (seconds, or (connect, read)), verify, cert.
    ``cache`` is any mutable mapping (a dict, a ``diskcache.Cache``): it keeps the answers to greedy requests, never
    errors and never samples.
    """

    def __init__(
        self,
        model: str,
        port: int | Sequence[int],
        url: str = "http://127.0.0.1",
        http_request_kwargs: Mapping[str, Any] | None = None,
        *,
        api_key: str | None = None,
        cache: MutableMapping[str, Any] | None = None,
        max_retries: int = 2,
        **kwargs: Any,
    ) -> None:
        self.model = model
        self.provider = "hf"
        self.url = url
        self.ports = [port] if isinstance(port, int) else list(port)
        self.http_request_kwargs = dict(http_request_kwargs or {})
        self.cache = cache
        self.history: list[dict[str, Any]] = []
        self.kwargs: dict[str, Any] = {
            "model": model,
            "port": port,
            "url": url,
            "temperature": 0.01,
            "max_tokens": 75,
            "top_p": 0.97,
            "n": 1,
            "stop": ["\n", "\n\n"],
            **kwargs,
        }
        if unknown := self.http_request_kwargs.keys() - set(_HTTP):
            raise TypeError(f"unknown http_request_kwargs {min(unknown)!r}; there are: {', '.join(_HTTP)}")
        self._max_retries = max_retries
        self._api_key = api_key
        self._max_best_of: int | None = None
        self._client = self._connect()

    def __call__(
        self, prompt: str, only_completed: bool = True, return_sorted: bool = False, **kwargs: Any
    ) -> list[str]:
        """``n`` completions."""
        if not only_completed or return_sorted:
            raise ValueError("only_completed=False and return_sorted=True are not supported")
        return [choice["text"] for choice in self.request(prompt, **kwargs)["choices"]]

    def request(self, prompt: str, **kwargs: Any) -> dict[str, Any]:
        """``{prompt, choices: [{text}, …]}``, and an entry in ``history``."""
        return self.basic_request(prompt, **kwargs)

    def basic_request(self, prompt: str, **kwargs: Any) -> dict[str, Any]:
        response = self._generate(prompt, **kwargs)
        merged = {**self.kwargs, **kwargs}
        self.history.append({"prompt": prompt, "response": response, "kwargs": merged, "raw_kwargs": kwargs})
        return response

    def _generate(self, prompt: str, **kwargs: Any) -> dict[str, Any]:
        """Raises TGIResponseError, and the client's errors for servers that do not answer."""
        merged = {**self.kwargs, **kwargs}
        num_choices = int(merged.get("num_return_sequences") or merged.get("n") or 1)
        parameters = to_parameters(merged, num_choices)
        key = None if parameters["do_sample"] else json.dumps([self.model, prompt, parameters], sort_keys=True)
        if self.cache is not None and key is not None and key in self.cache:
            texts = list(self.cache[key])
        else:
            try:
                texts = self._texts(prompt, parameters, num_choices)
            except (APIStatusError, InvalidResponseError) as error:
                raise TGIResponseError(error) from error
            if self.cache is not None and key is not None:
                self.cache[key] = texts
        return {"prompt": prompt, "choices": [{"text": text} for text in texts]}

    def copy(self, **kwargs: Any) -> Self:
        """With other defaults and a history of its own; servers and cache are shared."""
        copied = copy.copy(self)
        copied.kwargs = {**self.kwargs, **kwargs}
        copied.history = []
        place = ("model", "port", "url")
        if any(copied.kwargs[name] != self.kwargs[name] for name in place):
            copied.model, port, copied.url = (copied.kwargs[name] for name in place)
            copied.ports = [port] if isinstance(port, int) else list(port)
            copied._max_best_of = None
            copied._client = copied._connect()
        return copied

    def inspect_history(self, n: int = 1, skip: int = 0) -> str:
        """Print, and return, the last ``n`` prompts with their first completions."""
        end = len(self.history) - skip
        shown = "\n\n\n".join(
            entry["prompt"] + entry["response"]["choices"][0]["text"] for entry in self.history[max(0, end - n) : end]
        )
        print(shown)
        return shown

    def close(self) -> None:
        self._client.close()
        self._http.close()

    def _connect(self) -> Client:
        given = self.http_request_kwargs
        endpoints = [
            Endpoint(
                f"{self.url.rstrip('/')}:{port}",
                id=str(port),
                api_key=self._api_key,
                max_concurrent=MAX_CONCURRENT,
                queue_size=None,
            )
            for port in self.ports
        ]
        timeout = given.get("timeout", 120.0)
        if isinstance(timeout, tuple):
            timeout = httpx.Timeout(timeout[1], connect=timeout[0])
        self._http = httpx.Client(verify=given.get("verify", True), cert=given.get("cert"))
        return Client(
            pool=EndpointPool(endpoints),
            http_client=self._http,
            headers=given.get("headers"),
            timeout=timeout,
            max_retries=self._max_retries,
            environment={},
        )

    def _texts(self, prompt: str, parameters: Mapping[str, Any], num_choices: int) -> list[str]:
        """As many requests as the server's ``max_best_of`` makes necessary."""
        texts: list[str] = []
        while len(texts) < num_choices:
            best_of = min(num_choices - len(texts), self._best_of_limit(num_choices))
            options: dict[str, Any] = {**parameters, "best_of": best_of if best_of > 1 else None}
            texts += _all_texts(self._client.generate(prompt, **options))
        return texts

    def _best_of_limit(self, num_choices: int) -> int:
        if num_choices == 1:
            return 1
        if self._max_best_of is None:
            try:
                self._max_best_of = self._client.info().max_best_of or 1
            except (APIStatusError, InvalidResponseError):
                self._max_best_of = 1
        return self._max_best_of


def to_parameters(given: Mapping[str, Any], num_choices: int) -> dict[str, Any]:
    """DSPy's words → TGI's. Raises ValueError for what TGI has no word for."""
    if given.get("presence_penalty"):
        raise ValueError("TGI's generate has no presence_penalty; use frequency_penalty or repetition_penalty")
    parameters = {name: value for name, value in given.items() if name not in _OWN and value is not None}
    temperature = given.get("temperature") or 0.0
    is_sampled = bool(parameters.get("do_sample", num_choices > 1 or temperature > 0.1))
    parameters["do_sample"] = is_sampled or num_choices > 1
    if parameters["do_sample"]:
        parameters["temperature"] = max(0.1, temperature)
    else:  # TGI samples as soon as one of these is set
        parameters = {name: value for name, value in parameters.items() if name not in _SAMPLING}
    parameters.setdefault("max_new_tokens", given.get("max_tokens"))
    stop = parameters.get("stop") or ()
    parameters["stop"] = list(dict.fromkeys([stop] if isinstance(stop, str) else stop))
    return parameters


def _all_texts(result: GenerateResult) -> list[str]:
    others = result.details.best_of_sequences if result.details else ()
    return [result.generated_text, *(sequence.generated_text for sequence in others)]

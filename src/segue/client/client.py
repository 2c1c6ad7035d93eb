"""The client for threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

import httpx

from segue.client import _calls
from segue.client._base import HTTP_SETTINGS, ClientBase
from segue.client._calls import Messages
from segue.client._flow import OpenStream
from segue.client._sync import Stream, SyncDriver
from segue.client._wire import Call
from segue.client.errors import TGIError
from segue.client.limiter import ThreadSignal
from segue.client.options import CallOptions, ChatOptions, CompletionOptions, GenerateOptions, Options
from segue.client.types import (
    ChatChunk,
    ChatCompletion,
    ChatTokenization,
    Completion,
    CompletionChunk,
    GenerateResult,
    Metrics,
    Model,
    ModelList,
    RawResponse,
    ServerInfo,
    StreamEvent,
    Tokenization,
)

__all__ = ["Chat", "Client", "Completions", "Models"]

R = TypeVar("R")


class Client(ClientBase[httpx.Client]):
    """Talks to Segue, to any TGI since 0.9, and to Hugging Face's hosted API. May be shared between threads.

        with Client("http://127.0.0.1:8080") as client:
            print(client.generate("Once upon", max_new_tokens=20))
            for event in client.generate("a time", stream=True):
                print(event.text, end="")
            print(client.chat("Who are you?").text)

    Without arguments it goes where the environment says (``TGI_BASE_URL``, ``HF_API_KEY_1`` …: see ``_environment``).
    ``endpoints`` or ``pool`` instead of ``base_url`` spread the requests over several servers or keys.
    Every method takes the options of ``CallOptions`` as keywords, and raises the errors of ``segue.client.errors``.
    """

    def _connect(self, http_client: httpx.Client | None) -> None:
        self._driver = SyncDriver(http_client or httpx.Client(**HTTP_SETTINGS))

    @overload
    def generate(
        self, prompt: str, *, stream: Literal[False] = False, details: bool = True, **options: Unpack[GenerateOptions]
    ) -> GenerateResult: ...

    @overload
    def generate(
        self, prompt: str, *, stream: Literal[True], details: bool = True, **options: Unpack[GenerateOptions]
    ) -> Stream[StreamEvent, GenerateResult]: ...

    @overload
    def generate(
        self, prompt: str, *, stream: bool, details: bool = True, **options: Unpack[GenerateOptions]
    ) -> GenerateResult | Stream[StreamEvent, GenerateResult]: ...

    def generate(
        self, prompt: str, *, stream: bool = False, details: bool = True, **options: Unpack[GenerateOptions]
    ) -> GenerateResult | Stream[StreamEvent, GenerateResult]:
        """Continue ``prompt``; greedily, unless ``do_sample`` or a parameter of sampling is set.

        A stream is returned when its first event is there: until then the request can be, and is, repeated.
        """
        call, resolved = self._generate_call(prompt, stream, details, options)
        if stream:
            return self._open(call, resolved)
        return self._run(call, resolved)

    text_generation = generate

    def generate_stream(
        self, prompt: str, *, details: bool = True, **options: Unpack[GenerateOptions]
    ) -> Stream[StreamEvent, GenerateResult]:
        call, resolved = self._generate_call(prompt, True, details, options)
        return self._open(call, resolved)

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        concurrency: int | None = None,
        return_exceptions: bool = False,
        details: bool = True,
        **options: Unpack[GenerateOptions],
    ) -> list[GenerateResult]:
        """``generate`` for each prompt, ``concurrency`` at a time (default: all slots); results in the prompts' order.

        The first error ends it and is raised; with ``return_exceptions`` errors stand where the results would.
        """

        def generate(prompt: str) -> GenerateResult:
            try:
                return self.generate(prompt, details=details, **options)
            except TGIError as error:
                if return_exceptions:
                    return cast(GenerateResult, error)
                raise

        with ThreadPoolExecutor(max(1, min(len(prompts), concurrency or self._num_slots()))) as executor:
            try:
                return list(executor.map(generate, prompts))
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                raise

    @property
    def chat(self) -> "Chat":
        """``chat(messages)``, or in OpenAI's shape ``chat.completions.create(messages=…)``."""
        return Chat(self)

    chat_completion = chat

    @property
    def completions(self) -> "Completions":
        """``completions(prompt)`` or ``completions.create(prompt=…)``."""
        return Completions(self)

    @property
    def models(self) -> "Models":
        return Models(self)

    def tokenize(self, text: str, **options: Unpack[CallOptions]) -> Tokenization:
        resolved = self._options(options)
        return self._run(_calls.tokenize(text, resolved.extra_body), resolved)

    def chat_tokenize(
        self, messages: Messages, *, model: str | None = None, **options: Unpack[ChatOptions]
    ) -> ChatTokenization:
        return self._run(*self._chat_tokenize_call(messages, model, options))

    def info(self, **options: Unpack[CallOptions]) -> ServerInfo:
        return self._ask(_calls.INFO, self._options(options))

    def metrics(self, **options: Unpack[CallOptions]) -> Metrics:
        return self._ask(_calls.METRICS, self._options(options))

    def health(self, **options: Unpack[CallOptions]) -> bool:
        """Whether the server answers that it can generate; one attempt of at most 5 s."""
        return self._driver.run(self._health_flow(self._health_options(options), ThreadSignal))

    def check_endpoints(self, **options: Unpack[CallOptions]) -> dict[str, bool]:
        """``health`` of every endpoint; those that are not leave the rotation for their breaker's cool-down."""
        return self._driver.run(self._check_flow(self._health_options(options), ThreadSignal))

    def wait_ready(self, timeout: float = 600.0, *, poll: float = 0.1, endpoint: str | None = None) -> None:
        """Ask for the health of every endpoint (or of ``endpoint``) each ``poll`` seconds until all are well.

        Raises APITimeoutError after ``timeout`` seconds, AuthenticationError and PermissionDeniedError at once.
        """
        self._driver.run(self._ready_flow(timeout, poll, endpoint, ThreadSignal))

    def request(self, method: str, path: str, *, json: Any = None, **options: Unpack[CallOptions]) -> RawResponse:
        """Any request to a path below the endpoint's URL, or to a whole URL, in the line and with all retries."""
        return self._run(_calls.raw(method, path, json), self._options(options))

    def stream_request(
        self, method: str, path: str, *, json: Any = None, **options: Unpack[CallOptions]
    ) -> Stream[Any, list[Any]]:
        """The same for an answer of server-sent events; their bodies come as they are."""
        return self._open(_calls.raw_stream(method, path, json), self._options(options))

    def close(self) -> None:
        """Close the connections, unless ``http_client`` was given: its giver closes it."""
        if self._owns_http:
            self._driver.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[R], options: Options) -> R:
        return cast(R, self._driver.run(self._exchange(call, options, ThreadSignal).run()))

    def _open(self, call: Call[R], options: Options) -> Stream[Any, R]:
        stream = self._driver.run(self._exchange(call, options, ThreadSignal).run())
        return Stream(cast("OpenStream[R]", stream))

    def _ask(self, call: Call[R], options: Options) -> R:
        return self._driver.run(self._exchange(call, options, ThreadSignal).ask())


class Chat:
    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def completions(self) -> "Chat":
        return self

    @overload
    def create(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> ChatCompletion: ...

    @overload
    def create(
        self, messages: Messages, *, model: str | None = None, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> Stream[ChatChunk, ChatCompletion]: ...

    @overload
    def create(
        self, messages: Messages, *, model: str | None = None, stream: bool, **options: Unpack[ChatOptions]
    ) -> ChatCompletion | Stream[ChatChunk, ChatCompletion]: ...

    def create(
        self, messages: Messages, *, model: str | None = None, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> ChatCompletion | Stream[ChatChunk, ChatCompletion]:
        """``messages`` as in OpenAI's API, image parts and all; a string is one message of the user."""
        call, resolved = self._client._chat_call(messages, model, stream, options)
        if stream:
            return self._client._open(call, resolved)
        return self._client._run(call, resolved)

    __call__ = create


class Completions:
    def __init__(self, client: Client) -> None:
        self._client = client

    @overload
    def create(
        self,
        prompt: str | Sequence[str],
        *,
        model: str | None = None,
        stream: Literal[False] = False,
        **options: Unpack[CompletionOptions],
    ) -> Completion: ...

    @overload
    def create(
        self,
        prompt: str | Sequence[str],
        *,
        model: str | None = None,
        stream: Literal[True],
        **options: Unpack[CompletionOptions],
    ) -> Stream[CompletionChunk, Completion]: ...

    @overload
    def create(
        self,
        prompt: str | Sequence[str],
        *,
        model: str | None = None,
        stream: bool,
        **options: Unpack[CompletionOptions],
    ) -> Completion | Stream[CompletionChunk, Completion]: ...

    def create(
        self,
        prompt: str | Sequence[str],
        *,
        model: str | None = None,
        stream: bool = False,
        **options: Unpack[CompletionOptions],
    ) -> Completion | Stream[CompletionChunk, Completion]:
        call, resolved = self._client._completion_call(prompt, model, stream, options)
        if stream:
            return self._client._open(call, resolved)
        return self._client._run(call, resolved)

    __call__ = create


class Models:
    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, **options: Unpack[CallOptions]) -> ModelList:
        return self._client._ask(_calls.MODELS, self._client._options(options))

    def retrieve(self, id: str, **options: Unpack[CallOptions]) -> Model:
        return self._client._ask(_calls.model(id), self._client._options(options))

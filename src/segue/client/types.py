"""What the client answers with. Field names are the wire's; a field that a server leaves out is None or empty."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "BestOfSequence",
    "ChatChoice",
    "ChatChunk",
    "ChatChunkChoice",
    "ChatCompletion",
    "ChatDelta",
    "ChatLogprob",
    "ChatMessage",
    "ChatTokenization",
    "Completion",
    "CompletionChoice",
    "CompletionChunk",
    "Details",
    "FunctionCall",
    "GenerateResult",
    "Metrics",
    "Model",
    "ModelList",
    "PrefillToken",
    "RawResponse",
    "ResponseMetadata",
    "ServerInfo",
    "StreamEvent",
    "TextSpan",
    "Token",
    "Tokenization",
    "ToolCall",
    "TopLogprob",
    "Usage",
]


@dataclass(frozen=True, slots=True)
class ResponseMetadata:
    """How an answer came about."""

    status: int
    headers: Mapping[str, str]
    """Of the response; lookup ignores case."""
    request_id: str
    """Sent as ``X-Request-ID`` with every attempt."""
    elapsed: float
    """Seconds from the call to the answer (a stream: to its first event), waiting and retries included."""
    attempts: int
    """Requests sent, at least 1."""
    endpoint: str
    """Id of the endpoint that answered."""
    queue_wait: float = 0.0
    """Seconds spent waiting for a slot."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the server reports them; None where it does not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def total_tokens(self) -> int | None:
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class PrefillToken:
    id: int
    text: str
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    text: str
    logprob: float | None
    special: bool


@dataclass(frozen=True, slots=True)
class BestOfSequence:
    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: tuple[PrefillToken, ...]
    tokens: tuple[Token, ...]
    top_tokens: tuple[tuple[Token, ...], ...]


@dataclass(frozen=True, slots=True)
class Details:
    """``finish_reason`` is length, eos_token or stop_sequence."""

    finish_reason: str
    generated_tokens: int
    seed: int | None = None
    prefill: tuple[PrefillToken, ...] = ()
    tokens: tuple[Token, ...] = ()
    top_tokens: tuple[tuple[Token, ...], ...] = ()
    best_of_sequences: tuple[BestOfSequence, ...] = ()
    """The ``best_of - 1`` that lost."""
    input_length: int | None = None
    """Prompt tokens; streams only."""


@dataclass(frozen=True, slots=True)
class GenerateResult:
    generated_text: str
    details: Details | None
    usage: Usage
    response: ResponseMetadata = field(repr=False)

    def __str__(self) -> str:
        return self.generated_text

    @property
    def finish_reason(self) -> str | None:
        return self.details.finish_reason if self.details else None


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One token; the last event of a stream also has ``generated_text``."""

    token: Token
    index: int | None
    top_tokens: tuple[Token, ...]
    generated_text: str | None
    details: Details | None
    response: ResponseMetadata = field(repr=False)

    @property
    def text(self) -> str:
        """What this token adds to the text: nothing if it is special."""
        return "" if self.token.special else self.token.text


@dataclass(frozen=True, slots=True)
class FunctionCall:
    name: str | None
    arguments: str
    """JSON."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str | None
    type: str
    function: FunctionCall
    index: int = 0


@dataclass(frozen=True, slots=True)
class TopLogprob:
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class ChatLogprob:
    token: str
    logprob: float
    top_logprobs: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: str
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatChoice:
    index: int
    message: ChatMessage
    finish_reason: str | None
    logprobs: tuple[ChatLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    id: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: tuple[ChatChoice, ...]
    usage: Usage
    response: ResponseMetadata = field(repr=False)
    object: str = "chat.completion"

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """Content of the first choice; empty if it is a tool call."""
        return (self.choices[0].message.content or "") if self.choices else ""


@dataclass(frozen=True, slots=True)
class ChatDelta:
    role: str | None = None
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatChunkChoice:
    index: int
    delta: ChatDelta
    finish_reason: str | None
    logprobs: tuple[ChatLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class ChatChunk:
    id: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: tuple[ChatChunkChoice, ...]
    usage: Usage | None
    response: ResponseMetadata = field(repr=False)
    object: str = "chat.completion.chunk"

    @property
    def text(self) -> str:
        return (self.choices[0].delta.content or "") if self.choices else ""


@dataclass(frozen=True, slots=True)
class CompletionChoice:
    index: int
    text: str
    finish_reason: str | None
    logprobs: Any = None


@dataclass(frozen=True, slots=True)
class Completion:
    id: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: tuple[CompletionChoice, ...]
    usage: Usage
    response: ResponseMetadata = field(repr=False)
    object: str = "text_completion"

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        return self.choices[0].text if self.choices else ""


@dataclass(frozen=True, slots=True)
class CompletionChunk:
    """``choices[].index`` is the prompt's: the streams of several prompts come interleaved."""

    id: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: tuple[CompletionChoice, ...]
    usage: Usage | None
    response: ResponseMetadata = field(repr=False)
    object: str = "text_completion"

    @property
    def text(self) -> str:
        return self.choices[0].text if self.choices else ""


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A token of a text: characters ``start`` to ``stop``."""

    id: int
    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Tokenization:
    tokens: tuple[TextSpan, ...]
    response: ResponseMetadata = field(repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[TextSpan]:
        return iter(self.tokens)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True, slots=True)
class ChatTokenization:
    tokens: tuple[TextSpan, ...]
    templated_text: str
    response: ResponseMetadata = field(repr=False)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """``/info``. ``raw`` has everything, also what a version adds."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int | None
    max_best_of: int | None
    max_stop_sequences: int | None
    max_input_tokens: int | None
    """Called max_input_length before TGI 2.0; read from either."""
    max_total_tokens: int | None
    max_client_batch_size: int | None
    validation_workers: int | None
    router: str | None
    version: str | None
    sha: str | None
    docker_label: str | None
    raw: Mapping[str, Any] = field(repr=False)
    response: ResponseMetadata = field(repr=False)


@dataclass(frozen=True, slots=True)
class Model:
    id: str
    created: int
    owned_by: str
    object: str = "model"


@dataclass(frozen=True, slots=True)
class ModelList:
    data: tuple[Model, ...]
    response: ResponseMetadata = field(repr=False)
    object: str = "list"

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Model]:
        return iter(self.data)


@dataclass(frozen=True, slots=True)
class Metrics:
    """``/metrics`` in Prometheus' text format."""

    text: str
    response: ResponseMetadata = field(repr=False)

    def samples(self) -> dict[str, float]:
        """Value of every series, under its name with labels as written."""
        values: dict[str, float] = {}
        for line in self.text.splitlines():
            if line and not line.startswith("#"):
                end = line.rfind("}") + 1 or line.find(" ")
                values[line[:end]] = float(line[end:].split()[0])
        return values


@dataclass(frozen=True, slots=True)
class RawResponse:
    """An answer as it came: ``json`` is None where the body is not JSON."""

    content: bytes
    json: Any
    usage: Usage
    response: ResponseMetadata = field(repr=False)

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

"""Requests and answers by the old names."""

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from segue.integrations.text_generation.errors import ValidationError

__all__ = [
    "BestOfSequence",
    "ChatComplete",
    "ChatCompletionChunk",
    "ChatCompletionComplete",
    "ChatRequest",
    "Choice",
    "ChoiceDelta",
    "ChoiceDeltaToolCall",
    "Details",
    "FinishReason",
    "Function",
    "Grammar",
    "GrammarType",
    "InputToken",
    "Message",
    "Parameters",
    "Request",
    "Response",
    "StreamDetails",
    "StreamResponse",
    "Token",
    "Tool",
    "ToolCall",
]


class GrammarType(StrEnum):
    Json = "json"
    Regex = "regex"


class Grammar(BaseModel):
    type: GrammarType
    value: str | dict[str, Any]


class Parameters(BaseModel):
    """Raises ValidationError for what the server would refuse."""

    do_sample: bool = False
    max_new_tokens: int = 20
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    return_full_text: bool = False
    stop: list[str] = Field(default_factory=list)
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    truncate: int | None = None
    typical_p: float | None = None
    best_of: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    top_n_tokens: int | None = None
    grammar: Grammar | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("best_of", "repetition_penalty", "temperature", "top_k", "truncate", "top_n_tokens"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValidationError(f"`{name}` must be strictly positive")
        for name in ("top_p", "typical_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValidationError(f"`{name}` must be > 0.0 and < 1.0")
        if self.frequency_penalty is not None and not -2 <= self.frequency_penalty <= 2:
            raise ValidationError("`frequency_penalty` must be >= -2.0 and <= 2.0")
        if self.seed is not None and self.seed < 0:
            raise ValidationError("`seed` must be positive")
        if self.grammar is not None and not self.grammar.value:
            raise ValidationError("`value` cannot be empty for `grammar`")
        if self.best_of is not None and self.best_of > 1:
            self._check_best_of()
        return self

    def _check_best_of(self) -> None:
        if self.seed is not None:
            raise ValidationError("`seed` must not be set when `best_of` is > 1")
        samples = (self.temperature, self.top_k, self.top_p, self.typical_p)
        if not self.do_sample and all(value is None for value in samples):
            raise ValidationError("you must use sampling when `best_of` is > 1")


class Request(BaseModel):
    inputs: str
    parameters: Parameters | None = None
    stream: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.inputs:
            raise ValidationError("`inputs` cannot be empty")
        best_of = self.parameters.best_of if self.parameters else None
        if self.stream and best_of is not None and best_of > 1:
            raise ValidationError("`best_of` != 1 is not supported when streaming")
        return self


class InputToken(BaseModel):
    id: int
    text: str
    logprob: float | None = None


class Token(BaseModel):
    id: int
    text: str
    logprob: float | None = None
    special: bool


class FinishReason(StrEnum):
    Length = "length"
    EndOfSequenceToken = "eos_token"
    StopSequence = "stop_sequence"


class BestOfSequence(BaseModel):
    generated_text: str
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None = None
    prefill: list[InputToken] = Field(default_factory=list)
    tokens: list[Token] = Field(default_factory=list)
    top_tokens: list[list[Token]] | None = None


class Details(BaseModel):
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None = None
    prefill: list[InputToken] = Field(default_factory=list)
    tokens: list[Token] = Field(default_factory=list)
    top_tokens: list[list[Token]] | None = None
    best_of_sequences: list[BestOfSequence] | None = None


class Response(BaseModel):
    generated_text: str
    details: Details


class StreamDetails(BaseModel):
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None = None


class StreamResponse(BaseModel):
    """One token; the last one also has the text and the details."""

    token: Token
    top_tokens: list[Token] | None = None
    generated_text: str | None = None
    details: StreamDetails | None = None


class ToolCall(BaseModel):
    id: int | str
    type: str
    function: dict[str, Any]


class Message(BaseModel):
    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: Any = None


class Tool(BaseModel):
    type: str
    function: dict[str, Any]


class ChatRequest(BaseModel):
    model: str = "tgi"
    messages: list[Message]
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: list[float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_tokens: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    stream: bool = False
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[Tool] | None = None
    tool_choice: str | None = None


class ChatCompletionComplete(BaseModel):
    index: int
    message: Message
    logprobs: Any = None
    finish_reason: str
    usage: Any = None


class ChatComplete(BaseModel):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionComplete]
    usage: Any = None


class Function(BaseModel):
    name: str | None = None
    arguments: str


class ChoiceDeltaToolCall(BaseModel):
    index: int
    id: str | None = None
    type: str | None = None
    function: Function


class ChoiceDelta(BaseModel):
    role: str | None = None
    content: str | None = None
    tool_calls: list[ChoiceDeltaToolCall] | ChoiceDeltaToolCall | None = None
    """One object from TGI before 3.1, a list since."""


class Choice(BaseModel):
    index: int
    delta: ChoiceDelta
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(BaseModel):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Any = None

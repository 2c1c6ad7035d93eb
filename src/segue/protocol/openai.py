"""OpenAI's dialect as TGI speaks it: `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/chat_tokenize`."""

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from segue.protocol.tgi import JsonSchemaConfig, RegexGrammar, TokenizeResponse
from segue.protocol.wire import F32, U32, U64, Items, Untagged, WireModel

__all__ = [
    "ChatCompletion",
    "ChatCompletionChoice",
    "ChatCompletionChunk",
    "ChatCompletionComplete",
    "ChatCompletionDelta",
    "ChatCompletionLogprob",
    "ChatCompletionLogprobs",
    "ChatCompletionTopLogprob",
    "ChatRequest",
    "ChatTokenizeResponse",
    "Chunk",
    "CompletionComplete",
    "CompletionFinal",
    "CompletionLogprobs",
    "CompletionRequest",
    "DeltaToolCall",
    "Function",
    "FunctionDefinition",
    "FunctionName",
    "ImageChunk",
    "JsonFormat",
    "JsonSchemaFormat",
    "LogitBias",
    "Message",
    "MessageContent",
    "ModelInfo",
    "ModelsInfo",
    "NamedToolChoice",
    "OutputMessage",
    "Prompt",
    "ResponseFormat",
    "Stop",
    "StreamOptions",
    "TextChunk",
    "TextFormat",
    "TextMessage",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallMessage",
    "ToolChoice",
    "Url",
    "Usage",
]


def _show_both_names(schema: dict[str, Any]) -> None:
    """TGI documents ``arguments`` and writes it, OpenAI's clients send ``parameters``."""
    schema["properties"]["arguments"] = schema["properties"]["parameters"]


class FunctionDefinition(WireModel):
    """A function that the model may call, or a call of it."""

    model_config = ConfigDict(json_schema_extra=_show_both_names)

    name: str
    description: str | None = None
    arguments: Any = Field(default=None, validation_alias=AliasChoices("parameters", "arguments"))
    """Of a tool: JSON Schema of the arguments; without it there are none. Of a call: the arguments as JSON text."""


class Tool(WireModel):
    """Something that the model may call."""

    type: str = Field(examples=["function"])
    function: FunctionDefinition


class ToolCall(WireModel):
    """A call that the model wants made."""

    id: str
    type: str
    function: FunctionDefinition

    @model_validator(mode="after")
    def _has_arguments(self) -> Self:
        if "arguments" not in self.function.model_fields_set:
            raise PydanticCustomError("missing_field", "missing field `{field}`", {"field": "arguments"})
        return self


class FunctionName(WireModel):
    """A function by name."""

    name: str


class NamedToolChoice(WireModel):
    """This function and no other."""

    type: Literal["function"] = "function"
    function: FunctionName


ToolChoice = TypeAliasType("ToolChoice", Annotated[str | NamedToolChoice, Untagged("ToolChoice")])
"""``auto``, ``none``, ``required``, or a function."""


class Url(WireModel):
    """An address; ``data:`` works too."""

    url: str


class TextChunk(WireModel):
    """Text as a part of a message."""

    type: Literal["text"]
    text: str


class ImageChunk(WireModel):
    """An image as a part of a message."""

    type: Literal["image_url"]
    image_url: Url


MessageChunk = TypeAliasType("MessageChunk", Annotated[TextChunk | ImageChunk, Field(discriminator="type")])
MessageContent = TypeAliasType("MessageContent", Annotated[str | Items[MessageChunk], Untagged("MessageContent")])


class Message(WireModel):
    """One message of a conversation. Either ``content`` or ``tool_calls`` is needed."""

    role: str = Field(examples=["user"])
    content: MessageContent | None = Field(default=None, examples=["What is Deep Learning?"])
    tool_calls: Items[ToolCall] | None = None
    name: str | None = Field(default=None, examples=["David"])
    tool_call_id: str | None = None
    """Of a message with the role ``tool``: the call that it answers."""

    @model_validator(mode="after")
    def _has_a_body(self) -> Self:
        if self.content is None and self.tool_calls is None:
            raise PydanticCustomError(
                "untagged", "data did not match any variant of untagged enum {enum}", {"enum": "MessageBody"}
            )
        return self


class TextFormat(WireModel):
    """Any text."""

    type: Literal["text"]


class JsonFormat(WireModel):
    """The text is JSON: any object as OpenAI asks for it, or what fits the JSON Schema in ``value``, as TGI does."""

    type: Literal["json", "json_object"]
    value: Any = None
    """The schema, as an object or as a string that holds one. ``json_object`` needs none."""

    @model_validator(mode="after")
    def _has_a_schema(self) -> Self:
        if self.type == "json" and self.value is None:
            raise PydanticCustomError("missing_field", "missing field `{field}`", {"field": "value"})
        return self


class JsonSchemaFormat(WireModel):
    """The text is JSON that fits a JSON Schema with a name, in ``json_schema`` (OpenAI's) or in ``value`` (TGI's)."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaConfig | None = None
    value: JsonSchemaConfig | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> Self:
        if self.json_schema is None and self.value is None:
            raise PydanticCustomError("missing_field", "missing field `{field}`", {"field": "value"})
        return self


ResponseFormat = TypeAliasType(
    "ResponseFormat", Annotated[TextFormat | JsonFormat | RegexGrammar | JsonSchemaFormat, Field(discriminator="type")]
)


class StreamOptions(WireModel):
    """What a stream carries besides the text."""

    include_usage: bool = Field(default=False, examples=[True])
    """Send a last chunk without choices that carries the usage."""


Stop = TypeAliasType("Stop", Annotated[str | Items[str], Untagged("Stop")])
"""One string, or a list of them."""
LogitBias = TypeAliasType("LogitBias", Annotated[dict[str, F32] | Items[F32], Untagged("LogitBias")])
"""OpenAI's map of token ids, or TGI's list, whose numbers must be 0."""


class ChatRequest(WireModel):
    """A conversation and how to continue it."""

    model: str | None = Field(default=None, examples=["tgi"])
    """Echoed back; the served model answers whatever the name is."""
    messages: Items[Message]
    frequency_penalty: F32 | None = Field(default=None, examples=[1.0])
    """From -2 to 2."""
    logit_bias: LogitBias | None = Field(default=None, examples=[{"50256": -100.0}])
    """Token id to what is added to its logit, from -100 to 100."""
    logprobs: bool | None = Field(default=None, examples=[False])
    """Return each generated token's logprob."""
    top_logprobs: U32 | None = Field(default=None, examples=[5])
    """Return so many of the most probable tokens for each generated one."""
    max_tokens: U32 | None = Field(default=None, examples=[32])
    """Most tokens to generate; as many as the model's limit allows when absent."""
    max_completion_tokens: U32 | None = Field(default=None, examples=[32])
    """The newer name of ``max_tokens``; one of them only."""
    n: U32 | None = Field(default=None, examples=[1])
    """So many choices; of a given ``seed`` the k-th has the seed plus k."""
    presence_penalty: F32 | None = Field(default=None, examples=[0.1])
    """From -2 to 2. Under ``--openai-dialect tgi`` a ``repetition_penalty`` of this plus 2."""
    stop: Stop | None = None
    """End the generation after any of these strings."""
    stream: bool = False
    """Answer with server-sent events."""
    seed: U64 | None = Field(default=None, examples=[42])
    """The same seed gives the same sampled text."""
    temperature: F32 | None = Field(default=None, examples=[1.0])
    """0 takes the most probable token each time; samples otherwise."""
    top_p: F32 | None = Field(default=None, examples=[0.95])
    """Sample among the most probable tokens that together have this probability. Greater than 0, at most 1."""
    tools: Items[Tool] | None = None
    """Functions that the model may call. Cannot be combined with ``response_format``."""
    tool_prompt: str | None = Field(default=None, examples=["Given the functions available, answer with a call."])
    """Text that introduces the tools, and asks for JSON. Given, the model's own format of calls is not used."""
    tool_choice: ToolChoice | None = None
    """``auto`` (default): text or calls; ``none``: text; ``required``: calls; a function: a call of that one."""
    parallel_tool_calls: bool | None = None
    """False: one call at most. More than one come only from models whose own format has them."""
    response_format: ResponseFormat | None = None
    """Constrain the text."""
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _names_max_tokens_once(self) -> Self:
        if {"max_tokens", "max_completion_tokens"} <= self.model_fields_set:
            raise PydanticCustomError("duplicate", "duplicate field `{field}`", {"field": "max_tokens"})
        return self


class ChatTokenizeResponse(WireModel):
    """The prompt that a conversation becomes, and its tokens."""

    tokenize_response: TokenizeResponse
    templated_text: str


class Usage(WireModel):
    """Tokens of a request."""

    prompt_tokens: U32
    completion_tokens: U32
    total_tokens: U32


class ChatCompletionTopLogprob(WireModel):
    """One of the most probable tokens."""

    token: str
    logprob: F32 | None


class ChatCompletionLogprob(WireModel):
    """A generated token's logprob."""

    token: str
    logprob: F32 | None
    top_logprobs: list[ChatCompletionTopLogprob]


class ChatCompletionLogprobs(WireModel):
    """Logprobs of generated tokens."""

    content: list[ChatCompletionLogprob]


class TextMessage(WireModel):
    """The model's answer as text."""

    role: str = Field(examples=["assistant"])
    content: str
    tool_call_id: str | None = None
    """Part of TGI's schema; an answer never has it."""


class ToolCallMessage(WireModel):
    """The model's answer as calls."""

    role: str = Field(examples=["assistant"])
    content: str | None = None
    """What the model said beside the calls."""
    tool_calls: list[ToolCall]


OutputMessage = TypeAliasType("OutputMessage", ToolCallMessage | TextMessage)


class ChatCompletionComplete(WireModel):
    """The model's answer."""

    index: U32
    message: OutputMessage
    logprobs: ChatCompletionLogprobs | None = None
    finish_reason: str


class ChatCompletion(WireModel):
    """Answer of ``/v1/chat/completions``."""

    object: Literal["chat.completion"] = "chat.completion"
    id: str
    created: U64 = Field(examples=[1706270835])
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionComplete]
    usage: Usage


class Function(WireModel):
    """A piece of a streamed call."""

    name: str | None = None
    arguments: str


class DeltaToolCall(WireModel):
    """A piece of a streamed call."""

    index: U32
    """Of the call in the answer."""
    id: str | None = None
    """In the first piece of each call; under ``--openai-dialect tgi`` in all."""
    type: str | None = None
    function: Function


class ToolCallDelta(WireModel):
    """The next piece of the answer, as calls."""

    role: str | None = Field(default=None, examples=["assistant"])
    tool_calls: list[DeltaToolCall] | None = None
    """Missing in the chunk that only says why the answer ended."""


ChatCompletionDelta = TypeAliasType("ChatCompletionDelta", ToolCallDelta | TextMessage)


class ChatCompletionChoice(WireModel):
    """The next piece of the answer."""

    index: U32
    delta: ChatCompletionDelta
    logprobs: ChatCompletionLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(WireModel):
    """One event of a streamed chat."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    id: str
    created: U64 = Field(examples=[1706270978])
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionChoice]
    usage: Usage | None = None


Prompt = TypeAliasType("Prompt", Annotated[str | Items[str] | Items[U32] | Items[Items[U32]], Untagged("Prompt")])
"""A text, texts, token ids, or lists of token ids."""


class CompletionRequest(WireModel):
    """One or more prompts and how to continue them."""

    model: str | None = Field(default=None, examples=["tgi"])
    """The served model answers whatever the name is."""
    prompt: Prompt = Field(examples=["What is Deep Learning?"])
    """A prompt, or a list of them."""
    max_tokens: U32 | None = Field(default=None, examples=[32])
    """Most tokens to generate; as many as the model's limit allows when absent."""
    temperature: F32 | None = Field(default=None, examples=[1.0])
    """0 takes the most probable token each time; samples otherwise."""
    top_p: F32 | None = Field(default=None, examples=[0.95])
    """Sample among the most probable tokens that together have this probability. Greater than 0, at most 1."""
    stream: bool = False
    """Answer with server-sent events."""
    seed: U64 | None = Field(default=None, examples=[42])
    """The same seed gives the same sampled text."""
    suffix: str | None = None
    """Not supported: must be null."""
    repetition_penalty: F32 | None = None
    """Logits of tokens seen so far are divided (positive) or multiplied (negative) by this; 1 is off."""
    frequency_penalty: F32 | None = Field(default=None, examples=[1.0])
    """From -2 to 2."""
    stop: Stop | None = None
    """End the generation after any of these strings."""
    n: U32 | None = Field(default=None, examples=[1])
    """So many choices of each prompt; of a given ``seed`` the k-th has the seed plus k."""
    echo: bool | None = None
    """Put the prompt in front of the text; ``max_tokens`` may then be 0."""
    logprobs: U32 | None = Field(default=None, examples=[2])
    """Return each token's logprob, and so many of the most probable tokens."""
    presence_penalty: F32 | None = Field(default=None, examples=[0.1])
    """From -2 to 2. Ignored under ``--openai-dialect tgi``, as TGI does."""
    logit_bias: LogitBias | None = Field(default=None, examples=[{"50256": -100.0}])
    """Token id to what is added to its logit, from -100 to 100."""
    stream_options: StreamOptions | None = None
    """With ``include_usage`` a last chunk without choices carries the usage, and no other chunk does."""
    response_format: ResponseFormat | None = None
    """Constrain the text."""

    @model_validator(mode="after")
    def _has_a_prompt(self) -> Self:
        if not self.prompt and isinstance(self.prompt, list):
            raise PydanticCustomError("empty_prompt", "Empty array detected. Do not use an empty array for the prompt.")
        return self


class CompletionLogprobs(WireModel):
    """Logprobs of a completion's tokens; one entry a token in each list."""

    tokens: list[str]
    token_logprobs: list[F32 | None]
    """Null for the first token of an echoed prompt."""
    top_logprobs: list[dict[str, F32 | None] | None] | None
    """The most probable tokens and the chosen one; null for tokens of the prompt."""
    text_offset: list[U32]
    """Where each token begins in ``text``, in characters."""


class CompletionComplete(WireModel):
    """The continuation of one prompt, or the next piece of it."""

    index: U32
    """Of the prompt; with ``n`` choices a prompt, of the prompt times ``n`` plus the choice's."""
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None


class CompletionFinal(WireModel):
    """Answer of ``/v1/completions``."""

    object: Literal["text_completion"] = "text_completion"
    id: str
    created: U64 = Field(examples=[1706270835])
    model: str
    system_fingerprint: str
    choices: list[CompletionComplete]
    usage: Usage


class Chunk(WireModel):
    """One event of a streamed completion."""

    object: Literal["text_completion"] = "text_completion"
    id: str
    created: U64
    choices: list[CompletionComplete]
    model: str
    system_fingerprint: str
    usage: Usage | None = None
    """In the last chunk of each prompt."""


class ModelInfo(WireModel):
    """A served model."""

    id: str = Field(examples=["gpt2"])
    object: Literal["model"] = "model"
    created: U64
    owned_by: str


class ModelsInfo(WireModel):
    """The served models."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]

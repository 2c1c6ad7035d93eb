"""TGI's own dialect: ``/generate``, ``/generate_stream``, ``/``, ``/tokenize``, ``/info``.

Class and field names are those of TGI's OpenAPI document. Ranges that depend on the server's limits, and TGI's
validation messages, are the server's (``server/admission.py``).
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel
from typing_extensions import TypeAliasType

from segue.protocol.wire import F32, I32, U32, U64, Items, Usize, WireModel

__all__ = [
    "BestOfSequence",
    "CompatGenerateRequest",
    "Details",
    "ErrorResponse",
    "FinishReason",
    "GenerateParameters",
    "GenerateRequest",
    "GenerateResponse",
    "GrammarType",
    "Info",
    "JsonGrammar",
    "JsonSchemaConfig",
    "JsonSchemaGrammar",
    "PrefillToken",
    "RegexGrammar",
    "SimpleToken",
    "StreamDetails",
    "StreamResponse",
    "Token",
    "TokenizeResponse",
]


class FinishReason(StrEnum):
    """Why a generation ended."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"  # noqa: S105
    STOP_SEQUENCE = "stop_sequence"


class JsonGrammar(WireModel):
    """The text is JSON that fits a JSON Schema."""

    type: Literal["json", "json_object"]
    value: Any
    """The schema, as an object or as a string that holds one."""


class RegexGrammar(WireModel):
    """The text matches a regular expression."""

    type: Literal["regex"]
    value: str


class JsonSchemaConfig(WireModel):
    """A JSON Schema with a name."""

    name: str | None = None
    json_schema: Annotated[Any, Field(alias="schema")]


class JsonSchemaGrammar(WireModel):
    """The text is JSON that fits a JSON Schema with a name."""

    type: Literal["json_schema"]
    value: JsonSchemaConfig


GrammarType = TypeAliasType(
    "GrammarType", Annotated[JsonGrammar | RegexGrammar | JsonSchemaGrammar, Field(discriminator="type")]
)


class GenerateParameters(WireModel):
    """How to generate. Null and absent are the same where null is allowed."""

    best_of: Usize | None = Field(default=None, examples=[1])
    """Generate so many sequences and return the one with the highest mean token logprob."""
    temperature: F32 | None = Field(default=None, examples=[0.5])
    """Logits are divided by this; below 1 the text is more predictable, above 1 more varied. Greater than 0."""
    repetition_penalty: F32 | None = Field(default=None, examples=[1.03])
    """Logits of tokens seen so far are divided (positive) or multiplied (negative) by this; 1 is off."""
    frequency_penalty: F32 | None = Field(default=None, examples=[0.1])
    """Subtracted from a token's logit times its share of the text so far. From -2 to 2."""
    presence_penalty: F32 | None = Field(default=None, examples=[0.1])
    """Subtracted once from the logit of each token that was generated so far. From -2 to 2. Not in TGI."""
    logit_bias: dict[str, F32] | None = Field(default=None, examples=[{"50256": -100.0}])
    """Token id to what is added to its logit, from -100 to 100. Not in TGI."""
    top_k: I32 | None = Field(default=None, examples=[10])
    """Sample among so many of the most probable tokens only."""
    top_p: F32 | None = Field(default=None, examples=[0.95])
    """Sample among the most probable tokens that together have this probability. Between 0 and 1, both excluded."""
    typical_p: F32 | None = Field(default=None, examples=[0.95])
    """Sample among the most typical tokens that together have this probability. Between 0 and 1, both excluded."""
    do_sample: bool = Field(default=False, examples=[True])
    """Sample instead of taking the most probable token."""
    max_new_tokens: U32 | None = Field(default=None, examples=[20])
    """Most tokens to generate; as many as the model's limit allows when absent."""
    return_full_text: bool | None = Field(default=None, examples=[False])
    """Put the prompt in front of the generated text."""
    stop: Items[str] = Field(default_factory=list, examples=[["photographer"]])
    """End the generation after any of these strings."""
    truncate: Usize | None = None
    """Keep only so many of the prompt's last tokens."""
    watermark: bool = Field(default=False, examples=[True])
    """Watermark the text (arXiv 2301.10226)."""
    details: bool = False
    """Return the generation's details."""
    decoder_input_details: bool = False
    """Return the prompt's tokens and logprobs with the details."""
    seed: U64 | None = Field(default=None, examples=[42])
    """The same seed gives the same sampled text."""
    top_n_tokens: U32 | None = Field(default=None, examples=[5])
    """Return so many of the most probable tokens for each generated one, with the details."""
    grammar: GrammarType | None = None
    """Constrain the text."""
    adapter_id: str | None = None
    """LoRA adapter; the base model where there is none of that name."""


class GenerateRequest(WireModel):
    """A prompt and how to continue it."""

    inputs: str = Field(examples=["My name is Olivier and I"])
    """The prompt."""
    parameters: GenerateParameters = Field(default_factory=lambda: GenerateParameters(do_sample=True))
    """When absent altogether, ``do_sample`` is true."""


class CompatGenerateRequest(GenerateRequest):
    """As ``GenerateRequest``, with a switch for streaming."""

    stream: bool = False
    """Answer with server-sent events."""


class Token(WireModel):
    """One generated token."""

    id: U32
    text: str
    logprob: F32 | None
    """Null where it is not finite."""
    special: bool
    """Special tokens are not part of ``generated_text``."""


class PrefillToken(WireModel):
    """One token of the prompt."""

    id: U32
    text: str
    logprob: F32 | None
    """Null for the first token."""


class BestOfSequence(WireModel):
    """A sequence of ``best_of`` that was not the best."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None = None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] = Field(default_factory=list)


class Details(WireModel):
    """Details of a generation."""

    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None = None
    """Null when nothing was sampled."""
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | None = None
    top_tokens: list[list[Token]] = Field(default_factory=list)


class GenerateResponse(WireModel):
    """The generated text."""

    generated_text: str
    details: Details | None = None


class StreamDetails(WireModel):
    """Details of a streamed generation."""

    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None = None
    input_length: U32
    """Tokens of the prompt."""


class StreamResponse(WireModel):
    """One event of a stream: one token."""

    index: U32
    """Counts from 1."""
    token: Token
    top_tokens: list[Token] = Field(default_factory=list)
    generated_text: str | None = None
    """In the last event only."""
    details: StreamDetails | None = None
    """In the last event only, if asked for."""


class SimpleToken(WireModel):
    """One token of a text. ``start`` and ``stop`` count bytes."""

    id: U32
    text: str
    start: Usize
    stop: Usize


class TokenizeResponse(RootModel[list[SimpleToken]]):
    """The tokens of a text."""


class Info(WireModel):
    """What is served, and its limits."""

    model_id: str
    model_sha: str | None = None
    model_pipeline_tag: str | None = None
    max_concurrent_requests: Usize
    max_best_of: Usize
    max_stop_sequences: Usize
    max_input_tokens: Usize
    max_total_tokens: Usize
    validation_workers: Usize
    max_client_batch_size: Usize
    router: str
    version: str
    sha: str | None = None
    docker_label: str | None = None
    quantize: str | None = None
    """Only where the weights are quantized: how, in the words of ``--quantize``. Not in TGI."""


class ErrorResponse(WireModel):
    """Why a request was not answered."""

    error: str
    error_type: str

"""OpenAI's Responses API, as far as text goes: ``/v1/responses``."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypeAliasType

from segue.protocol.wire import F32, U32, Items, Untagged, WireModel

__all__ = ["InputMessage", "InputText", "Response", "ResponsesRequest", "TextFormat", "TextOptions"]


class InputText(WireModel):
    """Text as a part of a message, given or generated."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class InputMessage(WireModel):
    """One message of a conversation."""

    type: Literal["message"] = "message"
    role: str = Field(examples=["user"])
    content: Annotated[str | Items[InputText], Untagged("InputContent")] = Field(examples=["What is Deep Learning?"])


class TextFormat(WireModel):
    """The form of the text; ``text`` is the only one."""

    type: str = "text"


class TextOptions(WireModel):
    """How the text is to be."""

    format: TextFormat | None = None


ResponseInput = TypeAliasType("ResponseInput", Annotated[str | Items[InputMessage], Untagged("ResponseInput")])


class ResponsesRequest(WireModel):
    """A conversation and how to continue it. Nothing is stored: ``previous_response_id`` must be null."""

    model: str | None = Field(default=None, examples=["tgi"])
    """Echoed back; the served model answers whatever the name is."""
    input: ResponseInput = Field(examples=["What is Deep Learning?"])
    """The user's message, or all messages."""
    instructions: str | None = None
    """A system message, before all others."""
    max_output_tokens: U32 | None = Field(default=None, examples=[32])
    """Most tokens to generate; as many as the model's limit allows when absent."""
    temperature: F32 | None = Field(default=None, examples=[1.0])
    """0 takes the most probable token each time; samples otherwise."""
    top_p: F32 | None = Field(default=None, examples=[0.95])
    """Sample among the most probable tokens that together have this probability. Greater than 0, at most 1."""
    stream: bool | None = None
    """Answer with server-sent events."""
    metadata: dict[str, str] | None = None
    """Returned as it is."""
    text: TextOptions | None = None
    tools: Items[Any] | None = None
    """Not supported: must be empty."""
    previous_response_id: str | None = None
    """Not supported: must be null."""
    background: bool | None = None
    """Not supported: must not be true."""


class Response(WireModel):
    """Answer of ``/v1/responses``; events carry it too."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: str = Field(examples=["completed"])
    incomplete_details: dict[str, str] | None
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None

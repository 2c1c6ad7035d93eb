"""Anthropic's Messages API, as far as text goes: ``/v1/messages``."""

from typing import Annotated, Any, Literal

from pydantic import Field

from segue.protocol.wire import F32, I32, U32, Items, Untagged, WireModel

__all__ = ["AnthropicMessage", "CountTokensRequest", "MessagesRequest", "MessagesResponse", "TextBlock", "TokenCount"]


class TextBlock(WireModel):
    """Text as a part of a message."""

    type: Literal["text"] = "text"
    text: str


_Content = Annotated[str | Items[TextBlock], Untagged("Content")]


class AnthropicMessage(WireModel):
    """One message of a conversation."""

    role: str = Field(examples=["user"])
    content: _Content = Field(examples=["What is Deep Learning?"])


class CountTokensRequest(WireModel):
    """A conversation."""

    model: str | None = Field(default=None, examples=["tgi"])
    """Echoed back; the served model answers whatever the name is."""
    messages: Items[AnthropicMessage]
    """A last message of the assistant is continued."""
    system: _Content | None = None
    """A system message, before all others."""
    tools: Items[Any] | None = None
    """Not supported: must be empty."""


class MessagesRequest(CountTokensRequest):
    """A conversation and how to continue it."""

    max_tokens: U32 = Field(examples=[32])
    """Most tokens to generate."""
    stop_sequences: Items[str] | None = None
    """End the generation before any of these strings."""
    temperature: F32 | None = Field(default=None, examples=[1.0])
    """0 takes the most probable token each time; samples otherwise."""
    top_p: F32 | None = Field(default=None, examples=[0.95])
    """Sample among the most probable tokens that together have this probability. Greater than 0, at most 1."""
    top_k: I32 | None = Field(default=None, examples=[10])
    """Sample among so many of the most probable tokens only."""
    stream: bool | None = None
    """Answer with server-sent events."""


class MessagesResponse(WireModel):
    """Answer of ``/v1/messages``."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: dict[str, int]


class TokenCount(WireModel):
    """Answer of ``/v1/messages/count_tokens``."""

    input_tokens: U32

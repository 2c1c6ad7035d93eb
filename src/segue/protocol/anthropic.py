"""Anthropic's Messages API, as far as text and functions go: ``/v1/messages``."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypeAliasType

from segue.protocol.wire import F32, I32, U32, Items, Untagged, WireModel

__all__ = [
    "AnthropicMessage",
    "AnthropicTool",
    "AnthropicToolChoice",
    "CountTokensRequest",
    "MessagesRequest",
    "MessagesResponse",
    "TextBlock",
    "TokenCount",
    "ToolResultBlock",
    "ToolUseBlock",
]


class TextBlock(WireModel):
    """Text as a part of a message."""

    type: Literal["text"] = "text"
    text: str


class ToolUseBlock(WireModel):
    """A call of a function, of an assistant's message."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    """The arguments."""


TextContent = TypeAliasType("TextContent", Annotated[str | Items[TextBlock], Untagged("TextContent")])


class ToolResultBlock(WireModel):
    """What a call gave, of a user's message."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: TextContent | None = None


Block = TypeAliasType("Block", TextBlock | ToolUseBlock | ToolResultBlock)
BlockContent = TypeAliasType("BlockContent", Annotated[str | Items[Block], Untagged("Content")])


class AnthropicMessage(WireModel):
    """One message of a conversation."""

    role: str = Field(examples=["user"])
    content: BlockContent = Field(examples=["What is Deep Learning?"])


class AnthropicTool(WireModel):
    """A function that the model may call."""

    type: str | None = Field(default=None, examples=["custom"])
    """``custom``: tools that Anthropic's servers run are not there."""
    name: str
    description: str | None = None
    input_schema: Any = None
    """JSON Schema of the arguments; without it there are none."""


class AnthropicToolChoice(WireModel):
    """``auto``: text or calls; ``none``: text; ``any``: calls; ``tool``: a call of the function ``name``."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None
    """True: one call at most."""


class CountTokensRequest(WireModel):
    """A conversation."""

    model: str | None = Field(default=None, examples=["tgi"])
    """Echoed back; the served model answers whatever the name is."""
    messages: Items[AnthropicMessage]
    """A last message of the assistant is continued."""
    system: TextContent | None = None
    """A system message, before all others."""
    tools: Items[AnthropicTool] | None = None
    """Functions that the model may call."""
    tool_choice: AnthropicToolChoice | None = None
    """Default: ``auto``."""


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
    content: list[TextBlock | ToolUseBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: dict[str, int]


class TokenCount(WireModel):
    """Answer of ``/v1/messages/count_tokens``."""

    input_tokens: U32

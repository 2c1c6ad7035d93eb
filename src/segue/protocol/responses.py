"""OpenAI's Responses API, as far as text and functions go: ``/v1/responses``."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypeAliasType

from segue.protocol.wire import F32, U32, Items, Untagged, WireModel

__all__ = [
    "FunctionCall",
    "FunctionCallOutput",
    "FunctionTool",
    "InputItem",
    "InputMessage",
    "InputText",
    "NamedFunction",
    "Response",
    "ResponsesRequest",
    "TextFormat",
    "TextOptions",
]


class InputText(WireModel):
    """Text as a part of a message, given or generated."""

    type: Literal["input_text", "output_text", "text"]
    text: str


InputContent = TypeAliasType("InputContent", Annotated[str | Items[InputText], Untagged("InputContent")])


class InputMessage(WireModel):
    """One message of a conversation."""

    type: Literal["message"] = "message"
    role: str = Field(examples=["user"])
    content: InputContent = Field(examples=["What is Deep Learning?"])


class FunctionCall(WireModel):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    """JSON text."""


class FunctionCallOutput(WireModel):
    """What the call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: InputContent


class FunctionTool(WireModel):
    """A function that the model may call."""

    type: str = Field(examples=["function"])
    """``function``: tools that OpenAI's servers run are not there."""
    name: str | None = None
    description: str | None = None
    parameters: Any = None
    """JSON Schema of the arguments; without it there are none."""


class NamedFunction(WireModel):
    """This function and no other."""

    type: Literal["function"]
    name: str


class TextFormat(WireModel):
    """The form of the text: ``text``, ``json_object``, or ``json_schema`` with a name and a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    json_schema: Any = Field(default=None, alias="schema")


class TextOptions(WireModel):
    """How the text is to be."""

    format: TextFormat | None = None


InputItem = TypeAliasType("InputItem", InputMessage | FunctionCall | FunctionCallOutput)
ResponseInput = TypeAliasType("ResponseInput", Annotated[str | Items[InputItem], Untagged("ResponseInput")])
FunctionChoice = TypeAliasType("FunctionChoice", Annotated[str | NamedFunction, Untagged("FunctionChoice")])


class ResponsesRequest(WireModel):
    """A conversation and how to continue it. Nothing is stored: ``previous_response_id`` must be null."""

    model: str | None = Field(default=None, examples=["tgi"])
    """Echoed back; the served model answers whatever the name is."""
    input: ResponseInput = Field(examples=["What is Deep Learning?"])
    """The user's message, or all messages, with the calls and what they gave."""
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
    """Constrain the text. Cannot be combined with ``tools``."""
    tools: Items[FunctionTool] | None = None
    """Functions that the model may call."""
    tool_choice: FunctionChoice | None = None
    """``auto`` (default): text or calls; ``none``: text; ``required``: calls; a function: a call of that one."""
    parallel_tool_calls: bool | None = None
    """False: one call at most."""
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
    """Messages, and calls of functions."""
    usage: dict[str, Any] | None

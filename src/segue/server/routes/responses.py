"""``/v1/responses``: OpenAI's newer way to ask, for text and calls of functions."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import RequestError, ValidationError
from segue.protocol.openai import (
    ChatRequest,
    FunctionName,
    JsonFormat,
    JsonSchemaFormat,
    Message,
    NamedToolChoice,
    ResponseFormat,
    Tool,
    ToolCall,
)
from segue.protocol.responses import (
    FunctionCall,
    FunctionCallOutput,
    FunctionTool,
    InputItem,
    InputMessage,
    InputText,
    ResponsesRequest,
    TextFormat,
)
from segue.server.bodies import read_json
from segue.server.response_events import ResponseEvents, ResponseShape
from segue.server.routes.chat import chat_turn, turn_reply
from segue.server.state import Server
from segue.server.tools import Reading

__all__ = ["responses"]


async def responses(server: Server, request: Request) -> ASGIApp:
    """The assistant's next message, at once or as a stream of named events."""
    body = await read_json(request, ResponsesRequest, server.config.payload_limit)
    server.metrics.request_count.add()
    try:
        turn = await chat_turn(server, _as_chat(body))
    except RequestError as error:
        server.record_failure("responses", error)
        raise
    shape = ResponseShape(body, server.model.model_id)
    events = ResponseEvents(shape, Reading(turn.offer, is_gradual=True)) if body.stream else None
    return await turn_reply(server, request, turn, events, shape.answered)


def _as_chat(body: ResponsesRequest) -> ChatRequest:
    """Raises ValidationError for what nothing here does."""
    for name, is_asked in (
        ("previous_response_id", body.previous_response_id is not None),
        ("background", bool(body.background)),
    ):
        if is_asked:
            raise ValidationError(f"`{name}` is not supported by /v1/responses")
    messages = [Message(role="system", content=body.instructions)] if body.instructions else []
    given: Sequence[InputItem] = body.input if not isinstance(body.input, str) else [_user(body.input)]
    choice = body.tool_choice
    return ChatRequest(
        messages=[*messages, *_as_messages(given)],
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        model=body.model,
        response_format=_as_format(body.text.format) if body.text and body.text.format else None,
        tools=[_as_tool(each) for each in body.tools] if body.tools else None,
        tool_choice=choice
        if choice is None or isinstance(choice, str)
        else NamedToolChoice(function=FunctionName(name=choice.name)),
        parallel_tool_calls=body.parallel_tool_calls,
    )


def _user(text: str) -> InputMessage:
    return InputMessage(role="user", content=text)


def _as_messages(items: Sequence[InputItem]) -> list[Message]:
    """Calls belong to the assistant's message before them."""
    messages: list[Message] = []
    for each in items:
        if isinstance(each, FunctionCallOutput):
            messages.append(Message(role="tool", content=_text_of(each.output), tool_call_id=each.call_id))
        elif isinstance(each, FunctionCall):
            follows = bool(messages) and messages[-1].role == "assistant"
            message = messages.pop() if follows else Message(role="assistant", tool_calls=[])
            calls = [*(message.tool_calls or ()), _as_call(each)]
            messages.append(message.model_copy(update={"tool_calls": calls}))
        else:
            messages.append(Message(role=_role(each.role), content=_text_of(each.content)))
    return messages


def _as_call(item: FunctionCall) -> ToolCall:
    function = {"name": item.name, "arguments": item.arguments}
    return ToolCall.model_validate({"id": item.call_id, "type": "function", "function": function})


def _as_tool(tool: FunctionTool) -> Tool:
    if tool.type != "function":
        raise ValidationError(f"`tools` of the type {tool.type} are not supported by /v1/responses")
    if tool.name is None:
        raise ValidationError("`tools` need a `name`")
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return Tool.model_validate({"type": "function", "function": function})


def _as_format(given: TextFormat) -> ResponseFormat | None:
    match given.type:
        case "json_object":
            return JsonFormat(type="json_object")
        case "json_schema":
            schema = {"name": given.name, "schema": given.json_schema}
            return JsonSchemaFormat.model_validate({"type": "json_schema", "json_schema": schema})
    return None


def _role(role: str) -> str:
    """Chat templates know no ``developer``."""
    return "system" if role == "developer" else role


def _text_of(content: str | Sequence[InputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)

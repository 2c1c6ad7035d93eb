"""``/v1/messages`` and ``/v1/messages/count_tokens``: Anthropic's way to ask, for text and calls of functions."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

from msgspec.json import encode
from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import RequestError, ValidationError
from segue.protocol.anthropic import (
    AnthropicMessage,
    AnthropicTool,
    AnthropicToolChoice,
    CountTokensRequest,
    MessagesRequest,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from segue.protocol.openai import ChatRequest, FunctionName, Message, NamedToolChoice, Tool, ToolCall
from segue.server.admission import Ask
from segue.server.bodies import BodyError, read_json
from segue.server.message_events import MessageEvents, MessageShape, message_error
from segue.server.replies import error_reply, json_reply
from segue.server.routes.chat import chat_prompt, chat_turn, turn_reply
from segue.server.state import Server
from segue.server.tools import Reading, Turn

__all__ = ["count_tokens", "messages"]

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


async def messages(server: Server, request: Request) -> ASGIApp:
    """The assistant's next message, at once or as a stream of named events."""
    return await _with_errors(_messages, server, request)


async def count_tokens(server: Server, request: Request) -> ASGIApp:
    """Tokens of the prompt that the conversation becomes."""
    return await _with_errors(_count_tokens, server, request)


async def _messages(server: Server, request: Request) -> ASGIApp:
    body = await read_json(request, MessagesRequest, server.config.payload_limit)
    server.metrics.request_count.add()
    try:
        turn = await _turn(server, body)
    except RequestError as error:
        server.record_failure("messages", error)
        raise
    shape = MessageShape(body, server.model.model_id)
    events = MessageEvents(shape, Reading(turn.offer, is_gradual=True)) if body.stream else None
    return await turn_reply(server, request, turn, events, shape.ended)


async def _count_tokens(server: Server, request: Request) -> ASGIApp:
    body = await read_json(request, CountTokensRequest, server.config.payload_limit)
    prompt = await chat_prompt(server, _as_chat(body))
    return json_reply({"input_tokens": len(await server.encode(prompt, add_special_tokens=False))})


async def _with_errors(
    handler: Callable[[Server, Request], Awaitable[ASGIApp]], server: Server, request: Request
) -> ASGIApp:
    """Errors in Anthropic's shape, with TGI's ``error_type`` beside it."""
    try:
        return await handler(server, request)
    except BodyError as error:
        return json_reply(message_error(str(error), error.status), error.status)
    except RequestError as error:
        return error_reply(error, {**message_error(str(error), error.status), "error_type": error.error_type})


async def _turn(server: Server, body: MessagesRequest) -> Turn:
    chat = _as_chat(body).model_copy(
        update={
            "max_tokens": body.max_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "stop": [each for each in body.stop_sequences or () if each],
        }
    )
    turn = await chat_turn(server, chat)
    return replace(
        turn, ask=_with_top_k(turn.ask, body.top_k), plain=turn.plain and _with_top_k(turn.plain, body.top_k)
    )


def _with_top_k(ask: Ask, top_k: int | None) -> Ask:
    return replace(ask, parameters=ask.parameters.model_copy(update={"top_k": top_k}))


def _as_chat(body: CountTokensRequest) -> ChatRequest:
    """Raises ValidationError."""
    system = [Message(role="system", content=_text_of(body.system))] if body.system else []
    choice = body.tool_choice
    return ChatRequest(
        messages=[*system, *(message for each in body.messages for message in _as_messages(each))],
        model=body.model,
        tools=[_as_tool(each) for each in body.tools] if body.tools else None,
        tool_choice=None if choice is None else _as_choice(choice),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
    )


def _as_tool(tool: AnthropicTool) -> Tool:
    if tool.type not in (None, "custom"):
        raise ValidationError(f"`tools` of the type {tool.type} are not supported by /v1/messages")
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return Tool.model_validate({"type": "function", "function": function})


def _as_choice(choice: AnthropicToolChoice) -> str | NamedToolChoice:
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if choice.name is None:
        raise ValidationError("`tool_choice` of the type tool needs a `name`")
    return NamedToolChoice(function=FunctionName(name=choice.name))


def _as_messages(message: AnthropicMessage) -> Iterator[Message]:
    """Results of calls come before the rest of the message that they are in."""
    if isinstance(message.content, str):
        yield Message(role=message.role, content=message.content)
        return
    blocks = message.content
    results = [block for block in blocks if isinstance(block, ToolResultBlock)]
    for each in results:
        yield Message(role="tool", content=_text_of(each.content or ""), tool_call_id=each.tool_use_id)
    calls = [_as_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    text = _text_of([block for block in blocks if isinstance(block, TextBlock)])
    if calls:
        yield Message(role=message.role, content=text or None, tool_calls=calls)
    elif text or not results:
        yield Message(role=message.role, content=text)


def _as_call(block: ToolUseBlock) -> ToolCall:
    function = {"name": block.name, "arguments": encode(block.input).decode()}
    return ToolCall.model_validate({"id": block.id, "type": "function", "function": function})


def _text_of(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)

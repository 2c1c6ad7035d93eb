"""``/v1/chat/completions`` and ``/chat_tokenize``."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import RequestError, TemplateError
from segue.protocol.openai import ChatRequest
from segue.protocol.tgi import GenerateParameters
from segue.server.admission import Ask
from segue.server.bodies import read_json
from segue.server.concurrency import all_or_none
from segue.server.grammars import wire_grammar
from segue.server.openai_parameters import choices, logit_bias, randomness, stop_strings
from segue.server.replies import json_reply
from segue.server.sinks import Events, merge
from segue.server.state import Server
from segue.server.stream import (
    DONE,
    ChatEvents,
    ChatShape,
    EventStream,
    StreamUsage,
    chat_logprob,
    stream_events,
    unless_client_leaves,
    usage,
)
from segue.server.timing_headers import longest_headers, timing_headers
from segue.server.tool_events import ToolChatEvents, message_of_calls
from segue.server.tools import (
    Answer,
    Reading,
    ToolDialect,
    ToolOffer,
    Turn,
    answer_turn,
    call_ids,
    find_offer,
    stream_turn,
)
from segue.text.chat_template import ChatTemplate, cut_after_final_message
from segue.text.messages import template_messages
from segue.text.tool_formats import find_format, needs_short_ids

__all__ = ["chat_ask", "chat_completions", "chat_prompt", "chat_tokenize", "chat_turn", "run_chat", "turn_reply"]


async def chat_completions(server: Server, request: Request) -> ASGIApp:
    """The assistant's next message, at once or as a stream."""
    body = await read_json(request, ChatRequest, server.config.payload_limit)
    return await run_chat(server, request, body)


async def run_chat(server: Server, request: Request, body: ChatRequest) -> ASGIApp:
    """The answer to ``body``."""
    server.metrics.request_count.add()
    try:
        turns = _turns(server, body, await chat_turn(server, body))
    except RequestError as error:
        server.record_failure("chat_completions", error)
        raise
    model = body.model if body.model not in (None, "tgi") else server.model.model_id
    if body.stream:
        return _streamed(server, body, turns, str(model))
    work = all_or_none([answer_turn(server, turn) for turn in turns])
    answers = await unless_client_leaves(request.receive, work, server.metrics.dropped)
    generations = [answer.generation for answer in answers]
    new_id = call_ids(server, body)
    reply = {
        "object": "chat.completion",
        "id": server.words.new_id("chatcmpl-"),
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": server.system_fingerprint,
        "choices": [
            _choice(server, index, answer, new_id, wants_logprobs=bool(body.logprobs))
            for index, answer in enumerate(answers)
        ],
        "usage": usage(generations, len(generations)),
    }
    return json_reply(reply, headers=longest_headers(generations, server.compute_type))


async def chat_turn(server: Server, body: ChatRequest) -> Turn:
    """The conversation as a prompt, and the functions that the answer may call. Raises RequestError."""
    offer = _offer(server, body)
    ask = Ask(
        name="chat_completions",
        inputs=await _prompt(server, body, offer),
        parameters=_parameters(server, body),
        add_special_tokens=False,
        received_time=time.monotonic(),
    )
    if offer is None:
        return Turn(ask=ask)
    plain = None
    if offer.may_decline:
        plain = replace(ask, inputs=await _prompt(server, body, None))
    return Turn(ask=await offer.hold(server, ask), offer=offer, plain=plain)


async def chat_ask(server: Server, body: ChatRequest) -> Ask:
    """The conversation as a prompt, for answers that are not read. Raises RequestError."""
    return (await chat_turn(server, body)).ask


async def chat_prompt(server: Server, body: ChatRequest) -> str:
    """The prompt that the messages, and the functions, become. Raises RequestError."""
    return await _prompt(server, body, _offer(server, body))


async def chat_tokenize(server: Server, request: Request) -> ASGIApp:
    """The prompt that the messages become, and its tokens."""
    body = await read_json(request, ChatRequest, server.config.payload_limit)
    server.metrics.request_count.add()
    prompt = await chat_prompt(server, body)
    tokens = await server.encode_with_offsets(prompt, add_special_tokens=False)
    return json_reply({"tokenize_response": tokens, "templated_text": prompt})


def _turns(server: Server, body: ChatRequest, turn: Turn) -> list[Turn]:
    """One for each of ``n`` choices. Raises ValidationError."""
    asks = choices(turn.ask, body.n, server.config.max_concurrent_requests)
    if turn.plain is None:
        return [replace(turn, ask=ask) for ask in asks]
    plains = choices(turn.plain, body.n, server.config.max_concurrent_requests)
    return [replace(turn, ask=ask, plain=plain) for ask, plain in zip(asks, plains, strict=True)]


def _streamed(server: Server, body: ChatRequest, turns: list[Turn], model: str) -> ASGIApp:
    chunk_id = server.words.new_id("chatcmpl-")
    total = StreamUsage(len(turns), len(turns)) if body.stream_options and body.stream_options.include_usage else None
    streams: list[Events] = []
    for index, turn in enumerate(turns):
        shape = ChatShape(
            chunk_id=chunk_id,
            model=model,
            system_fingerprint=server.system_fingerprint,
            wants_logprobs=bool(body.logprobs),
            usage=total,
            index=index,
        )
        if turn.offer is None:
            streams.append(partial(stream_events, server, turn.ask, ChatEvents(server.words, **shape)))
        else:
            reading = Reading(turn.offer, is_gradual=True)
            events = ToolChatEvents(server.words, reading, call_ids(server, body), **shape)
            streams.append(partial(stream_turn, server, turn, events))
    headers = {"x-compute-type": server.compute_type, "x-compute-characters": str(len(turns[0].ask.inputs))}
    return EventStream(streams[0] if len(streams) == 1 else merge(streams), headers, last=DONE)


async def turn_reply(
    server: Server, request: Request, turn: Turn, events: ToolDialect | None, body_of: Callable[[Answer], Any]
) -> ASGIApp:
    """The answer at once, as ``body_of`` it, or its ``events`` as they come."""
    if events is not None:
        headers = {"x-compute-type": server.compute_type, "x-compute-characters": str(len(turn.ask.inputs))}
        return EventStream(partial(stream_turn, server, turn, events), headers)
    answer = await unless_client_leaves(request.receive, answer_turn(server, turn), server.metrics.dropped)
    return json_reply(body_of(answer), headers=timing_headers(answer.generation, server.compute_type))


def _offer(server: Server, body: ChatRequest) -> ToolOffer | None:
    """Raises ToolError, ValidationError, TemplateError."""
    template = server.model.tool_template or _template(server)
    return find_offer(body, template, is_tgi=server.words.is_tgi)


def _template(server: Server) -> ChatTemplate:
    """Raises TemplateError."""
    if server.model.chat_template is None:
        raise TemplateError("template not found")
    return server.model.chat_template


async def _prompt(server: Server, body: ChatRequest, offer: ToolOffer | None) -> str:
    template = _template(server) if offer is None else offer.template
    given = [message.model_dump(exclude_none=True) for message in body.messages]
    tool_format = find_format(template.source)

    def render() -> str:
        messages = template_messages(
            given,
            uses_tool_calls=template.uses_tool_calls,
            allows_many_calls=tool_format is None or tool_format.allows_many,
            needs_short_ids=needs_short_ids(template.source),
        )
        tools = None
        if offer is not None:
            messages, tools = offer.told(messages)
        return cut_after_final_message(template.render(messages, tools=tools), messages)

    return await server.in_thread(render)


def _parameters(server: Server, body: ChatRequest) -> GenerateParameters:
    """OpenAI's parameters in TGI's words (spec 4.1)."""
    presence = body.presence_penalty
    is_tgi = server.words.is_tgi
    return GenerateParameters(
        **randomness(body.temperature, body.top_p),
        repetition_penalty=presence + 2.0 if is_tgi and presence is not None else None,
        presence_penalty=None if is_tgi else presence,
        frequency_penalty=body.frequency_penalty,
        logit_bias=logit_bias(body),
        max_new_tokens=body.max_completion_tokens if body.max_tokens is None else body.max_tokens,
        stop=stop_strings(body.stop),
        seed=body.seed,
        top_n_tokens=body.top_logprobs,
        details=True,
        return_full_text=False,
        grammar=wire_grammar(body.response_format),
        adapter_id=None if body.model == "tgi" else body.model,
    )


def _choice(
    server: Server, index: int, answer: Answer, new_id: Callable[[], str], *, wants_logprobs: bool
) -> dict[str, Any]:
    generation, logprobs = answer.generation, None
    if wants_logprobs:
        logprobs = {"content": [chat_logprob(generation, number) for number in range(generation.num_tokens)]}
    message = {"role": "assistant", "content": answer.text}
    if answer.calls:
        message = message_of_calls(server.words, answer, new_id)
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": server.words.finish_reason(generation.finish_reason, has_calls=bool(answer.calls)),
    }

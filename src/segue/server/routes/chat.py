"""``/v1/chat/completions`` and ``/chat_tokenize``."""

import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import RequestError, TemplateError, ToolError, ValidationError
from segue.protocol.openai import ChatRequest
from segue.protocol.tgi import GenerateParameters
from segue.server.admission import Ask
from segue.server.bodies import read_json
from segue.server.generation import Generation, generate, timing_headers
from segue.server.replies import json_reply
from segue.server.state import Server
from segue.server.stream import (
    DONE,
    ChatEvents,
    EventStream,
    chat_finish_reason,
    chat_logprob,
    stream_events,
    unless_client_leaves,
    usage,
)
from segue.text.chat_template import cut_after_final_message
from segue.text.messages import template_messages

__all__ = ["chat_completions", "chat_tokenize"]


async def chat_completions(server: Server, request: Request) -> ASGIApp:
    """The assistant's next message, at once or as a stream."""
    body = await read_json(request, ChatRequest, server.config.payload_limit)
    server.metrics.request_count.add()
    try:
        ask = Ask(
            name="chat_completions",
            inputs=await _prompt(server, body),
            parameters=_parameters(body),
            add_special_tokens=False,
            received_time=time.monotonic(),
        )
    except RequestError as error:
        server.record_failure("chat_completions", error)
        raise
    model = body.model if body.model not in (None, "tgi") else server.model.model_id
    if body.stream:
        return _streamed(server, body, ask, str(model))
    answer = await unless_client_leaves(request.receive, generate(server, ask), server.metrics.dropped)
    reply = {
        "object": "chat.completion",
        "id": "",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": server.system_fingerprint,
        "choices": [_choice(answer.best, wants_logprobs=bool(body.logprobs))],
        "usage": usage([answer.best]),
    }
    return json_reply(reply, headers=timing_headers(answer.best, server.compute_type))


async def chat_tokenize(server: Server, request: Request) -> ASGIApp:
    """The prompt that the messages become, and its tokens."""
    body = await read_json(request, ChatRequest, server.config.payload_limit)
    server.metrics.request_count.add()
    prompt = await _prompt(server, body)
    tokens = await server.encode_with_offsets(prompt, add_special_tokens=False)
    return json_reply({"tokenize_response": tokens, "templated_text": prompt})


def _streamed(server: Server, body: ChatRequest, ask: Ask, model: str) -> ASGIApp:
    dialect = ChatEvents(
        model=model,
        system_fingerprint=server.system_fingerprint,
        wants_logprobs=bool(body.logprobs),
        include_usage=body.stream_options.include_usage,
    )
    headers = {"x-compute-type": server.compute_type, "x-compute-characters": str(len(ask.inputs))}
    return EventStream(stream_events(server, ask, dialect), headers, last=DONE)


async def _prompt(server: Server, body: ChatRequest) -> str:
    if body.response_format is not None and body.tools is not None:
        raise ToolError("Grammar and tools are mutually exclusive")
    if body.tools and body.tool_choice != "none":
        raise ToolError("tools are not supported")
    template = server.model.chat_template
    if template is None:
        raise TemplateError("template not found")
    given = [message.model_dump(exclude_none=True) for message in body.messages]
    messages = template_messages(given, uses_tool_calls=template.uses_tool_calls)
    return await server.in_thread(lambda: cut_after_final_message(template.render(messages), messages))


def _parameters(body: ChatRequest) -> GenerateParameters:
    """OpenAI's parameters in TGI's words (spec 4.1)."""
    if body.n is not None and body.n > 1:
        raise ValidationError("`n` > 1 is not supported")
    if any(body.logit_bias or ()):
        raise ValidationError("`logit_bias` is not supported")
    is_greedy = body.temperature == 0.0
    return GenerateParameters(
        do_sample=not is_greedy,
        temperature=None if is_greedy else body.temperature,
        top_p=body.top_p,
        repetition_penalty=None if body.presence_penalty is None else body.presence_penalty + 2.0,
        frequency_penalty=body.frequency_penalty,
        max_new_tokens=body.max_completion_tokens if body.max_tokens is None else body.max_tokens,
        stop=body.stop or [],
        seed=body.seed,
        top_n_tokens=body.top_logprobs,
        details=True,
        return_full_text=False,
        grammar=body.response_format,
        adapter_id=None if body.model == "tgi" else body.model,
    )


def _choice(generation: Generation, *, wants_logprobs: bool) -> dict[str, Any]:
    logprobs = None
    if wants_logprobs:
        logprobs = {"content": [chat_logprob(generation, index) for index in range(len(generation.tokens))]}
    return {
        "index": 0,
        "message": {"role": "assistant", "content": generation.text()},
        "logprobs": logprobs,
        "finish_reason": chat_finish_reason(generation.finish_reason),
    }

"""``/v1/chat/completions`` and ``/chat_tokenize``."""

import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import RequestError, TemplateError, ToolError
from segue.protocol.openai import ChatRequest
from segue.protocol.tgi import GenerateParameters
from segue.server.admission import Ask
from segue.server.bodies import read_json
from segue.server.generation import Generation, all_or_none, generate, longest_headers
from segue.server.grammars import wire_grammar
from segue.server.openai_parameters import choices, logit_bias, randomness, stop_strings
from segue.server.replies import json_reply
from segue.server.state import Server
from segue.server.stream import (
    DONE,
    ChatEvents,
    EventStream,
    StreamUsage,
    chat_logprob,
    merge,
    stream_events,
    unless_client_leaves,
    usage,
)
from segue.text.chat_template import cut_after_final_message
from segue.text.messages import template_messages

__all__ = ["chat_ask", "chat_completions", "chat_tokenize", "run_chat"]


async def chat_completions(server: Server, request: Request) -> ASGIApp:
    """The assistant's next message, at once or as a stream."""
    body = await read_json(request, ChatRequest, server.config.payload_limit)
    return await run_chat(server, request, body)


async def run_chat(server: Server, request: Request, body: ChatRequest) -> ASGIApp:
    """The answer to ``body``."""
    server.metrics.request_count.add()
    try:
        asks = choices(await chat_ask(server, body), body.n, server.config.max_concurrent_requests)
    except RequestError as error:
        server.record_failure("chat_completions", error)
        raise
    model = body.model if body.model not in (None, "tgi") else server.model.model_id
    if body.stream:
        return _streamed(server, body, asks, str(model))
    work = all_or_none([generate(server, ask) for ask in asks])
    answers = await unless_client_leaves(request.receive, work, server.metrics.dropped)
    generations = [answer.best for answer in answers]
    reply = {
        "object": "chat.completion",
        "id": server.words.new_id("chatcmpl-"),
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": server.system_fingerprint,
        "choices": [
            _choice(server, index, generation, wants_logprobs=bool(body.logprobs))
            for index, generation in enumerate(generations)
        ],
        "usage": usage(generations, len(generations)),
    }
    return json_reply(reply, headers=longest_headers(generations, server.compute_type))


async def chat_ask(server: Server, body: ChatRequest) -> Ask:
    """The conversation as a prompt. Raises RequestError."""
    return Ask(
        name="chat_completions",
        inputs=await _prompt(server, body),
        parameters=_parameters(server, body),
        add_special_tokens=False,
        received_time=time.monotonic(),
    )


async def chat_tokenize(server: Server, request: Request) -> ASGIApp:
    """The prompt that the messages become, and its tokens."""
    body = await read_json(request, ChatRequest, server.config.payload_limit)
    server.metrics.request_count.add()
    prompt = await _prompt(server, body)
    tokens = await server.encode_with_offsets(prompt, add_special_tokens=False)
    return json_reply({"tokenize_response": tokens, "templated_text": prompt})


def _streamed(server: Server, body: ChatRequest, asks: list[Ask], model: str) -> ASGIApp:
    chunk_id = server.words.new_id("chatcmpl-")
    total = StreamUsage(len(asks), len(asks)) if body.stream_options and body.stream_options.include_usage else None
    streams = [
        stream_events(
            server,
            ask,
            ChatEvents(
                server.words,
                chunk_id=chunk_id,
                model=model,
                system_fingerprint=server.system_fingerprint,
                wants_logprobs=bool(body.logprobs),
                usage=total,
                index=index,
            ),
        )
        for index, ask in enumerate(asks)
    ]
    headers = {"x-compute-type": server.compute_type, "x-compute-characters": str(len(asks[0].inputs))}
    return EventStream(streams[0] if len(streams) == 1 else merge(streams), headers, last=DONE)


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


def _choice(server: Server, index: int, generation: Generation, *, wants_logprobs: bool) -> dict[str, Any]:
    logprobs = None
    if wants_logprobs:
        logprobs = {"content": [chat_logprob(generation, number) for number in range(len(generation.tokens))]}
    return {
        "index": index,
        "message": {"role": "assistant", "content": generation.text()},
        "logprobs": logprobs,
        "finish_reason": server.words.finish_reason(generation.finish_reason),
    }

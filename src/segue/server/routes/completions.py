"""``/v1/completions``."""

import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import RequestError
from segue.protocol.openai import CompletionRequest
from segue.protocol.tgi import GenerateParameters
from segue.server.admission import Ask
from segue.server.bodies import read_json
from segue.server.generation import Generation, all_or_none, generate, sum_headers, timing_headers
from segue.server.replies import json_reply
from segue.server.state import Server
from segue.server.stream import (
    DONE,
    CompletionEvents,
    EventStream,
    chat_finish_reason,
    merge,
    stream_events,
    unless_client_leaves,
    usage,
)

__all__ = ["completions"]


class SuffixError(RequestError):
    """A ``suffix``, which TGI does not have either."""

    status = 422
    error_type = "suffix not supported"


class BatchSizeError(RequestError):
    """More prompts than the server takes in one request."""

    status = 422
    error_type = "batch size exceeded"


async def completions(server: Server, request: Request) -> ASGIApp:
    """The continuation of each prompt, at once or as streams on one connection."""
    body = await read_json(request, CompletionRequest, server.config.payload_limit)
    server.metrics.request_count.add()
    try:
        prompts = _prompts(body, server.config.max_client_batch_size)
    except RequestError as error:
        server.record_failure("completions", error)
        raise
    received_time = time.monotonic()
    parameters = _parameters(body)
    asks = [
        Ask(name="completions", inputs=prompt, parameters=parameters, received_time=received_time) for prompt in prompts
    ]
    if body.stream:
        return _streamed(server, asks)
    work = all_or_none([generate(server, ask) for ask in asks])
    answers = await unless_client_leaves(request.receive, work, server.metrics.dropped)
    generations = [answer.best for answer in answers]
    reply = {
        "object": "text_completion",
        "id": "",
        "created": int(time.time()),
        "model": server.model.model_id,
        "system_fingerprint": server.system_fingerprint,
        "choices": [_choice(index, generation) for index, generation in enumerate(generations)],
        "usage": usage(generations),
    }
    headers = sum_headers([timing_headers(generation, server.compute_type) for generation in generations])
    return json_reply(reply, headers=headers)


def _prompts(body: CompletionRequest, max_prompts: int) -> list[str]:
    if body.suffix is not None:
        raise SuffixError("Suffix is not supported and can be achieved by preprocessing the prompt.")
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if len(prompts) > max_prompts:
        raise BatchSizeError(f"Number of prompts exceeds the maximum allowed batch size of {max_prompts}")
    return prompts


def _streamed(server: Server, asks: list[Ask]) -> ASGIApp:
    model, fingerprint = server.model.model_id, server.system_fingerprint
    streams = [
        stream_events(server, ask, CompletionEvents(index=index, model=model, system_fingerprint=fingerprint))
        for index, ask in enumerate(asks)
    ]
    headers = {
        "x-compute-type": server.compute_type,
        "x-compute-characters": str(sum(len(ask.inputs) for ask in asks)),
    }
    return EventStream(streams[0] if len(streams) == 1 else merge(streams), headers, last=DONE)


def _parameters(body: CompletionRequest) -> GenerateParameters:
    """OpenAI's parameters in TGI's words (spec 4.7)."""
    is_greedy = body.temperature == 0.0
    return GenerateParameters(
        do_sample=not is_greedy,
        temperature=None if is_greedy else body.temperature,
        top_p=body.top_p,
        repetition_penalty=body.repetition_penalty,
        frequency_penalty=body.frequency_penalty,
        max_new_tokens=body.max_tokens,
        stop=body.stop or [],
        seed=body.seed,
        details=True,
        return_full_text=False,
        adapter_id=None if body.model == "tgi" else body.model,
    )


def _choice(index: int, generation: Generation) -> dict[str, Any]:
    return {
        "index": index,
        "text": generation.text(),
        "logprobs": None,
        "finish_reason": chat_finish_reason(generation.finish_reason),
    }

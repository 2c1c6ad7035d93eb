"""TGI's own routes: ``/generate``, ``/generate_stream``, ``/``."""

import time
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.protocol.tgi import CompatGenerateRequest, GenerateRequest
from segue.server.admission import Ask
from segue.server.bodies import read_json
from segue.server.generation import Generation
from segue.server.generation import generate as run
from segue.server.replies import json_reply
from segue.server.state import Server
from segue.server.stream import EventStream, GenerateEvents, stream_events, unless_client_leaves
from segue.server.timing_headers import timing_headers

__all__ = ["compat_generate", "generate", "generate_stream", "run_compat_generate"]


async def generate(server: Server, request: Request) -> ASGIApp:
    """One object with the whole text."""
    body = await read_json(request, GenerateRequest, server.config.payload_limit)
    return await _at_once(server, request, body, default_full_text=False)


async def generate_stream(server: Server, request: Request) -> ASGIApp:
    """One event a token."""
    body = await read_json(request, GenerateRequest, server.config.payload_limit)
    return _streamed(server, body, default_full_text=False)


async def compat_generate(server: Server, request: Request) -> ASGIApp:
    """A list of one object, or a stream where ``stream`` is true."""
    body = await read_json(request, CompatGenerateRequest, server.config.payload_limit)
    return await run_compat_generate(server, request, body)


async def run_compat_generate(server: Server, request: Request, body: CompatGenerateRequest) -> ASGIApp:
    """The answer to ``body``."""
    # TGI's default for the Hub's pipeline tag, where a model without one counts as text-generation.
    default_full_text = server.model.pipeline_tag in (None, "text-generation")
    if body.stream:
        return _streamed(server, body, default_full_text=default_full_text)
    return await _at_once(server, request, body, default_full_text=default_full_text, in_list=True)


async def _at_once(
    server: Server, request: Request, body: GenerateRequest, *, default_full_text: bool, in_list: bool = False
) -> ASGIApp:
    ask = _ask("generate", body)
    answer = await unless_client_leaves(request.receive, run(server, ask), server.metrics.dropped)
    prefix = _prefix(body, default_full_text)
    reply: dict[str, Any] = {"generated_text": prefix + answer.best.text()}
    if body.parameters.details or body.parameters.decoder_input_details:
        reply["details"] = _details(answer.best)
        if answer.others:
            reply["details"]["best_of_sequences"] = [_sequence(other, prefix) for other in answer.others]
        _add_top_tokens(reply["details"], answer.best)
    return json_reply([reply] if in_list else reply, headers=timing_headers(answer.best, server.compute_type))


def _streamed(server: Server, body: GenerateRequest, *, default_full_text: bool) -> ASGIApp:
    ask = _ask("generate_stream", body)
    dialect = GenerateEvents(wants_details=body.parameters.details, prefix=_prefix(body, default_full_text))
    return EventStream(
        partial(stream_events, server, ask, dialect),
        {"x-compute-type": server.compute_type, "x-compute-characters": str(len(body.inputs))},
    )


def _ask(name: str, body: GenerateRequest) -> Ask:
    return Ask(name=name, inputs=body.inputs, parameters=body.parameters, received_time=time.monotonic())


def _prefix(body: GenerateRequest, default_full_text: bool) -> str:
    wanted = body.parameters.return_full_text
    return body.inputs if (default_full_text if wanted is None else wanted) else ""


def _details(generation: Generation) -> dict[str, Any]:
    return {
        "finish_reason": generation.finish_reason,
        "generated_tokens": generation.num_tokens,
        "seed": generation.seed,
        "prefill": generation.prefill,
        "tokens": generation.tokens,
    }


def _sequence(generation: Generation, prefix: str) -> dict[str, Any]:
    sequence = {"generated_text": prefix + generation.text(), **_details(generation)}
    _add_top_tokens(sequence, generation)
    return sequence


def _add_top_tokens(details: dict[str, Any], generation: Generation) -> None:
    if generation.top_tokens:
        details["top_tokens"] = generation.top_tokens

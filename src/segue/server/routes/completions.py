"""``/v1/completions``."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import RequestError, ValidationError
from segue.protocol.openai import CompletionRequest
from segue.protocol.tgi import GenerateParameters
from segue.server.admission import Ask
from segue.server.bodies import read_json
from segue.server.completion_choice import CompletionEvents, CompletionShape, completion_choice
from segue.server.concurrency import all_or_none
from segue.server.generation import generate
from segue.server.grammars import wire_grammar
from segue.server.openai_parameters import choices, logit_bias, randomness, stop_strings
from segue.server.replies import json_reply
from segue.server.sinks import Events, merge
from segue.server.state import Server
from segue.server.stream import DONE, EventStream, StreamUsage, stream_events, unless_client_leaves, usage
from segue.server.timing_headers import sum_headers, timing_headers

__all__ = ["completions", "run_completions"]


class SuffixError(RequestError):
    """A ``suffix``, which TGI does not have either."""

    status = 422
    error_type = "suffix not supported"


class BatchSizeError(RequestError):
    """More prompts than the server takes in one request."""

    status = 422
    error_type = "batch size exceeded"


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence to generate, and how it is shown."""

    ask: Ask
    shape: CompletionShape


async def completions(server: Server, request: Request) -> ASGIApp:
    """The continuation of each prompt, at once or as streams on one connection."""
    body = await read_json(request, CompletionRequest, server.config.payload_limit)
    return await run_completions(server, request, body)


async def run_completions(server: Server, request: Request, body: CompletionRequest) -> ASGIApp:
    """The answer to ``body``."""
    server.metrics.request_count.add()
    try:
        asked = await _choices(server, body)
    except RequestError as error:
        server.record_failure("completions", error)
        raise
    n = body.n or 1
    if body.stream:
        return _streamed(server, body, asked, n)
    work = all_or_none([generate(server, each.ask) for each in asked])
    answers = await unless_client_leaves(request.receive, work, server.metrics.dropped)
    generations = [answer.best for answer in answers]
    reply = {
        "object": "text_completion",
        "id": server.words.new_id("cmpl-"),
        "created": int(time.time()),
        "model": server.model.model_id,
        "system_fingerprint": server.system_fingerprint,
        "choices": [
            completion_choice(server.words, index, generation, each.shape)
            for index, (generation, each) in enumerate(zip(generations, asked, strict=True))
        ],
        "usage": usage(generations, n),
    }
    headers = sum_headers([timing_headers(generation, server.compute_type) for generation in generations])
    return json_reply(reply, headers=headers)


async def _choices(server: Server, body: CompletionRequest) -> list[Choice]:
    """``n`` for each prompt. Raises RequestError."""
    if body.suffix is not None:
        raise SuffixError("Suffix is not supported and can be achieved by preprocessing the prompt.")
    if body.echo and body.logprobs is not None and not _has_prompt_logprobs(server, body):
        raise ValidationError("`logprobs` with `echo` need a server with `--enable-prefill-logprobs`, and no stream")
    prompts = _prompts(body)
    max_prompts = server.config.max_client_batch_size
    if len(prompts) > max_prompts:
        raise BatchSizeError(f"Number of prompts exceeds the maximum allowed batch size of {max_prompts}")
    received_time, parameters = time.monotonic(), _parameters(server, body)
    result: list[Choice] = []
    for prompt in prompts:
        text, ids = (prompt, None) if isinstance(prompt, str) else ("", tuple(prompt))
        ask = Ask(name="completions", inputs=text, input_ids=ids, parameters=parameters, received_time=received_time)
        shape = CompletionShape(
            echo=await _prompt_text(server, text, ids) if body.echo else "",
            hides_generation=bool(body.echo) and body.max_tokens == 0,
            num_top_tokens=body.logprobs,
        )
        result += [Choice(each, shape) for each in choices(ask, body.n, server.config.max_concurrent_requests)]
    return result


def _has_prompt_logprobs(server: Server, body: CompletionRequest) -> bool:
    is_encoder_decoder = server.engine.info.is_encoder_decoder
    return server.config.enable_prefill_logprobs and not is_encoder_decoder and not body.stream


def _prompts(body: CompletionRequest) -> list[str] | list[list[int]]:
    prompt: Any = body.prompt
    is_one = isinstance(prompt, str) or isinstance(prompt[0], int)
    prompts: list[str] | list[list[int]] = [prompt] if is_one else prompt
    return prompts


async def _prompt_text(server: Server, text: str, ids: tuple[int, ...] | None) -> str:
    """What ``echo`` repeats."""
    vocab_size, tokenizer = server.engine.info.vocab_size, server.model.tokenizer
    if ids is None or max(ids, default=0) >= vocab_size:
        return text
    return await server.in_thread(lambda: tokenizer.decode(list(ids), skip_special_tokens=False))


def _streamed(server: Server, body: CompletionRequest, asked: list[Choice], n: int) -> ASGIApp:
    total = StreamUsage(len(asked), n) if body.stream_options and body.stream_options.include_usage else None
    chunk_id = server.words.new_id("cmpl-")
    streams: list[Events] = [
        partial(
            stream_events,
            server,
            each.ask,
            CompletionEvents(
                server.words,
                index=index,
                chunk_id=chunk_id,
                model=server.model.model_id,
                system_fingerprint=server.system_fingerprint,
                shape=each.shape,
                total=total,
            ),
        )
        for index, each in enumerate(asked)
    ]
    headers = {
        "x-compute-type": server.compute_type,
        "x-compute-characters": str(sum(len(each.ask.inputs) for each in asked)),
    }
    return EventStream(streams[0] if len(streams) == 1 else merge(streams), headers, last=DONE)


def _parameters(server: Server, body: CompletionRequest) -> GenerateParameters:
    """OpenAI's parameters in TGI's words (spec 4.7)."""
    return GenerateParameters(
        **randomness(body.temperature, body.top_p),
        repetition_penalty=body.repetition_penalty,
        presence_penalty=None if server.words.is_tgi else body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=logit_bias(body),
        # No sequence can be asked to generate nothing: one token is, and is not shown.
        max_new_tokens=1 if body.echo and body.max_tokens == 0 else body.max_tokens,
        stop=stop_strings(body.stop),
        seed=body.seed,
        top_n_tokens=body.logprobs,
        details=True,
        decoder_input_details=bool(body.echo) and body.logprobs is not None,
        return_full_text=False,
        grammar=wire_grammar(body.response_format),
        adapter_id=None if body.model == "tgi" else body.model,
    )

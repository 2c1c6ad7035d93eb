"""What a request may ask for, and TGI's words where it asks for more (spec 2.1 to 2.3)."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from serving import BOS, INFO, Serving, ids_of, says, until

Serve = Callable[..., Serving]

SAMPLED = {"do_sample": True}

# (parameters, text after "Input validation error: "). The server's limits are TGI's defaults; INFO has the lengths.
MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 3, **SAMPLED}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": -0.5}, "`temperature` must be strictly positive"),
    ({"temperature": 1e-320}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"best_of": 2, "seed": 1, **SAMPLED}, "`seed` must not be set when `best_of` > 1"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 200. Given: 0"),
    ({"truncate": 201}, "`truncate` must be strictly positive and less than 200. Given: 201"),
    ({"grammar": {"type": "json", "value": 5}}, "grammar is not supported"),
]
STREAM_MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2, **SAMPLED}, "`best_of` != 1 is not supported when streaming tokens"),
    ({"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
    ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported when streaming tokens"),
]


async def refusal(app: Serving, body: Any) -> str:
    reply = await app.post("/generate", body)
    error = reply.json()
    assert (reply.status_code, error["error_type"]) == (422, "validation")
    assert app.engine.requests == []
    return str(error["error"]).removeprefix("Input validation error: ")


@pytest.mark.parametrize(("parameters", "text"), MESSAGES)
async def test_V1_V3_V8_messages(serve: Serve, parameters: dict[str, Any], text: str) -> None:
    assert await refusal(serve(), {"inputs": "hi", "parameters": parameters}) == text


@pytest.mark.parametrize(
    ("parameters", "text"),
    [*(each for each in MESSAGES if each[0].get("best_of", 1) == 1), *STREAM_MESSAGES],
)
async def test_V1_messages_in_a_stream(serve: Serve, parameters: dict[str, Any], text: str) -> None:
    [event] = await serve().events("/generate_stream", {"inputs": "hi", "parameters": parameters})
    assert event == {"error": f"Input validation error: {text}", "error_type": "validation"}


async def test_V1_best_of_where_the_server_has_none(serve: Serve) -> None:
    app = serve(max_best_of=1)
    body = {"inputs": "hi", "parameters": {"best_of": 2, **SAMPLED}}
    assert await refusal(app, body) == "`best_of` != 1 is not allowed for this endpoint"


async def test_V1_empty_inputs(serve: Serve) -> None:
    assert await refusal(serve(), {"inputs": ""}) == "`inputs` cannot be empty"


async def test_V1_the_first_fault_in_tgis_order_is_named(serve: Serve) -> None:
    """All faults at once, then all but the first, and so on."""
    order: dict[str, tuple[dict[str, Any], str]] = {}
    for more, text in MESSAGES:
        if "must use sampling" not in text:
            order.setdefault(next(iter(more)), (more, text))
    faults = list(order.values())
    for start, (_, expected) in enumerate(faults):
        parameters = {name: value for more, _ in reversed(faults[start:]) for name, value in more.items()}
        assert await refusal(serve(), {"inputs": "x" * 9, "parameters": parameters}) == expected
    unsampled = {"best_of": 2, "max_new_tokens": 0, "seed": 1}
    text = "you must use sampling when `best_of` is > 1"
    assert await refusal(serve(), {"inputs": "", "parameters": unsampled}) == text
    late = {"top_n_tokens": 6, "truncate": 0}
    assert (await refusal(serve(), {"inputs": "", "parameters": late})).startswith("`top_n_tokens`")
    assert await refusal(serve(), {"inputs": "", "parameters": {"truncate": 0}}) == "`inputs` cannot be empty"


async def test_V1_too_many_tokens_together(serve: Serve) -> None:
    text = "`inputs` tokens + `max_new_tokens` must be <= 1000. Given: 3 `inputs` tokens and 998 `max_new_tokens`"
    app = serve(info=replace(INFO, max_total_tokens=1000))
    assert await refusal(app, {"inputs": "hi", "parameters": {"max_new_tokens": 998}}) == text
    assert (await app.post("/generate", {"inputs": "hi", "parameters": {"max_new_tokens": 997}})).status_code == 200


async def test_V1_the_check_counts_1024_new_tokens_at_most(serve: Serve) -> None:
    app = serve(info=replace(INFO, max_total_tokens=1026))
    text = "`inputs` tokens + `max_new_tokens` must be <= 1026. Given: 3 `inputs` tokens and 1024 `max_new_tokens`"
    assert await refusal(app, {"inputs": "hi", "parameters": {"max_new_tokens": 5000}}) == text


async def test_V1_too_long_inputs(serve: Serve) -> None:
    assert await refusal(serve(), {"inputs": "x" * 200}) == "`inputs` must have less than 200 tokens. Given: 201"
    assert (await serve().post("/generate", {"inputs": "x" * 199})).status_code == 200


async def test_V4_truncate_keeps_the_last_tokens(serve: Serve) -> None:
    app = serve()
    await app.post("/generate", {"inputs": "abcdef", "parameters": {"truncate": 3}})
    await app.post("/generate", {"inputs": "ab", "parameters": {"truncate": 10}})
    reply = await app.post("/generate", {"inputs": "x" * 500, "parameters": {"truncate": 200}})
    prompts = [request.prompt_token_ids for request in app.engine.requests]
    assert prompts[:2] == [tuple(ids_of("def")), (BOS, *ids_of("ab"))]
    assert reply.headers["x-prompt-tokens"] == "200"
    assert reply.headers["x-compute-characters"] == "500"


@pytest.mark.parametrize(
    ("asked", "given"), [(None, 1997), (1500, 1500), (1024, 1024), (1997, 1997), (1998, 1997), (4_000_000_000, 1997)]
)
async def test_V5_max_new_tokens_is_honoured_up_to_the_models_limit(
    serve: Serve, asked: int | None, given: int
) -> None:
    app = serve(script=says("x" * 3000, ends=False))
    parameters = {"details": True, "max_new_tokens": asked}
    details = (await app.post("/generate", {"inputs": "hi", "parameters": parameters})).json()["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", given)


async def test_parameters_reach_the_engine_as_they_were_given(serve: Serve) -> None:
    given = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "typical_p": 0.8,
        "repetition_penalty": 1.2,
        "frequency_penalty": -0.5,
        "watermark": True,
        "do_sample": True,
        "seed": 2**64 - 1,
        "top_n_tokens": 3,
        "max_new_tokens": 5,
        "stop": ["never"],
        "decoder_input_details": True,
    }
    app = serve(enable_prefill_logprobs=True)
    assert (await app.post("/generate", {"inputs": "hi", "parameters": given})).status_code == 200
    [request] = app.engine.requests
    sampling = request.sampling
    for name in given.keys() - {"stop", "decoder_input_details"}:
        assert getattr(sampling, name) == given[name], name
    assert sampling.stop == ("never",)
    assert sampling.prompt_logprobs is True
    assert (request.stop.max_new_tokens, request.stop.eos_token_ids) == (5, frozenset(INFO.eos_token_ids))


async def test_null_parameters_are_absent_ones(serve: Serve) -> None:
    app = serve()
    names = ("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "frequency_penalty", "top_n_tokens")
    await app.post("/generate", {"inputs": "hi", "parameters": dict.fromkeys(names)})
    await app.post("/generate", {"inputs": "hi", "parameters": {}})
    first, second = (replace(request.sampling, seed=0) for request in app.engine.requests)
    assert first == second


async def test_Q1_over_the_limit_is_429_at_once(serve: Serve) -> None:
    app = serve(max_concurrent_requests=2)
    app.engine.gate.clear()
    running = [app.http.build_request("POST", "/generate", json={"inputs": "a"}) for _ in range(2)]
    tasks = [asyncio.ensure_future(app.http.send(each)) for each in running]
    await until(lambda: len(app.engine.requests) == 2)
    reply = await app.post("/generate", {"inputs": "a"})
    overloaded = {"error": "Model is overloaded", "error_type": "overloaded"}
    assert (reply.status_code, reply.json()) == (429, overloaded)
    assert await app.events("/generate_stream", {"inputs": "a"}) == [overloaded]
    assert await app.metric('tgi_request_failure{err="overloaded"}') == 2
    app.engine.gate.set()
    for task in tasks:
        assert (await task).status_code == 200
    assert (await app.post("/generate", {"inputs": "a"})).status_code == 200


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_Q1_permits_come_back_whatever_happens(serve: Serve, path: str) -> None:
    app = serve(max_concurrent_requests=1)
    for body in ({"inputs": ""}, {"inputs": "a", "parameters": {"top_k": 0}}, {"inputs": "a"}):
        await app.post(path, body)
    app.engine.is_healthy = False
    await app.post(path, {"inputs": "a"})
    app.engine.is_healthy = True
    assert "hello" in (await app.post(path, {"inputs": "a"})).text


async def test_Q1_best_of_takes_a_permit_for_each_sequence(serve: Serve) -> None:
    app = serve(max_concurrent_requests=1)
    reply = await app.post("/generate", {"inputs": "a", "parameters": {"best_of": 2, **SAMPLED}})
    assert reply.status_code == 429
    assert app.engine.requests == []


async def test_an_engine_that_is_down_is_tgis_generation_error(serve: Serve) -> None:
    app = serve()
    app.engine.is_healthy = False
    reply = await app.post("/generate", {"inputs": "a"})
    text = "Request failed during generation: Server error: engine is down"
    assert (reply.status_code, reply.json()) == (424, {"error": text, "error_type": "generation"})

"""``/generate``, ``/generate_stream`` and ``/``. Names carry the ids of the acceptance list (R, H, G, V)."""

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from serving import EOS, INFO, Serving, fails, id_of, ids_of, outputs, says

from segue.core.output import RequestOutput
from segue.core.request import Request
from segue.protocol.tgi import GenerateResponse, StreamResponse
from segue.text.tokenizer import SHORT_TEXT_CHARS, Tokenizer

Serve = Callable[..., Serving]

DETAILS = {"details": True}


def byte_tokens(text: str) -> list[dict[str, object]]:
    """The wire's tokens of an ASCII text, EOS after it."""
    tokens = [{"id": id_of(ord(char)), "text": char, "logprob": -0.5, "special": False} for char in text]
    return [*tokens, {"id": EOS, "text": "</s>", "logprob": -0.5, "special": True}]


async def test_R1_generate_gives_one_object_with_the_text_alone(serve: Serve) -> None:
    reply = await serve(script=says(" world")).post("/generate", {"inputs": "hello"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.content == b'{"generated_text":" world"}'


async def test_R2_the_root_gives_a_list_of_one(serve: Serve) -> None:
    reply = await serve(script=says(" world")).post("/", {"inputs": "hello", "parameters": {"return_full_text": False}})
    assert reply.content == b'[{"generated_text":" world"}]'


async def test_R2_the_root_streams_where_stream_is_true(serve: Serve) -> None:
    body = {"inputs": "a", "parameters": {"return_full_text": False}}
    app = serve(script=says("xy"))
    streamed = await app.post("/", {**body, "stream": True})
    assert streamed.headers["content-type"] == "text/event-stream"
    assert streamed.content == (await app.post("/generate_stream", body)).content


async def test_G1_details_byte_for_byte(serve: Serve) -> None:
    reply = await serve(script=says("hi")).post("/generate", {"inputs": "a", "parameters": DETAILS})
    h, i = id_of(ord("h")), id_of(ord("i"))
    assert reply.text == (
        '{"generated_text":"hi","details":{"finish_reason":"eos_token","generated_tokens":3,"seed":null,"prefill":[],'
        f'"tokens":[{{"id":{h},"text":"h","logprob":-0.5,"special":false}},'
        f'{{"id":{i},"text":"i","logprob":-0.5,"special":false}},'
        '{"id":1,"text":"</s>","logprob":-0.5,"special":true}]}}'
    )


async def test_G1_top_tokens_are_there_only_when_asked_for(serve: Serve) -> None:
    app = serve(script=says("h", ends=False))
    reply = await app.post(
        "/generate", {"inputs": "a", "parameters": {**DETAILS, "top_n_tokens": 2, "max_new_tokens": 1}}
    )
    details = reply.json()["details"]
    h = id_of(ord("h"))
    [top] = details["top_tokens"]
    assert [each["id"] for each in top] == [h, h + 1]
    assert list(top[0]) == ["id", "text", "logprob", "special"]
    assert [each["logprob"] for each in top] == [-0.5, -1.5]
    assert app.engine.requests[0].sampling.top_n_tokens == 2


async def test_G1_top_tokens_that_cannot_be_are_left_out(serve: Serve) -> None:
    app = serve(script=says("h", logprob=float("-inf")))
    reply = await app.post("/generate", {"inputs": "a", "parameters": {**DETAILS, "top_n_tokens": 2}})
    assert reply.json()["details"]["top_tokens"] == [[], []]


async def test_G1_the_reply_fits_its_schema(serve: Serve) -> None:
    parameters = {**DETAILS, "best_of": 2, "do_sample": True, "top_n_tokens": 2, "decoder_input_details": True}
    app = serve(enable_prefill_logprobs=True)
    reply = await app.post("/generate", {"inputs": "abc", "parameters": parameters})
    parsed = GenerateResponse.model_validate_json(reply.content)
    assert json.loads(parsed.model_dump_json(exclude_unset=True)) == reply.json()


async def test_G2_prefill_needs_the_servers_flag(serve: Serve) -> None:
    body = {"inputs": "ab", "parameters": {"decoder_input_details": True}}
    app = serve()
    without = (await app.post("/generate", body)).json()["details"]
    assert without["prefill"] == []
    assert app.engine.requests[0].sampling.prompt_logprobs is False
    prefill = (await serve(enable_prefill_logprobs=True).post("/generate", body)).json()["details"]["prefill"]
    assert prefill == [
        {"id": 0, "text": "<s>", "logprob": None},
        {"id": id_of(ord("a")), "text": "a", "logprob": -1.0},
        {"id": id_of(ord("b")), "text": "b", "logprob": -1.0},
    ]


async def test_G2_an_encoder_decoders_prefill_is_the_decoders_start(serve: Serve) -> None:
    info = replace(INFO, is_encoder_decoder=True, decoder_start_token_ids=(0,))
    app = serve(info=info)
    reply = await app.post("/generate", {"inputs": "ab", "parameters": {"decoder_input_details": True}})
    assert reply.json()["details"]["prefill"] == [{"id": 0, "text": "<s>", "logprob": None}]
    [request] = app.engine.requests
    assert request.prompt_token_ids == (0,)
    assert request.encoder_token_ids == (0, *ids_of("ab"))
    assert reply.headers["x-prompt-tokens"] == "3"


@pytest.mark.parametrize(
    ("pipeline_tag", "default"),
    [(None, True), ("text-generation", True), ("text2text-generation", False), ("image-text-to-text", False)],
)
async def test_G3_full_text_by_default_at_the_root(serve: Serve, pipeline_tag: str | None, default: bool) -> None:
    app = serve(script=says(" b"), pipeline_tag=pipeline_tag)
    [reply] = (await app.post("/", {"inputs": "a"})).json()
    assert reply["generated_text"] == ("a b" if default else " b")
    [*_, last] = await app.events("/", {"inputs": "a", "stream": True})
    assert last["generated_text"] == ("a b" if default else " b")
    for asked in (True, False):
        [reply] = (await app.post("/", {"inputs": "a", "parameters": {"return_full_text": asked}})).json()
        assert reply["generated_text"] == ("a b" if asked else " b")


async def test_G3_no_full_text_by_default_elsewhere(serve: Serve) -> None:
    app = serve(script=says(" b"))
    assert (await app.post("/generate", {"inputs": "a"})).json()["generated_text"] == " b"
    asked = {"inputs": "a", "parameters": {"return_full_text": True}}
    assert (await app.post("/generate", asked)).json()["generated_text"] == "a b"
    assert (await app.events("/generate_stream", asked))[-1]["generated_text"] == "a b"


async def test_G4_a_stop_string_stays_in_the_text_and_ends_the_request(serve: Serve) -> None:
    app = serve(script=says("one. two. three"))
    reply = await app.post("/generate", {"inputs": "a", "parameters": {**DETAILS, "stop": ["never", ". t"]}})
    body = reply.json()
    assert body["generated_text"] == "one. t"
    assert body["details"]["finish_reason"] == "stop_sequence"
    assert body["details"]["generated_tokens"] == 6
    assert app.engine.aborted == [app.engine.requests[0].request_id]


async def test_G4_a_stop_string_inside_a_step_of_several_tokens_drops_the_rest(serve: Serve) -> None:
    app = serve(script=says("abcdef", tokens_a_step=4))
    body = {"inputs": "x", "parameters": {**DETAILS, "stop": ["b"]}}
    reply = (await app.post("/generate", body)).json()
    assert reply["generated_text"] == "ab"
    assert [token["text"] for token in reply["details"]["tokens"]] == ["a", "b"]


async def test_S5_length_and_eos_go_before_a_stop_string_at_the_same_token(serve: Serve) -> None:
    parameters = {**DETAILS, "stop": ["b"], "max_new_tokens": 2}
    reply = await serve(script=says("abc")).post("/generate", {"inputs": "x", "parameters": parameters})
    assert reply.json()["details"]["finish_reason"] == "length"
    parameters = {**DETAILS, "stop": ["</s>"]}
    reply = await serve(script=says("a")).post("/generate", {"inputs": "x", "parameters": parameters})
    assert reply.json()["details"]["finish_reason"] == "eos_token"


async def test_G4_special_tokens_are_listed_but_not_in_the_text(serve: Serve) -> None:
    reply = await serve(script=says("hi")).post("/generate", {"inputs": "a", "parameters": DETAILS})
    assert reply.json()["generated_text"] == "hi"
    assert reply.json()["details"]["tokens"] == byte_tokens("hi")


async def test_G5_an_unfinished_character_is_held_back(serve: Serve) -> None:
    reply = await serve(script=says("a😀b")).post("/generate", {"inputs": "a", "parameters": DETAILS})
    tokens = [token["text"] for token in reply.json()["details"]["tokens"]]
    assert tokens == ["a", "", "", "", "😀", "b", "</s>"]
    assert reply.json()["generated_text"] == "a😀b"


@pytest.mark.parametrize(
    ("body", "is_reported"),
    [
        ({}, True),
        ({"parameters": {}}, False),
        ({"parameters": {"seed": 7}}, False),
        ({"parameters": {"seed": 7, "do_sample": True}}, True),
        ({"parameters": {"temperature": 0.7}}, True),
        ({"parameters": {"temperature": 1.0}}, False),
        ({"parameters": {"top_k": 3}}, True),
    ],
)
async def test_G6_V2_the_seed_is_reported_when_something_was_sampled(
    serve: Serve, body: dict[str, dict[str, object]], is_reported: bool
) -> None:
    app = serve()
    if "parameters" in body:
        parameters = {**DETAILS, **body["parameters"]}
        seed = (await app.post("/generate", {"inputs": "a", "parameters": parameters})).json()["details"]["seed"]
        assert (seed is not None) is is_reported
        if is_reported and "seed" in parameters:
            assert seed == parameters["seed"]
    else:
        await app.post("/generate", {"inputs": "a"})
    assert app.engine.requests[0].sampling.is_sampling is is_reported


async def test_G6_each_request_without_a_seed_gets_its_own(serve: Serve) -> None:
    app = serve()
    for _ in range(2):
        await app.post("/generate", {"inputs": "a"})
    seeds = [request.sampling.seed for request in app.engine.requests]
    assert None not in seeds
    assert seeds[0] != seeds[1]


def of_each(*texts_and_logprobs: tuple[str, float]) -> Callable[[Request], Iterator[RequestOutput]]:
    """A script: the first request says the first text with the first logprob, and so on."""
    rest = iter(texts_and_logprobs)

    def script(request: Request) -> Iterator[RequestOutput]:
        text, logprob = next(rest)
        return outputs(request, [*ids_of(text), EOS], logprob=logprob)

    return script


@pytest.mark.parametrize(
    ("said", "best"),
    [
        ([("worse", -2.0), ("better", -1.0)], "better"),
        ([("better, and longer", -1.0), ("worse", -2.0)], "better, and longer"),
        ([("first", -1.0), ("equal", -1.0)], "first"),
        ([("impossible", float("-inf")), ("possible", -9.0)], "possible"),
    ],
)
async def test_G7_the_best_of_several_by_mean_logprob(serve: Serve, said: list[tuple[str, float]], best: str) -> None:
    app = serve(script=of_each(*said))
    parameters = {**DETAILS, "best_of": 2, "do_sample": True, "return_full_text": True}
    reply = (await app.post("/generate", {"inputs": ">", "parameters": parameters})).json()
    assert reply["generated_text"] == ">" + best
    [other] = reply["details"]["best_of_sequences"]
    assert {other["generated_text"], ">" + best} == {">" + text for text, _ in said}
    assert list(other) == ["generated_text", "finish_reason", "generated_tokens", "seed", "prefill", "tokens"]
    assert len({request.sampling.seed for request in app.engine.requests}) == 2


async def test_G7_one_sequence_that_fails_fails_them_all(serve: Serve) -> None:
    rest = iter([says("x" * 50), fails("Server error: boom")])
    app = serve(script=lambda request: next(rest)(request))
    reply = await app.post("/generate", {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}})
    assert reply.status_code == 424
    assert app.engine.aborted == [app.engine.requests[0].request_id]


async def test_H7_timing_headers(serve: Serve) -> None:
    reply = await serve(script=says("hey"), compute_type="1-test").post("/generate", {"inputs": "héllo"})
    headers = reply.headers
    assert headers["x-compute-type"] == "1-test"
    assert headers["x-compute-characters"] == "5"
    assert headers["x-prompt-tokens"] == "7"
    assert headers["x-generated-tokens"] == "4"
    assert float(headers["x-compute-time"]) >= 0
    names = ("x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token")
    milliseconds = {name: int(headers[name]) for name in names}
    assert all(value >= 0 for value in milliseconds.values())
    assert milliseconds["x-total-time"] == int(float(headers["x-compute-time"]) * 1000)


async def test_H7_errors_carry_no_timing_headers(serve: Serve) -> None:
    reply = await serve().post("/generate", {"inputs": ""})
    assert not [name for name in reply.headers if name.startswith("x-")]


async def test_compute_type_defaults_to_the_device(serve: Serve) -> None:
    assert (await serve().post("/generate", {"inputs": "a"})).headers["x-compute-type"] == "1-test-cpu"


async def test_H6_numbers_that_json_lacks_are_null(serve: Serve) -> None:
    app = serve(script=says("a", logprob=float("-inf")))
    body = {"inputs": "a", "parameters": DETAILS}
    reply = await app.post("/generate", body)
    assert [token["logprob"] for token in reply.json()["details"]["tokens"]] == [None, None]
    assert (await app.events("/generate_stream", body))[0]["token"]["logprob"] is None


async def test_H6_floats_are_the_shortest_f32(serve: Serve) -> None:
    app = serve(script=says("a", logprob=-0.6196289062500001))
    assert '"logprob":-0.6196289,' in (await app.post("/generate", {"inputs": "a", "parameters": DETAILS})).text
    assert '"logprob":-0.6196289,' in (await app.post("/generate_stream", {"inputs": "a"})).text


async def test_R3_the_stream_byte_for_byte(serve: Serve) -> None:
    body = {"inputs": "abc", "parameters": {**DETAILS, "do_sample": True, "seed": 9}}
    reply = await serve(script=says('"é')).post("/generate_stream", body)
    quote, first, second = id_of(ord('"')), *ids_of("é")
    assert reply.text == (
        f'data: {{"index":1,"token":{{"id":{quote},"text":"\\"","logprob":-0.5,"special":false}},'
        '"generated_text":null,"details":null}\n\n'
        f'data: {{"index":2,"token":{{"id":{first},"text":"","logprob":-0.5,"special":false}},'
        '"generated_text":null,"details":null}\n\n'
        f'data: {{"index":3,"token":{{"id":{second},"text":"é","logprob":-0.5,"special":false}},'
        '"generated_text":null,"details":null}\n\n'
        'data: {"index":4,"token":{"id":1,"text":"</s>","logprob":-0.5,"special":true},'
        '"generated_text":"\\"é","details":{"finish_reason":"eos_token","generated_tokens":4,"seed":9,'
        '"input_length":4}}\n\n'
    )


async def test_R3_the_streams_details_are_null_unless_asked_for(serve: Serve) -> None:
    [*_, last] = await serve().events("/generate_stream", {"inputs": "a"})
    assert last["details"] is None
    assert last["generated_text"] == "hello"


async def test_R3_top_tokens_in_a_stream(serve: Serve) -> None:
    app = serve(script=says("ab", tokens_a_step=2))
    events = await app.events("/generate_stream", {"inputs": "a", "parameters": {"top_n_tokens": 1}})
    assert list(events[0]) == ["index", "token", "top_tokens", "generated_text", "details"]
    assert [[top["id"] for top in event["top_tokens"]] for event in events] == [[id_of(97)], [id_of(98)], [EOS]]
    assert [event["index"] for event in events] == [1, 2, 3]
    for event in events:
        StreamResponse.model_validate_json(json.dumps(event))


async def test_H8_stream_headers(serve: Serve) -> None:
    headers = (await serve().post("/generate_stream", {"inputs": "héllo"})).headers
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-compute-type"] == "1-test-cpu"
    assert headers["x-compute-characters"] == "5"
    assert "x-total-time" not in headers


@pytest.mark.parametrize("path", ["/generate_stream", "/"])
async def test_H9_errors_in_a_stream_keep_200(serve: Serve, path: str) -> None:
    body = {"inputs": "a", "parameters": {"temperature": 0}, "stream": True}
    reply = await serve().post(path, body)
    assert reply.status_code == 200
    assert reply.text == (
        'data: {"error":"Input validation error: `temperature` must be strictly positive","error_type":"validation"}'
        "\n\n"
    )


async def test_H9_a_generation_that_fails_in_its_middle(serve: Serve) -> None:
    app = serve(script=fails("Server error: boom", after="ab"))
    events = await app.events("/generate_stream", {"inputs": "a"})
    assert [event.get("index") for event in events] == [1, 2, None]
    error = {"error": "Request failed during generation: Server error: boom", "error_type": "generation"}
    assert events[-1] == error
    reply = await app.post("/generate", {"inputs": "a"})
    assert (reply.status_code, reply.json()) == (424, error)


async def test_H9_a_generation_without_an_end(serve: Serve) -> None:
    app = serve(script=says("ab", ends=False))
    app.engine.script = cut_off(app)
    events = await app.events("/generate_stream", {"inputs": "a"})
    assert events[-1] == {"error": "Incomplete generation stream", "error_type": "incomplete_generation_stream"}
    reply = await app.post("/generate", {"inputs": "a"})
    assert (reply.status_code, reply.json()) == (
        500,
        {"error": "Incomplete generation", "error_type": "incomplete_generation"},
    )


def cut_off(app: Serving) -> Callable[[Request], Iterator[RequestOutput]]:
    """A script: one token, then the engine aborts the request by itself."""

    def script(request: Request) -> Iterator[RequestOutput]:
        yield from outputs(request, ids_of("a"))
        app.engine.abort(request.request_id)
        yield RequestOutput(request_id=request.request_id)

    return script


async def test_others_are_answered_while_a_prompt_is_tokenized(serve: Serve, tokenizer: Tokenizer) -> None:
    """A long prompt takes seconds: it must not take them from the event loop."""
    begun, go_on = threading.Event(), threading.Event()
    long = "long" * SHORT_TEXT_CHARS

    class Slow(Tokenizer):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            if text == long:
                begun.set()
                assert go_on.wait(60)
            return tokenizer.encode(text, add_special_tokens=add_special_tokens)

    slow = copy.copy(tokenizer)
    slow.__class__ = Slow
    app = Serving(slow, script=says("hello"), validation_workers=2)
    waiting = asyncio.ensure_future(app.post("/generate", {"inputs": long, "parameters": {"truncate": 9}}))
    try:
        assert await asyncio.to_thread(begun.wait, 60)
        answer = await app.post("/generate", {"inputs": "short"})
        assert answer.json()["generated_text"] == "hello"
        assert not waiting.done()
    finally:
        go_on.set()
    assert (await waiting).json()["generated_text"] == "hello"

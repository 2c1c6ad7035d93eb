"""What is refused, and in which words: sections 2.1 to 2.4 of TGI's behaviour, over HTTP."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.live import LiveServer, fake_server
from fakes import FakeRunner
from serving import INFO, id_of
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel

from segue.text.tokenizer import Tokenizer

SAMPLED = {"do_sample": True}
SMALL = {"info": replace(INFO, max_input_tokens=10, max_total_tokens=20)}
SCHEMA = {"properties": {"a": {"type": "integer"}}, "required": ["a"]}
ONLY_ONE = {"max_best_of": 1}
NO_GRAMMARS = {"disable_grammar_support": True}

Row = tuple[str, dict[str, Any], str]

# In the order in which TGI looks: what is wrong with a request about "hi", and what it hears.
PARAMETERS: list[Row] = [
    ("best_of of a server without", {"best_of": 2, **SAMPLED}, "`best_of` != 1 is not allowed for this endpoint"),
    ("best_of too large", {"best_of": 3, **SAMPLED}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ("best_of without sampling", {"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ("temperature 0", {"temperature": 0}, "`temperature` must be strictly positive"),
    ("temperature below 0", {"temperature": -1.5}, "`temperature` must be strictly positive"),
    ("repetition_penalty 0", {"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ("repetition_penalty below 0", {"repetition_penalty": -1}, "`repetition_penalty` must be strictly positive"),
    ("frequency_penalty high", {"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ("frequency_penalty low", {"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ("top_p 0", {"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ("top_p 1", {"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ("typical_p 0", {"typical_p": 0}, "`typical_p` must be > 0.0 and < 1.0"),
    ("typical_p 1", {"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ("top_k 0", {"top_k": 0}, "`top_k` must be strictly positive"),
    ("top_k below 0", {"top_k": -1}, "`top_k` must be strictly positive"),
    ("max_new_tokens 0", {"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ("stop", {"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ("seed", {"best_of": 2, "seed": 1, **SAMPLED}, "`seed` must not be set when `best_of` > 1"),
    ("top_n_tokens", {"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ("truncate 0", {"truncate": 0}, "`truncate` must be strictly positive and less than 200. Given: 0"),
    ("truncate too large", {"truncate": 201}, "`truncate` must be strictly positive and less than 200. Given: 201"),
    (
        "too many tokens",
        {"max_new_tokens": 18},
        "`inputs` tokens + `max_new_tokens` must be <= 20. Given: 3 `inputs` tokens and 18 `max_new_tokens`",
    ),
    (
        "no more than 1024 are reserved",
        {"max_new_tokens": 5000},
        "`inputs` tokens + `max_new_tokens` must be <= 20. Given: 3 `inputs` tokens and 1024 `max_new_tokens`",
    ),
    ("grammars switched off", {"grammar": {"type": "regex", "value": "a"}}, "grammar is not supported"),
    ("no schema", {"grammar": {"type": "json", "value": 5}}, "grammar is not supported"),
    (
        "schema without properties",
        {"grammar": {"type": "json", "value": {"type": "object"}}},
        "grammar is not valid: Grammar must have a 'properties' field",
    ),
    (
        "schema that cannot be compiled",
        {"grammar": {"type": "json", "value": {"properties": {"a": {"type": "string", "pattern": "("}}}}},
        "cannot compile regex from schema: regex parse error: ( ^ error: unclosed group",
    ),
]
OPTIONS = {
    "best_of of a server without": ONLY_ONE,
    "too many tokens": SMALL,
    "no more than 1024 are reserved": SMALL,
    "grammars switched off": NO_GRAMMARS,
}
INPUTS: list[Row] = [
    ("empty", {"inputs": ""}, "`inputs` cannot be empty"),
    ("too long", {"inputs": "x" * 200}, "`inputs` must have less than 200 tokens. Given: 201"),
    ("no tokens", {"inputs": "unknown"}, "tokenizer error WordLevel error: Missing [UNK] token from the vocabulary"),
]
STREAM: list[Row] = [
    ("best_of 2", {"best_of": 2, **SAMPLED}, "`best_of` != 1 is not supported when streaming tokens"),
    ("best_of 0", {"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
    (
        "prefill",
        {"decoder_input_details": True},
        "`decoder_input_details` == true is not supported when streaming tokens",
    ),
    ("best_of first", {"best_of": 2, "temperature": 0}, "`best_of` != 1 is not supported when streaming tokens"),
]

Start = Callable[..., LiveServer]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """A server with these options; the same again for the same options."""
    started: dict[str, LiveServer] = {}
    with ExitStack() as stack:

        def find(**options: Any) -> LiveServer:
            key = repr(sorted(options))
            if key not in started:
                folder = tmp_path_factory.mktemp("tokenizer")
                started[key] = stack.enter_context(fake_server(folder, has_grammars=True, **options))
            return started[key]

        yield find


def ids(rows: list[Row]) -> list[str]:
    return [row[0] for row in rows]


def refusals(server: LiveServer, body: dict[str, Any], *, in_stream: bool) -> list[str]:
    """The error of every route that takes such a body; their shapes and statuses are looked at on the way."""
    texts = []
    for path in ("/generate", "/", "/invocations"):
        reply = server.post(path, body)
        assert (reply.status_code, reply.headers["content-type"]) == (422, "application/json")
        texts.append(reply.json())
    for path, fields in (("/generate_stream", {}), ("/", {"stream": True})) if in_stream else ():
        texts.append(stream_error(server, path, {**body, **fields}))
    assert all(set(each) == {"error", "error_type"} and each["error_type"] == "validation" for each in texts)
    prefix = "Input validation error: "
    assert all(each["error"].startswith(prefix) for each in texts)
    return [each["error"].removeprefix(prefix) for each in texts]


def stream_error(server: LiveServer, path: str, body: dict[str, Any]) -> dict[str, str]:
    reply = server.post(path, body)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
    [event, rest] = reply.text.split("\n\n")
    assert rest == ""
    error: dict[str, str] = json.loads(event.removeprefix("data: "))
    return error


@pytest.mark.parametrize(("name", "parameters", "text"), PARAMETERS, ids=ids(PARAMETERS))
def test_V1_V3_parameters(name: str, parameters: dict[str, Any], text: str, start: Start) -> None:
    server = start(**OPTIONS.get(name, {}))
    before = server.engine.num_submitted
    body = {"inputs": "hi", "parameters": parameters}
    assert set(refusals(server, body, in_stream="best_of" not in parameters)) == {text}
    assert server.engine.num_submitted == before


@pytest.mark.parametrize(("name", "body", "text"), INPUTS, ids=ids(INPUTS))
def test_V1_inputs(name: str, body: dict[str, Any], text: str, start: Start, tmp_path: Path) -> None:
    if name == "no tokens":
        Backend(WordLevel({"hello": 0})).save(str(tmp_path / "tokenizer.json"))
        server = start(tokenizer=Tokenizer.from_folder(tmp_path))
    else:
        server = start()
    assert set(refusals(server, body, in_stream=True)) == {text}


@pytest.mark.parametrize(("name", "parameters", "text"), STREAM, ids=ids(STREAM))
def test_V1_streams(name: str, parameters: dict[str, Any], text: str, start: Start) -> None:
    for path, fields in (("/generate_stream", {}), ("/", {"stream": True})):
        error = stream_error(start(), path, {"inputs": "hi", "parameters": parameters, **fields})
        assert error == {"error": f"Input validation error: {text}", "error_type": "validation"}


def test_V1_the_first_fault_in_tgis_order_is_named(start: Start) -> None:
    """All faults at once, then all but the first, and so on."""
    order: dict[str, Row] = {}
    for name, more, text in PARAMETERS:
        if name not in OPTIONS and name != "best_of without sampling":
            order.setdefault(next(iter(more)) if name != "seed" else "seed", (name, more, text))
    faults = list(order.values())
    server = start()
    for first, (_, _, text) in enumerate(faults):
        parameters = {name: value for _, more, _ in reversed(faults[first:]) for name, value in more.items()}
        reply = server.post("/generate", {"inputs": "hi", "parameters": parameters})
        assert reply.json()["error"] == f"Input validation error: {text}"


CHAT: list[Row] = [
    ("temperature", {"temperature": -1}, "`temperature` must be strictly positive"),
    ("top_p", {"top_p": 1.5}, "`top_p` must be > 0.0 and < 1.0"),
    ("frequency_penalty", {"frequency_penalty": 3}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ("max_tokens", {"max_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ("stop", {"stop": [*"abcde"]}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ("top_logprobs", {"top_logprobs": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    (
        "response_format",
        {"response_format": {"type": "json", "value": {"type": "object"}}},
        "grammar is not valid: Grammar must have a 'properties' field",
    ),
]


@pytest.mark.parametrize(("name", "fields", "text"), CHAT, ids=ids(CHAT))
def test_V1_chat(name: str, fields: dict[str, Any], text: str, start: Start) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    reply = start().post("/v1/chat/completions", body)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"] == f"Input validation error: {text}"
    assert reply.json()["error_type"] == "validation"
    first, last, rest = start().post("/v1/chat/completions", {**body, "stream": True}).text.split("\n\n")
    assert json.loads(first.removeprefix("data: "))["error"]["message"] == f"Input validation error: {text}"
    assert (last, rest) == ("data: [DONE]", "")


@pytest.mark.parametrize(
    ("body", "is_sampled"),
    [
        ({}, True),
        ({"parameters": {"details": True}}, False),
        ({"parameters": {"details": True, "do_sample": True}}, True),
        ({"parameters": {"details": True, "seed": 3}}, False),
    ],
)
def test_V2_sampling_is_the_default_only_without_parameters(
    body: dict[str, Any], is_sampled: bool, tmp_path: Path
) -> None:
    with fake_server(tmp_path) as server:
        reply = server.post("/generate", {"inputs": "hi", **body})
        [sampling] = {sequence.sampling for batch in server.batches for sequence in batch.sequences}
    assert sampling.do_sample == is_sampled
    if body:
        assert (reply.json()["details"]["seed"] is not None) == is_sampled


def test_V4_truncate_keeps_the_last_tokens(start: Start) -> None:
    server = start()
    assert server.generate("one two three", truncate=5)["generated_text"] == "three"
    assert server.generate("one two three", truncate=100)["generated_text"] == "one two three"
    reply = server.post("/generate", {"inputs": "x" * 500, "parameters": {"truncate": 200, "max_new_tokens": 1}})
    assert (reply.headers["x-prompt-tokens"], reply.headers["x-compute-characters"]) == ("200", "500")


@pytest.mark.parametrize(("asked", "given"), [(None, 1992), (1024, 1024), (1500, 1500), (5000, 1992)])
def test_V5_max_new_tokens_is_honoured_and_fills_the_context_by_default(
    asked: int | None, given: int, tmp_path: Path
) -> None:
    """The runner says sixteen tokens a step: what is beyond the limit is dropped."""
    with fake_server(tmp_path, runner=FakeRunner(next_token=[id_of(120)], num_tokens=16)) as server:
        details = server.generate("endless", max_new_tokens=asked)["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", given)


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json_object", "value": SCHEMA},
        {"type": "json", "value": json.dumps(SCHEMA)},
        {"type": "json_schema", "value": {"schema": SCHEMA}},
        {"type": "json_schema", "value": {"name": "a", "schema": SCHEMA, "strict": True}},
        {"type": "regex", "value": "[0-9]{3}"},
    ],
    ids=lambda grammar: grammar["type"],
)
def test_V6_V8_forms_of_a_grammar(grammar: dict[str, Any], start: Start) -> None:
    body = {"inputs": "hi", "parameters": {"grammar": grammar}}
    chat = {"messages": [{"role": "user", "content": "hi"}], "response_format": grammar}
    assert start().post("/generate", body).status_code == 200
    assert start().post("/v1/chat/completions", chat).status_code == 200
    without = start(**NO_GRAMMARS)
    assert refusals(without, body, in_stream=True)[0] == "grammar is not supported"
    reply = without.post("/v1/chat/completions", chat)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"] == "Input validation error: grammar is not supported"


@pytest.mark.parametrize(
    "value",
    [{"type": "object"}, {}, '{"type": "object"}', {"items": {"properties": {}}}],
    ids=["typed", "empty", "string", "deeper"],
)
def test_V7_a_schema_needs_properties(value: Any, start: Start) -> None:
    text = "grammar is not valid: Grammar must have a 'properties' field"
    for grammar in ({"type": "json", "value": value}, {"type": "json_schema", "value": {"schema": value}}):
        body = {"inputs": "hi", "parameters": {"grammar": grammar}}
        assert set(refusals(start(), body, in_stream=True)) == {text}


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
    ],
    ids=lambda response_format: response_format["type"],
)
def test_V9_openais_own_response_formats(response_format: dict[str, Any], start: Start) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "response_format": response_format}
    assert start().post("/v1/chat/completions", body).status_code == 200
    prompt = {"prompt": "hi", "response_format": response_format}
    assert start().post("/v1/completions", prompt).status_code == 200

"""Functions in ``/v1/chat/completions``, in TGI's way and in the models' own formats. Names carry the rows' ids."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import INFO, Script, Serving, ids_of, outputs, says

from segue.core.output import RequestOutput
from segue.core.request import Request
from segue.protocol.openai import ChatCompletion, ChatCompletionChunk
from segue.text.messages import DEFAULT_TOOL_PROMPT

Serve = Callable[..., Serving]

PATH = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]
TEMPLATES = Path(__file__).parent.parent / "text" / "templates"
QWEN = (TEMPLATES / "qwen_tools.jinja").read_text()
LLAMA = (TEMPLATES / "llama_3.jinja").read_text()
MISTRAL = (
    "{{ tools | tojson if tools else '' }}{% for m in messages %}{% if m.tool_calls %}[TOOL_CALLS]"
    "{{ m.tool_calls | tojson }}{% else %}[{{ m.role }} {{ m.tool_call_id }}]{{ m.content }}{% endif %}{% endfor %}"
)
WEATHER = {
    "name": "weather",
    "description": "Tells the weather",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": each} for each in (WEATHER, CLOCK)]
FORCED = '{"function": {"_name": "weather", "city": "Paris"}}'
DECLINED = '{"function": {"_name": "no_tool"}}'
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TWO = f'Let me look.\n{HERMES}\n<tool_call>\n{{"name": "clock", "arguments": {{}}}}\n</tool_call>'


@pytest.fixture
def serve(serve: Serve) -> Serve:
    info = replace(INFO, max_input_tokens=5000, max_total_tokens=8000)
    return lambda **given: serve(**{"info": info, **given})


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": USER, "tools": TOOLS, **fields}


def in_turn(*texts: str, **options: Any) -> Script:
    """A script: each request says the next of ``texts``."""
    rest = list(texts)
    return lambda request: says(rest.pop(0), **options)(request)


def prompt_of(app: Serving, number: int = 0) -> str:
    ids = app.engine.requests[number].prompt_token_ids
    return app.model.tokenizer.decode(ids, skip_special_tokens=False)


async def message_of(app: Serving, body: dict[str, Any]) -> dict[str, Any]:
    reply = await app.post(PATH, body)
    assert reply.status_code == 200, reply.text
    ChatCompletion.model_validate_json(reply.content)
    [choice] = reply.json()["choices"]
    message: dict[str, Any] = {**choice["message"], "finish_reason": choice["finish_reason"]}
    return message


async def chunks_of(app: Serving, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Of one choice, without the last ``[DONE]``."""
    *chunks, done = await app.events(PATH, body | {"stream": True})
    assert done == "[DONE]"
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(json.dumps(chunk))
    return [chunk["choices"][0] for chunk in chunks if chunk["choices"]]


async def test_C11_C13_a_forced_call_to_tgis_letter(serve: Serve) -> None:
    app = serve(script=says(FORCED), openai_dialect="tgi")
    assert await message_of(app, chat()) == {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "0",
                "type": "function",
                "function": {"description": None, "name": "weather", "arguments": '{"city":"Paris"}'},
            }
        ],
        "finish_reason": "stop",
    }
    *chunks, last = await chunks_of(app, chat())
    calls = [chunk["delta"]["tool_calls"][0] for chunk in chunks]
    assert {(each["index"], each["id"], each["type"]) for each in calls} == {(0, "0", "function")}
    assert calls[0]["function"] == {"name": "weather", "arguments": "{"}
    assert {each["function"]["name"] for each in calls[1:]} == {None}
    assert json.loads("".join(each["function"]["arguments"] for each in calls)) == {"city": "Paris"}
    assert (last["delta"], last["finish_reason"]) == ({"role": "assistant", "content": ""}, "stop")


@pytest.mark.parametrize(("ids", "expected"), [([], "0"), (["0"], "1"), (["3", "12"], "13"), (["3", "call_a"], None)])
async def test_C13_tgis_ids_in_streams_count_on(serve: Serve, ids: list[str], expected: str | None) -> None:
    app = serve(script=says(FORCED), openai_dialect="tgi")
    earlier = [{"id": each, "type": "function", "function": {"name": "clock", "arguments": "{}"}} for each in ids]
    messages = [*USER, {"role": "assistant", "tool_calls": earlier}, {"role": "tool", "content": "4"}]
    first, *_ = await chunks_of(app, chat(messages=messages))
    given = first["delta"]["tool_calls"][0]["id"]
    assert given == expected if expected else re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", given)


@pytest.mark.parametrize(("dialect", "pattern"), [("mixed", r"[1-9][0-9]{8}"), ("openai", r"call_[0-9a-f]{24}")])
@pytest.mark.parametrize(("options", "text"), [({}, FORCED), ({"chat_template": QWEN}, HERMES)])
async def test_C11_C15_a_call_in_openais_words(
    serve: Serve, options: dict[str, Any], text: str, dialect: str, pattern: str
) -> None:
    app = serve(script=says(text), openai_dialect=dialect, **options)
    message = await message_of(app, chat())
    [call] = message.pop("tool_calls")
    assert message == {"role": "assistant", "content": None, "finish_reason": "tool_calls"}
    assert re.fullmatch(pattern, call.pop("id"))
    assert call == {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


@pytest.mark.parametrize("dialect", ["mixed", "openai"])
@pytest.mark.parametrize("tokens_a_step", [1, 3, 1000])
@pytest.mark.parametrize(("options", "text"), [({}, FORCED), ({"chat_template": QWEN}, HERMES)])
async def test_C13_C15_pieces_of_a_call_in_openais_words(
    serve: Serve, options: dict[str, Any], text: str, tokens_a_step: int, dialect: str
) -> None:
    app = serve(script=says(text, tokens_a_step=tokens_a_step), openai_dialect=dialect, **options)
    first, *chunks, last = await chunks_of(app, chat())
    [call] = first["delta"].pop("tool_calls")
    assert first["delta"] == {"role": "assistant"}
    assert len(call.pop("id")) >= 9
    assert call == {"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}
    pieces = [chunk["delta"]["tool_calls"] for chunk in chunks]
    assert all(list(piece) == ["index", "function"] for [piece] in pieces)
    assert "".join(piece["function"]["arguments"] for [piece] in pieces) == '{"city": "Paris"}'
    assert len(pieces) >= 5, "however many tokens a step has"
    assert (last["delta"], last["finish_reason"]) == ({}, "tool_calls")


async def test_C11_C13_several_calls_after_a_text(serve: Serve) -> None:
    app = serve(script=says(TWO), chat_template=QWEN)
    message = await message_of(app, chat())
    assert message["content"] == "Let me look."
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather", "clock"]
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    chunks = await chunks_of(app, chat())
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == "Let me look."
    calls = [chunk["delta"]["tool_calls"][0] for chunk in chunks if "tool_calls" in chunk["delta"]]
    for index, (name, arguments) in enumerate([("weather", {"city": "Paris"}), ("clock", {})]):
        own = [each for each in calls if each["index"] == index]
        assert own[0]["function"]["name"] == name
        assert json.loads("".join(each["function"]["arguments"] for each in own)) == arguments
    only = await message_of(app, chat(parallel_tool_calls=False))
    assert [call["function"]["name"] for call in only["tool_calls"]] == ["weather"]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LLAMA, '{"name": "weather", "parameters": {"city": "Rome"}}'),
        (LLAMA, '<|python_tag|>{"name": "weather", "parameters": {"city": "Rome"}}'),
        (MISTRAL, '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}}]'),
    ],
)
async def test_C11_C13_other_formats(serve: Serve, template: str, text: str) -> None:
    app = serve(script=says(text), chat_template=template)
    message = await message_of(app, chat())
    assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    _, *chunks, _ = await chunks_of(app, chat())
    pieces = [chunk["delta"]["tool_calls"][0]["function"]["arguments"] for chunk in chunks]
    assert "".join(pieces) == '{"city": "Rome"}'


async def test_C11_text_where_calls_may_be(serve: Serve) -> None:
    app = serve(script=says("Good <b>day</b>\n"), chat_template=QWEN)
    message = await message_of(app, chat())
    assert message == {"role": "assistant", "content": "Good <b>day</b>\n", "finish_reason": "stop"}
    chunks = await chunks_of(app, chat())
    assert "".join(chunk["delta"]["content"] for chunk in chunks) == "Good <b>day</b>\n"
    assert chunks[-1]["finish_reason"] == "stop"


BROKEN = '<tool_call>\n{"name": "weather", "arguments": {"city": Paris}}\n</tool_call>'


async def test_C11_what_does_not_parse_is_text(serve: Serve) -> None:
    app = serve(script=says(BROKEN), chat_template=QWEN)
    assert (await message_of(app, chat())) == {"role": "assistant", "content": BROKEN, "finish_reason": "stop"}
    chunks = await chunks_of(app, chat())
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == "Paris}}\n</tool_call>"
    assert chunks[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(("options", "text"), [({}, FORCED), ({"chat_template": QWEN}, HERMES)])
async def test_C13_C15_a_call_that_is_cut(serve: Serve, options: dict[str, Any], text: str) -> None:
    num_tokens = text.index("city") + 3
    app = serve(script=says(text), **options)
    message = await message_of(app, chat(max_tokens=num_tokens))
    assert (message["content"], message["finish_reason"]) == (text[:num_tokens], "length")
    chunks = await chunks_of(app, chat(max_tokens=num_tokens))
    assert chunks[0]["delta"]["tool_calls"][0]["function"]["name"] == "weather"
    assert chunks[-1]["finish_reason"] == "length"


async def test_C11_a_cut_call_is_tgis_error(serve: Serve) -> None:
    app = serve(script=says(FORCED), openai_dialect="tgi")
    reply = await app.post(PATH, chat(max_tokens=30))
    assert reply.status_code == 422
    assert reply.json()["error"].startswith("Tool error: Failed to parse generated text: EOF while parsing")
    assert reply.json()["error_type"] == "tool_error"


def grammar_of(app: Serving) -> dict[str, Any]:
    grammar = app.engine.requests[0].sampling.grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"
    schema: dict[str, Any] = json.loads(grammar.source)
    return schema


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({}, ["weather", "clock", "no_tool"]),
        ({"tool_choice": None}, ["weather", "clock", "no_tool"]),
        ({"tool_choice": "auto"}, ["weather", "clock", "no_tool"]),
        ({"tool_choice": "required"}, ["weather", "clock"]),
        ({"tool_choice": "clock"}, ["clock"]),
        ({"tool_choice": {"type": "function", "function": {"name": "clock"}}}, ["clock"]),
        ({"tool_choice": {"function": {"name": "clock"}}}, ["clock"]),
    ],
)
async def test_C11_C12_the_schema_of_each_choice(serve: Serve, choice: dict[str, Any], names: list[str]) -> None:
    app = serve(script=says(FORCED))
    await message_of(app, chat(**choice))
    schema = grammar_of(app)
    assert list(schema["$functions"]) == names
    assert schema["properties"]["function"]["anyOf"] == [{"$ref": f"#/$functions/{name}"} for name in names]
    assert schema["required"] == ["function"]
    for name in names:
        function = schema["$functions"][name]
        assert next(iter(function["properties"].items())) == ("_name", {"type": "string", "const": name})
        assert function["required"][0] == "_name"
        assert function["additionalProperties"] is False


@pytest.mark.parametrize("template", [None, QWEN])
async def test_C11_none_shows_no_tools(serve: Serve, template: str | None) -> None:
    app = serve(**({"chat_template": template} if template else {}))
    assert (await message_of(app, chat(tool_choice="none")))["content"] == "hello"
    assert app.engine.requests[0].sampling.grammar is None
    assert "weather" not in prompt_of(app)


@pytest.mark.parametrize("choice", ["other", {"type": "function", "function": {"name": "other"}}])
@pytest.mark.parametrize("tools", [TOOLS, []])
async def test_C11_an_unknown_name(serve: Serve, choice: Any, tools: list[Any]) -> None:
    app = serve()
    for stream in (False, True):
        reply = await app.post(PATH, chat(tools=tools, tool_choice=choice, stream=stream))
        assert (reply.status_code, reply.json()["error_type"]) == (422, "tool_error")
        assert reply.json()["error"]["message"] == "Tool error: Tool with name other not found"
    assert app.engine.requests == []


async def test_C12_the_prompt(serve: Serve) -> None:
    app = serve(script=says(FORCED))
    await message_of(app, chat(tool_choice="weather"))
    arguments = json.dumps(WEATHER["parameters"], separators=(",", ":"))
    function = {"description": "Tells the weather", "name": "weather", "arguments": arguments}
    listing = json.dumps([{"type": "function", "function": function}], separators=(",", ":"))
    assert prompt_of(app) == f"<user>hi\n---\n{listing}\n{DEFAULT_TOOL_PROMPT}<assistant>"
    await message_of(app, chat(tool_prompt="Call!"))
    assert prompt_of(app, 1).endswith("\nCall!<assistant>")
    assert '"name":"no_tool"' in prompt_of(app, 1)
    tokens = (await app.post("/chat_tokenize", chat(tool_prompt="Call!"))).json()
    assert tokens["templated_text"] == prompt_of(app, 1)


@pytest.mark.parametrize("options", [{"openai_dialect": "tgi"}, {}])
async def test_C12_the_prompt_where_the_template_shows_tools(serve: Serve, options: dict[str, Any]) -> None:
    """TGI's way is there for who asks for it, by the dialect or by a prompt of his own."""
    app = serve(script=says(FORCED), chat_template=QWEN, **options)
    await message_of(app, chat(tool_prompt="Call!"))
    assert prompt_of(app).count("no_tool") == 1
    assert prompt_of(app).endswith("<|im_start|>user\nhi\n---\nCall!<|im_end|>\n<|im_start|>assistant\n")
    assert list(grammar_of(app)["$functions"]) == ["weather", "clock", "no_tool"]


async def test_C12_a_format_of_its_own_needs_no_prompt(serve: Serve) -> None:
    app = serve(script=says(HERMES), chat_template=QWEN)
    await message_of(app, chat(tool_prompt=""))
    assert '"name": "weather"' in prompt_of(app)
    assert "---" not in prompt_of(app)
    assert "no_tool" not in prompt_of(app)
    assert app.engine.requests[0].sampling.grammar is None


@pytest.mark.parametrize(
    ("choice", "num_functions", "repeats"),
    [
        ({"tool_choice": "required"}, 2, True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, 2, False),
        ({"tool_choice": "weather"}, 1, False),
    ],
)
async def test_C11_calls_that_must_come_are_held_to_the_format(
    serve: Serve, choice: dict[str, Any], num_functions: int, repeats: bool
) -> None:
    app = serve(script=says(HERMES), chat_template=QWEN)
    await message_of(app, chat(**choice))
    grammar = app.engine.requests[0].sampling.grammar
    assert grammar is not None
    assert grammar.kind == "lark"
    assert grammar.source.count("%json") == num_functions
    assert ("*" in grammar.source.partition("call_0")[0]) == repeats
    assert ("clock" in prompt_of(app)) == (num_functions == 2)


@pytest.mark.parametrize("dialect", ["tgi", "mixed"])
async def test_C14_C15_no_tool_asks_again(serve: Serve, dialect: str) -> None:
    for body in (chat(), chat(logprobs=True)):
        app = serve(script=in_turn(DECLINED, "Hello!"), openai_dialect=dialect)
        reply = (await app.post(PATH, body)).json()
        [choice] = reply["choices"]
        assert choice["message"] == {"role": "assistant", "content": "Hello!"}
        assert choice["finish_reason"] == "stop"
        probe, plain = app.engine.requests
        assert probe.sampling.grammar is not None
        assert plain.sampling.grammar is None
        assert prompt_of(app, 1) == "<user>hi<assistant>"
        num_prompt = len("<user>hi<assistant>")
        assert reply["usage"] == {"prompt_tokens": num_prompt, "completion_tokens": 7, "total_tokens": num_prompt + 7}
        assert choice["logprobs"] is None or len(choice["logprobs"]["content"]) == 7


async def test_C14_C15_no_tool_in_a_stream(serve: Serve) -> None:
    app = serve(script=in_turn(DECLINED, "Hello!"))
    body = chat(stream=True, logprobs=True, stream_options={"include_usage": True})
    *chunks, usage, done = await app.events(PATH, body)
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(each["delta"]["content"] for each in choices) == "Hello!"
    assert [each["finish_reason"] for each in choices if each["finish_reason"]] == ["stop"]
    tokens = [token["token"] for each in choices for token in each["logprobs"]["content"]]
    assert "".join(tokens) == "Hello!</s>"
    assert usage["usage"]["completion_tokens"] == 7
    assert len(app.engine.requests) == 2


async def test_C14_each_choice_chooses(serve: Serve) -> None:
    def script(request: Request) -> Iterator[RequestOutput]:
        is_plain = request.sampling.grammar is None
        return iter(says("Hello!" if is_plain else DECLINED if request.sampling.seed == 7 else FORCED)(request))

    app = serve(script=script)
    first, second = (await app.post(PATH, chat(n=2, seed=7))).json()["choices"]
    assert (first["message"]["content"], second["finish_reason"]) == ("Hello!", "tool_calls")
    *chunks, _ = await app.events(PATH, chat(n=2, seed=7, stream=True))
    reasons = {each["index"]: each["finish_reason"] for chunk in chunks for each in chunk["choices"]}
    assert reasons == {0: "stop", 1: "tool_calls"}


async def test_C14_a_function_of_that_name_that_must_be_called(serve: Serve) -> None:
    app = serve(script=says(DECLINED))
    body = {
        "messages": USER,
        "tools": [{"type": "function", "function": {"name": "no_tool"}}],
        "tool_choice": "no_tool",
    }
    assert (await message_of(app, body))["tool_calls"][0]["function"]["name"] == "no_tool"
    first, *_, last = await chunks_of(app, body)
    assert first["delta"]["tool_calls"][0]["function"]["name"] == "no_tool"
    assert last["finish_reason"] == "tool_calls"


async def test_C15_usage_of_a_call(serve: Serve) -> None:
    app = serve(script=says(HERMES), chat_template=QWEN)
    reply = (await app.post(PATH, chat())).json()
    assert reply["usage"]["completion_tokens"] == len(HERMES) + 1
    *_, usage, _ = await app.events(PATH, chat(stream=True, stream_options={"include_usage": True}))
    assert usage["usage"] == reply["usage"]


async def test_C7_C13_every_token_has_its_logprob(serve: Serve) -> None:
    app = serve(script=says(TWO), chat_template=QWEN)
    chunks = await chunks_of(app, chat(logprobs=True))
    tokens = [token["token"] for chunk in chunks for token in chunk["logprobs"]["content"]]
    assert "".join(tokens) == TWO + "</s>"


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json", "value": {"properties": {}}},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {"properties": {}}}},
        {"type": "regex", "value": "a"},
    ],
)
@pytest.mark.parametrize("tools", [TOOLS, []])
async def test_C17_tools_and_a_format_exclude_each_other(
    serve: Serve, response_format: dict[str, Any], tools: list[Any]
) -> None:
    app = serve(openai_dialect="tgi")
    for stream in (False, True):
        reply = await app.post(PATH, chat(tools=tools, response_format=response_format, stream=stream))
        assert (reply.status_code, reply.json()) == (
            422,
            {"error": "Tool error: Grammar and tools are mutually exclusive", "error_type": "tool_error"},
        )
    assert app.engine.requests == []


async def test_C17_any_text_is_no_format(serve: Serve) -> None:
    app = serve(script=says(FORCED))
    assert (await message_of(app, chat(response_format={"type": "text"})))["finish_reason"] == "tool_calls"


async def test_tool_results_reach_the_template_with_their_ids(serve: Serve) -> None:
    app = serve(chat_template=MISTRAL)
    call = {"id": "482915730", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "482915730", "content": "sunny"},
    ]
    await message_of(app, chat(messages=messages))
    shown = {**call, "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    prompt = prompt_of(app)
    assert prompt.endswith("[tool 482915730]sunny")
    assert json.loads(prompt.partition("[TOOL_CALLS]")[2].partition("[tool")[0]) == [shown]


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ({"parameters": 5}, "grammar is not valid: `parameters` of the function f must be an object"),
        ({"parameters": "{"}, "grammar is not valid: "),
        (
            {"parameters": {"properties": {"a": {"type": "nix"}}}},
            "cannot compile regex from schema: Invalid type: nix",
        ),
    ],
)
@pytest.mark.parametrize("options", [{}, {"chat_template": QWEN}])
async def test_C11_bad_functions(serve: Serve, function: dict[str, Any], text: str, options: dict[str, Any]) -> None:
    app = serve(openai_dialect="mixed", **options)
    tools = [{"type": "function", "function": {"name": "f", **function}}]
    reply = await app.post(PATH, chat(tools=tools, tool_choice="required"))
    assert reply.status_code == 422
    message = reply.json()["error"]["message"]
    assert message.startswith(f"Input validation error: {text}")
    assert "nix" not in text or message.endswith(text)


@pytest.mark.parametrize("options", [{}, {"chat_template": QWEN}])
async def test_C11_functions_without_parameters(serve: Serve, options: dict[str, Any]) -> None:
    text = FORCED if not options else HERMES
    app = serve(script=says(text), **options)
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert (await message_of(app, chat(tools=tools, tool_choice="required")))["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("options", [{}, {"chat_template": QWEN}])
async def test_V8_without_grammar_support(serve: Serve, options: dict[str, Any]) -> None:
    app = serve(script=says(HERMES), disable_grammar_support=True, openai_dialect="mixed", **options)
    reply = await app.post(PATH, chat(tool_choice="required"))
    assert reply.status_code == 422
    assert reply.json()["error"]["message"] == "Input validation error: grammar is not supported"
    if options:
        assert (await message_of(app, chat()))["finish_reason"] == "tool_calls"


async def test_C3_functions_go_into_the_template_that_the_model_has_for_them(serve: Serve) -> None:
    app = serve(script=says(HERMES), tool_template=QWEN)
    assert (await message_of(app, chat()))["finish_reason"] == "tool_calls"
    assert "# Tools" in prompt_of(app)
    await message_of(app, {"messages": USER})
    assert prompt_of(app, 1) == "<user>hi<assistant>"


async def test_tools_without_choice_or_functions_change_nothing(serve: Serve) -> None:
    app = serve()
    for body in ({"tools": []}, {"tool_choice": "required", "tools": None}, {"tool_choice": "f", "tools": None}):
        assert (await message_of(app, chat(**body)))["content"] == "hello"
    assert {prompt_of(app, number) for number in range(3)} == {"<user>hi<assistant>"}


async def test_special_tokens_are_no_text(serve: Serve) -> None:
    def script(request: Request) -> Iterator[RequestOutput]:
        return outputs(request, [0, *ids_of(HERMES), 0, 1])

    app = serve(script=script, chat_template=QWEN)
    assert (await message_of(app, chat()))["content"] is None
    first, *_, last = await chunks_of(app, chat())
    assert first["delta"]["tool_calls"]
    assert last["finish_reason"] == "tool_calls"

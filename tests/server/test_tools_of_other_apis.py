"""Functions over ``/v1/messages`` and ``/v1/responses``, below what clients show."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import INFO, Script, Serving, says

Serve = Callable[..., Serving]

QWEN = (Path(__file__).parent.parent / "text" / "templates" / "qwen_tools.jinja").read_text()
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DECLINED = '{"function": {"_name": "no_tool"}}'
FORCED = '{"function": {"_name": "weather", "city": "Paris"}}'
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture
def serve(serve: Serve) -> Serve:
    info = replace(INFO, max_input_tokens=5000, max_total_tokens=8000)
    return lambda **given: serve(**{"info": info, **given})


def messages(**fields: Any) -> dict[str, Any]:
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    return {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 500, "tools": tools, **fields}


def responses(**fields: Any) -> dict[str, Any]:
    return {"input": "hi", "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}], **fields}


def in_turn(*texts: str) -> Script:
    rest = list(texts)
    return lambda request: says(rest.pop(0))(request)


def prompt_of(app: Serving, number: int = 0) -> str:
    return app.model.tokenizer.decode(app.engine.requests[number].prompt_token_ids, skip_special_tokens=False)


async def answer(app: Serving, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    reply = await app.post(path, body)
    assert reply.status_code == status, reply.text
    result: dict[str, Any] = reply.json()
    return result


async def events_of(app: Serving, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    *events, rest = (await app.post(path, {**body, "stream": True})).text.split("\n\n")
    assert rest == ""
    pairs = [event.split("\n") for event in events]
    data = [json.loads(second.removeprefix("data: ")) for _, second in pairs]
    assert [first for first, _ in pairs] == [f"event: {each['type']}" for each in data]
    return data


async def test_C14_no_tool_in_messages(serve: Serve) -> None:
    for stream in (False, True):
        app = serve(script=in_turn(DECLINED, "Hello!"))
        if stream:
            start, opened, *deltas, _, end, _ = await events_of(app, MESSAGES, messages())
            assert (start["type"], opened["type"]) == ("message_start", "content_block_start")
            assert "".join(each["delta"]["text"] for each in deltas) == "Hello!"
            assert end["delta"]["stop_reason"] == "end_turn"
            num_inputs, num_outputs = start["message"]["usage"]["input_tokens"], end["usage"]["output_tokens"]
        else:
            reply = await answer(app, MESSAGES, messages())
            assert reply["content"] == [{"type": "text", "text": "Hello!"}]
            num_inputs, num_outputs = reply["usage"]["input_tokens"], reply["usage"]["output_tokens"]
        assert (num_inputs, num_outputs) == (len("<user>hi<assistant>"), 7)


async def test_C14_no_tool_in_responses(serve: Serve) -> None:
    app = serve(script=in_turn(DECLINED, "Hello!"))
    reply = await answer(app, RESPONSES, responses())
    assert [item["type"] for item in reply["output"]] == ["message"]
    assert reply["usage"]["output_tokens"] == 7
    app = serve(script=in_turn(DECLINED, "Hello!"))
    events = await events_of(app, RESPONSES, responses())
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    assert [each["type"] for each in events].count("response.created") == 1
    deltas = [each["delta"] for each in events if each["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "Hello!"
    assert events[-1]["response"]["usage"]["output_tokens"] == 7


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "auto"}, ["weather", "no_tool"]),
        ({"type": "any"}, ["weather"]),
        ({"type": "tool", "name": "weather"}, ["weather"]),
        ({"type": "none"}, None),
    ],
)
async def test_C11_choices_in_messages(serve: Serve, choice: dict[str, Any], names: list[str] | None) -> None:
    app = serve(script=says(FORCED))
    reply = await answer(app, MESSAGES, messages(tool_choice=choice))
    grammar = app.engine.requests[0].sampling.grammar
    if names is None:
        assert grammar is None
        assert reply["stop_reason"] == "end_turn"
    else:
        assert grammar is not None
        assert list(json.loads(grammar.source)["$functions"]) == names
        assert reply["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["weather", "no_tool"]),
        ("required", ["weather"]),
        ({"type": "function", "name": "weather"}, ["weather"]),
        ("none", None),
    ],
)
async def test_C11_choices_in_responses(serve: Serve, choice: Any, names: list[str] | None) -> None:
    app = serve(script=says(FORCED))
    reply = await answer(app, RESPONSES, responses(tool_choice=choice))
    grammar = app.engine.requests[0].sampling.grammar
    if names is None:
        assert grammar is None
    else:
        assert grammar is not None
        assert list(json.loads(grammar.source)["$functions"]) == names
        [item] = reply["output"]
        assert (item["type"], item["status"], item["arguments"]) == ("function_call", "completed", '{"city": "Paris"}')
    assert reply["tool_choice"] == (choice or "auto")


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        (MESSAGES, messages(tool_choice={"type": "tool", "name": "x"}), "Tool error: Tool with name x not found"),
        (MESSAGES, messages(tool_choice={"type": "tool"}), "`tool_choice` of the type tool needs a `name`"),
        (MESSAGES, messages(tools=[{"type": "bash_20250124", "name": "bash"}]), "of the type bash_20250124"),
        (RESPONSES, responses(tool_choice={"type": "function", "name": "x"}), "Tool with name x not found"),
        (RESPONSES, responses(tools=[{"type": "web_search"}]), "`tools` of the type web_search are not supported"),
        (RESPONSES, responses(tools=[{"type": "function"}]), "`tools` need a `name`"),
        (RESPONSES, responses(text={"format": {"type": "json_object"}}), "Grammar and tools are mutually exclusive"),
        (RESPONSES, {"input": "a", "text": {"format": {"type": "json_schema", "name": "n"}}}, "grammar"),
    ],
)
async def test_C17_H5_what_is_refused(serve: Serve, path: str, body: dict[str, Any], text: str) -> None:
    app = serve()
    for stream in (False, True):
        reply = await app.post(path, {**body, "stream": stream})
        if reply.headers["content-type"] == "application/json":
            assert reply.status_code == 422
        assert text in reply.json()["error"]["message"] if reply.status_code == 422 else text in reply.text
    assert app.engine.requests == []


async def test_results_of_calls_reach_the_template(serve: Serve) -> None:
    app = serve(chat_template=QWEN)
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ærø", "n": 2**70}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sunny"}]}
    given = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, call]},
        {"role": "user", "content": [{"type": "text", "text": "And?"}, result]},
    ]
    await answer(app, MESSAGES, messages(messages=given))
    items = [
        {"role": "user", "content": "hi"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {
            "type": "function_call",
            "call_id": "toolu_1",
            "name": "weather",
            "arguments": json.dumps(call["input"], ensure_ascii=False),
        },
        {"type": "function_call_output", "call_id": "toolu_1", "output": "sunny"},
        {"role": "user", "content": "And?"},
    ]
    await answer(app, RESPONSES, responses(input=items))
    for number in range(2):
        assert prompt_of(app, number).endswith(
            "<|im_start|>assistant\nI look.\n<tool_call>\n"
            '{"name": "weather", "arguments": {"city": "Ærø", "n": 1180591620717411303424}}\n</tool_call><|im_end|>\n'
            "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
            "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
        )


async def test_arguments_are_given_back_as_they_are_written(serve: Serve) -> None:
    arguments = '{"city": "\\ud83d\\ude00", "n": ' + "9" * 5000 + ", "  # more digits than Python reads
    arguments += '"x": 1e999}'
    text = HERMES.replace('{"city": "Paris"}', arguments)
    app = serve(script=says(text), chat_template=QWEN)
    reply = await app.post(MESSAGES, messages(max_tokens=7000))
    assert f'"input":{arguments}' in reply.text
    for path, body in (("/v1/messages", messages(max_tokens=7000)), (RESPONSES, responses())):
        assert (await app.post(path, {**body, "stream": True})).status_code == 200


@pytest.mark.parametrize("text", [HERMES, FORCED])
async def test_C15_a_call_that_is_cut(serve: Serve, text: str) -> None:
    options = {"chat_template": QWEN} if text is HERMES else {}
    app = serve(script=says(text), **options)
    num_tokens = text.index("city") + 3
    reply = await answer(app, MESSAGES, messages(max_tokens=num_tokens))
    assert (reply["stop_reason"], reply["content"]) == ("max_tokens", [{"type": "text", "text": text[:num_tokens]}])
    events = await events_of(app, MESSAGES, messages(max_tokens=num_tokens))
    assert events[1]["content_block"]["type"] == "tool_use"
    assert [each["type"] for each in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"
    *_, closed, ended = await events_of(app, RESPONSES, responses(max_output_tokens=num_tokens))
    assert (closed["item"]["type"], closed["item"]["status"]) == ("function_call", "incomplete")
    assert (ended["type"], ended["response"]["status"]) == ("response.incomplete", "incomplete")


async def test_text_after_a_call_is_a_part_of_its_own(serve: Serve) -> None:
    app = serve(script=says(f"One.\n{HERMES}\nTwo."), chat_template=QWEN)
    reply = await answer(app, MESSAGES, messages())
    assert [block.get("text") or block["name"] for block in reply["content"]] == ["One.", "weather", "Two."]
    events = await events_of(app, MESSAGES, messages())
    starts = [each for each in events if each["type"] == "content_block_start"]
    assert [(each["index"], each["content_block"]["type"]) for each in starts] == [
        (0, "text"),
        (1, "tool_use"),
        (2, "text"),
    ]
    ended = (await events_of(app, RESPONSES, responses()))[-1]["response"]
    at_once = await answer(app, RESPONSES, responses())
    for output in (ended["output"], at_once["output"]):
        assert [item["type"] for item in output] == ["message", "function_call", "message"]
        assert [item["status"] for item in output] == ["completed"] * 3


async def test_a_stop_sequence_before_a_call(serve: Serve) -> None:
    app = serve(script=says(f"I look. STOP {HERMES}"), chat_template=QWEN)
    reply = await answer(app, MESSAGES, messages(stop_sequences=["STOP"]))
    assert (reply["content"], reply["stop_reason"]) == ([{"type": "text", "text": "I look. "}], "stop_sequence")
    events = await events_of(app, MESSAGES, messages(stop_sequences=["STOP"]))
    text = "".join(each["delta"]["text"] for each in events if each["type"] == "content_block_delta")
    assert text == "I look. "
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "STOP"}


@pytest.mark.parametrize(
    ("text_format", "kind"),
    [
        ({"type": "json_object"}, "json_schema"),
        ({"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "json_schema"),
        ({"type": "text"}, None),
    ],
)
async def test_V9_formats_of_responses(serve: Serve, text_format: dict[str, Any], kind: str | None) -> None:
    app = serve(script=says('{"city": "Rome"}'))
    reply = await answer(app, RESPONSES, {"input": "hi", "text": {"format": text_format}})
    grammar = app.engine.requests[0].sampling.grammar
    assert (grammar and grammar.kind) == kind
    if "schema" in text_format:
        assert grammar is not None
        assert json.loads(grammar.source)["required"] == ["city"]
    text_format.pop("strict", None)
    assert reply["text"] == {"format": text_format}


async def test_functions_shown_back_in_a_response(serve: Serve) -> None:
    app = serve(script=says("x"), chat_template=QWEN)
    reply = await answer(app, RESPONSES, responses(parallel_tool_calls=False))
    assert reply["parallel_tool_calls"] is False
    [tool] = reply["tools"]
    assert tool == {
        "type": "function",
        "name": "weather",
        "description": None,
        "parameters": SCHEMA,
        "strict": None,
    }

"""Functions, as ``openai``, ``anthropic``, ``huggingface_hub`` and ``text_generation`` ask for them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from contract.live import LiveServer, fake_server, model_server
from fakes import FakeRunner
from huggingface_hub import InferenceClient
from openai import OpenAI
from serving import EOS, INFO, ids_of
from tiny_model import write_tiny_llama
from tokenizers import Tokenizer

from segue.core.batch import ScheduledSequence

TEMPLATES = Path(__file__).parent.parent / "text" / "templates"
QWEN = (TEMPLATES / "qwen_tools.jinja").read_text()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Tells it", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}},
]
NAMES = {"type": "function", "function": {"name": "weather"}}
MESSAGES = [{"role": "user", "content": "Weather?"}]
CALLS = (
    'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)
FORCED = '{"function": {"_name": "weather", "city": "Paris", "days": 2}}'
PARIS = {"city": "Paris", "days": 2}


def assistant(sequence: ScheduledSequence) -> int:
    """For ``FakeRunner``: calls functions when they are shown, and says what they gave when that is."""
    prompt = list(sequence.history[: sequence.num_prompt_tokens])
    text = "Nothing to call."
    if contains(prompt, "<tool_response>"):
        text = "It is sunny."
    elif contains(prompt, "<tools>"):
        text = CALLS
    elif contains(prompt, "\n---\n"):
        text = FORCED
    ids = [*ids_of(text), EOS]
    return ids[len(sequence.history) - sequence.num_prompt_tokens]


def contains(prompt: list[int], text: str) -> bool:
    ids = ids_of(text)
    return any(prompt[start : start + len(ids)] == ids for start in range(len(prompt)))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A model whose template has a format for calls."""
    info = replace(INFO, max_input_tokens=3000, max_total_tokens=4000)
    runner = FakeRunner(next_token=assistant)
    folder = tmp_path_factory.mktemp("native")
    with fake_server(folder, runner=runner, info=info, chat_template=QWEN, has_grammars=True) as server:
        yield server


@pytest.fixture(scope="module")
def forced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A model whose template knows nothing of functions."""
    info = replace(INFO, max_input_tokens=3000, max_total_tokens=4000)
    runner = FakeRunner(next_token=assistant)
    with fake_server(tmp_path_factory.mktemp("forced"), runner=runner, info=info, has_grammars=True) as server:
        yield server


@pytest.fixture
def openai(native: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{native.url}/v1", api_key="-", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic(native: LiveServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=native.url, api_key="-", max_retries=0) as client:
        yield client


def test_C11_Y3_openai(openai: OpenAI) -> None:
    reply = openai.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS)
    [choice] = reply.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
    weather, clock = choice.message.tool_calls or []
    assert weather.id != clock.id
    assert [each.function.name for each in (weather, clock)] == ["weather", "clock"]
    assert json.loads(weather.function.arguments) == PARIS
    results = [{"role": "tool", "tool_call_id": each.id, "content": "sunny"} for each in (weather, clock)]
    messages = [*MESSAGES, choice.message, *results]
    reply = openai.chat.completions.create(model="m", messages=messages, tools=TOOLS)
    assert (reply.choices[0].finish_reason, reply.choices[0].message.content) == ("stop", "It is sunny.")


def test_C13_Y3_openais_streaming_helper_puts_calls_together(openai: OpenAI) -> None:
    with openai.chat.completions.stream(model="m", messages=MESSAGES, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        [choice] = stream.get_final_completion().choices
    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert kinds.count("tool_calls.function.arguments.delta") > 10
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
    weather, clock = choice.message.tool_calls or []
    assert (weather.function.name, json.loads(weather.function.arguments)) == ("weather", PARIS)
    assert (clock.function.name, clock.function.arguments) == ("clock", "{}")
    assert len(weather.id) == len(clock.id) == 9


def test_C11_C14_Y3_openai_where_calls_are_forced(forced: LiveServer) -> None:
    with OpenAI(base_url=f"{forced.url}/v1", api_key="-", max_retries=0) as client:
        for choice in ("auto", "required", NAMES):
            fields: dict[str, Any] = {"model": "m", "messages": MESSAGES, "tools": TOOLS, "tool_choice": choice}
            reply = client.chat.completions.create(**fields)
            [call] = reply.choices[0].message.tool_calls or []
            assert (call.function.name, json.loads(call.function.arguments)) == ("weather", PARIS)
            with client.chat.completions.stream(**fields) as stream:
                [call] = stream.get_final_completion().choices[0].message.tool_calls or []
            assert (call.function.name, json.loads(call.function.arguments)) == ("weather", PARIS)
        reply = client.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS, tool_choice="none")
        assert reply.choices[0].message.content == "Nothing to call."


@pytest.mark.parametrize("is_native", [True, False])
def test_C11_C13_Y2_huggingface_hub(native: LiveServer, forced: LiveServer, is_native: bool) -> None:
    client = InferenceClient(model=(native if is_native else forced).url)
    reply = client.chat_completion(MESSAGES, tools=TOOLS, tool_choice="auto", max_tokens=200)
    call = (reply.choices[0].message.tool_calls or [])[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", PARIS)
    assert reply.choices[0].finish_reason == "tool_calls"
    arguments, name = "", None
    for chunk in client.chat_completion(MESSAGES, tools=TOOLS, tool_choice="auto", max_tokens=200, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or []:
            if piece.index == 0:
                arguments += piece.function.arguments
                name = name or piece.function.name
    assert (name, json.loads(arguments)) == ("weather", PARIS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_C11_Y1_text_generation(native: LiveServer) -> None:
    from text_generation import Client
    from text_generation.types import Message, Tool

    tools = [Tool(type="function", function=each["function"]) for each in TOOLS]
    reply = Client(native.url).chat([Message(role="user", content="Weather?")], tools=tools, max_tokens=200)
    calls = reply.choices[0].message.tool_calls
    assert [call["function"]["name"] for call in calls] == ["weather", "clock"]


def test_Y3_functions_in_responses(openai: OpenAI) -> None:
    tools = [{"type": "function", "strict": None, **each["function"]} for each in TOOLS]
    reply = openai.responses.create(model="m", input="Weather?", tools=tools)
    assert (reply.status, reply.output_text) == ("completed", "Let me look.")
    _, weather, clock = reply.output
    assert (weather.type, weather.name, json.loads(weather.arguments)) == ("function_call", "weather", PARIS)
    assert len({weather.id, weather.call_id, clock.id, clock.call_id}) == 4
    results = [
        {"type": "function_call_output", "call_id": each.call_id, "output": "sunny"} for each in (weather, clock)
    ]
    items = [{"role": "user", "content": "Weather?"}, *reply.output, *results]
    assert openai.responses.create(model="m", input=items, tools=tools).output_text == "It is sunny."
    assert openai.responses.create(model="m", input="Weather?", tools=tools, tool_choice="none").tools != []


def test_Y3_functions_in_streamed_responses(openai: OpenAI) -> None:
    tools = [{"type": "function", "strict": None, **each["function"]} for each in TOOLS]
    with openai.responses.stream(model="m", input="Weather?", tools=tools) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [each.sequence_number for each in events] == list(range(len(events)))
    _, weather, clock = final.output
    assert (weather.name, json.loads(weather.arguments), clock.arguments) == ("weather", PARIS, "{}")
    deltas = [each for each in events if each.type == "response.function_call_arguments.delta"]
    assert "".join(each.delta for each in deltas if each.output_index == 1) == weather.arguments
    done = [each.arguments for each in events if each.type == "response.function_call_arguments.done"]
    assert done == [weather.arguments, clock.arguments]
    added = [each.item.type for each in events if each.type == "response.output_item.added"]
    assert added == ["message", "function_call", "function_call"]


ANTHROPIC_TOOLS = [
    {"name": "weather", "description": "Tells it", "input_schema": SCHEMA},
    {"name": "clock", "input_schema": {"type": "object", "properties": {}}},
]


def test_functions_in_anthropics_messages(anthropic: Anthropic) -> None:
    fields: dict[str, Any] = {"model": "m", "max_tokens": 500, "tools": ANTHROPIC_TOOLS}
    reply = anthropic.messages.create(messages=MESSAGES, **fields)
    text, weather, clock = reply.content
    assert (reply.stop_reason, text.text) == ("tool_use", "Let me look.")
    assert (weather.name, weather.input, clock.name, clock.input) == ("weather", PARIS, "clock", {})
    results = [{"type": "tool_result", "tool_use_id": each.id, "content": "sunny"} for each in (weather, clock)]
    results[1]["content"] = [{"type": "text", "text": "noon"}]
    messages = [*MESSAGES, {"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]
    reply = anthropic.messages.create(messages=messages, **fields)
    assert (reply.stop_reason, reply.content[0].text) == ("end_turn", "It is sunny.")
    with_tools = anthropic.messages.count_tokens(model="m", messages=MESSAGES, tools=ANTHROPIC_TOOLS)
    assert with_tools.input_tokens > anthropic.messages.count_tokens(model="m", messages=MESSAGES).input_tokens + 300
    single = anthropic.messages.create(
        messages=MESSAGES, tool_choice={"type": "auto", "disable_parallel_tool_use": True}, **fields
    )
    assert [block.type for block in single.content] == ["text", "tool_use"]


def test_functions_in_anthropics_streams(anthropic: Anthropic) -> None:
    fields: dict[str, Any] = {"model": "m", "max_tokens": 500, "tools": ANTHROPIC_TOOLS, "messages": MESSAGES}
    with anthropic.messages.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    text, weather, clock = final.content
    assert (final.stop_reason, text.text) == ("tool_use", "Let me look.")
    assert (weather.name, weather.input, clock.name, clock.input) == ("weather", PARIS, "clock", {})
    assert kinds.count("input_json") > 5
    assert kinds.count("content_block_stop") == 3


MISTRAL = (
    "{{ tools | tojson if tools else '' }}{% for m in messages %}{% if m.tool_calls %}[TOOL_CALLS]"
    "{{ m.tool_calls | tojson }}{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)
LLAMA = (TEMPLATES / "llama_3.jinja").read_text()
FORMATS: dict[str, tuple[str | None, list[str], list[str]]] = {
    "forced": (None, [], []),
    "hermes": (QWEN, [], ["<tool_call>", "</tool_call>"]),
    "hermes_without_tokens": (QWEN, [], []),
    "llama": (LLAMA, ["<|python_tag|>"], []),
    "mistral": (MISTRAL, ["[TOOL_CALLS]"], []),
    "mistral_names": (MISTRAL.replace("{{ m.tool", "[ARGS]{{ m.tool"), ["[TOOL_CALLS]", "[ARGS]"], []),
}
"""Template, special tokens, other added tokens."""


@pytest.fixture(scope="module", params=list(FORMATS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """A model that writes noise, so that only the grammar makes its calls."""
    folder = write_tiny_llama(tmp_path_factory.mktemp("model"))
    template, special, added = FORMATS[request.param]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(added)
    tokenizer.save(str(folder / "tokenizer.json"))
    if template is not None:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    options = {"max_input_tokens": 1500, "max_total_tokens": 2000, "num_threads": 1}
    with (
        model_server(folder, **options) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client,
    ):
        yield client


@pytest.mark.parametrize("choice", ["required", NAMES])
def test_C11_C13_calls_of_a_model_that_writes_noise_are_valid(model: OpenAI, choice: Any) -> None:
    fields: dict[str, Any] = {"model": "m", "messages": MESSAGES, "tools": TOOLS, "tool_choice": choice}
    fields |= {"max_tokens": 120, "n": 3, "temperature": 1.5, "seed": 4, "parallel_tool_calls": False}
    reply = model.chat.completions.create(**fields)
    answers = []
    for each in reply.choices:
        [call] = each.message.tool_calls or []
        arguments = json.loads(call.function.arguments)
        if call.function.name == "weather":
            assert arguments["city"] in ("Paris", "Rome")
            assert 1 <= arguments["days"] <= 9
        else:
            assert (call.function.name, arguments) == ("clock", {})
            assert choice == "required"
        answers.append((call.function.name, arguments, each.finish_reason))
    assert {reason for *_, reason in answers} == {"tool_calls"}
    texts, calls, reasons = streamed(model, fields)
    assert texts == {}
    given = [(*calls[index, 0], reasons[index]) for index in range(3)]
    assert [(name, json.loads(arguments), reason) for name, arguments, reason in given] == answers


def test_C11_a_model_that_may_answer_with_text(model: OpenAI) -> None:
    """Whatever it writes, the stream says the same as the answer at once."""
    for seed in range(2):
        fields: dict[str, Any] = {"model": "m", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 80, "seed": seed}
        [reply] = model.chat.completions.create(**fields).choices
        texts, calls, reasons = streamed(model, fields)
        assert reasons == {0: reply.finish_reason}
        wanted = [(each.function.name, each.function.arguments) for each in reply.message.tool_calls or []]
        assert list(calls.values()) == wanted
        # What is no UTF-8 is not told apart alike where a special token is left out, and at the very end.
        assert ascii_of(texts.get(0)) == ascii_of(reply.message.content)


def ascii_of(text: str | None) -> str:
    return "".join(char for char in text or "" if char.isascii())


Streamed = tuple[dict[int, str], dict[tuple[int, int], tuple[str, str]], dict[int, str]]


def streamed(client: OpenAI, fields: dict[str, Any]) -> Streamed:
    """Texts by choice; names and arguments by choice and call; finish reasons. The client's own helper wants choices
    to begin in order, and raises where the length is reached."""
    texts: dict[int, str] = {}
    calls: dict[tuple[int, int], tuple[str, str]] = {}
    reasons: dict[int, str] = {}
    for chunk in client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            if choice.delta.content:
                texts[choice.index] = texts.get(choice.index, "") + choice.delta.content
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                name, arguments = calls.get((choice.index, call.index), (call.function.name or "", ""))
                calls[choice.index, call.index] = (name, arguments + (call.function.arguments or ""))
            if choice.finish_reason:
                assert choice.index not in reasons
                reasons[choice.index] = choice.finish_reason
    return texts, calls, reasons


@pytest.mark.parametrize("text_format", ["json_object", "json_schema"])
def test_V9_Y3_formats_of_responses(model: OpenAI, text_format: str) -> None:
    given: dict[str, Any] = {"type": text_format}
    if text_format == "json_schema":
        given |= {"name": "weather", "schema": SCHEMA, "strict": True}
    reply = model.responses.create(
        model="m", input="JSON!", text={"format": given}, max_output_tokens=200, temperature=0
    )
    assert reply.text is not None
    assert reply.text.format is not None
    assert reply.text.format.type == text_format
    if text_format == "json_schema":
        assert set(json.loads(reply.output_text)) == {"city", "days"}
    else:
        assert reply.output_text.startswith("{")

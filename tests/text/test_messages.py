import json
from typing import Any

import pytest

from segue.text.messages import DEFAULT_TOOL_PROMPT, append_tool_prompt, template_messages

CALL = {"id": "0", "type": "function", "function": {"name": "f", "arguments": '{"city": "Ærø", "n": [1, 2]}'}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "Does f", "parameters": {"type": "object", "properties": {"é": {}}}},
}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": "hi"}, {"role": "user", "content": "hi"}),
        ({"role": "user", "content": "hi", "name": "Ann"}, {"role": "user", "content": "hi"}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is "},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
                    {"type": "text", "text": "?"},
                ],
            },
            {"role": "user", "content": "What is ![](https://example.org/a.png)?"},
        ),
        (
            {"role": "tool", "content": "4", "tool_call_id": "0", "name": "f"},
            {"role": "tool", "content": "4", "tool_call_id": "0", "name": "f"},
        ),
        (
            {"role": "tool", "content": [{"type": "text", "text": "4"}], "tool_call_id": None},
            {"role": "tool", "content": "4"},
        ),
        ({"role": "assistant", "content": None, "tool_calls": None}, {"role": "assistant", "content": ""}),
    ],
)
@pytest.mark.parametrize("uses_tool_calls", [True, False])
def test_messages(message: dict[str, Any], expected: dict[str, Any], uses_tool_calls: bool) -> None:
    assert template_messages([message], uses_tool_calls=uses_tool_calls) == [expected]


def test_tool_calls_reach_a_template_that_reads_them() -> None:
    (message,) = template_messages([{"role": "assistant", "content": None, "tool_calls": [CALL]}], uses_tool_calls=True)
    assert message["content"] == ""
    (call,) = message["tool_calls"]
    assert call == {**CALL, "function": {"name": "f", "arguments": {"city": "Ærø", "n": [1, 2]}}}
    assert isinstance(CALL["function"], dict)
    assert isinstance(CALL["function"]["arguments"], str), "the wire's message must stay as it is"


def test_arguments_that_are_no_json_stay_text() -> None:
    call = {"id": "0", "type": "function", "function": {"name": "f", "arguments": "{oops"}}
    (message,) = template_messages([{"role": "assistant", "tool_calls": [call]}], uses_tool_calls=True)
    assert message["tool_calls"][0]["function"]["arguments"] == "{oops"


@pytest.mark.parametrize("content", [None, ""])
def test_tool_calls_are_text_for_other_templates(content: str | None) -> None:
    (message,) = template_messages(
        [{"role": "assistant", "content": content, "tool_calls": [CALL]}], uses_tool_calls=False
    )
    assert message == {
        "role": "assistant",
        "content": '[{"id":"0","type":"function","function":{"description":null,"name":"f",'
        '"arguments":"{\\"city\\": \\"Ærø\\", \\"n\\": [1, 2]}"}}]',
    }


def test_content_wins_over_tool_calls_in_other_templates() -> None:
    (message,) = template_messages(
        [{"role": "assistant", "content": "text", "tool_calls": [CALL]}], uses_tool_calls=False
    )
    assert message == {"role": "assistant", "content": "text"}


def test_tool_prompt_of_a_template_that_shows_the_tools() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    result = append_tool_prompt(messages, [TOOL], uses_tools=True)
    assert result == [messages[0], {"role": "user", "content": f"hi\n---\n{DEFAULT_TOOL_PROMPT}"}]
    assert messages[1]["content"] == "hi"


def test_tool_prompt_of_other_templates_lists_the_tools() -> None:
    (message,) = append_tool_prompt([{"role": "user", "content": "hi"}], [TOOL], tool_prompt="Go", uses_tools=False)
    lead, rule, listing, prompt = message["content"].split("\n")
    assert (lead, rule, prompt) == ("hi", "---", "Go")
    assert listing == (
        '[{"type":"function","function":{"description":"Does f","name":"f",'
        '"arguments":"{\\"type\\":\\"object\\",\\"properties\\":{\\"é\\":{}}}"}}]'
    )
    assert json.loads(json.loads(listing)[0]["function"]["arguments"]) == TOOL["function"]["parameters"]  # type: ignore[index]


@pytest.mark.parametrize("tool_prompt", [None, ""])
def test_no_tool_prompt_is_the_default(tool_prompt: str | None) -> None:
    (message,) = append_tool_prompt([{"role": "user", "content": ""}], [], tool_prompt=tool_prompt, uses_tools=True)
    assert message["content"] == f"\n---\n{DEFAULT_TOOL_PROMPT}"
    assert DEFAULT_TOOL_PROMPT.startswith("\nGiven the functions available, please respond with a JSON")
    assert DEFAULT_TOOL_PROMPT.endswith("its value}.Do not use variables.\n")


def test_tool_prompt_without_messages() -> None:
    assert append_tool_prompt([], [TOOL], uses_tools=True) == []


def call(number: int, call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": f"f{number}", "arguments": "{}"}}


CONVERSATION = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "I look.", "tool_calls": [call(1, "a"), call(2, "call_b"), call(3, "c12345678")]},
    {"role": "tool", "content": "two", "tool_call_id": "call_b"},
    {"role": "tool", "content": "none", "tool_call_id": "x"},
    {"role": "tool", "content": "one", "tool_call_id": "a", "name": "mine"},
    {"role": "assistant", "content": "Done."},
]


def test_answers_have_their_calls_names() -> None:
    messages = template_messages(CONVERSATION, uses_tool_calls=True)
    assert [message.get("name") for message in messages] == [None, None, "f2", None, "mine", None]


def test_one_call_a_message_where_a_template_takes_no_more() -> None:
    messages = template_messages(CONVERSATION, uses_tool_calls=True, allows_many_calls=False)
    shown = [
        each["tool_calls"][0]["id"] + "|" + each["content"] if "tool_calls" in each else each["content"]
        for each in messages
    ]
    assert shown == ["hi", "a|I look.", "one", "call_b|", "two", "c12345678|", "none", "Done."]
    assert all(len(each.get("tool_calls", ())) <= 1 for each in messages)


def test_short_ids_are_alike_in_calls_and_answers() -> None:
    _, assistant, two, _, one, _ = template_messages(CONVERSATION, uses_tool_calls=True, needs_short_ids=True)
    ids = [each["id"] for each in assistant["tool_calls"]]
    assert ids[2] == "c12345678"
    assert all(len(each) == 9 and each.isalnum() for each in ids)
    assert (one["tool_call_id"], two["tool_call_id"]) == (ids[0], ids[1])
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ a | tojson }}", '{"city": "Ærø", "n": [1, 2]}'),
        ("{{ a }}", '{"city": "Ærø", "n": [1, 2]}'),
        ("{{ '<' + a + '>' }}", '<{"city": "Ærø", "n": [1, 2]}>'),
        ("{{ '<' ~ a ~ '>' }}", '<{"city": "Ærø", "n": [1, 2]}>'),
        ("{% for key, value in a.items() %}{{ key }}={{ value }};{% endfor %}", "city=Ærø;n=[1, 2];"),
        ("{{ a is mapping }} {{ a is string }}", "True False"),
    ],
)
def test_arguments_serve_templates_that_want_objects_and_those_that_want_text(source: str, expected: str) -> None:
    from segue.text.chat_template import ChatTemplate

    source = "{% set a = messages[0].tool_calls[0].function.arguments %}" + source
    messages = template_messages([{"role": "assistant", "content": None, "tool_calls": [CALL]}], uses_tool_calls=True)
    assert ChatTemplate(source, bos_token=None, eos_token=None).render(messages) == expected

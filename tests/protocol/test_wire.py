"""TGI's serde strictness: what a field takes and what it does not."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from segue.protocol.openai import ChatRequest, CompletionRequest
from segue.protocol.tgi import CompatGenerateRequest, GenerateParameters, GenerateRequest, JsonSchemaGrammar

ABSENT = object()
NULLABLE = {
    "best_of": 2,
    "temperature": 0.5,
    "repetition_penalty": 1.03,
    "frequency_penalty": 0.1,
    "top_k": 10,
    "top_p": 0.95,
    "typical_p": 0.95,
    "max_new_tokens": 20,
    "return_full_text": True,
    "truncate": 10,
    "seed": 2**64 - 1,
    "top_n_tokens": 5,
    "grammar": {"type": "regex", "value": "a+"},
    "adapter_id": "a",
    "presence_penalty": 1,
    "logit_bias": {"1": -1},
}
NOT_NULLABLE = {
    "do_sample": True,
    "stop": ["a"],
    "watermark": True,
    "details": True,
    "decoder_input_details": True,
}


def parameters(**fields: Any) -> GenerateParameters:
    body = json.dumps({"inputs": "a", "parameters": fields})
    return GenerateRequest.model_validate_json(body).parameters


@pytest.mark.parametrize("name", NULLABLE)
def test_nullable_parameters(name: str) -> None:
    assert getattr(parameters(**{name: None}), name) is None
    assert getattr(parameters(**{name: NULLABLE[name]}), name) is not None


@pytest.mark.parametrize("name", NOT_NULLABLE)
def test_parameters_that_are_not_nullable(name: str) -> None:
    assert getattr(parameters(**NOT_NULLABLE), name) == NOT_NULLABLE[name]
    with pytest.raises(ValidationError):
        parameters(**{name: None})


def test_the_two_tables_name_every_parameter() -> None:
    assert {*NULLABLE, *NOT_NULLABLE} == set(GenerateParameters.model_fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 1.0),
        ("max_new_tokens", -1),
        ("max_new_tokens", 2**32),
        ("max_new_tokens", "1"),
        ("max_new_tokens", True),
        ("top_k", 2**31),
        ("top_k", 1.5),
        ("best_of", -1),
        ("seed", 2**64),
        ("seed", -1),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", 1e39),
        ("do_sample", 1),
        ("do_sample", "true"),
        ("stop", "a"),
        ("stop", [1]),
        ("return_full_text", 0),
        ("grammar", {"type": "ebnf", "value": ""}),
        ("grammar", {"type": "regex", "value": 1}),
        ("grammar", {"type": "json"}),
        ("adapter_id", 1),
    ],
)
def test_a_wrong_type_or_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        parameters(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 1), ("top_k", -1), ("top_p", 2), ("best_of", 0), ("max_new_tokens", 0)]
)
def test_what_only_the_server_can_judge_is_taken(name: str, value: Any) -> None:
    assert getattr(parameters(**{name: value}), name) == value


def test_unknown_fields_are_ignored_everywhere() -> None:
    body = {"inputs": "a", "parameters": {"what": 1, "top_k": 3}, "options": {"use_cache": False}}
    request = CompatGenerateRequest.model_validate_json(json.dumps(body))
    assert request.parameters.top_k == 3


def test_V2_do_sample_is_true_only_without_parameters() -> None:
    assert GenerateRequest.model_validate_json('{"inputs":"a"}').parameters.do_sample is True
    assert GenerateRequest.model_validate_json('{"inputs":"a","parameters":{}}').parameters.do_sample is False
    with pytest.raises(ValidationError):
        GenerateRequest.model_validate_json('{"inputs":"a","parameters":null}')


@pytest.mark.parametrize("inputs", [["a"], 1, None, {"text": "a"}])
def test_inputs_is_one_string(inputs: Any) -> None:
    with pytest.raises(ValidationError):
        GenerateRequest.model_validate_json(json.dumps({"inputs": inputs}))


def test_V6_grammars_parse_in_all_forms() -> None:
    for grammar in (
        {"type": "json", "value": {"properties": {}}},
        {"type": "json_object", "value": '{"properties": {}}'},
        {"type": "regex", "value": "[a-z]+"},
    ):
        assert parameters(grammar=grammar).grammar.value == grammar["value"]  # type: ignore[union-attr]
    named = parameters(grammar={"type": "json_schema", "value": {"name": "n", "schema": {"a": 1}, "strict": True}})
    assert isinstance(named.grammar, JsonSchemaGrammar)
    assert (named.grammar.value.name, named.grammar.value.json_schema) == ("n", {"a": 1})


# What text-generation's client sends, measured: every field, absent ones as null.
def test_Y1_the_old_clients_nulls_are_taken() -> None:
    names = ("repetition_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "max_tokens", "n")
    more = ("presence_penalty", "seed", "temperature", "top_p", "tools", "tool_choice", "stop", "tool_prompt")
    message = {"role": "user", "content": "hi", "name": None, "tool_calls": None}
    body = {"model": "tgi", "messages": [message], "stream": False, **dict.fromkeys((*names, *more))}
    assert ChatRequest.model_validate_json(json.dumps(body)).messages[0].content == "hi"


@pytest.mark.parametrize(
    ("message", "is_taken"),
    [
        ({"role": "user", "content": "hi"}, True),
        ({"role": "user", "content": ""}, True),
        ({"role": "user", "content": [{"type": "text", "text": "hi"}]}, True),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:", "detail": "low"}}]},
            True,
        ),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, False),
        ({"role": "assistant", "content": None, "tool_calls": []}, True),
        ({"role": "assistant", "tool_calls": [{"id": "0", "type": "function", "function": {"name": "f"}}]}, False),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "0", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            True,
        ),
        ({"role": "tool", "content": "4", "tool_call_id": "0"}, True),
        ({"role": "user"}, False),
        ({"role": "user", "content": 1}, False),
        ({"content": "hi"}, False),
    ],
)
def test_C1_message_forms(message: dict[str, Any], is_taken: bool) -> None:
    body = json.dumps({"messages": [message]})
    if is_taken:
        assert ChatRequest.model_validate_json(body).messages[0].role == message["role"]
    else:
        with pytest.raises(ValidationError):
            ChatRequest.model_validate_json(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": 1},
        {"stop": [1]},
        {"logit_bias": {"1": "2"}},
        {"logit_bias": 1},
        {"stream": None},
        {"max_tokens": 1, "max_completion_tokens": 1},
        {"tool_choice": 1},
    ],
)
def test_chat_fields_that_tgi_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate_json(json.dumps({"messages": [], **fields}))


def test_tools_come_with_parameters_or_with_arguments() -> None:
    for key in ("parameters", "arguments"):
        tool = {"type": "function", "function": {"name": "f", key: {"type": "object"}}}
        request = ChatRequest.model_validate_json(json.dumps({"messages": [], "tools": [tool]}))
        assert request.tools is not None
        assert request.tools[0].function.arguments == {"type": "object"}


@pytest.mark.parametrize("prompt", ["a", ["a"], ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_prompts(prompt: Any) -> None:
    assert CompletionRequest.model_validate_json(json.dumps({"prompt": prompt})).prompt == prompt


@pytest.mark.parametrize("prompt", [[], [1, "a"], [["a"]], [-1], [1.5], None, 1])
def test_prompts_that_tgi_refuses(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate_json(json.dumps({"prompt": prompt}))

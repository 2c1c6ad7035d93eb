"""Against transformers' apply_chat_template, over template dialects of the usual model families."""

import re
import time
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import transformers

from segue.core.errors import TemplateError
from segue.text.chat_template import ChatTemplate, cut_after_final_message

TEMPLATES = {path.stem: path.read_text() for path in (Path(__file__).parent / "templates").glob("*.jinja")}

SYSTEM = {"role": "system", "content": "  You are <b>kind</b> & brief. "}
USER = {"role": "user", "content": "Wie heißt 'das' \"da\"?\n\n{{ not_a_template }} 🦊 "}
ASSISTANT = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nEin Fuchs. "}
THANKS = {"role": "user", "content": "Thanks a lot"}
TOOL_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Ærø", "days": 2, "exact": True, "none": None}},
        }
    ],
}
TOOL_ANSWER = {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": '{"sky": "<blue>"}'}

CONVERSATIONS = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "turns": [USER, ASSISTANT, THANKS],
    "all": [SYSTEM, USER, ASSISTANT, THANKS],
    "assistant last": [USER, ASSISTANT],
    "not alternating": [USER, THANKS],
    "empty content": [{"role": "user", "content": ""}],
    "tool call": [USER, TOOL_CALL, TOOL_ANSWER, TOOL_ANSWER, ASSISTANT, THANKS],
    "tool answer last": [SYSTEM, USER, TOOL_CALL, TOOL_ANSWER],
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of some days & 'nights'",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where"},
                    "days": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "Time", "parameters": {"type": "object"}}},
]


@pytest.fixture(scope="session")
def reference(tokenizer_folder: Callable[[str], Path]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(
        tokenizer_folder("gpt2"), bos_token="<s>", eos_token="<|endoftext|>"
    )


@cache
def chat_template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="<|endoftext|>")


def render(source: str, **variables: Any) -> str:
    return chat_template(source).render([USER], **variables)


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("add_generation_prompt", [True, False], ids=["prompt", "closed"])
@pytest.mark.parametrize("conversation", list(CONVERSATIONS))
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_dialects_render_as_in_transformers(
    name: str, conversation: str, add_generation_prompt: bool, tools: list[dict[str, Any]] | None, reference: Any
) -> None:
    messages = CONVERSATIONS[conversation]
    ours = chat_template(TEMPLATES[name])
    options = {"tools": tools, "add_generation_prompt": add_generation_prompt, "enable_thinking": False}
    try:
        expected = reference.apply_chat_template(messages, chat_template=TEMPLATES[name], tokenize=False, **options)
    except (jinja2.TemplateError, TypeError) as error:
        expected = error
    if isinstance(expected, Exception):
        with pytest.raises(TemplateError, match=re.escape(str(expected))):
            ours.render(messages, **options)
    else:
        assert ours.render(messages, **options) == expected


def test_the_dialects_are_not_all_errors(reference: Any) -> None:
    # The comparison above would also pass if every template failed in both.
    for name, source in TEMPLATES.items():
        assert "Thanks a lot" in chat_template(source).render(CONVERSATIONS["turns"], tools=TOOLS), name


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_which_templates_show_tools(name: str) -> None:
    template = chat_template(TEMPLATES[name])
    assert template.uses_tools == (name in {"hermes_tools", "llama_3", "qwen_tools"})
    assert template.uses_tool_calls == template.uses_tools


def test_a_variable_that_is_only_set_is_not_used() -> None:
    assert not chat_template("{% set tools = 1 %}{{ tools }} tools").uses_tools
    assert chat_template("{% if tools is defined %}x{% endif %}").uses_tools


def test_a_missing_token_is_undefined() -> None:
    template = ChatTemplate("{{ bos_token }}|{{ eos_token is defined }}", bos_token="<s>", eos_token=None)
    assert template.render([USER]) == "<s>|False"


def test_tgis_rewrite_of_chunk_access() -> None:
    source = "{{ messages[0]['content'][0]['text'] | trim }}"
    assert chat_template(source).render([THANKS]) == "Thanks a lot"


def test_strftime_now() -> None:
    before = datetime.now().strftime("%Y-%m-%d")
    assert before <= render("{{ strftime_now('%Y-%m-%d') }}") <= datetime.now().strftime("%Y-%m-%d")


def test_tojson_options() -> None:
    source = "{{ x | tojson }} {{ x | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}"
    assert render(source, x={"b": "<é>", "a": 1}) == '{"b": "<é>", "a": 1} {"a":1,"b":"<\\u00e9>"}'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n\n{{ raise_exception('No \"x\"!') }}", 'syntax error: No "x"! (in <string>:3)'),
        ("a\n{% for x in %}", "syntax error: Expected an expression, got 'end of statement block' (in <string>:2)"),
        ("{{ x | no_such_filter }}", "syntax error: No filter named 'no_such_filter'. (in <string>:1)"),
        ("\n{{ messages.x.y }}", "undefined value: 'list object' has no attribute 'x' (in <string>:2)"),
        ("{{ 1 + '1' }}", "invalid operation: unsupported operand type(s) for +: 'int' and 'str' (in <string>:1)"),
        ("{% include 'x' %}", "invalid operation: no loader for this environment specified (in <string>:1)"),
    ],
)
def test_error_texts(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as raised:
        render(source)
    assert str(raised.value) == f"Template error: {message}"


def test_no_template() -> None:
    with pytest.raises(TemplateError, match=r"^Template error: template not found$"):
        ChatTemplate.from_templates({"rag": "x"}, bos_token=None, eos_token=None)
    found = ChatTemplate.from_templates({"rag": "x{{ eos_token }}"}, bos_token=None, eos_token="</s>", name="rag")
    assert found.render([]) == "x</s>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ self.__init__ }}{{ self._TemplateReference__context.environment }}",
        "{{ '{0.__class__.__name__}'.format(1) }}",
        "{{ messages | map(attribute='__class__.__name__') | list }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns.__name = 1 %}",
        "{{ spend(1) }}",
        "{{ lipsum(5) }}",
    ],
)
def test_no_way_into_python(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


GROWING = "{%% set ns = namespace(s='aaaaaaaa') %%}{%% for i in range(60) %%}%s{%% endfor %%}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{{ range(100000) | sort | length }}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(100) }}",
        "{% for i in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
        "{{ range(10 ** 9) | list }}",
        "{{ 10 ** (10 ** 7) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 10 ** 10 * [0] }}",
        "{{ 'a' | center(10 ** 10) }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a'.ljust(10 ** 10) }}",
        "{{ '\t'.expandtabs(10 ** 9) }}",
        "{{ ('x\n' * 100000) | indent(100000) }}",
        "{{ ('x\n' * 100000) | indent(width='x' * 100000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (10 ** 9, 1) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10 ** 9) }}",
        "{{ '%10000000000d' | format(1) }}",
        "{{ ('%s' * 10000) % (('x' * 100000,) * 10000) }}",
        "{{ messages | tojson(indent=10 ** 8) }}",
        "{{ ([[1] * 10000] * 10000) | sum(start=[]) | length }}",
        "{{ [1] | batch(10 ** 9, 0) | list | length }}",
        "{{ strftime_now('%10000000000d') }}",
        "{% for i in range(100000) %}" + "y" * 5000 + "{% endfor %}",
        "{% set x %}{% for i in range(100000) %}" + "y" * 5000 + "{% endfor %}{% endset %}",
        "{% for i in range(100000) %}{{ '" + "y" * 5000 + "' }}{% endfor %}",
        "{{ '(' * 2000 }}{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% for i in a %}" * 30 + "{% endfor %}" * 30,
        GROWING % "{% set ns.s = ns.s ~ ns.s %}",
        GROWING % "{% set ns.s = ns.s + ns.s %}",
        GROWING % "{% set ns.s = ns.s * 2 %}",
        GROWING % "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}",
        GROWING % "{% set ns.s = ns.s.replace('a', ns.s) %}",
        GROWING % "{% set ns.s = ns.s | replace('a', ns.s) %}",
        GROWING % "{% set ns.s = ([ns.s] * 100000) | join %}",
        GROWING % "{% set ns.s = (([ns.s] * 100000) | map('upper')) | join('x') %}",
        GROWING % "{% set ns.s = ns.s.join([ns.s] * 10) %}",
        GROWING % "{% set ns.s = '{0}{0}'.format(ns.s) %}",
        GROWING % "{% set ns.s = '%s%s' % (ns.s, ns.s) %}",
        GROWING % "{% set ns.s = ns.s.translate({97: ns.s}) %}",
        GROWING % "{% set ns.s = [ns.s] * 1000 %}" + "{{ ns.s }}",
        GROWING % "{% set ns.s = [ns.s] * 1000 %}" + "{{ ns.s | tojson }}",
        GROWING % "{% set ns.s = [ns.s] * 1000 %}" + "{{ 'x' ~ ns.s }}",
        GROWING % "{% set ns.s = [ns.s] * 1000 %}" + "{{ '%s' % ns.s }}",
        GROWING % "{% set ns.s = (ns.s, ns.s) %}" + "{{ ns.s | string }}",
    ],
)
def test_a_hostile_template_is_an_error(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.text.template_sandbox._MAX_SECONDS", 0.3)
    start = time.thread_time()
    with pytest.raises(TemplateError):
        render(source)
    # Not a measurement: without its check each of these takes minutes, or more memory than there is.
    assert time.thread_time() - start < 60


def test_the_budget_is_each_renderings_own() -> None:
    template = chat_template("{% for i in range(100000) %}x{% endfor %}")
    assert {len(template.render([])) for _ in range(6)} == {100_000}


def test_long_conversations_are_within_the_budget() -> None:
    messages = [{"role": role, "content": "word " * 400} for role in ("user", "assistant") * 1000]
    assert len(chat_template(TEMPLATES["chatml"]).render(messages)) > 2000 * 400 * 5
    picture = {"role": "user", "content": "x" * 30_000_000}
    assert len(chat_template(TEMPLATES["chatml"]).render([picture])) > 30_000_000


@pytest.mark.parametrize("name", ["chatml", "zephyr", "llama_3", "mistral", "phi_3"])
def test_continuing_the_assistants_message(name: str) -> None:
    messages = [USER, {"role": "assistant", "content": "It is"}]
    prompt = cut_after_final_message(chat_template(TEMPLATES[name]).render(messages), messages)
    assert prompt.endswith("It is")
    assert USER["content"].strip() in prompt


def test_continuation_is_tgis(reference: Any) -> None:
    # The last occurrence counts, and whitespace behind it goes.
    messages = [USER, {"role": "assistant", "content": "so "}]
    assert cut_after_final_message("so a so  <end>\n so ", messages) == "so a so  <end>\n so"
    assert cut_after_final_message("nothing of it", messages) == "nothing of it"
    assert cut_after_final_message("a <end> ", [{"role": "assistant", "content": ""}]) == "a <end>"
    assert cut_after_final_message("so b ", [{"role": "user", "content": "so"}]) == "so b "
    assert cut_after_final_message("so b ", [{"role": "assistant", "content": "so", "tool_calls": [{}]}]) == "so b "
    assert cut_after_final_message("x", []) == "x"

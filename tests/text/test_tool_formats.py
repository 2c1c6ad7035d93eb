"""Which format a template teaches, and grammars of calls in it."""

import json
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from segue.text.tool_calls import CallArguments, CallEnd, CallStart, NativeParser
from segue.text.tool_formats import (
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_NAMES,
    ToolFormat,
    find_format,
    lark_grammar,
    needs_short_ids,
)

TEMPLATES = Path(__file__).parent / "templates"
CITY = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/C"}},
        "required": ["city"],
        "$defs": {"C": {"enum": ["Paris", "Rome"]}},
    }
)
NOTHING = '{"type": "object", "properties": {}, "additionalProperties": false}'
FUNCTIONS = [("weather", CITY), ('say "hi"', NOTHING)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hermes_tools", HERMES),
        ("qwen_tools", HERMES),
        ("llama_3", LLAMA),
        ("mistral", None),
        ("chatml", None),
        ("deepseek", None),
    ],
)
def test_C11_the_format_of_a_template(name: str, expected: ToolFormat | None) -> None:
    assert find_format((TEMPLATES / f"{name}.jinja").read_text()) is expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ '[TOOL_CALLS] [' }}{{ call | tojson }}", MISTRAL),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}", MISTRAL_NAMES),
        ("<tool_call>{'name': n, 'arguments': a}</tool_call>", HERMES),
        ("<tool_call>\n<function=f>\n<parameter=arguments>", None),
        ("<tool_call>f\n<arg_key>arguments</arg_key>", None),
        ("{%- if builtin_tools %}{{ '<|python_tag|>' }}{% endif %}", LLAMA),
        ("{{ 'ipython' }}", None),
    ],
)
def test_C11_the_format_of_a_text(template: str, expected: ToolFormat | None) -> None:
    assert find_format(template) is expected


@pytest.fixture(scope="module")
def backend() -> Backend:
    """A token a byte, and the marks: special ones and ones that are not."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["</s>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"]
    backend.add_special_tokens([AddedToken(each, special=True) for each in special])
    backend.add_tokens([AddedToken(each, special=False) for each in ("<tool_call>", "</tool_call>")])
    return backend


def hermes(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


ROME = '{"name": "weather", "arguments": {"city": "Rome"}}'
HI = '{"name": "say \\"hi\\"", "arguments": {}}'


@pytest.mark.parametrize("has_tokens", [True, False])
@pytest.mark.parametrize(
    ("tool_format", "text", "num_calls"),
    [
        (HERMES, hermes(ROME), 1),
        (HERMES, hermes(HI, ROME, HI), 3),
        (HERMES, f"<tool_call>{ROME}</tool_call>", 0),
        (HERMES, "Sure.", 0),
        (HERMES, hermes('{"name": "weather", "arguments": {"city": "Oslo"}}'), 0),
        (HERMES, hermes('{"name": "other", "arguments": {}}'), 0),
        (LLAMA, '{"name": "weather", "parameters": {"city": "Rome"}}', 1),
        (LLAMA, ROME, 0),
        (MISTRAL, f"[TOOL_CALLS][{ROME}]", 1),
        (MISTRAL, f"[TOOL_CALLS][{ROME}, {HI}]", 2),
        (MISTRAL, "[TOOL_CALLS][]", 0),
        (MISTRAL_NAMES, '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}', 1),
        (MISTRAL_NAMES, '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]weather[ARGS]{"city": "Rome"}', 2),
        (MISTRAL_NAMES, "[TOOL_CALLS]other[ARGS]{}", 0),
    ],
)
def test_C11_a_grammar_of_calls(
    backend: Backend, tool_format: ToolFormat, text: str, num_calls: int, has_tokens: bool
) -> None:
    plain = Backend.from_str(backend.to_str())
    ids = {mark: token_id for mark in tool_format.marks if (token_id := backend.token_to_id(mark)) is not None}
    tokenizer = LLTokenizer(backend.to_str(), eos_token=[backend.token_to_id("</s>")])
    if not has_tokens:
        ids, tokenizer = {}, LLTokenizer("byte")
    for allows_many in (True, False):
        source = lark_grammar(tool_format, FUNCTIONS, token_ids=ids, allows_many=allows_many)
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(source), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        tokens = plain.encode(text).ids if has_tokens else list(text.encode())
        fits = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
        assert fits == (num_calls == 1 or (num_calls > 1 and allows_many))
    if num_calls:
        pieces = NativeParser(tool_format, [name for name, _ in FUNCTIONS], is_gradual=False).push(text)
        assert [type(each) for each in pieces] == [CallStart, CallArguments, CallEnd] * num_calls
        for piece in pieces:
            if isinstance(piece, CallArguments):
                json.loads(piece.text)


def test_marks_are_forced_as_the_tokens_that_they_are(backend: Backend) -> None:
    mark = backend.token_to_id("<tool_call>")
    source = lark_grammar(HERMES, FUNCTIONS, token_ids={"<tool_call>": mark}, allows_many=True)
    matcher = LLMatcher(LLTokenizer(backend.to_str(), eos_token=[256]), LLMatcher.grammar_from_lark(source))
    assert matcher.compute_ff_tokens()[0] == mark


def test_mistrals_space_is_the_templates() -> None:
    spaced = lark_grammar(MISTRAL, FUNCTIONS, token_ids={}, allows_many=False, template="x [TOOL_CALLS] [ y")
    assert '" ["' in spaced


def test_mistrals_templates_want_short_ids() -> None:
    assert needs_short_ids("[TOOL_CALLS]{% if call.id|length != 9 %}{{ raise_exception('no') }}{% endif %}")
    assert not needs_short_ids("[TOOL_CALLS]{{ call.id }}")

"""Calls in the models' own formats, and what only looks like one."""

import json
import random
from collections.abc import Sequence

import pytest

from segue.text.tool_calls import CallArguments, CallEnd, CallStart, NativeParser, Piece, PlainParser, TextPiece
from segue.text.tool_formats import HERMES, LLAMA, MISTRAL, MISTRAL_NAMES, ToolFormat

NAMES = ("f", "get_weather")
PARIS = '{"city": "Paris", "days": [1, 2.5e-3, null], "note": "a \\"q\\" \\u00e9 } ]"}'


def shown(pieces: Sequence[Piece]) -> list[object]:
    """Texts as they are, calls as (name, arguments), one that did not end with a ``None`` behind."""
    result: list[object] = []
    call: list[object] | None = None
    for piece in pieces:
        match piece:
            case TextPiece(text):
                assert text
                if call is not None:
                    result.append((*call, None))
                    call = None
                if result and isinstance(result[-1], str):
                    result[-1] += text
                else:
                    result.append(text)
            case CallStart(name):
                assert call is None
                call = [name, ""]
            case CallArguments(text):
                assert text
                assert call is not None
                call[1] = str(call[1]) + text
            case CallEnd():
                assert call is not None
                json.loads(str(call[1]))
                result.append(tuple(call))
                call = None
    return result if call is None else [*result, (*call, None)]


def read(
    tool_format: ToolFormat,
    text: str,
    *,
    is_gradual: bool = True,
    cut: Sequence[int] | None = None,
    allows_many: bool = True,
) -> list[object]:
    parser = NativeParser(tool_format, NAMES, is_gradual=is_gradual, allows_many=allows_many)
    ends = [*(range(1, len(text)) if cut is None else cut), len(text)]
    pieces: list[Piece] = []
    for start, end in zip([0, *ends], ends, strict=False):
        pieces += parser.push(text[start:end])
    return shown([*pieces, *parser.end()])


WHOLE = [
    (HERMES, "Hello\n", ["Hello\n"]),
    (HERMES, " \n ", [" \n "]),
    (HERMES, f'<tool_call>\n{{"name": "f", "arguments": {PARIS}}}\n</tool_call>', [("f", PARIS)]),
    (HERMES, f'<tool_call>{{"arguments": {PARIS}, "id": 3, "name": "f"}}</tool_call>', [("f", PARIS)]),
    (HERMES, '<tool_call>\n{"name": "f"}\n</tool_call>\n', [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "other", "arguments": {}}</tool_call>', [("other", "{}")]),
    (
        HERMES,
        'I look.\n\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"a": 1}}\n</tool_call>\n\nDone. ',
        ["I look.", ("f", "{}"), ("get_weather", '{"a": 1}'), "Done. "],
    ),
    (HERMES, '<tool_call>{"name": "f"}{"name": "f"}</tool_call>', [("f", "{}"), ("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}', [("f", '{"a": 1}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}}</tool', [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}}</tool!', [("f", "{}"), "</tool!"]),
    (HERMES, "if a <tool and <tool_calls>", ["if a <tool and <tool_calls>"]),
    (HERMES, "<tool_call>", ["<tool_call>"]),
    (HERMES, " <tool_call>\nno\n</tool_call>", [" <tool_call>\nno\n</tool_call>"]),
    (HERMES, '<tool_call>\n <tool_call>{"name": "f"}</tool_call>', ["<tool_call>\n ", ("f", "{}")]),
    (HERMES, '<tool_call>{"name": 1, "arguments": {}}', ['<tool_call>{"name": 1, "arguments": {}}']),
    (HERMES, '<tool_call>{"name": "f", "name": "f"}', ['<tool_call>{"name": "f", "name": "f"}']),
    (HERMES, '<tool_call>{"arguments": {}}', ['<tool_call>{"arguments": {}}']),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{}"}', ['<tool_call>{"name": "f", "arguments": "{}"}']),
    (LLAMA, f'{{"name": "f", "parameters": {PARIS}}}', [("f", PARIS)]),
    (LLAMA, f'\n\n<|python_tag|>{{"name": "f", "parameters": {PARIS}}}', [("f", PARIS)]),
    (LLAMA, '{"type": "function", "name": "f", "parameters": {}}; {"name": "f"}', [("f", "{}"), ("f", "{}")]),
    (LLAMA, '{"name": "Ann", "parameters": {}}', ['{"name": "Ann", "parameters": {}}']),
    (LLAMA, '{"age": 5}', ['{"age": 5}']),
    (LLAMA, 'Use {"name": "f"}', ['Use {"name": "f"}']),
    (LLAMA, '<|python_tag|>brave.call(q="a")', ['<|python_tag|>brave.call(q="a")']),
    (MISTRAL, f'[TOOL_CALLS][{{"name": "f", "arguments": {PARIS}}}]', [("f", PARIS)]),
    (
        MISTRAL,
        '[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "abcdefghi"}, {"name": "f", "arguments": {"a": []}}] ',
        [("f", "{}"), ("f", '{"a": []}')],
    ),
    (MISTRAL, '[TOOL_CALLS]{"name": "f"}', ['[TOOL_CALLS]{"name": "f"}']),
    (MISTRAL, "[TOOL_CALLS][]", ["[TOOL_CALLS][]"]),
    (MISTRAL, "a [list] [TOOL", ["a [list] [TOOL"]),
    (MISTRAL_NAMES, f"Hm. [TOOL_CALLS]f[ARGS]{PARIS}", ["Hm.", ("f", PARIS)]),
    (
        MISTRAL_NAMES,
        '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}[TOOL_CALLS] get_weather [ARGS] {"a": 1}\n',
        [("f", "{}"), ("get_weather", '{"a": 1}')],
    ),
    (MISTRAL_NAMES, '[TOOL_CALLS]f{"a": 1}', [("f", '{"a": 1}')]),
    (MISTRAL_NAMES, "[TOOL_CALLS]two words[ARGS]{}", ["[TOOL_CALLS]two words[ARGS]{}"]),
    (MISTRAL_NAMES, "[TOOL_CALLS][ARGS]{}", ["[TOOL_CALLS][ARGS]{}"]),
    (MISTRAL_NAMES, "[TOOL_CALLS]" + "f" * 300 + "[ARGS]{}", ["[TOOL_CALLS]" + "f" * 300 + "[ARGS]{}"]),
]


@pytest.mark.parametrize(("tool_format", "text", "expected"), WHOLE)
def test_C11_answers(tool_format: ToolFormat, text: str, expected: list[object]) -> None:
    for is_gradual in (True, False):
        assert read(tool_format, text, is_gradual=is_gradual) == expected
        assert read(tool_format, text, is_gradual=is_gradual, cut=[]) == expected
        for seed in range(5):
            cuts = sorted(random.Random(seed).sample(range(len(text) + 1), min(4, len(text))))
            assert read(tool_format, text, is_gradual=is_gradual, cut=cuts) == expected


BROKEN = '<tool_call>\n{"name": "f", "arguments": {"a": tru!'


def test_a_call_that_breaks_off_is_text() -> None:
    assert read(HERMES, BROKEN, is_gradual=False) == [BROKEN]
    assert read(HERMES, BROKEN[:-2], is_gradual=False) == [BROKEN[:-2]]


def test_a_call_that_breaks_off_in_a_stream_has_no_end() -> None:
    assert read(HERMES, BROKEN) == [("f", '{"a": tru', None), "!"]
    assert read(HERMES, BROKEN[:-2]) == [("f", '{"a": tr', None)]


def test_C13_arguments_are_given_out_as_they_come() -> None:
    parser = NativeParser(HERMES, NAMES, is_gradual=True)
    assert parser.push("I'll look") == [TextPiece("I'll look")]
    assert parser.push(" <tool") == []
    assert parser.push('_call>\n{"name": "f", "argu') == []
    assert parser.push('ments": {"a') == [CallStart("f"), CallArguments('{"a')]
    assert parser.push('": 1}') == [CallArguments('": 1}')]
    assert parser.push("}") == [CallEnd()]
    assert parser.push("\n</tool_call>\n") == parser.end() == []


def test_only_the_first_call_where_one_is_allowed() -> None:
    text = '[TOOL_CALLS][{"name": "f"}, {"name": "get_weather"}]'
    for is_gradual in (True, False):
        assert read(MISTRAL, text, is_gradual=is_gradual, allows_many=False) == [("f", "{}")]


@pytest.mark.parametrize("tool_format", [HERMES, LLAMA, MISTRAL, MISTRAL_NAMES])
@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_of_what_is_no_call(tool_format: ToolFormat, seed: int) -> None:
    generator = random.Random(seed)
    parts = [
        tool_format.opening,
        tool_format.closing,
        "{",
        "}",
        "[",
        "]",
        '"name"',
        ":",
        ",",
        '"x"',
        "\\",
        " ",
        *(["a", "1"] if not tool_format.name_mark else []),
    ]
    text = "".join(generator.choices(parts, k=generator.randrange(40)))
    for is_gradual in (True, False):
        assert "".join(map(str, read(tool_format, text, is_gradual=is_gradual))) == text
        assert "".join(map(str, read(tool_format, text, is_gradual=is_gradual, cut=[]))) == text


def test_plain_text() -> None:
    parser = PlainParser()
    assert parser.push("<tool_call>") == [TextPiece("<tool_call>")]
    assert parser.push("") == parser.end() == []

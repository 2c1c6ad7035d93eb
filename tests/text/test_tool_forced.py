"""TGI's form of a call."""

import json
import random
from typing import Any

import pytest

from segue.core.grammar import JSON_OPTIONS
from segue.text.json_schema import tgi_schema
from segue.text.tool_calls import CallArguments, CallEnd, CallStart, Piece, TextPiece
from segue.text.tool_forced import ForcedParser, forced_schema

CALL = '{"function": {"_name": "f", "city": "Paris", "more": {"a": [1]}}}'


def read(text: str, *, is_gradual: bool, cuts: list[int]) -> list[Piece]:
    parser = ForcedParser(is_gradual=is_gradual)
    pieces: list[Piece] = []
    ends = [*cuts, len(text)]
    for start, end in zip([0, *ends], ends, strict=False):
        pieces += parser.push(text[start:end])
    return [*pieces, *parser.end()]


def joined(pieces: list[Piece]) -> list[Any]:
    """Neighbours of one kind as one."""
    result: list[Any] = []
    for piece in pieces:
        if isinstance(piece, TextPiece | CallArguments) and result and type(result[-1]) is type(piece):
            result[-1] = type(piece)(result[-1].text + piece.text)
        else:
            result.append(piece)
    return result


@pytest.mark.parametrize("is_gradual", [True, False])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CALL, [CallStart("f"), CallArguments('{"city": "Paris", "more": {"a": [1]}}'), CallEnd()]),
        ('{"function":{"_name":"f"}}\n', [CallStart("f"), CallArguments("{}"), CallEnd()]),
        ('{ "function" : { "_name" : "f" , "a":1 } }', [CallStart("f"), CallArguments('{"a":1 }'), CallEnd()]),
        ('{"function":{"_name":"f","a":1}', [CallStart("f"), CallArguments('{"a":1}'), CallEnd()]),
        ('{"function": {"_name": "no_tool", "a": 1}}', []),
        ("plain", [TextPiece("plain")]),
        ('{"a": {"_name": "f"}}', [TextPiece('{"a": {"_name": "f"}}')]),
        ('{"function": {"b": "", "_name": "f"}}', [TextPiece('{"function": {"b": "", "_name": "f"}}')]),
        ('{"function": "f"}', [TextPiece('{"function": "f"}')]),
        ('{"function": {"_na', [TextPiece('{"function": {"_na')]),
    ],
)
def test_C11_answers(text: str, expected: list[Piece], is_gradual: bool) -> None:
    for cuts in ([], list(range(1, len(text))), sorted(random.Random(7).sample(range(len(text)), 3))):
        assert joined(read(text, is_gradual=is_gradual, cuts=cuts)) == expected


def test_a_call_that_breaks_off() -> None:
    text = CALL[:40]
    for cuts in ([], list(range(1, len(text)))):
        assert joined(read(text, is_gradual=False, cuts=cuts)) == [TextPiece(text)]
        assert joined(read(text, is_gradual=True, cuts=cuts)) == [CallStart("f"), CallArguments('{"city": "Par')]
        broken = joined(read(text + "\n!", is_gradual=True, cuts=cuts))
        assert broken == [CallStart("f"), CallArguments('{"city": "Par'), TextPiece("\n!")]


def test_C13_the_first_piece_is_a_brace() -> None:
    parser = ForcedParser(is_gradual=True)
    assert parser.push('{"function": {"_name": "f"') == [CallStart("f"), CallArguments("{")]
    assert parser.push(', "a": 1') == [CallArguments('"a": 1')]
    assert parser.push("}") == [CallArguments("}")]
    assert parser.push("}") == [CallEnd()]


def test_no_tool_is_known_before_its_end() -> None:
    parser = ForcedParser(is_gradual=True)
    assert parser.push('{"function": {"_name": "no_tool"') == []
    assert parser.is_declined


PARAMETERS = {
    "properties": {"city": {"$ref": "#/$defs/City"}, "_name": {"type": "integer"}},
    "required": ["city"],
    "$defs": {"City": {"enum": ["Paris", "Rome"]}},
}


def test_C12_the_schema() -> None:
    schema = forced_schema([("f", PARAMETERS), ("a/b c", {"properties": {}})])
    assert schema["properties"]["function"] == {
        "anyOf": [{"$ref": "#/$functions/f"}, {"$ref": "#/$functions/a~1b%20c"}]
    }
    assert schema["$functions"]["f"] == {
        "type": "object",
        "properties": {"_name": {"type": "string", "const": "f"}, "city": {"$ref": "#/$functions/f/$defs/City"}},
        "required": ["_name", "city"],
        "additionalProperties": False,
        "$defs": {"City": {"enum": ["Paris", "Rome"]}},
    }


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"function": {"_name": "f", "city": "Rome"}}', True),
        ('{"function": {"_name": "a/b c"}}', True),
        ('{"function": {"_name": "f", "city": "Oslo"}}', False),
        ('{"function": {"_name": "f"}}', False),
        ('{"function": {"_name": "g"}}', False),
        ('{"function": {"_name": "a/b c", "x": 1}}', False),
    ],
)
def test_C12_only_calls_fit_the_schema(text: str, fits: bool) -> None:
    from llguidance import LLMatcher, LLTokenizer

    schema = tgi_schema(forced_schema([("f", PARAMETERS), ("a/b c", {"properties": {}})]))
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    tokens = list(text.encode())
    assert (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()) == fits

import json
import random

import pytest

from segue.text.tool_json import MAX_DEPTH, CallObject, JsonScanner, Place, compact_json

WHOLE = [
    "{}",
    "[]",
    '{"a": [1, -0, 0.5, 1e9, -2E-3, 10.25e+7], "b": {"": null, "c": [true, false]}}',
    '[ "\\u00e9\\n\\"\\\\/" , {} , [[ ]] ]',
    '{\n\t"a" :\r1 }',
]
BROKEN = [
    "1",
    '"a"',
    "{a",
    "{,",
    '{"a",',
    '{"a":,',
    '{"a":1,}',
    "[1,]",
    "[01",
    "[1.]",
    "[.5",
    "[-]",
    "[1e]",
    "[+1",
    "[tru]",
    "[nul1",
    "[}",
    '{"a":1]',
    '["\n',
    '["\\x',
    '["\\u12g',
    "[1 2",
    "{}}",
    "[] 1",
]


def follows(text: str) -> tuple[bool, JsonScanner]:
    scanner = JsonScanner()
    return all(scanner.push(char) for char in text), scanner


@pytest.mark.parametrize("text", WHOLE)
def test_json(text: str) -> None:
    json.loads(text)
    is_right, scanner = follows(text)
    assert is_right
    assert scanner.place is Place.END
    for end in range(len(text)):
        is_right, scanner = follows(text[:end])
        assert is_right
        assert scanner.place is not Place.END


@pytest.mark.parametrize("text", BROKEN)
def test_no_json_begins_so(text: str) -> None:
    assert not follows(text)[0]


@pytest.mark.parametrize("seed", range(200))
def test_what_it_takes_is_what_json_takes(seed: int) -> None:
    generator = random.Random(seed)
    text = generator.choice(WHOLE)
    place = generator.randrange(len(text))
    text = text[:place] + generator.choice([*'{}[],:"\\0e-. \nt', ""]) + text[place + generator.choice([0, 1]) :]
    try:
        json.loads(text)
        is_json = text.strip()[:1] in ("{", "[")
    except ValueError:
        is_json = False
    is_right, scanner = follows(text)
    assert (is_right and scanner.place is Place.END) == is_json


@pytest.mark.parametrize(
    "text", [*WHOLE, '{"a\\\\": " x ", "b\\" c": [ 1 , " \\\\\\" " ]}', '{"a": ' + "9" * 5000 + "}"]
)
def test_compact(text: str) -> None:
    compact = compact_json(text)
    if "9999" not in text:
        assert json.loads(compact) == json.loads(text)
    assert len(compact) <= len(text)
    assert not {", ", ": ", " ]"} & {compact[i : i + 2] for i in range(len(compact)) if text == WHOLE[2]}


def test_depth_is_bounded() -> None:
    assert follows("[" * MAX_DEPTH)[0]
    assert not follows("[" * (MAX_DEPTH + 1))[0]


def test_a_call_object() -> None:
    call = CallObject()
    given = [call.push(char) for char in '{"id": 7, "arguments": {"name": "x"}, "name": "f", "more": {"name": 1}}']
    assert None not in given
    assert "".join(map(str, given)) == '{"name": "x"}'
    assert (call.name, call.is_complete, call.has_arguments) == ("f", True, True)


@pytest.mark.parametrize(
    "text", ['{"name": 1', '{"arguments": 1', '{"name": "f", "name"', '{"parameters": {}, "arguments"', "{}", "[1"]
)
def test_no_call_object(text: str) -> None:
    call = CallObject()
    assert None in [call.push(char) for char in text + ":"]

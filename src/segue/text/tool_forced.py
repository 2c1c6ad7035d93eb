"""TGI's way to have functions called: the whole answer is ``{"function": {"_name": …, …arguments}}`` (spec 4.4)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from segue.text.json_schema import tgi_schema
from segue.text.tool_calls import CallArguments, CallEnd, CallStart, Piece, TextPiece
from segue.text.tool_json import WHITESPACE, JsonScanner, Place

__all__ = ["NO_TOOL", "ForcedParser", "forced_schema"]

NO_TOOL = "no_tool"
"""The function that stands for an answer without a call, where the model may choose."""


def forced_schema(functions: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The schema of a call of one of ``functions``: names, and schemas of their arguments.

    Raises SchemaError when schemas lie too deep in each other.
    """
    definitions = {name: _with_name(name, parameters) for name, parameters in functions}
    references = [{"$ref": _reference(name)} for name in definitions]
    return {
        "type": "object",
        "properties": {"function": {"anyOf": references}},
        "required": ["function"],
        "$functions": definitions,
    }


def _with_name(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    given = parameters.get("properties")
    required = parameters.get("required")
    properties = {key: value for key, value in given.items() if key != "_name"} if isinstance(given, Mapping) else {}
    schema = {
        **parameters,
        "type": "object",
        "properties": {"_name": {"type": "string", "const": name}, **properties},
        "required": ["_name", *(required if isinstance(required, list) else [])],
    }
    moved = _moved(tgi_schema(schema), _reference(name))
    assert isinstance(moved, dict)
    return moved


def _moved(schema: object, to: str) -> object:
    """``schema`` with its references to itself as they must be when it is at ``to`` in a larger one."""
    if isinstance(schema, list):
        return [_moved(each, to) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value, to) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = to + reference[1:]
    return moved


def _reference(name: str) -> str:
    escaped = name.replace("~", "~0").replace("/", "~1")
    return f"#/$functions/{quote(escaped)}"


class ForcedParser:
    """Reads TGI's form of a call; where it ``may_decline``, a call of ``no_tool`` says nothing.

    With ``is_gradual`` the call is given out while it is written, else when it is complete; what is none is text.
    """

    def __init__(self, *, is_gradual: bool, may_decline: bool = True) -> None:
        self.is_declined = False
        """The model chose ``no_tool``."""
        self._may_decline = may_decline
        self._is_gradual = is_gradual
        self._scanner = JsonScanner()
        self._name: str | None = None
        self._skipped = frozenset(",") | WHITESPACE
        """What is between the name and the first argument."""
        self._arguments: list[str] = []
        """Not given out yet."""
        self._raw: list[str] = []
        """What is text, should this be no call."""
        self._is_done = False
        self._is_text = False
        self._pieces: list[Piece] = []

    def push(self, text: str) -> list[Piece]:
        start = 0
        while start < len(text):
            if self.is_declined:
                return []
            end = self._scanner.plain_end(text, start)
            if end > start and not self._is_text:
                self._push_plain(text[start:end])
            elif self._is_text or not self._push_char(text[start]):
                self._give_arguments()
                self._is_text = True
                self._pieces.append(TextPiece("".join(self._raw) + text[start:]))
                self._raw.clear()
                break
            start = max(end, start + 1)
        self._give_arguments()
        return self._take()

    def end(self) -> list[Piece]:
        is_open = self._name is not None and not (self.is_declined or self._is_done or self._is_text)
        if is_open and self._scanner.depth <= 1:
            # The model forgot the last brace.
            self._finish()
        if self._raw:
            self._pieces.append(TextPiece("".join(self._raw)))
        return self._take()

    def _take(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _push_plain(self, part: str) -> None:
        """A part of a string's content."""
        if self._name is None or not self._is_gradual:
            self._raw.append(part)
        if self._name is not None and self._scanner.depth > 1:
            self._arguments.append(part)

    def _push_char(self, char: str) -> bool:
        if self._is_done:
            return char in WHITESPACE
        depth = self._scanner.depth
        if not self._scanner.push(char):
            return False
        if self._name is None:
            return self._push_head(char)
        if not self._is_gradual:
            self._raw.append(char)
        if depth > 1 and char in self._skipped:
            self._skipped = WHITESPACE if char == "," else self._skipped
        elif depth > 1:
            self._skipped = frozenset()
            self._arguments.append(char)
        if self._scanner.place is Place.END:
            self._finish()
        return True

    def _push_head(self, char: str) -> bool:
        """Until the name is known."""
        scanner = self._scanner
        head = "".join([*self._raw, char]) if scanner.depth == 2 and scanner.place is Place.AFTER_VALUE else ""
        if head:
            self._name = _name_in(head)
        if scanner.place is Place.END or (head and self._name is None):
            return False
        self._raw.append(char)
        if self._name == NO_TOOL and self._may_decline:
            self.is_declined = True
            self._raw.clear()
        elif self._name is not None:
            self._arguments.append("{")
            if self._is_gradual:
                self._raw.clear()
                self._pieces.append(CallStart(self._name))
        return True

    def _finish(self) -> None:
        self._is_done = True
        self._raw.clear()
        if not self._is_gradual:
            assert self._name is not None
            self._pieces.append(CallStart(self._name))
        self._give_arguments(is_whole=True)
        self._pieces.append(CallEnd())

    def _give_arguments(self, *, is_whole: bool = False) -> None:
        if self._arguments and (self._is_gradual or is_whole):
            self._pieces.append(CallArguments("".join(self._arguments)))
            self._arguments.clear()


def _name_in(head: str) -> str | None:
    """The name in ``{"function": {"_name": …``, whose object may go on."""
    try:
        value = json.loads(head + "}}")
    except ValueError:
        return None
    match value:
        case {"function": {"_name": str(name), **others}, **more} if not others and not more:
            return name
    return None

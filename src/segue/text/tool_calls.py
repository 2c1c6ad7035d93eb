"""The text of a model as what it says and the functions that it calls, piece by piece as it is written.

What does not read as a call is text, and nothing of it is lost. Only the whitespace next to a call goes.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from segue.text.tool_formats import ToolFormat
from segue.text.tool_json import WHITESPACE, CallObject, NamedCall

__all__ = ["CallArguments", "CallEnd", "CallParser", "CallStart", "NativeParser", "Piece", "PlainParser", "TextPiece"]

_MAX_HELD_WHITESPACE = 64
_MAX_HEADING_CHARS = 256


@dataclass(frozen=True, slots=True)
class TextPiece:
    """More of what the model says. Not empty."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The model calls a function; all until the next ``CallEnd`` belongs to this call."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments' JSON text, which is an object. Not empty."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The arguments are complete."""


Piece = TextPiece | CallStart | CallArguments | CallEnd


class CallParser(Protocol):
    """Reads one answer."""

    def push(self, text: str) -> list[Piece]:
        """What is certain after ``text``, the answer's next piece."""

    def end(self) -> list[Piece]:
        """What is left after the answer's last piece."""


class PlainParser:
    """All is text."""

    def push(self, text: str) -> list[Piece]:
        return [TextPiece(text)] if text else []

    def end(self) -> list[Piece]:
        return []


class _At(Enum):
    START = auto()
    """Nothing but whitespace came yet."""
    TEXT = auto()
    OPENED = auto()
    """Behind the mark that opens calls."""
    CALL = auto()
    AFTER = auto()
    """Behind a call, where another one or the closing mark may come."""


class NativeParser:
    """Calls in a model's own format.

    With ``is_gradual`` a call is given out while it is written. Should it then turn out not to be one, its end is
    missing and the rest is text. Otherwise calls are given out when they are complete, and what is none is all text.
    """

    def __init__(
        self, tool_format: ToolFormat, names: Collection[str], *, is_gradual: bool, allows_many: bool = True
    ) -> None:
        """``names``: of the functions that there are. Without ``allows_many`` all calls but the first are left out."""
        self._format = tool_format
        self._names = names
        self._is_gradual = is_gradual
        self._allows_many = allows_many
        self._at = _At.START
        self._text = ""
        """Not given out yet: whitespace before what may be a call, and what may be the beginning of a mark."""
        self._raw: list[str] = []
        """What may be a call, with the whitespace and the mark before it, as far as it is not given out."""
        self._needs_bracket = False
        """The array of calls has not begun."""
        self._heading = ""
        """What came of a bare name and the mark behind it."""
        self._call: CallObject | NamedCall | None = None
        self._after = ""
        """What may be the beginning of the closing mark."""
        self._has_given = False
        """``CallStart`` of the present call is given out."""
        self._held: list[str] = []
        """Arguments that are not given out yet."""
        self._num_calls = 0
        self._follows_call = False
        """Nothing but whitespace came since a call."""
        self._pieces: list[Piece] = []

    def push(self, text: str) -> list[Piece]:
        start = 0
        while start < len(text):
            if self._at is _At.TEXT:
                start = self._push_text(text, start)
            elif self._call is not None and (end := self._call.plain_end(text, start)) > start:
                self._push_plain(self._call, text[start:end])
                start = end
            elif self._push_char(text[start]):
                start += 1
        return self._take()

    def end(self) -> list[Piece]:
        if self._at in (_At.START, _At.TEXT):
            self._say(self._text)
        elif self._call is not None and self._call.has_arguments:
            # The model forgot the last brace.
            self._end_call(self._call)
        elif self._at is not _At.AFTER:
            self._give_up()
        return self._take()

    def _take(self) -> list[Piece]:
        if self._is_gradual:
            self._give_arguments()
        pieces, self._pieces = self._pieces, []
        return pieces

    def _push_text(self, text: str, start: int) -> int:
        """Look for the opening mark. Returns how far ``text`` is read."""
        mark = self._format.opening
        num_before = len(self._text)
        window = self._text + text[start:]
        found = window.find(mark)
        if found < 0:
            held = _num_held(window, mark)
            self._say(window[: len(window) - held])
            self._text = window[len(window) - held :]
            return len(text)
        said = window[:found].rstrip()
        self._say(said)
        self._raw = [window[len(said) : found + len(mark)]]
        self._text = self._heading = ""
        self._needs_bracket = self._format.is_list
        self._at = _At.OPENED
        return start + found + len(mark) - num_before

    def _push_char(self, char: str) -> bool:
        """A character outside of text. False: it is to be pushed again, into the state that there is now."""
        match self._at:
            case _At.START:
                return self._begin(char)
            case _At.OPENED:
                return self._open(char)
            case _At.CALL:
                return self._in_call(char)
        return self._after_call(char)

    def _begin(self, char: str) -> bool:
        if char in WHITESPACE and len(self._text) < _MAX_HELD_WHITESPACE:
            self._text += char
            return True
        if char == "{" and self._format.is_bare:
            self._raw = [self._text]
            self._text = ""
            self._at = _At.OPENED
        else:
            self._at = _At.TEXT
        return False

    def _open(self, char: str) -> bool:
        """Between the opening mark and the call."""
        if self._format.name_mark:
            return self._read_heading(char)
        if char in WHITESPACE or (char == "[" and self._needs_bracket):
            self._needs_bracket = self._needs_bracket and char != "["
            self._raw.append(char)
            return True
        if char == "{" and not self._needs_bracket:
            self._begin_call(CallObject())
        else:
            self._give_up()
        return False

    def _read_heading(self, char: str) -> bool:
        """A bare name, until the arguments begin."""
        if char != "{":
            self._raw.append(char)
            self._heading += char
            if len(self._heading) > _MAX_HEADING_CHARS:
                self._give_up()
            return True
        heading = self._heading.strip().removesuffix(self._format.name_mark)
        name = heading.partition(self._format.id_mark)[0].strip()
        if name and all(each.isalnum() or each in "_-./" for each in name):
            self._begin_call(NamedCall(name))
        else:
            self._give_up()
        return False

    def _begin_call(self, call: CallObject | NamedCall) -> None:
        self._at = _At.CALL
        self._call = call
        self._has_given = False

    def _in_call(self, char: str) -> bool:
        call = self._call
        assert call is not None
        arguments = call.push(char)
        if arguments is None or not self._is_known(call.name):
            self._give_up()
            return False
        self._raw.append(char)
        if arguments:
            self._hold(call, arguments)
        if call.is_complete:
            self._end_call(call)
        return True

    def _push_plain(self, call: CallObject | NamedCall, part: str) -> None:
        self._raw.append(part)
        arguments = call.push_plain(part)
        if arguments:
            self._hold(call, arguments)

    def _is_known(self, name: str | None) -> bool:
        """A call without a mark is one only of a function that there is: the model may answer with JSON as well."""
        return name is None or not self._format.is_bare or name in self._names

    def _hold(self, call: CallObject | NamedCall, arguments: str) -> None:
        self._held.append(arguments)
        if self._is_gradual:
            self._raw.clear()
            self._announce(call)

    def _end_call(self, call: CallObject | NamedCall) -> None:
        self._announce(call)
        self._give_arguments()
        self._call_piece(CallEnd())
        self._raw.clear()
        self._num_calls += 1
        self._follows_call = True
        self._call = None
        self._after = ""
        self._at = _At.AFTER

    def _announce(self, call: CallObject | NamedCall) -> None:
        if not self._has_given:
            self._has_given = True
            assert call.name is not None
            self._call_piece(CallStart(call.name))

    def _give_arguments(self) -> None:
        if self._held:
            self._call_piece(CallArguments("".join(self._held)))
            self._held.clear()

    def _call_piece(self, piece: Piece) -> None:
        if self._allows_many or self._num_calls == 0:
            self._pieces.append(piece)

    def _after_call(self, char: str) -> bool:
        closing = self._format.closing
        if not self._after:
            if char in WHITESPACE or char in self._format.separators:
                return True
            if char == "{" and not self._format.name_mark:
                self._raw = []
                self._begin_call(CallObject())
                return False
        if closing.startswith(self._after + char):
            self._after += char
            if self._after == closing:
                self._at = _At.TEXT
            return True
        # What follows is no part of the format.
        self._text, self._after = self._after, ""
        self._at = _At.TEXT
        return False

    def _give_up(self) -> None:
        """What looked like a call is none."""
        if self._is_gradual:
            self._give_arguments()
        self._held.clear()
        text = "".join(self._raw)
        self._raw.clear()
        self._call = None
        self._text = ""
        self._at = _At.TEXT
        self._say(text)

    def _say(self, text: str) -> None:
        if self._follows_call:
            text = text.lstrip()
        if text:
            self._pieces.append(TextPiece(text))
            self._follows_call = False


def _num_held(text: str, mark: str) -> int:
    """Characters at the end of ``text`` that may belong to a call: a part of ``mark``, and the whitespace before it."""
    num_mark = next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
    rest = text[: len(text) - num_mark]
    num_whitespace = len(rest) - len(rest.rstrip())
    return num_mark + (num_whitespace if num_whitespace <= _MAX_HELD_WHITESPACE else 0)

"""JSON a character at a time: for calls that are given out while the model still writes them."""

import json
import re
from enum import Enum, auto

__all__ = ["MAX_DEPTH", "WHITESPACE", "CallObject", "JsonScanner", "NamedCall", "Place", "compact_json"]

MAX_DEPTH = 100
"""Values in values; deeper JSON is taken for malformed."""
WHITESPACE = frozenset(" \t\n\r")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_ESCAPES = frozenset('"\\/bfnrt')
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_DIGITS = frozenset("0123456789")
_LITERALS = {"t": "rue", "f": "alse", "n": "ull"}


def compact_json(text: str) -> str:
    """JSON without the whitespace between its values, which otherwise stay as they are written."""
    parts = []
    start = 0
    while (quote := text.find('"', start)) >= 0:
        end = quote + 1
        while text[end] != '"':
            end += 2 if text[end] == "\\" else 1
        parts += ["".join(text[start:quote].split()), text[quote : end + 1]]
        start = end + 1
    return "".join([*parts, *text[start:].split()])


class Place(Enum):
    """What may come next."""

    VALUE = auto()
    FIRST_ITEM = auto()
    """A value, or the array's end."""
    FIRST_KEY = auto()
    """A key, or the object's end."""
    KEY = auto()
    COLON = auto()
    AFTER_VALUE = auto()
    """A comma, or the end of what the value is in."""
    STRING = auto()
    ESCAPE = auto()
    HEX = auto()
    LITERAL = auto()
    MINUS = auto()
    ZERO = auto()
    INTEGER = auto()
    POINT = auto()
    FRACTION = auto()
    EXPONENT = auto()
    EXPONENT_SIGN = auto()
    EXPONENT_DIGITS = auto()
    END = auto()


_NUMBER_STEPS: dict[Place, tuple[tuple[frozenset[str], Place], ...]] = {
    Place.MINUS: ((frozenset("0"), Place.ZERO), (_DIGITS, Place.INTEGER)),
    Place.ZERO: ((frozenset("."), Place.POINT), (frozenset("eE"), Place.EXPONENT)),
    Place.INTEGER: ((_DIGITS, Place.INTEGER), (frozenset("."), Place.POINT), (frozenset("eE"), Place.EXPONENT)),
    Place.POINT: ((_DIGITS, Place.FRACTION),),
    Place.FRACTION: ((_DIGITS, Place.FRACTION), (frozenset("eE"), Place.EXPONENT)),
    Place.EXPONENT: ((frozenset("+-"), Place.EXPONENT_SIGN), (_DIGITS, Place.EXPONENT_DIGITS)),
    Place.EXPONENT_SIGN: ((_DIGITS, Place.EXPONENT_DIGITS),),
    Place.EXPONENT_DIGITS: ((_DIGITS, Place.EXPONENT_DIGITS),),
}
_WHOLE_NUMBERS = frozenset({Place.ZERO, Place.INTEGER, Place.FRACTION, Place.EXPONENT_DIGITS})


class JsonScanner:
    """Follows one object or array; ``push`` says at each character whether it still can become JSON."""

    __slots__ = ("_containers", "_is_key", "_num_hex", "_rest", "place")

    def __init__(self) -> None:
        self.place = Place.VALUE
        self._containers: list[str] = []
        """The brackets that will close what is open."""
        self._is_key = False
        self._num_hex = 0
        self._rest = ""

    @property
    def depth(self) -> int:
        """Objects and arrays that are open."""
        return len(self._containers)

    def plain_end(self, text: str, start: int) -> int:
        """Where the characters from ``start`` on end that are a string's plain content, and need not be pushed."""
        if self.place is not Place.STRING:
            return start
        found = _PLAIN.match(text, start)
        return start if found is None else found.end()

    def push(self, char: str) -> bool:
        """False: no JSON begins like this; the scanner is then spent."""
        place = self.place
        if place is Place.STRING:
            return self._in_string(char)
        if place is Place.ESCAPE:
            self.place = Place.HEX if char == "u" else Place.STRING
            self._num_hex = 4
            return char in _ESCAPES or char == "u"
        if place is Place.HEX:
            self._num_hex -= 1
            if self._num_hex == 0:
                self.place = Place.STRING
            return char in _HEX_DIGITS
        if place is Place.LITERAL:
            is_right, self._rest = char == self._rest[0], self._rest[1:]
            if not self._rest:
                self.place = Place.AFTER_VALUE
            return is_right
        if place in _NUMBER_STEPS:
            for chars, following in _NUMBER_STEPS[place]:
                if char in chars:
                    self.place = following
                    return True
            if place not in _WHOLE_NUMBERS:
                return False
            self.place = Place.AFTER_VALUE
        return char in WHITESPACE or self._between(char)

    def _in_string(self, char: str) -> bool:
        if char == '"':
            self.place = Place.COLON if self._is_key else Place.AFTER_VALUE
        elif char == "\\":
            self.place = Place.ESCAPE
        return char >= " "

    def _between(self, char: str) -> bool:
        """A character outside of strings, literals and numbers."""
        match self.place:
            case Place.VALUE:
                return self._begin_value(char)
            case Place.FIRST_ITEM:
                return self._close(char) or self._begin_value(char)
            case Place.FIRST_KEY:
                return self._close(char) or self._begin_key(char)
            case Place.KEY:
                return self._begin_key(char)
            case Place.COLON:
                self.place = Place.VALUE
                return char == ":"
            case Place.AFTER_VALUE if char == ",":
                self.place = Place.KEY if self._containers[-1] == "}" else Place.VALUE
                return True
            case Place.AFTER_VALUE:
                return self._close(char)
        return False

    def _begin_key(self, char: str) -> bool:
        self._is_key = True
        self.place = Place.STRING
        return char == '"'

    def _begin_value(self, char: str) -> bool:
        if char in "{[":
            self._containers.append("}" if char == "{" else "]")
            self.place = Place.FIRST_KEY if char == "{" else Place.FIRST_ITEM
            return len(self._containers) <= MAX_DEPTH
        if not self._containers:
            return False
        if char == '"':
            self._is_key = False
            self.place = Place.STRING
        elif char in _LITERALS:
            self._rest = _LITERALS[char]
            self.place = Place.LITERAL
        elif char == "-":
            self.place = Place.MINUS
        elif char in _DIGITS:
            self.place = Place.ZERO if char == "0" else Place.INTEGER
        else:
            return False
        return True

    def _close(self, char: str) -> bool:
        if char != self._containers[-1]:
            return False
        self._containers.pop()
        self.place = Place.AFTER_VALUE if self._containers else Place.END
        return True


class CallObject:
    """One call as models write it: ``{"name": …, "arguments": {…}}``, in either order; other members are passed over.

    ``arguments`` may be called ``parameters``, and be missing.
    """

    __slots__ = ("_key", "_scanner", "_seen", "_span", "_waiting", "name")

    def __init__(self) -> None:
        self._scanner = JsonScanner()
        self._key = ""
        """Of the member that is being read."""
        self._span: list[str] | None = None
        """The characters so far of the key, or of the name, that is being read."""
        self._seen: set[str] = set()
        self._waiting: list[str] = []
        """Arguments that came before the name."""
        self.name: str | None = None

    @property
    def is_complete(self) -> bool:
        return self._scanner.place is Place.END

    @property
    def has_arguments(self) -> bool:
        """The name and the arguments are complete, so that nothing of interest is missing."""
        is_between = self._scanner.depth <= 1 and self._scanner.place in (Place.AFTER_VALUE, Place.END)
        return self.name is not None and "arguments" in self._seen and is_between

    def plain_end(self, text: str, start: int) -> int:
        """As the scanner's; these characters are for ``push_plain``."""
        return self._scanner.plain_end(text, start)

    def push_plain(self, part: str) -> str:
        """As ``push``."""
        if self._scanner.depth > 1:
            if self._key == "arguments":
                self._waiting.append(part)
        elif self._span is not None:
            self._span.append(part)
        return self._given()

    def push(self, char: str) -> str | None:
        """The arguments' text that can be given out now; None: this is no call, and the object is spent."""
        place, depth = self._scanner.place, self._scanner.depth
        if not self._scanner.push(char):
            return None
        if depth > 1:
            if self._key == "arguments":
                self._waiting.append(char)
        elif depth == 1 and not self._push_member(place, char):
            return None
        return self._given()

    def _given(self) -> str:
        if self.name is None or not self._waiting:
            return ""
        text = "".join(self._waiting)
        self._waiting.clear()
        return text

    def _push_member(self, place: Place, char: str) -> bool:
        """A character outside of the members' values, or the first of one; ``place`` is from before it."""
        if self.is_complete:
            if "arguments" not in self._seen:
                self._waiting.append("{}")
            return self.name is not None
        if place in (Place.FIRST_KEY, Place.KEY):
            self._span = [char] if char == '"' else None
            return True
        if place is Place.VALUE and char not in WHITESPACE:
            if self._key == "name":
                self._span = [char]
                return char == '"'
            if self._key == "arguments":
                self._waiting.append(char)
                return char == "{"
            return True
        if self._span is None:
            return True
        self._span.append(char)
        return self._scanner.place not in (Place.COLON, Place.AFTER_VALUE) or self._end_span(self._span)

    def _end_span(self, span: list[str]) -> bool:
        """A key, or the name, is complete. False for a member that came already."""
        text = str(json.loads("".join(span)))
        self._span = None
        if self._scanner.place is Place.AFTER_VALUE:
            self.name = text
            return True
        self._key = "arguments" if text == "parameters" else text
        is_new = self._key not in self._seen
        if self._key in ("name", "arguments"):
            self._seen.add(self._key)
        return is_new


class NamedCall:
    """One call whose name came before: only its arguments are JSON."""

    __slots__ = ("_scanner", "name")

    def __init__(self, name: str) -> None:
        self._scanner = JsonScanner()
        self.name: str | None = name

    @property
    def is_complete(self) -> bool:
        return self._scanner.place is Place.END

    @property
    def has_arguments(self) -> bool:
        return self.is_complete

    def plain_end(self, text: str, start: int) -> int:
        return self._scanner.plain_end(text, start)

    def push_plain(self, part: str) -> str:
        return part

    def push(self, char: str) -> str | None:
        """As ``CallObject.push``."""
        return char if self._scanner.push(char) else None

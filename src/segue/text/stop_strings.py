"""Finding stop strings in a growing text."""

from bisect import bisect_right
from collections.abc import Sequence

__all__ = ["StopMatcher"]


class StopMatcher:
    """Tells at which token a stop string is complete. One per sequence.

    TGI ends a generation when its text ends with a stop string at a token's end (spec 8.5). This one also sees a stop
    string that ends inside a token, which TGI misses. An empty stop string ends the generation at its first token,
    as in TGI. Nothing is trimmed: the text keeps the stop string and the rest of its last token.

    Memory: the stops, and as many characters of the text as the longest stop has. Time: each character of the text
    that some stop ends with costs one binary search among the stops.
    """

    __slots__ = ("_last_chars", "_matches_anything", "_max_chars", "_reversed_stops", "_tail")

    def __init__(self, stops: Sequence[str]) -> None:
        self._matches_anything = "" in stops
        self._reversed_stops = _without_implied(sorted({stop[::-1] for stop in stops if stop}))
        self._last_chars = frozenset(stop[0] for stop in self._reversed_stops)
        self._max_chars = max(map(len, self._reversed_stops), default=0)
        self._tail = ""

    def push(self, text: str) -> str | None:
        """Append one token's text. The stop string that it completes first, if any; do not push after a match."""
        if self._matches_anything:
            return ""
        window = self._tail + text
        if not self._last_chars.isdisjoint(text):
            for stop in range(len(self._tail) + 1, len(window) + 1):
                if window[stop - 1] in self._last_chars:
                    found = self._match_at(window[max(0, stop - self._max_chars) : stop])
                    if found is not None:
                        return found
        self._tail = window[-(self._max_chars - 1) :] if self._max_chars > 1 else ""
        return None

    def _match_at(self, text: str) -> str | None:
        reversed_text = text[::-1]
        # No reversed stop is a prefix of another, so one that is a prefix of the text is the text's predecessor.
        index = bisect_right(self._reversed_stops, reversed_text) - 1
        if index >= 0 and reversed_text.startswith(self._reversed_stops[index]):
            return self._reversed_stops[index][::-1]
        return None


def _without_implied(reversed_stops: list[str]) -> list[str]:
    """Sorted; drops each stop that ends with another stop, since it can never complete first."""
    result: list[str] = []
    for stop in reversed_stops:
        if not result or not stop.startswith(result[-1]):
            result.append(stop)
    return result

"""Finds where the end of a text stood before: prompt lookup (Saxena, "Prompt Lookup Decoding", 2023).

The search is that of LZ77 compressors (Deutsch, RFC 1951, section 4): positions with the same last pair of tokens form
a chain, of which the latest few are compared backwards and the longest match wins. A token costs O(1) to add, a search
O(1), whatever the length of the text.
"""

from collections.abc import Iterable

__all__ = ["SEPARATOR", "NgramIndex"]

SEPARATOR = -1
"""Between texts: no id of a vocabulary, so nothing matches or continues across it."""

MAX_CANDIDATES = 8
MAX_MATCH = 16
"""Tokens compared; of longer matches the latest is as good as any."""


class NgramIndex:
    """The ids of one text and where each pair of them was last."""

    __slots__ = ("_earlier", "_latest", "_token_ids")

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._latest: dict[int, int] = {}
        """A pair → the position after its latest occurrence, the text's end not counted."""
        self._earlier: list[int] = []
        """Position → the one before it with the same pair in front, or -1."""

    def __len__(self) -> int:
        return len(self._token_ids)

    def extend(self, token_ids: Iterable[int]) -> None:
        ids, latest, earlier = self._token_ids, self._latest, self._earlier
        for token_id in token_ids:
            position = len(ids)
            if position < 2:
                earlier.append(-1)
            else:
                pair = (ids[-2] << 32) + ids[-1]
                earlier.append(latest.get(pair, -1))
                latest[pair] = position
            ids.append(token_id)

    def continuation(self, limit: int) -> list[int]:
        """What followed the longest match of the text's end, at most ``limit`` ids; empty if there is none of two.

        A match that reaches into the end itself goes on periodically, as in LZ77.
        """
        start = self._best_match()
        if start < 0:
            return []
        ids = self._token_ids
        period = len(ids) - start
        found = ids[start : start + limit] if period >= limit else [ids[start + i % period] for i in range(limit)]
        return found[: found.index(SEPARATOR)] if SEPARATOR in found else found

    def _best_match(self) -> int:
        """The position after the longest match, the latest of equals; -1: there is none."""
        ids = self._token_ids
        end = len(ids)
        if end < 2:
            return -1
        candidate = self._latest.get((ids[-2] << 32) + ids[-1], -1)
        best, best_length = -1, 0
        for _ in range(MAX_CANDIDATES):
            if candidate < 0:
                break
            length = 2
            while length < min(MAX_MATCH, candidate) and ids[candidate - 1 - length] == ids[end - 1 - length]:
                length += 1
            if length > best_length:
                best, best_length = candidate, length
                if length == MAX_MATCH:
                    break
            candidate = self._earlier[candidate]
        return best

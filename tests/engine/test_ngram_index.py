import random
from collections.abc import Sequence

import pytest

from segue.engine.ngram_index import MAX_CANDIDATES, MAX_MATCH, SEPARATOR, NgramIndex


def continuation(text: Sequence[int], limit: int = 4) -> list[int]:
    index = NgramIndex()
    index.extend(text)
    return index.continuation(limit)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([], []),
        ([1], []),
        ([1, 2], []),
        ([1, 2, 3, 4], []),
        ([7, 9, 7], []),
        ([1, 2, 3, 4, 5, 6, 1, 2], [3, 4, 5, 6]),
        ([1, 2, 3, 1, 2], [3, 1, 2, 3]),
        ([5, 5, 5], [5, 5, 5, 5]),
    ],
    ids=["empty", "one", "two", "nothing repeats", "a single token", "a pair", "a period", "one token again"],
)
def test_S7_what_followed_the_last_tokens_before(text: list[int], expected: list[int]) -> None:
    assert continuation(text) == expected


def test_S7_the_longest_match_wins_then_the_latest() -> None:
    assert continuation([9, 1, 2, 50, 8, 1, 2, 60, 9, 1, 2], 1) == [50]
    assert continuation([7, 1, 2, 50, 8, 1, 2, 60, 9, 1, 2], 1) == [60]


def test_S7_nothing_crosses_a_separator() -> None:
    assert continuation([1, 2, 3, SEPARATOR, 1, 2]) == [3]
    assert continuation([4, 1, 2, SEPARATOR, 1, 2]) == []
    assert continuation([1, SEPARATOR, 2, 1, 2]) == []


def test_S7_growing_is_as_building() -> None:
    rng = random.Random(1)
    text = [rng.randrange(4) for _ in range(300)]
    index = NgramIndex()
    for i, token_id in enumerate(text):
        index.extend([token_id])
        assert index.continuation(6) == continuation(text[: i + 1], 6)
    assert len(index) == len(text)


def test_S7_matches_a_search_of_the_whole_text() -> None:
    rng = random.Random(2)
    for _ in range(200):
        text = [rng.randrange(rng.choice([2, 5, 30])) for _ in range(rng.randrange(2, 80))]
        assert continuation(text, 1) == _by_search(text)


def _by_search(text: list[int]) -> list[int]:
    """Among the latest places with the same last pair the one that most tokens agree with."""
    ends = [i for i in range(len(text) - 1, 1, -1) if text[i - 2 : i] == text[-2:]]
    best, best_length = 0, 0
    for end in ends[:MAX_CANDIDATES]:
        length = next(n for n in range(MAX_MATCH + 1) if n in (MAX_MATCH, end) or text[end - 1 - n] != text[-1 - n])
        if length > best_length:
            best, best_length = end, length
    return [text[best]] if best else []


def test_S7_a_search_looks_at_a_bounded_number_of_places() -> None:
    """A text of one pair again and again, always followed by something else."""
    looks = 0

    class Counting(list[int]):
        def __getitem__(self, i: object) -> object:  # type: ignore[override]
            nonlocal looks
            looks += 1
            return super().__getitem__(i)  # type: ignore[index]

    index = NgramIndex()
    for i in range(2000):
        index.extend((1000 + i, 1, 2))
    index._token_ids = Counting(index._token_ids)
    assert index.continuation(3) == [1000 + 1999, 1, 2]
    assert looks < 4 * MAX_CANDIDATES * MAX_MATCH

import random
import tracemalloc

import pytest

from segue.text.stop_strings import StopMatcher


def first_match(stops: list[str], tokens: list[str]) -> tuple[int, str] | None:
    matcher = StopMatcher(stops)
    for index, token in enumerate(tokens):
        found = matcher.push(token)
        if found is not None:
            return index, found
    return None


def first_match_by_definition(stops: list[str], tokens: list[str]) -> tuple[int, set[str]] | None:
    """The earliest place where any stop ends, its token, and all the stops that end there."""
    text = "".join(tokens)
    for end in range(1, len(text) + 1):
        found = {stop for stop in stops if stop and text[:end].endswith(stop)}
        if found:
            length = 0
            for index, token in enumerate(tokens):
                length += len(token)
                if length >= end:
                    return index, found
    return None


@pytest.mark.parametrize(
    ("stops", "tokens", "expected"),
    [
        (["stop"], ["no", " st", "op"], (2, "stop")),
        (["stop"], ["st", "", "op"], (2, "stop")),
        (["\n"], ["a", "\n"], (1, "\n")),
        (["\n\n"], ["a\n", "b", "\n", "\n"], (3, "\n\n")),
        # TGI misses these two: the stop string ends inside a token.
        (["stop"], ["please stop it"], (0, "stop")),
        (["User:"], ["\nUs", "er: hi"], (1, "User:")),
        (["stop"], ["s", "t", "o", "p"], (3, "stop")),
        (["stop"], ["sto", "stop"], (1, "stop")),
        (["aab"], ["a", "a", "a", "b"], (3, "aab")),
        (["abc", "bc"], ["ab", "c"], (1, "bc")),
        (["abcd", "bc"], ["ab", "cd"], (1, "bc")),
        (["🦊🦊"], ["🦊", "🦊"], (1, "🦊🦊")),
        (["stop"], ["STOP", "sto", " p"], None),
        ([], ["anything"], None),
        # TGI's rule for an empty stop string: every text ends with it.
        ([""], ["a"], (0, "")),
        (["x", ""], ["", "b"], (0, "")),
    ],
)
def test_matches(stops: list[str], tokens: list[str], expected: tuple[int, str] | None) -> None:
    assert first_match(stops, tokens) == expected


@pytest.mark.parametrize("seed", range(300))
def test_the_first_completed_stop_is_found(seed: int) -> None:
    rng = random.Random(seed)

    def word(shortest: int, longest: int) -> str:
        return "".join(rng.choices("aab\n", k=rng.randint(shortest, longest)))

    stops = [word(1, 6) for _ in range(rng.randint(1, 5))]
    tokens = [word(0, 4) for _ in range(40)]
    expected = first_match_by_definition(stops, tokens)
    found = first_match(stops, tokens)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found[0] == expected[0]
        assert found[1] in expected[1]


class CountingStr(str):
    """Counts the comparisons that the search makes."""

    __slots__ = ()
    comparisons = 0

    def __getitem__(self, key: slice) -> "CountingStr":  # type: ignore[override]
        return CountingStr(super().__getitem__(key))

    def __lt__(self, other: str) -> bool:
        CountingStr.comparisons += 1
        return super().__lt__(other)


def test_a_hundred_thousand_stops_cost_a_binary_search() -> None:
    rng = random.Random(1)
    stops = ["".join(rng.choices("abcdefgh", k=rng.randint(8, 20))) for _ in range(100_000)]
    matcher = StopMatcher(["x" + stop for stop in stops])
    text = "".join(rng.choices("abcdefgh", k=2000))
    CountingStr.comparisons = 0
    for start in range(0, len(text), 4):
        assert matcher.push(CountingStr(text[start : start + 4])) is None
    assert CountingStr.comparisons <= len(text) * 18
    assert matcher.push("x" + stops[77_777]) is not None


def test_only_the_longest_stops_length_of_text_is_kept() -> None:
    matcher = StopMatcher(["never", "n" * 1000])
    tracemalloc.start()
    for _ in range(2000):
        assert matcher.push("x" * 1000) is None
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 50_000

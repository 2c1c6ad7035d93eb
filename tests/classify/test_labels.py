import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.classify.labels import edit_distance, label_regex, nearest_label

LABELS = ["politics", "science", "other"]


@cache
def _recursive_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        _recursive_distance(a[1:], b) + 1,
        _recursive_distance(a, b[1:]) + 1,
        _recursive_distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_equals_its_definition(a: str, b: str) -> None:
    assert edit_distance(a, b) == _recursive_distance(a, b)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True), st.text())
def test_regex_matches_the_labels_and_nothing_else(labels: list[str], other: str) -> None:
    pattern = re.compile(label_regex(labels))
    assert all(pattern.fullmatch(label) for label in labels)
    assert bool(pattern.fullmatch(other)) == (other in labels)


# Rust's regex library, which servers use, refuses escapes that Python's re.escape makes of letters and `<`.
def test_regex_escapes_only_what_is_special_everywhere() -> None:
    assert label_regex(["C++ (2)", "a-b <c>", "1 & 2"]) == r"(C\+\+ \(2\)|a-b <c>|1 & 2)"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("politics", "politics"),
        (" Politics.\n", "politics"),
        ("'science'", "science"),
        ("The label is politics.", "politics"),
        ("I would say: science, not politics", "science"),
        ("polics", "politics"),
        ("something else, other", "other"),
        ("**Other**", "other"),
    ],
)
def test_nearest_label(answer: str, label: str) -> None:
    match = nearest_label(answer, LABELS)
    assert match is not None
    assert LABELS[match.index] == label


def test_similarity_of_a_whole_answer_beats_that_of_a_part_and_falls_with_each_error() -> None:
    answers = ["politics", "it is politics", "it is polixics", "polxxxcs"]
    similarities = [match.similarity for answer in answers if (match := nearest_label(answer, LABELS))]
    assert similarities == [1.0, 0.9, 0.9 * 7 / 8, 5 / 8]


@pytest.mark.parametrize("answer", ["", "  ", "zzz"])
def test_nothing_in_common_is_no_label(answer: str) -> None:
    assert nearest_label(answer, ["a", "b"]) is None


def test_longer_label_wins_where_both_are_there() -> None:
    labels = ["new york", "york"]
    match = nearest_label("I think new york it is", labels)
    assert match is not None
    assert labels[match.index] == "new york"


@pytest.mark.parametrize(("answer", "label"), [("++", "++"), ("!", "!"), ("c++", "c++"), ("c", "c")])
def test_labels_of_punctuation_stay_what_they_are(answer: str, label: str) -> None:
    labels = ["c", "c++", "!", "++"]
    match = nearest_label(answer, labels)
    assert match is not None
    assert (labels[match.index], match.similarity) == (label, 1.0)


def test_a_rambling_answer_costs_little() -> None:
    assert nearest_label("word " * 100_000 + "politics", ["politics"]) is not None

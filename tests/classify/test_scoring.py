import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.classify.scoring import Choice, Step, label_probabilities

END = "</s>"


def step(*choices: tuple[str, float]) -> Step:
    first, *others = (Choice(*choice) for choice in choices)
    return Step(first, tuple(others))


def test_first_tokens_that_tell_the_labels_apart() -> None:
    steps = [step((" pol", 0.6), (" sci", 0.3), (" Oth", 0.1)), step(("itics", 1.0)), step((END, 1.0))]
    assert label_probabilities(steps, ["politics", "science", "other"]) == pytest.approx([0.6, 0.3, 0.1])


def test_tokens_of_no_label_are_left_out() -> None:
    steps = [step(("tech", 0.5), ("sci", 0.2), ("pol", 0.2), ("x", 0.1)), step((END, 1.0))]
    assert label_probabilities(steps, ["politics", "science"]) == pytest.approx([0.5, 0.5])


def test_labels_that_share_a_token_are_told_apart_by_the_next() -> None:
    steps = [step(("po", 0.8), ("x", 0.2)), step(("sitive", 0.75), ("ssible", 0.25))]
    assert label_probabilities(steps, ["positive", "possible"]) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("begin", [(), (step(("'", 1.0)),)])
def test_a_label_that_begins_another(begin: tuple[Step, ...]) -> None:
    steps = [*begin, step(("good", 1.0)), step((END, 0.7), ("ness", 0.3))]
    assert label_probabilities(steps, ["good", "goodness"]) == pytest.approx([0.7, 0.3])


# Without this a chat, whose last token is not always listed, would call every "good" half a "goodness".
def test_an_answer_that_ends_unseen_is_the_shorter_label() -> None:
    assert label_probabilities([step(("good", 1.0))], ["good", "goodness"]) == [1.0, 0.0]


def test_off_the_path_an_ambiguous_beginning_is_divided() -> None:
    steps = [step(("neg", 0.6), ("pos", 0.4))]
    assert label_probabilities(steps, ["negative", "positive", "possible"]) == pytest.approx([0.6, 0.2, 0.2])


def test_an_unlisted_label_gets_half_of_what_it_can_have() -> None:
    listed = [step(("a", 0.5), ("b", 0.3), ("x", 0.1))]
    a, b, c = label_probabilities(listed, ["a", "b", "c"])
    assert (a / b, c / b) == (pytest.approx(5 / 3), pytest.approx(0.05 / 0.3))
    complete = [step(("a", 0.6), ("b", 0.4))]
    assert label_probabilities(complete, ["a", "b", "c"]) == pytest.approx([0.6, 0.4, 0.0])


@given(
    st.lists(
        st.lists(st.tuples(st.text("ab ", max_size=3), st.floats(0, 0.3)), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4, unique=True),
)
def test_always_a_distribution(choices: list[list[tuple[str, float]]], labels: list[str]) -> None:
    probabilities = label_probabilities([step(*each) for each in choices], labels)
    assert sum(probabilities) == pytest.approx(1.0)
    assert min(probabilities) >= 0

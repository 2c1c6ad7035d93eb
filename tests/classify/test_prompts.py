import sys
from pathlib import Path

import pytest

from segue.classify import FEW_SHOT_PROMPT, ZERO_SHOT_PROMPT
from segue.classify.prompts import examples_text, fill, labels_text


@pytest.fixture
def training_prompts(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2]), *sys.path])
    from training.kinds import classification

    return classification


# The sample model knows this wording: whoever changes one has to train again.
def test_wording_is_that_of_the_training_data(training_prompts: object) -> None:
    assert training_prompts.ZERO_SHOT_PROMPT == ZERO_SHOT_PROMPT
    assert training_prompts.FEW_SHOT_PROMPT == FEW_SHOT_PROMPT
    header = training_prompts.EXAMPLES_HEADER.format(label="good")
    assert examples_text({"good": ["a", "b"]}) == f'{header}\n"a"\n"b"'


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{X}", "the {classes} text"),
        ('{"label": "{classes}"} {X}', "{\"label\": \"'a', 'b'\"} the {classes} text"),
        ("{{X}} {unknown} {} {0} }{", "{the {classes} text} {unknown} {} {0} }{"),
        ("no placeholder", "no placeholder"),
    ],
)
def test_only_known_placeholders_are_filled_and_only_once(template: str, expected: str) -> None:
    assert fill(template, {"X": "the {classes} text", "classes": labels_text(["a", "b"])}) == expected


def test_blocks_of_examples_in_the_order_of_the_labels() -> None:
    assert examples_text({"b": ["2"], "a": ["1", "3"]}) == 'Examples of \'b\':\n"2"\n\nExamples of \'a\':\n"1"\n"3"'

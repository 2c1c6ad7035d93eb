"""The text generator: the same text for the same seed, and answers that are right."""

from __future__ import annotations

import json
import re
from itertools import islice
from random import Random

from training import chat_format, corpus, words
from training.document import Turn
from training.kinds import arithmetic, classification, facts, structured
from training.kinds.stories import story
from training.vary import a, vary


def _texts(seed: int, count: int) -> list[str]:
    return ["".join(piece.text for piece in document) for document in islice(corpus.chat_documents(seed), count)]


def test_same_seed_gives_the_same_documents() -> None:
    assert _texts(3, 200) == _texts(3, 200)
    assert _texts(3, 50) != _texts(4, 50)
    assert list(islice(corpus.pairs(3), 200)) == list(islice(corpus.pairs(3), 200))


def test_no_slot_or_alternative_is_left_open() -> None:
    stories = [story(Random(seed)) for seed in range(500)]
    for text in [each.text + each.summary for each in stories]:
        assert not re.search(r"[\[\]{}|]", text), text
        assert "  " not in text, text
        assert not re.search(r"\b[Aa] [aeio][a-z]+\b", text.replace("a one", "")), text


def test_calculations_are_right() -> None:
    for seed in range(300):
        _, answer = arithmetic.calculation(Random(seed))
        left, sign, right, result = re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+)", answer.text).groups()  # type: ignore[union-attr]
        assert (
            int(result) == {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign]
        )


def test_every_capital_is_asked_for() -> None:
    texts = "\n".join(turn.text for seed in range(3000) for turn in facts.capital_of(Random(seed)))
    for country, city in words.CAPITALS.items():
        assert f"The capital of {country} is {city}." in texts


def test_the_right_label_is_among_the_labels() -> None:
    for seed in range(500):
        prompt, label = classification.classification(Random(seed))
        assert f"'{label.text.strip()}'" in prompt.text


def test_default_classification_prompts_are_among_the_documents() -> None:
    texts = _texts(0, 500)
    assert any(text.startswith(classification.ZERO_SHOT_PROMPT.split("{")[0]) for text in texts)
    assert any("Here are examples of each label." in text for text in texts)


def test_json_answers_hold_json_with_the_keys_asked_for() -> None:
    for seed in range(300):
        answer = json.loads(structured.json_request(Random(seed))[-1].text)
        assert isinstance(answer, dict)


def test_tool_calls_name_a_listed_tool_and_all_its_arguments() -> None:
    for seed in range(100):
        tools, turns = structured.tool_chat(Random(seed))
        call = json.loads(turns[1].text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        listed = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        assert sorted(call["arguments"]) == sorted(listed[call["name"]]["required"])


def test_only_the_answers_of_a_chat_are_learned() -> None:
    pieces = chat_format.render([Turn("system", "s"), Turn("user", "q"), Turn("assistant", "r")])
    assert [piece.text for piece in pieces if piece.learned] == ["r<|im_end|>"]


def test_vary_resolves_nested_alternatives_before_slots() -> None:
    made = {vary(Random(seed), "[a|[b|c] {x}]", x="[d|e]") for seed in range(50)}
    assert made == {"a", "b [d|e]", "c [d|e]"}
    assert (a("owl"), a("fox")) == ("an owl", "a fox")

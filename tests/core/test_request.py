from dataclasses import fields
from typing import Any

import pytest

from segue.core.grammar import Grammar
from segue.core.request import SamplingParams

CHANGES_THE_CHOICE: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.5,
    "typical_p": 0.5,
    "repetition_penalty": 1.1,
    "frequency_penalty": -0.5,
    "presence_penalty": 0.5,
    "logit_bias": ((1, 2.0),),
    "top_n_tokens": 1,
}
ASKS_FOR_MORE: dict[str, Any] = {
    "watermark": True,
    "prompt_logprobs": True,
    "grammar": Grammar("regex", "a"),
}
SAYS_WHEN_TO_STOP: dict[str, Any] = {"max_new_tokens": 3, "stop": ("a",), "ignore_eos": True}


@pytest.mark.parametrize("name", [field.name for field in fields(SamplingParams)])
def test_what_is_plain(name: str) -> None:
    """A new field must say what it is: a step of plain sequences knows no more than their logits and tokens."""
    neutral = SAYS_WHEN_TO_STOP | {"seed": 1}
    asked = SamplingParams(**{name: (CHANGES_THE_CHOICE | ASKS_FOR_MORE | neutral)[name]})
    assert asked.is_plain == (name not in ASKS_FOR_MORE)
    assert asked.takes_likeliest == (name not in CHANGES_THE_CHOICE)


def test_nothing_asked_is_plain() -> None:
    assert SamplingParams().is_plain
    assert SamplingParams().takes_likeliest

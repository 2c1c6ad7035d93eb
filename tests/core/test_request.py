from dataclasses import fields
from typing import Any

import pytest

from segue.core.grammar import Grammar
from segue.core.request import SamplingParams

ASKS_FOR_MORE: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.5,
    "typical_p": 0.5,
    "repetition_penalty": 1.1,
    "frequency_penalty": -0.5,
    "presence_penalty": 0.5,
    "logit_bias": ((1, 2.0),),
    "watermark": True,
    "top_n_tokens": 1,
    "prompt_logprobs": True,
    "grammar": Grammar("regex", "a"),
}
SAYS_WHEN_TO_STOP: dict[str, Any] = {"max_new_tokens": 3, "stop": ("a",), "ignore_eos": True}


@pytest.mark.parametrize("name", [field.name for field in fields(SamplingParams)])
def test_what_is_plain(name: str) -> None:
    """A new field must say what it is: a step of plain sequences does nothing but take the likeliest tokens."""
    neutral = SAYS_WHEN_TO_STOP | {"seed": 1}
    asked = {name: (ASKS_FOR_MORE | neutral)[name]}
    assert SamplingParams(**asked).is_plain == (name in neutral)


def test_nothing_asked_is_plain() -> None:
    assert SamplingParams().is_plain

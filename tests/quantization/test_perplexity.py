"""Perplexity by hand."""

import math

import pytest

from segue.quantization.perplexity import perplexity, windows


def test_windows() -> None:
    assert list(windows([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4]]
    assert list(windows([1, 2, 3, 4, 5], 3)) == [[1, 2, 3], [4, 5]]
    assert list(windows([1], 3)) == []


def test_perplexity_is_over_all_tokens_that_are_predicted() -> None:
    """Windows of 3 and 2 tokens: probabilities 1/2, 1/8 and 1/4, whose geometric mean is 1/4."""
    rows = {(1, 2, 3): [None, math.log(1 / 2), math.log(1 / 8)], (4, 5): [None, math.log(1 / 4)]}
    value = perplexity(lambda many: [rows[tuple(ids)] for ids in many], [1, 2, 3, 4, 5], 3)
    assert value == pytest.approx(4)


def test_a_text_of_one_token_has_none() -> None:
    with pytest.raises(ValueError, match="two tokens"):
        perplexity(lambda many: [], [1], 8)

import math

import pytest
import torch
from sampling.rows import random_logits, row

from segue.sampling.choose import choose, draw

LARGEST = 1 - 2.0**-53


@pytest.mark.parametrize("uniform", [0.0, 2.0**-53, 0.5, LARGEST])
@pytest.mark.parametrize("vocab_size", [4, 1001, 50257])
def test_a_masked_id_is_never_drawn(uniform, vocab_size):
    """The ends are where rounding would land: 0 on a first id without mass, the largest number behind the last."""
    logits = torch.full((1, vocab_size), -torch.inf)
    logits[0, 1] = logits[0, vocab_size - 2] = 3.0
    ids = draw(logits, torch.tensor([uniform], dtype=torch.float64))
    assert ids.tolist() == [1 if uniform < 0.5 else vocab_size - 2]


def test_the_share_of_the_line_is_the_probability():
    logits = torch.tensor([0.5, 0.0, 0.25, 0.125, 0.125]).log()
    uniforms = torch.tensor([0.0, 0.49999, 0.50001, 0.74999, 0.75001, 0.87499, 0.87501, LARGEST], dtype=torch.float64)
    assert draw(logits.repeat(8, 1), uniforms).tolist() == [0, 0, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("by", ["position", "seed"])
def test_frequencies_follow_the_probabilities(by):
    """Chi-square with fixed numbers: 5 standard deviations of its distribution."""
    probabilities = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.04, 0.01])
    num = 20000
    rows = [row(do_sample=True, **{by: i}) for i in range(num)]
    counts = choose(probabilities.log().expand(num, -1), rows).bincount(minlength=6)
    expected = probabilities * num
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 5 + 5 * math.sqrt(2 * 5)


def test_greedy_and_sampled_rows_together():
    logits = random_logits(40, 101, scale=1.0)
    rows = [row(do_sample=i % 2 == 0, seed=i) for i in range(40)]
    ids = choose(logits, rows)
    assert ids[1::2].tolist() == logits[1::2].argmax(-1).tolist()
    assert ids[::2].tolist() == choose(logits[::2], rows[::2]).tolist()
    assert ids[::2].tolist() != logits[::2].argmax(-1).tolist()


def test_the_seed_and_the_position_decide():
    logits = torch.zeros(1, 5003)
    draws = [
        choose(logits, [row(do_sample=True, seed=s, position=p)]).item() for s, p in [(1, 5), (1, 5), (1, 6), (2, 5)]
    ]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


@pytest.mark.parametrize("vocab_size", [3, 4, 5, 1001])
def test_the_largest_number_draws_the_last_id_that_has_a_mass(vocab_size):
    """The total has more bits than a float64; a target rounded up to it would pass over every mass."""
    logits = random_logits(200, vocab_size)
    logits[:, -1] = -torch.inf
    assert draw(logits, torch.full((200,), LARGEST, dtype=torch.float64)).unique().tolist() == [vocab_size - 2]

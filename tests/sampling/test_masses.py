import pytest
import torch
from sampling.rows import random_logits

from segue.sampling.masses import masses, reach


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 255, 256, 50257, 262144])
def test_the_sum_of_equal_peaks_does_not_overflow(vocab_size):
    flat = torch.zeros(1, vocab_size)
    weights = masses(flat, flat.amax(-1, keepdim=True), vocab_size)
    assert weights.unique().numel() == 1
    assert sum(weights[0, :1].tolist()) * vocab_size == weights.sum().item() <= 2**62


def test_proportional_to_probabilities():
    logits = random_logits(3, 1001)
    logits[0, 5] = -torch.inf
    weights = masses(logits, logits.amax(-1, keepdim=True), 1001)
    assert weights[0, 5] == 0
    shares = weights.double() / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(shares, logits.double().softmax(-1), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("vocab_size", [3, 17, 1001])
def test_the_same_bits_alone_and_in_a_batch(vocab_size):
    logits = random_logits(9, vocab_size)
    together = masses(logits, logits.amax(-1, keepdim=True), vocab_size)
    for i in range(9):
        alone = logits[i : i + 1].clone()
        assert torch.equal(masses(alone, alone.amax(-1, keepdim=True), vocab_size)[0], together[i])


def test_reach():
    total = torch.tensor([[100], [100], [100], [2**62]])
    share = torch.tensor([[0.5], [0.501], [0.0], [1 - 2.0**-53]], dtype=torch.float64)
    assert reach(total, share).squeeze(-1).tolist() == [50, 51, 1, 2**62 - 2**9]


def test_a_part_of_a_row_has_the_units_of_the_row():
    logits = random_logits(2, 1001)
    peak = logits.amax(-1, keepdim=True)
    best, ids = logits.topk(9)
    assert torch.equal(masses(best, peak, 1001), masses(logits, peak, 1001).gather(-1, ids))

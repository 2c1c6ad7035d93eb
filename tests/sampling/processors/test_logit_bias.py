import torch
from sampling.rows import random_logits, row

from segue.sampling.processors.logit_bias import LogitBias
from segue.sampling.sampler import Sampler


def test_each_row_gets_its_own():
    logits = random_logits(3, 5)
    rows = [row(logit_bias=((0, 1.5), (4, -100.0))), row(), row(logit_bias=((4, 2.0),))]
    processor = LogitBias(5)
    after = processor.apply(logits.clone(), processor.columns(rows))
    bias = torch.tensor([[1.5, 0, 0, 0, -100.0], [0] * 5, [0, 0, 0, 0, 2.0]])
    torch.testing.assert_close(after, logits + bias, rtol=0, atol=1e-6)
    assert torch.equal(after[1], logits[1])


def test_a_greedy_row_follows_it_too():
    """100 forces a token, -100 bans one: OpenAI's documentation of the parameter."""
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    sampler = Sampler(3)
    assert sampler.sample(logits, [row()])[0].token_id == 0
    assert sampler.sample(logits, [row(logit_bias=((2, 100.0),))])[0].token_id == 2
    assert sampler.sample(logits, [row(logit_bias=((0, -100.0),))])[0].token_id == 1

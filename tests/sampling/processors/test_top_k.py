import pytest
import torch
from sampling.rows import random_logits, row
from transformers.generation.logits_process import TopKLogitsWarper

from segue.sampling.processors.top_k import TopK


def process(logits, *limits):
    processor = TopK(logits.shape[-1])
    columns = processor.columns([row(top_k=k) for k in limits])
    return logits if columns is None else processor.apply(logits.clone(), columns)


@pytest.mark.parametrize("k", [1, 5, 100, 1000, 1001, 5000])
def test_equals_transformers(k):
    logits = random_logits(3, 1001)
    assert torch.equal(process(logits, k, k, k), TopKLogitsWarper(k)(None, logits))


def test_each_row_has_its_own_k():
    logits = random_logits(4, 101)
    kept = process(logits, 3, 0, 50, 1).isfinite().sum(-1)
    assert kept.tolist() == [3, 101, 50, 1]


def test_ties_with_the_kth_stay():
    after = process(torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]]), 2)
    assert after.tolist() == [[-torch.inf, 3.0, 2.0, 2.0, 2.0, -torch.inf]]


def test_fewer_candidates_than_k():
    logits = torch.tensor([[1.0, -torch.inf, -torch.inf, 0.5]])
    assert torch.equal(process(logits, 3), logits)

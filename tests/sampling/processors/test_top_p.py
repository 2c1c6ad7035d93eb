import math

import pytest
import torch
from sampling.rows import random_logits, row
from transformers.generation.logits_process import TopPLogitsWarper

from segue.sampling.processors.top_k import TopK
from segue.sampling.processors.top_p import TopP


def process(logits, *shares, top_k=0):
    processor = TopP()
    rows = [row(top_p=p, top_k=top_k) for p in shares]
    return processor.apply(logits.clone(), processor.columns(rows))


def plain(logits, p):
    """TGI's rule, one row in float64: ascending, dropped while the cumulative probability is at most 1 - p."""
    peak = max(logits)
    weights = [math.exp(value - peak) for value in logits]
    order = sorted(range(len(logits)), key=lambda i: logits[i])
    total, done, dropped = math.fsum(weights), 0.0, set()
    for i in order[:-1]:
        done += weights[i] / total
        if done <= 1 - p:
            dropped.add(i)
    return [-math.inf if i in dropped else value for i, value in enumerate(logits)]


@pytest.mark.parametrize("p", [0.001, 0.3, 0.5001, 0.9, 0.999])
@pytest.mark.parametrize("vocab_size", [1, 7, 301, 2003])
@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_equals_the_rule_and_transformers(vocab_size, p, scale):
    logits = random_logits(4, vocab_size, scale)
    after = process(logits, *[p] * 4)
    assert after.tolist() == [plain(values, p) for values in logits.tolist()]
    assert torch.equal(after, TopPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("p", [0.317, 0.731])
@pytest.mark.parametrize("vocab_size", [10, 2003])
def test_ties_are_cut_like_a_stable_ascending_sort(vocab_size, p):
    """bfloat16 logits tie often; keeping all ties would make top_p a no-op on a flat row."""
    flat = torch.zeros(1, vocab_size)
    coarse = random_logits(3, vocab_size).bfloat16().float()
    for logits in (flat, coarse, coarse.round()):
        after = process(logits, *[p] * len(logits))
        assert after.tolist() == [plain(values, p) for values in logits.tolist()]
    assert process(flat, p).isfinite().sum() == math.ceil(p * vocab_size)


def test_at_least_one_stays():
    assert process(random_logits(1, 50), 1e-12).isfinite().sum() == 1
    assert process(torch.zeros(1, 50), 0.0).isfinite().nonzero().tolist() == [[0, 49]]


def test_each_row_has_its_own_p():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().repeat(4, 1)
    processor = TopP()
    rows = [row(top_p=0.35), row(), row(top_p=0.65), row(top_p=0.75)]
    after = processor.apply(logits.clone(), processor.columns(rows))
    assert after.isfinite().sum(-1).tolist() == [1, 4, 2, 3]


@pytest.mark.parametrize("rounding", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("p", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("k", [1, 7, 400, 1999, 5000])
def test_sorting_the_top_k_only_changes_nothing(k, p, rounding):
    logits = random_logits(3, 2003)
    if rounding:
        logits = logits.round()
    top_k = TopK(2003)
    columns = top_k.columns([row(top_k=k)] * 3)
    if columns is not None:
        logits = top_k.apply(logits, columns)
    assert torch.equal(process(logits, p, p, p, top_k=k), process(logits, p, p, p))


def test_top_k_limits_the_sort_only_where_every_row_has_one():
    processor = TopP()
    assert processor.columns([row(top_p=0.5, top_k=3), row(top_k=9), row(top_p=0.5, top_k=5)]).max_top_k == 5
    assert processor.columns([row(top_p=0.5, top_k=3), row(top_p=0.5)]).max_top_k is None

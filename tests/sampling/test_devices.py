import warnings

import pytest
import torch
from sampling.rows import random_logits, row

from segue.sampling.choose import choose
from segue.sampling.logprobs import TopTokens
from segue.sampling.sampler import Sampler

EVERYTHING = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.9,
    "typical_p": 0.9,
    "repetition_penalty": 1.2,
    "frequency_penalty": 0.1,
    "watermark": True,
    "top_n_tokens": 3,
}
ROWS = [row(**EVERYTHING), row(), row(**EVERYTHING, top_k=50, seed=4), row(top_p=0.5, top_k=9, seed=3)]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("rows", [ROWS, ROWS[2:], [row()] * 4], ids=["mixed", "top-k", "greedy"])
def test_nothing_reads_a_value_back_before_the_end(rows):
    """A meta tensor has no values: a step that looks at one (``item``, ``nonzero``, a branch) raises."""
    logits = torch.empty(len(rows), 5003, device="meta")
    processed = Sampler(5003)._process(logits, rows)
    assert processed.shape == logits.shape
    assert choose(processed, rows).shape == (len(rows),)
    top = TopTokens.of(processed, rows)
    assert top is None or top.pack().device.type == "meta"


@pytest.mark.gpu
@needs_cuda
def test_cuda_chooses_as_the_cpu_does():
    sampler = Sampler(5003)
    logits = random_logits(4, 5003)
    on_cpu = sampler.sample(logits, ROWS)
    on_cuda = sampler.sample(logits.cuda(), ROWS)
    assert [o.token_id for o in on_cuda] == [o.token_id for o in on_cpu]
    assert [o.logprob for o in on_cuda] == pytest.approx([o.logprob for o in on_cpu], abs=1e-4)
    alone = [sampler.sample(logits[i : i + 1].cuda(), [r])[0] for i, r in enumerate(ROWS)]
    assert [o.token_id for o in alone] == [o.token_id for o in on_cuda]


@pytest.mark.gpu
@needs_cuda
def test_one_wait_for_the_device():
    sampler, logits = Sampler(5003), random_logits(4, 5003).cuda()
    sampler.sample(logits, ROWS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            sampler.sample(logits, ROWS)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert sum("called a synchronizing CUDA operation" in str(w.message) for w in caught) == 1

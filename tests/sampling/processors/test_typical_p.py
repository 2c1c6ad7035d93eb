import math

import pytest
import torch
from sampling.rows import random_logits, row
from transformers.generation.logits_process import TypicalLogitsWarper

from segue.sampling.processors.typical_p import TypicalP


def process(logits, *shares):
    processor = TypicalP()
    return processor.apply(logits.clone(), processor.columns([row(typical_p=m) for m in shares]))


def plain(logits, mass):
    """The smallest set nearest to the entropy that holds the mass; one row, in float64."""
    peak = max(logits)
    log_z = peak + math.log(math.fsum(math.exp(value - peak) for value in logits))
    logs = [value - log_z for value in logits]
    entropy = -math.fsum(math.exp(value) * value for value in logs if value > -math.inf)
    distance = [abs(-value - entropy) for value in logs]
    done = 0.0
    for i in sorted(range(len(logits)), key=lambda i: distance[i]):
        done += math.exp(logs[i])
        if done >= mass:
            return [value if distance[j] <= distance[i] else -math.inf for j, value in enumerate(logits)]
    return list(logits)


@pytest.mark.parametrize("mass", [0.001, 0.2, 0.9, 0.995])
@pytest.mark.parametrize("vocab_size", [1, 7, 301, 2003])
@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_equals_the_rule_and_transformers(vocab_size, mass, scale):
    logits = random_logits(4, vocab_size, scale, seed=1)
    after = process(logits, *[mass] * 4)
    assert after.tolist() == [plain(values, mass) for values in logits.tolist()]
    # In float32 its cumulative sums are off by enough to keep one id more of a flat row.
    assert torch.equal(after.double(), TypicalLogitsWarper(mass)(None, logits.double()))


def test_the_most_probable_id_may_go():
    logits = torch.tensor([[0.3] + [0.7 / 64] * 64]).log()
    after = process(logits, 0.4)
    assert after[0, 0] == -torch.inf
    assert after[0, 1:].isfinite().all()


@pytest.mark.parametrize("mass", [0.2, 0.9])
def test_masked_ids_do_not_enter_the_entropy(mass):
    logits = random_logits(2, 301, scale=1.0)
    logits[:, ::3] = -torch.inf
    assert process(logits, mass, mass).tolist() == [plain(values, mass) for values in logits.tolist()]


def test_ties_stay():
    logits = torch.tensor([[0.0, -torch.inf, 0.0, 0.0]])
    assert torch.equal(process(logits, 0.2), logits)


def test_each_row_has_its_own_mass():
    logits = random_logits(1, 301).repeat(3, 1)
    after = process(logits, 0.2, 1.0, 0.9)
    assert after[0].tolist() == plain(logits[0].tolist(), 0.2)
    assert torch.equal(after[1], logits[1])
    assert after[2].tolist() == plain(logits[2].tolist(), 0.9)

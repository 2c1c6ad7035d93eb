import pytest
import torch
from sampling.rows import random_logits, row

from segue.sampling.processors.frequency_penalty import FrequencyPenalty


@pytest.mark.parametrize("penalty", [-2.0, 0.3, 2.0])
def test_equals_the_plain_formula(penalty):
    logits = random_logits(3, 33)
    histories = [[5, 5, 5, 32], [0], [7, 8, 7, 7, 1, 2, 3]]
    processor = FrequencyPenalty(33)
    rows = [row(history=h, frequency_penalty=penalty) for h in histories]
    counts = torch.stack([torch.bincount(torch.tensor(h), minlength=33) / len(h) for h in histories])
    after = processor.apply(logits.clone(), processor.columns(rows))
    torch.testing.assert_close(after, logits - penalty * counts, rtol=0, atol=1e-6)


def test_ids_outside_of_the_vocabulary_count_in_the_length_only():
    processor = FrequencyPenalty(4)
    rows = [row(history=[4, -1, 2, 2], frequency_penalty=1.0), row()]
    after = processor.apply(torch.zeros(2, 4), processor.columns(rows))
    assert after.tolist() == [[0.0, 0.0, -0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]

import pytest
import torch
from sampling.rows import random_logits, row

from segue.sampling.processors.repetition_penalty import RepetitionPenalty


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_equals_the_plain_formula(penalty):
    logits = random_logits(3, 33)
    logits[0, 5] = -torch.inf
    histories = [[5, 5, 5, 32], [0], [7, 8, 7]]
    processor = RepetitionPenalty(33)
    rows = [row(history=h, repetition_penalty=penalty) for h in histories]
    expected = logits.clone()
    for i, history in enumerate(histories):
        for token_id in set(history):
            value = logits[i, token_id]
            expected[i, token_id] = value * penalty if value < 0 else value / penalty
    assert torch.equal(processor.apply(logits.clone(), processor.columns(rows)), expected)


def test_a_mask_stays_a_mask():
    processor = RepetitionPenalty(3)
    after = processor.apply(
        torch.tensor([[-torch.inf, 2.0, 0.0]]), processor.columns([row([0, 1], repetition_penalty=2.0)])
    )
    assert after.tolist() == [[-torch.inf, 1.0, 0.0]]


def test_ids_outside_of_the_vocabulary_are_ignored():
    """Indexing with an image placeholder's id would change the next row, or abort the device."""
    logits = random_logits(2, 4)
    processor = RepetitionPenalty(4)
    rows = [row(history=[4, -1, 2], repetition_penalty=2.0), row()]
    after = processor.apply(logits.clone(), processor.columns(rows))
    assert (after != logits).nonzero().tolist() == [[0, 2]]
    assert processor.columns([row(history=[4], repetition_penalty=2.0)]) is None

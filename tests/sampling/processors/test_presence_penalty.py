import torch
from sampling.rows import random_logits, row

from segue.sampling.processors.presence_penalty import PresencePenalty


def test_what_was_generated_loses_it_once_and_the_prompt_nothing():
    logits = random_logits(3, 6)
    rows = [
        row(history=[1, 2, 3, 3, 4], num_prompt_tokens=2, presence_penalty=0.5),
        row(history=[5, 5], presence_penalty=0.0),
        row(history=[0, 1, 0], num_prompt_tokens=1, presence_penalty=-1.0),
    ]
    loss = torch.tensor([[0, 0, 0, 0.5, 0.5, 0], [0] * 6, [-1.0, -1.0, 0, 0, 0, 0]])
    processor = PresencePenalty(6)
    after = processor.apply(logits.clone(), processor.columns(rows))
    torch.testing.assert_close(after, logits - loss, rtol=0, atol=1e-6)
    assert torch.equal(after[1], logits[1])


def test_nothing_to_do_before_the_first_token_and_for_ids_outside():
    processor = PresencePenalty(4)
    assert processor.columns([row(history=[1, 2], num_prompt_tokens=2, presence_penalty=1.0)]) is None
    assert processor.columns([row(history=[1, -1, 9], num_prompt_tokens=1, presence_penalty=1.0)]) is None

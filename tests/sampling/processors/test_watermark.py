import pytest
import torch
from sampling.rows import random_logits, row

from segue.sampling.processors.watermark import Watermark


@pytest.mark.parametrize(("vocab_size", "gamma", "num_green"), [(33, 0.5, 16), (10, 0.25, 2), (7, 0.0, 0)])
def test_green_ids_gain_delta(vocab_size, gamma, num_green):
    logits = random_logits(2, vocab_size)
    processor = Watermark(vocab_size, gamma=gamma, delta=2.5)
    histories = [[1, 5], [9, 8, 6]]
    after = processor.apply(logits.clone(), processor.columns([row(h, watermark=True) for h in histories]))
    for i, history in enumerate(histories):
        order = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(15485863 * history[-1]))
        expected = logits[i].clone()
        expected[order[:num_green]] += 2.5
        assert (after[i] != logits[i]).sum() == num_green
        torch.testing.assert_close(after[i], expected, rtol=0, atol=0)


def test_only_the_last_token_matters():
    processor = Watermark(101, gamma=0.5, delta=1.0)
    green = processor.columns(
        [row([1, 2, 9], watermark=True), row([9], watermark=True), row([8], watermark=True)]
    ).is_green
    assert torch.equal(green[0], green[1])
    assert not torch.equal(green[0], green[2])


def test_the_green_list_of_one_id_never_changes():
    """A detector recomputes it: a change of seed, generator or permutation would blind every detector."""
    green = Watermark(20, gamma=0.5, delta=1.0).columns([row([7], watermark=True)]).is_green
    assert green[0].nonzero().squeeze(-1).tolist() == [1, 5, 6, 7, 8, 9, 12, 17, 18, 19]

import pytest
import torch

from segue.sampling.processors.prefix import ascending, ascending_ids, boundary


def plain(scores, weights, target):
    """(score, number of ids with that score needed) by walking one row."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    done = 0
    for place, i in enumerate(order):
        done += weights[i]
        if done >= target:
            return scores[i], sum(scores[j] == scores[i] for j in order[: place + 1])
    raise AssertionError("the weights do not reach the target")


def problem(num_rows, vocab_size, num_values):
    """Integer scores, so that many tie; ids with the same score have the same weight."""
    generator = torch.Generator().manual_seed(vocab_size * 31 + num_values)
    scores = torch.randint(num_values, (num_rows, vocab_size), generator=generator).float()
    weights = (1000 - 10 * scores).clamp(min=1).long()
    share = torch.rand(num_rows, 1, generator=generator, dtype=torch.float64)
    return scores, weights, (weights.sum(-1, keepdim=True) * share).ceil().long()


@pytest.mark.parametrize("num_values", [1, 3, 50, 100000])
@pytest.mark.parametrize("vocab_size", [1, 7, 301, 2003])
def test_equals_a_plain_walk(vocab_size, num_values):
    scores, weights, target = problem(8, vocab_size, num_values)
    ids = ascending_ids(scores)
    assert torch.equal(scores.gather(-1, ids), ascending(scores))
    found = boundary(ascending(scores), weights.gather(-1, ids), target)
    for i in range(8):
        expected = plain(scores[i].tolist(), weights[i].tolist(), int(target[i]))
        assert (found.score[i].item(), found.num_ties[i].item()) == expected, i


@pytest.mark.parametrize(("target", "num_ties"), [(11, 1), (16, 2), (21, 3), (30, 4)])
def test_a_row_that_ends_within_a_tie(target, num_ties):
    found = boundary(torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[10, 5, 5]]), torch.tensor([[target]]))
    assert (found.score.item(), found.num_ties.item()) == (1.0, num_ties)


def test_sorting_keeps_infinities_in_order_and_nan_last():
    scores = torch.tensor([[torch.inf, 1.0, -torch.inf, 0.0], [torch.nan, 1.0, 0.0, torch.inf]])
    assert ascending_ids(scores).tolist() == [[2, 3, 1, 0], [2, 1, 3, 0]]
    assert ascending(scores)[0].tolist() == [-torch.inf, 0.0, 1.0, torch.inf]
    assert ascending(scores)[1, :3].tolist() == [0.0, 1.0, torch.inf]

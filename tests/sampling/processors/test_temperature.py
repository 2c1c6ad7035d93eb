import pytest
import torch
from sampling.rows import random_logits, row

from segue.sampling.processors.temperature import Temperature


@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.3, 100.0])
def test_divides(temperature):
    logits = random_logits(2, 33)
    processor = Temperature()
    after = processor.apply(logits.clone(), processor.columns([row(temperature=temperature), row()]))
    assert torch.equal(after, torch.stack([logits[0] / temperature, logits[1]]))


@pytest.mark.parametrize("temperature", [1e-45, 1e-300])
def test_a_temperature_too_small_for_float32_stays_finite(temperature):
    """Division by a denormal gave inf for every positive logit, and NaN probabilities."""
    processor = Temperature()
    after = processor.apply(torch.tensor([[1.0, 30.0, -30.0]]), processor.columns([row(temperature=temperature)]))
    assert after.isfinite().all()
    assert after.softmax(-1).tolist() == [[0.0, 1.0, 0.0]]

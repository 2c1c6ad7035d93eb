import math

import pytest

from segue.sampling.random_numbers import uniform

GAMMA, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


class SplitMix64:
    """The generator with its state, as published."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + GAMMA) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)


def test_the_generator_above_gives_the_published_numbers():
    generator = SplitMix64(1234567)
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [generator.next() for _ in published] == published


@pytest.mark.parametrize("seed", [0, 1, 42, 2**63, 2**64 - 1])
def test_a_seed_starts_a_stream(seed):
    stream = SplitMix64(SplitMix64(seed).next())
    assert [uniform(seed, position) for position in range(50)] == [(stream.next() >> 11) / 2**53 for _ in range(50)]


def chi_square_deviation(values, num_bins):
    """Deviation from uniformity in standard deviations of the chi-square distribution."""
    counts = [0] * num_bins
    for value in values:
        counts[int(value * num_bins)] += 1
    expected = len(values) / num_bins
    chi_square = sum((count - expected) ** 2 / expected for count in counts)
    freedom = num_bins - 1
    return (chi_square - freedom) / math.sqrt(2 * freedom)


STREAMS = {
    "positions of one seed": [uniform(42, position) for position in range(20000)],
    "seeds in a row": [uniform(seed, 7) for seed in range(20000)],
    "seeds a gamma apart": [uniform(n * GAMMA, 7) for n in range(20000)],
    "seed and position together": [uniform(n, n) for n in range(20000)],
}


@pytest.mark.parametrize("values", STREAMS.values(), ids=STREAMS)
def test_uniform(values):
    assert all(0.0 <= value < 1.0 for value in values)
    assert abs(chi_square_deviation(values, 100)) < 4


@pytest.mark.parametrize("values", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("lag", [1, 2, 16])
def test_independent(values, lag):
    """Pairs fill the unit square evenly: the pair (i, j) of 16 x 16 cells becomes one number in [0, 1)."""
    pairs = [(int(a * 16) * 16 + b * 16) / 256 for a, b in zip(values, values[lag:], strict=False)]
    assert abs(chi_square_deviation(pairs, 256)) < 4


def test_seeds_do_not_share_numbers():
    """Without a hash of the seed, seeds a multiple of gamma apart would be one stream, shifted."""
    first = {uniform(5, position) for position in range(1000)}
    assert not first & {uniform(5 + 3 * GAMMA, position) for position in range(1000)}

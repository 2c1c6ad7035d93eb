import random
import struct

import numpy as np
import pytest

from segue.server.floats import round_to_f32, shortest_f32


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.6196289062500001, "-0.6196289"),
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (1 / 3, "0.33333334"),
        (16777216.0, "16777216.0"),
        (float("-inf"), "-inf"),
    ],
)
def test_known_values(value: float, text: str) -> None:
    assert repr(shortest_f32(value)) == text


def test_equals_numpys_shortest_form() -> None:
    draw = random.Random(0)
    values = [struct.unpack("f", draw.randbytes(4))[0] for _ in range(20_000)]
    values += [draw.uniform(-20, 0) for _ in range(20_000)]
    for value in values:
        if np.isfinite(value) and not 0 < abs(value) < np.finfo(np.float32).smallest_normal:
            assert shortest_f32(value) == float(str(np.float32(value))), value


def test_rounding_to_f32() -> None:
    assert round_to_f32(1e-320) == 0.0
    assert round_to_f32(0.1) == float(np.float32(0.1))

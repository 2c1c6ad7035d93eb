"""One uniform number per (seed, position): no generator, no state, nothing that a batch could change.

SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014; the output function is
Stafford's "Mix13"): the n-th number of a stream is a hash of ``start + n * gamma``, so it is computed directly.
The seed is hashed before it starts a stream; otherwise seeds that differ by a multiple of gamma would share numbers.
"""

__all__ = ["uniform"]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def uniform(seed: int, position: int) -> float:
    """In [0, 1), a multiple of 2**-53; ``seed`` counts modulo 2**64."""
    start = _mix(seed + _GAMMA)
    return (_mix(start + (position + 1) * _GAMMA) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)

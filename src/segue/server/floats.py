"""Numbers as TGI writes them: its floats are f32."""

from struct import Struct

__all__ = ["round_to_f32", "shortest_f32"]

_F32 = Struct("f")


def round_to_f32(value: float) -> float:
    """The f32 next to ``value``, which may be 0 where ``value`` is not."""
    exact: float = _F32.unpack(_F32.pack(value))[0]
    return exact


def shortest_f32(value: float) -> float:
    """The float whose ``repr`` is the shortest that reads back as the f32 next to ``value``: -0.6196289, not
    -0.6196289062. Non-finite values are returned unchanged; a subnormal may keep more digits than it needs.
    """
    packed = _F32.pack(value)
    exact: float = _F32.unpack(packed)[0]
    # 7 digits mostly do; 6 are always read back where they suffice, 9 always do.
    shortest = float(f"{exact:.7g}")
    if _F32.pack(shortest) == packed:
        shorter = float(f"{exact:.6g}")
        return shorter if _F32.pack(shorter) == packed else shortest
    shortest = float(f"{exact:.8g}")
    return shortest if _F32.pack(shortest) == packed else float(f"{exact:.9g}")

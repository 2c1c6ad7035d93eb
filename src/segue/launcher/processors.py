"""Which processors a process may use, where the engine computes on the same ones."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

__all__ = ["allowed_processors", "beside_engine", "use_processors"]


def allowed_processors() -> tuple[int, ...]:
    """Those of the calling thread, ascending; none where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if sys.platform == "linux" else ()


def use_processors(processors: Sequence[int]) -> None:
    """Have the calling thread, and those that it will start, run on these. None, or a refusal, changes nothing."""
    if sys.platform == "linux" and processors:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, processors)


@contextlib.contextmanager
def beside_engine() -> Iterator[None]:
    """Keep the calling thread off the first processor, which is that of the engine's own thread.

    The engine's team (``kernels/cpu/team.cpp``) has its workers on the last processors, idle between two steps: there a
    token can be sent while the engine's thread prepares the next step. On that thread's processor it held up both:
    opt-125m in int8 lost 9% at one stream there and 3% beside it.
    """
    before = allowed_processors()
    use_processors(before[1:])
    try:
        yield
    finally:
        use_processors(before)

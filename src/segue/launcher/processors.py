"""Whose processors are whose, where the engine has a thread for each.

All its threads but the one that runs its loop are bound to a processor. Between two steps that one alone is at work and
the others wait for it, and there it sends what wakes the server: which the kernel likes to run on the processor that it
is woken from. So servers leave the loop's processor alone (two cores, 16 streams: a message held the loop up for 0.45
ms, now 0.09; of opt-125m's rate HTTP took 5 %, now 2 %).
"""

import contextlib
import os

from segue.core.processors import allowed_processors

__all__ = ["keep_off"]


def keep_off(processor: int | None, num_processes: int) -> None:
    """Run on other processors, with all threads that there are and that they start.

    Does nothing where the others are too few for ``num_processes``, nor for ``None``.
    """
    others = [each for each in allowed_processors() if each != processor]
    if processor is None or len(others) < num_processes:
        return
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended, or the system refuses
            os.sched_setaffinity(int(thread), others)

"""Where the threads of the native kernels may run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segue.kernels import cpu

PROGRAM = """
import os, sys
from pathlib import Path
from segue.kernels.cpu import _native
from segue.runner.native_model import own_processor, use_threads

before = {task.name for task in Path("/proc/self/task").iterdir()}
use_threads(int(sys.argv[1]))
_native.measure_multiplications(False, 1)  # all workers take part: each has begun, and bound itself first
workers = [task for task in Path("/proc/self/task").iterdir() if task.name not in before]
print(*sorted(",".join(map(str, sorted(os.sched_getaffinity(int(worker.name))))) for worker in workers))
print(len(os.sched_getaffinity(0)))
print(own_processor())
"""

pytestmark = pytest.mark.skipif(
    not cpu.is_available() or not Path("/proc/self/task").is_dir(), reason="no native kernels, or no /proc"
)


def workers(count: int) -> tuple[list[set[int]], int, str]:
    """The processors that each worker of ``count`` threads may use, how many the calling thread may, and its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(count)], capture_output=True, text=True, check=True)
    first, second, own = done.stdout.splitlines()
    return [set(map(int, each.split(","))) for each in first.split()], int(second), own


def test_as_many_threads_as_processors_are_bound_to_one_each() -> None:
    processors = os.sched_getaffinity(0)
    bound, free, own = workers(len(processors))
    assert free == len(processors), "the calling thread is not bound: others are started from it"
    assert len(bound) == len(processors) - 1
    assert all(len(each) == 1 for each in bound)
    assert len(set.union(set(), *bound)) == len(bound), "no two on one processor"
    if bound:
        assert {int(own)} == processors - set.union(*bound)


def test_fewer_threads_are_not_bound() -> None:
    processors = os.sched_getaffinity(0)
    if len(processors) < 3:
        pytest.skip("needs three processors")
    bound, _, own = workers(len(processors) - 1)
    assert all(each == processors for each in bound)
    assert own == "None"

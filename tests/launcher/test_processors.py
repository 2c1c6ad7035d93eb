"""Which processors the threads of a server may use. Each in a process of its own, whose threads it changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segue.core.processors import allowed_processors

PROGRAM = """
import json, os, sys, threading
from segue.core.processors import allowed_processors
from segue.launcher.processors import keep_off

def affinities():
    return [sorted(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")]

end = threading.Event()
threading.Thread(target=end.wait, daemon=True).start()
keep_off(*json.loads(sys.argv[1]))
threading.Thread(target=end.wait, daemon=True).start()
print(json.dumps([allowed_processors(), affinities()]))
end.set()
"""

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or not Path("/proc/self/task").is_dir(), reason="Linux only"
)


def after(processor: int | None, num_processes: int) -> tuple[list[int], list[list[int]]]:
    """What the main thread may use, and what each thread may: one from before, one from after."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([processor, num_processes])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    allowed, threads = json.loads(done.stdout)
    assert len(threads) == 3
    return allowed, threads


def test_all_threads_keep_off() -> None:
    first, *others = allowed_processors()
    if not others:
        pytest.skip("needs two processors")
    assert after(first, 1) == (others, [others] * 3)


@pytest.mark.parametrize("case", ["none", "not of this process", "too few others"])
def test_else_nothing_changes(case: str) -> None:
    processors = allowed_processors()
    given = {
        "none": (None, 1),
        "not of this process": (max(processors) + 1, 1),
        "too few others": (processors[0], len(processors)),
    }
    assert after(*given[case]) == (processors, [processors] * 3)

"""Which processors the API process and the engine use."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from segue.launcher.processors import allowed_processors, beside_engine, use_processors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which processors there are")


def in_thread(*steps: object) -> list[object]:
    """The processors of a thread of its own after each step, so that no other test is moved."""

    def run() -> list[object]:
        return [step() if callable(step) else step for step in steps]

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def test_beside_the_engine_is_not_on_its_first_processor() -> None:
    allowed = allowed_processors()

    def inside() -> tuple[int, ...]:
        with beside_engine():
            return allowed_processors()

    assert in_thread(inside, allowed_processors) == [allowed[1:] or allowed, allowed]


def test_what_is_refused_changes_nothing() -> None:
    allowed = allowed_processors()
    for processors in ((), (max(os.sched_getaffinity(0)) + 4096,)):
        assert in_thread(lambda each=processors: use_processors(each), allowed_processors)[1] == allowed


def test_a_thread_keeps_to_what_it_is_told() -> None:
    last = allowed_processors()[-1:]
    assert in_thread(lambda: use_processors(last), allowed_processors)[1] == last

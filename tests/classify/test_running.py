import asyncio
import threading

import pytest

from segue.classify.running import run_to_end


async def _where() -> tuple[int, int]:
    await asyncio.sleep(0)
    return threading.get_ident(), id(asyncio.get_running_loop())


def test_without_a_loop_it_runs_here() -> None:
    thread, _ = run_to_end(_where)
    assert thread == threading.get_ident()


async def test_inside_a_loop_it_runs_in_a_thread_of_its_own() -> None:
    thread, loop = run_to_end(_where)
    assert thread != threading.get_ident()
    assert loop != id(asyncio.get_running_loop())


async def test_errors_come_through() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        run_to_end(fail)


async def test_an_interrupt_cancels_and_waits_for_the_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    running, cleaned = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    def interrupted(self: object) -> None:
        assert running.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", _first_then_real(interrupted))
    with pytest.raises(KeyboardInterrupt):
        run_to_end(wait_for_ever)
    assert cleaned.is_set()


def _first_then_real(first: object) -> object:
    """``Future.result`` whose first call is interrupted, as by Ctrl-C."""
    from concurrent.futures import Future

    real, calls = Future.result, []

    def result(self: Future[object], timeout: float | None = None) -> object:
        calls.append(1)
        return first(self) if len(calls) == 1 else real(self, timeout)

    return result

"""The line as a state machine: no thread, no clock."""

import asyncio
import gc
import random
import threading

import pytest

from segue.client.limiter import Guard, Limiter, LineFull, LoopSignal, Place, PlaceState, ThreadSignal


class FakeSignal:
    def __init__(self, is_alive: bool = True) -> None:
        self.num_sets = 0
        self.is_alive = is_alive

    def set(self) -> bool:
        self.num_sets += 1
        return self.is_alive


def join(limiter: Limiter, number: int, *, priority: int = 0, now: float = 0.0, is_alive: bool = True) -> Place:
    place = Place(priority, number)
    limiter.join(place, lambda: FakeSignal(is_alive), now)
    return place


def running(places: list[Place]) -> list[int]:
    return [place.number for place in places if place.state is PlaceState.RUNNING]


def test_slots_go_in_order_of_arrival() -> None:
    limiter = Limiter(2, 10)
    places = [join(limiter, n) for n in range(5)]
    assert running(places) == [0, 1]
    limiter.leave(places[1], 0)
    assert running(places) == [0, 2]
    limiter.leave(places[0], 0)
    limiter.leave(places[2], 0)
    assert running(places) == [3, 4]


def test_a_newcomer_does_not_pass_the_line() -> None:
    limiter = Limiter(1, 10)
    places = [join(limiter, n) for n in range(2)]
    limiter.max_concurrent = 2  # a slot more, but nobody has dispatched yet
    places.append(join(limiter, 2))
    limiter.dispatch(0)
    assert running(places) == [0, 1]


def test_priority_first_then_arrival() -> None:
    limiter = Limiter(1, 10)
    first = join(limiter, 0)
    places = [join(limiter, n, priority=p) for n, p in ((1, 1), (2, 0), (3, 1), (4, 0), (5, -1))]
    order = []
    limiter.leave(first, 0)
    while current := running(places):
        order += current
        limiter.leave(places[current[0] - 1], 0)
    assert order == [5, 2, 4, 1, 3]


def test_a_full_line_refuses_and_holds_nothing() -> None:
    limiter = Limiter(1, 2)
    places = [join(limiter, n) for n in range(3)]
    with pytest.raises(LineFull):
        join(limiter, 3)
    assert (limiter.running, limiter.waiting) == (1, 2)
    limiter.leave(places[2], 0)
    assert join(limiter, 4).state is PlaceState.WAITING


def test_who_steps_aside_keeps_the_place_of_arrival_even_in_a_full_line() -> None:
    limiter = Limiter(1, 2)
    places = [join(limiter, n) for n in range(2)]
    limiter.step_aside(places[0], 0)
    assert running(places) == [1]
    places.append(join(limiter, 2))
    with pytest.raises(LineFull):
        join(limiter, 3)  # 0 is away but will come back
    limiter.join(places[0], FakeSignal, 0)
    limiter.leave(places[1], 0)
    assert running(places) == [0]


def test_leaving_twice_is_leaving_once() -> None:
    limiter = Limiter(1, 10)
    place = join(limiter, 0)
    limiter.leave(place, 0)
    limiter.leave(place, 0)
    assert limiter.running == 0


def test_a_pause_stops_the_line_and_the_head_is_told() -> None:
    limiter = Limiter(2, 10)
    first = join(limiter, 0)
    limiter.pause(5.0, 0.0)
    places = [join(limiter, n) for n in (1, 2)]
    assert running(places) == []
    assert places[0].signal.num_sets > 0  # type: ignore[union-attr]
    assert limiter.check_in_s(1.0) == 4.0
    limiter.leave(places[0], 1.0)
    assert places[1].signal.num_sets > 0, "the new head must set its own alarm"  # type: ignore[union-attr]
    limiter.leave(first, 2.0)
    assert running(places) == []
    limiter.dispatch(5.0)
    assert running(places) == [2]
    assert limiter.check_in_s(5.0) is None


def test_a_waiter_whose_loop_is_closed_is_passed_over() -> None:
    limiter = Limiter(1, 10)
    first = join(limiter, 0)
    dead = join(limiter, 1, is_alive=False)
    alive = join(limiter, 2)
    limiter.leave(first, 0)
    assert dead.state is PlaceState.GONE
    assert alive.state is PlaceState.RUNNING
    assert (limiter.running, limiter.waiting) == (1, 0)


def test_random_walk_keeps_the_counts() -> None:
    """Seeded: join, leave, step aside, return, pause in any order; after each, slots and counts agree."""
    rng = random.Random(7)
    limiter = Limiter(3, 40)
    places: list[Place] = []
    now = 0.0
    for number in range(5000):
        now += rng.random()
        match rng.randrange(6):
            case 0 | 1:
                try:
                    places.append(join(limiter, number, now=now))
                except LineFull:
                    assert limiter.waiting + limiter.away >= 40
            case 2 | 3 if places:
                limiter.leave(places.pop(rng.randrange(len(places))), now)
            case 4:
                for place in places:
                    if place.state is PlaceState.RUNNING:
                        limiter.step_aside(place, now)
                        break
                for place in places:
                    if place.state is PlaceState.AWAY and rng.random() < 0.5:
                        limiter.join(place, FakeSignal, now)
            case 5 if rng.random() < 0.1:
                limiter.pause(now + 3, now)
        limiter.dispatch(now)
        states = [place.state for place in places]
        assert limiter.running == states.count(PlaceState.RUNNING) <= 3
        assert limiter.waiting == states.count(PlaceState.WAITING)
        assert limiter.away == states.count(PlaceState.AWAY)
        if now >= limiter.paused_until and limiter.running < 3:
            assert limiter.waiting == 0
    assert len(limiter._line) <= max(64, 2 * limiter.waiting)


def test_thread_signal_is_sticky_and_clears() -> None:
    signal = ThreadSignal()
    signal.set()
    signal.wait(None)
    signal.wait(0.001)  # cleared: returns by its limit


async def test_loop_signal_is_set_from_another_thread() -> None:
    signal = LoopSignal()
    thread = threading.Thread(target=signal.set)
    thread.start()
    await asyncio.wait_for(signal.wait(None), 5)
    thread.join()


def test_loop_signal_of_a_closed_loop() -> None:
    async def make() -> LoopSignal:
        return LoopSignal()

    assert asyncio.run(make()).set() is False


def test_a_finalizer_inside_the_guard_neither_blocks_nor_enters() -> None:
    """With a plain lock this test hangs: the finalizer runs on the thread that holds the lock."""
    guard = Guard()
    log: list[str] = []

    class Finalized:
        def __del__(self) -> None:
            guard.defer(lambda: log.append("deferred"))

    with guard:
        cycle = [Finalized()]
        cycle.append(cycle)  # type: ignore[arg-type]
        del cycle
        gc.collect()
        log.append("inside")
    assert log == ["inside", "deferred"]


def test_deferred_work_runs_at_once_outside_the_guard() -> None:
    guard = Guard()
    log: list[int] = []
    guard.defer(lambda: log.append(1))
    assert log == [1]

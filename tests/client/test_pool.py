from collections import Counter

import pytest

from segue.client import APIConnectionError, BreakerPolicy, CircuitOpenError, Endpoint, EndpointPool, QueueFullError
from segue.client.endpoint import Visit
from segue.client.limiter import ThreadSignal


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def endpoint(id: str, **settings: object) -> Endpoint:
    return Endpoint(f"http://{id}", id=id, **settings)  # type: ignore[arg-type]


def enter(pool: EndpointPool, **how: object) -> Visit:
    return pool.enter(pool.arrival_number(), ThreadSignal, **how)  # type: ignore[arg-type]


def visited(pool: EndpointPool, num: int) -> str:
    """Ids of the endpoints of ``num`` requests, one after the other."""
    ids = []
    for _ in range(num):
        visit = enter(pool)
        ids.append(visit.state.id)
        visit.succeed(None)
    return "".join(ids)


def take_down(pool: EndpointPool, id: str) -> None:
    pool.state(id).mark_health(False)


def test_round_robin() -> None:
    assert visited(EndpointPool(map(endpoint, "abc"), "round_robin"), 7) == "abcabca"


def test_round_robin_goes_on_after_an_endpoint_that_is_down() -> None:
    pool = EndpointPool(map(endpoint, "abc"), "round-robin")
    assert visited(pool, 1) == "a"
    take_down(pool, "b")
    assert visited(pool, 4) == "caca"


def test_weighted_is_smooth() -> None:
    pool = EndpointPool([endpoint("a", weight=5), endpoint("b"), endpoint("c")], "weighted")
    assert visited(pool, 14) == "aabacaa" * 2


def test_least_loaded_counts_who_is_there_in_proportion_to_the_weight() -> None:
    pool = EndpointPool([endpoint("a", weight=2), endpoint("b")], "least_loaded")
    there = [enter(pool) for _ in range(6)]
    assert Counter(visit.state.id for visit in there) == {"a": 4, "b": 2}
    for visit in there:
        if visit.state.id == "a":
            visit.succeed(None)
    assert enter(pool).state.id == "a"


def test_least_loaded_takes_turns_when_idle() -> None:
    assert visited(EndpointPool(map(endpoint, "ab")), 4) == "abab"


def test_lru_prefers_who_waited_longest() -> None:
    pool = EndpointPool(map(endpoint, "abc"), "lru")
    assert visited(pool, 3) == "abc"
    enter(pool, pinned="a").succeed(None)
    assert visited(pool, 2) == "ab"


def test_first_leaves_the_spares_alone() -> None:
    pool = EndpointPool(map(endpoint, "ab"), "first")
    assert visited(pool, 3) == "aaa"
    take_down(pool, "a")
    assert visited(pool, 2) == "bb"


def test_random_reaches_all() -> None:
    counts = Counter(visited(EndpointPool(map(endpoint, "abc"), "random"), 300))
    assert set(counts) == {"a", "b", "c"}
    assert min(counts.values()) > 50


@pytest.mark.parametrize("strategy", ["round_robin", "weighted", "random", "least_loaded"])
def test_a_session_stays_and_only_moves_when_its_endpoint_goes(strategy: str) -> None:
    pool = EndpointPool(map(endpoint, "abcd"), strategy)
    sessions = [f"user-{n}" for n in range(40)]

    def homes() -> dict[str, str]:
        found = {}
        for session in sessions:
            visit = enter(pool, session=session)
            found[session] = visit.state.id
            visit.succeed(None)
        return found

    before = homes()
    assert homes() == before
    assert len(set(before.values())) == 4
    take_down(pool, "c")
    after = homes()
    assert {s for s in sessions if before[s] != after[s]} == {s for s in sessions if before[s] == "c"}


def test_a_full_endpoint_sends_to_the_next_and_all_full_raises() -> None:
    pool = EndpointPool([endpoint(id, max_concurrent=1, queue_size=1) for id in "ab"], "first")
    assert [enter(pool).state.id for _ in range(4)] == ["a", "a", "b", "b"]
    with pytest.raises(QueueFullError, match=r"Request queue is full \(1 items\). Try again later."):
        enter(pool)
    stats = pool.stats()
    assert stats.queue_rejected == 1
    assert stats.total_requests == 5
    assert stats.failed_requests == 1


def test_queue_disabled_means_no_waiting() -> None:
    pool = EndpointPool([endpoint("a", max_concurrent=1, queue_enabled=False)])
    enter(pool)
    with pytest.raises(QueueFullError):
        enter(pool)


def test_paused_endpoints_come_last() -> None:
    clock = Clock()
    pool = EndpointPool(map(endpoint, "ab"), "first", clock=clock)
    visit = enter(pool)
    assert visit.poll()[0]
    visit.end_attempt(APIConnectionError("refused"), pause_s=5)
    assert visited(pool, 1) == "b"
    clock.now += 5
    assert visited(pool, 1) == "a"


def test_all_down_says_when_the_next_is_tried() -> None:
    clock = Clock()
    pool = EndpointPool(
        [endpoint("a", breaker=BreakerPolicy(cooldown_s=30)), endpoint("b", breaker=BreakerPolicy(cooldown_s=10))],
        clock=clock,
    )
    take_down(pool, "a")
    take_down(pool, "b")
    clock.now += 4
    with pytest.raises(CircuitOpenError) as caught:
        enter(pool)
    assert caught.value.retry_in_s == 6
    assert caught.value.endpoint == "b"


def test_pinned_is_the_only_candidate() -> None:
    pool = EndpointPool(map(endpoint, "ab"))
    assert {enter(pool, pinned="b").state.id for _ in range(4)} == {"b"}
    take_down(pool, "b")
    with pytest.raises(CircuitOpenError):
        enter(pool, pinned="b")


@pytest.mark.parametrize("call", ["get", "state", "endpoint_stats", "reset_stats", "remove", "update"])
def test_unknown_ids_raise_everywhere(call: str) -> None:
    """Upstream's get_stats answered for an unknown id with the global numbers."""
    with pytest.raises(KeyError, match="no endpoint 'x'; there are: a"):
        getattr(EndpointPool([endpoint("a")]), call)("x")


def test_ids() -> None:
    pool = EndpointPool(["http://h:1", "http://h:1", Endpoint("http://user:secret@h:1")])
    assert pool.ids == ["h:1", "h:1#2", "h:1#3"]
    assert pool.add(endpoint("named")) == "named"
    with pytest.raises(ValueError, match="there is an endpoint 'named' already"):
        pool.add(endpoint("named"))


def test_settings_change_under_way() -> None:
    pool = EndpointPool([endpoint("a", max_concurrent=1)])
    first, second = enter(pool), enter(pool)
    assert [visit.poll()[0] for visit in (first, second)] == [True, False]
    pool.update("a", max_concurrent=2)
    assert second.poll()[0]
    with pytest.raises(TypeError):
        pool.update("a", no_such_setting=1)
    with pytest.raises(TypeError, match="keeps its id"):
        pool.update("a", id="b")


def test_a_removed_endpoint_ends_its_requests_but_gets_no_more() -> None:
    pool = EndpointPool(map(endpoint, "ab"), "first")
    visit = enter(pool)
    pool.remove("a")
    assert visited(pool, 1) == "b"
    visit.succeed(None)
    assert "a" not in pool
    assert len(pool) == 1


def test_strategies_are_known_by_name() -> None:
    with pytest.raises(ValueError, match="strategy must be one of least_loaded, "):
        EndpointPool([], "fastest")


@pytest.mark.parametrize(
    "settings",
    [{"url": "localhost:80"}, {"url": "ftp://h"}, {"max_concurrent": 0}, {"queue_size": -1}, {"weight": 0}],
)
def test_impossible_endpoints(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        Endpoint(**{"url": "http://h", **settings})  # type: ignore[arg-type]


def test_18_an_endpoint_shows_no_secret() -> None:
    shown = Endpoint("http://user:sesame@h:1/p?key=sesame", api_key="sesame", headers={"x-api-key": "sesame"})
    assert "sesame" not in repr(shown)
    assert "sesame" not in repr(EndpointPool([shown]))
    assert "http://h:1/p" in repr(shown)

from segue.client.breaker import BreakerPolicy, BreakerState, CircuitBreaker

POLICY = BreakerPolicy(failure_threshold=3, cooldown_s=30)


def opened_at(now: float) -> CircuitBreaker:
    breaker = CircuitBreaker(POLICY)
    for _ in range(3):
        breaker.fail(object(), now)
    return breaker


def test_opens_after_faults_in_a_row() -> None:
    breaker = CircuitBreaker(POLICY)
    for outcome in "ffsff":
        if outcome == "s":
            breaker.succeed(object())
        else:
            breaker.fail(object(), 0)
    assert breaker.state(0) is BreakerState.CLOSED
    breaker.fail(object(), 0)
    assert breaker.state(0) is BreakerState.OPEN
    assert not breaker.would_admit(29.9)
    assert breaker.retry_in_s(10) == 20


def test_admits_one_probe_and_only_its_verdict_counts() -> None:
    breaker = opened_at(0)
    probe, other, old = object(), object(), object()
    assert breaker.state(30) is BreakerState.HALF_OPEN
    assert breaker.admit(probe, 30)
    assert not breaker.admit(other, 30)
    breaker.succeed(old)
    breaker.fail(old, 31)
    assert breaker.state(31) is BreakerState.HALF_OPEN
    assert not breaker.admit(other, 1000)
    breaker.succeed(probe)
    assert breaker.state(31) is BreakerState.CLOSED
    assert breaker.admit(other, 31)


def test_a_failed_probe_opens_it_anew() -> None:
    breaker = opened_at(0)
    probe = object()
    assert breaker.admit(probe, 30)
    breaker.fail(probe, 35)
    assert breaker.state(64) is BreakerState.OPEN
    assert breaker.state(65) is BreakerState.HALF_OPEN


def test_a_probe_that_was_cancelled_makes_room_for_the_next() -> None:
    breaker = opened_at(0)
    probe, following = object(), object()
    assert breaker.admit(probe, 30)
    breaker.drop(probe)
    assert breaker.admit(following, 30)


def test_closing_forgets_the_faults() -> None:
    breaker = opened_at(0)
    breaker.close()
    breaker.fail(object(), 1)
    assert breaker.state(1) is BreakerState.CLOSED


def test_can_be_switched_off() -> None:
    breaker = CircuitBreaker(BreakerPolicy(failure_threshold=None))
    for _ in range(100):
        breaker.fail(object(), 0)
    assert breaker.state(0) is BreakerState.CLOSED

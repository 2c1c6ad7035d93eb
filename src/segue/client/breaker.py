"""Circuit breaker: an endpoint that fails again and again is left alone for a while."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["BreakerPolicy", "BreakerState", "CircuitBreaker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """``failure_threshold=None`` switches the breaker off."""

    failure_threshold: int | None = 5
    """Server faults in a row (connection, timeout, 5xx) that open the circuit."""
    cooldown_s: float = 30.0
    """How long it stays open before one request may probe."""

    def __post_init__(self) -> None:
        if self.failure_threshold is not None and self.failure_threshold < 1:
            raise ValueError(f"failure_threshold must be >= 1 or None. Given: {self.failure_threshold}")


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """closed → open after ``failure_threshold`` faults in a row → half open after ``cooldown_s`` → closed or open.

    Half open admits exactly one attempt, the probe, and waits for its verdict. Verdicts of other attempts, which began
    before the circuit opened, do not count then. No lock and no clock: the endpoint has both.
    """

    __slots__ = ("_failures", "_opened_at", "_probe", "policy")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self._failures = 0
        self._opened_at: float | None = None
        self._probe: object | None = None  # the attempt that probes

    def state(self, now: float) -> BreakerState:
        if self._opened_at is None:
            return BreakerState.CLOSED
        if self._probe is not None or now >= self._opened_at + self.policy.cooldown_s:
            return BreakerState.HALF_OPEN
        return BreakerState.OPEN

    def would_admit(self, now: float) -> bool:
        state = self.state(now)
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and self._probe is None)

    def retry_in_s(self, now: float) -> float:
        """Seconds until a request has a chance again; 0 while a probe is under way."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self.policy.cooldown_s - now)

    def admit(self, attempt: object, now: float) -> bool:
        if not self.would_admit(now):
            return False
        if self._opened_at is not None:
            self._probe = attempt
        return True

    def succeed(self, attempt: object) -> None:
        """The server answered ``attempt``: with anything but a 5xx."""
        if self._opened_at is None or attempt is self._probe:
            self.close()

    def fail(self, attempt: object, now: float) -> None:
        if attempt is self._probe:
            self.open(now)
        elif self._opened_at is None:
            self._failures += 1
            if self.policy.failure_threshold is not None and self._failures >= self.policy.failure_threshold:
                self.open(now)

    def drop(self, attempt: object) -> None:
        """``attempt`` ended without a verdict: cancelled. The next one may probe."""
        if attempt is self._probe:
            self._probe = None

    def open(self, now: float) -> None:
        self._opened_at, self._probe = now, None

    def close(self) -> None:
        self._opened_at, self._probe, self._failures = None, None, 0

"""When to try again, and after how long. Pure: the flow sleeps, this decides."""

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

import httpx

from segue.client.errors import APIConnectionError, APIStatusError, APITimeoutError, TGIError

__all__ = ["RetryPolicy", "parse_retry_after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff that the server's ``Retry-After`` overrides.

    Generation is safe to repeat as long as nothing has reached the caller, so read timeouts are retried too;
    ``on_timeouts=False`` opts out. Delays are in seconds.
    """

    max_retries: int = 2
    initial_delay: float = 0.5
    factor: float = 2.0
    max_delay: float = 8.0
    jitter: float = 0.25
    """A delay is shortened by up to this share, so that callers who failed together do not come back together."""
    max_retry_after: float = 120.0
    """A server that asks for more is not waited for: the error is raised at once."""
    statuses: frozenset[int] = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
    once_statuses: frozenset[int] = frozenset({424})
    """Retried once, whatever ``max_retries``: a generation that failed again is not bad luck."""
    on_connection_errors: bool = True
    on_timeouts: bool = True

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise ValueError(f"max_retries must be >= 0. Given: {self.max_retries}")
        if self.initial_delay < 0 or self.max_delay < 0 or self.max_retry_after < 0:
            raise ValueError("delays must be >= 0")
        if self.factor < 1:
            raise ValueError(f"factor must be >= 1. Given: {self.factor}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be between 0 and 1. Given: {self.jitter}")

    @classmethod
    def ipfs(cls) -> Self:
        """The settings of the ``hf_tgi`` backend: five retries after 1, 2, 4, 8 and 16 seconds."""
        return cls(max_retries=5, initial_delay=1.0, factor=2.0, max_delay=16.0, jitter=0.0)

    def with_max_retries(self, max_retries: int) -> Self:
        return replace(self, max_retries=max_retries)

    def wants(self, error: TGIError, retries: int) -> bool:
        """Whether an attempt that failed with ``error`` is repeated, ``retries`` repetitions having been made."""
        if retries >= self.max_retries:
            return False
        if isinstance(error, APITimeoutError):
            return self.on_timeouts and error.phase != "deadline"
        if isinstance(error, APIConnectionError):
            return self.on_connection_errors
        if isinstance(error, APIStatusError):
            return error.status_code in self.statuses or (error.status_code in self.once_statuses and retries == 0)
        return False

    def delay(self, error: TGIError, retries: int) -> float:
        """Seconds to wait before repetition number ``retries + 1``."""
        if isinstance(error, APIStatusError) and error.retry_after_s:
            return error.retry_after_s
        full = min(self.initial_delay * self.factor**retries, self.max_delay)
        return full * (1 - random.uniform(0, self.jitter))  # noqa: S311


def parse_retry_after(headers: httpx.Headers, now: datetime | None = None) -> float | None:
    """Seconds the server asks to wait: ``retry-after-ms``, or ``Retry-After`` in seconds or as a date.

    None if absent, unreadable, or not in the future. A date is compared with the response's own ``Date``
    where it has one, so that a wrong clock on either side does not matter.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return seconds if 0 < seconds < float("inf") else None
    try:
        until = _date(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    try:
        now = now or _date(headers["date"])
    except (KeyError, ValueError):
        now = datetime.now(UTC)
    seconds = (until - now).total_seconds()
    return seconds if seconds > 0 else None


def _date(text: str) -> datetime:
    date = parsedate_to_datetime(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)

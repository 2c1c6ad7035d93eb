import statistics
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from segue.client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    CircuitOpenError,
    QueueFullError,
    RetryPolicy,
)
from segue.client.errors import TGIError
from segue.client.retry import parse_retry_after
from segue.client.types import ResponseMetadata


def status_error(status: int, retry_after_s: float | None = None) -> APIStatusError:
    response = ResponseMetadata(status, {}, "id", 0.0, 1, "e")
    return APIStatusError("failed", status_code=status, response=response, retry_after_s=retry_after_s)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_statuses_that_are_retried(status: int) -> None:
    assert RetryPolicy(max_retries=2).wants(status_error(status), 1)
    assert not RetryPolicy(max_retries=2).wants(status_error(status), 2)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422, 501])
def test_statuses_that_are_not(status: int) -> None:
    assert not RetryPolicy().wants(status_error(status), 0)


def test_a_failed_generation_is_retried_once() -> None:
    policy = RetryPolicy(max_retries=5)
    assert policy.wants(status_error(424), 0)
    assert not policy.wants(status_error(424), 1)


@pytest.mark.parametrize(
    ("error", "policy", "wanted"),
    [
        (APIConnectionError("refused"), RetryPolicy(), True),
        (APIConnectionError("refused"), RetryPolicy(on_connection_errors=False), False),
        (APITimeoutError("slow", phase="read"), RetryPolicy(), True),
        (APITimeoutError("slow", phase="read"), RetryPolicy(on_timeouts=False), False),
        (APITimeoutError("over", phase="deadline"), RetryPolicy(), False),
        (QueueFullError("full"), RetryPolicy(), False),
        (CircuitOpenError("open", retry_in_s=1), RetryPolicy(), False),
    ],
)
def test_errors_without_a_status(error: TGIError, policy: RetryPolicy, wanted: bool) -> None:
    assert policy.wants(error, 0) is wanted


def test_backoff_doubles_up_to_the_cap() -> None:
    policy = RetryPolicy.ipfs()
    assert [policy.delay(status_error(503), n) for n in range(7)] == [1, 2, 4, 8, 16, 16, 16]
    assert [policy.wants(status_error(503), n) for n in range(6)] == [True] * 5 + [False]


def test_jitter_only_shortens_and_spreads() -> None:
    policy = RetryPolicy(initial_delay=1.0, jitter=0.25)
    delays = [policy.delay(status_error(503), 0) for _ in range(500)]
    assert 0.75 <= min(delays) < 0.80
    assert 0.95 < max(delays) <= 1.0
    assert statistics.pstdev(delays) > 0.05


def test_the_servers_wish_comes_first_and_exactly() -> None:
    assert RetryPolicy(jitter=0.5).delay(status_error(429, 2.0), 3) == 2.0


@pytest.mark.parametrize(
    "settings",
    [{"max_retries": -1}, {"initial_delay": -1.0}, {"factor": 0.5}, {"jitter": 1.5}, {"max_retry_after": -1.0}],
)
def test_impossible_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        RetryPolicy(**settings)  # type: ignore[arg-type]


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=7), usegmt=True)}, 7.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=7), usegmt=True)}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(httpx.Headers(headers), NOW) == seconds


def test_a_date_is_measured_by_the_servers_clock() -> None:
    """A client whose clock is an hour off would wait an hour, or not at all."""
    there = datetime.now(UTC) - timedelta(hours=1)
    dates = {"date": format_datetime(there, usegmt=True), "retry-after": format_datetime(there + timedelta(seconds=3))}
    assert parse_retry_after(httpx.Headers(dates)) == 3.0

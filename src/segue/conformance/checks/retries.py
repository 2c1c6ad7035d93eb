"""When a call is repeated, and after how long. Times are those of the proxy, between arrivals."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from segue.client import (
    APIConnectionError,
    AuthenticationError,
    NotFoundError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    ValidationError,
)
from segue.conformance.check import collect, expect
from segue.conformance.faults import Answer, Disconnect
from segue.conformance.lab import Lab, fails_with

__all__ = ["CHECKS"]

SLACK_S = 15.0
"""A busy machine may be so late; nobody is ever early."""


async def max_retries(lab: Lab) -> None:
    """So many repetitions, and no more."""
    for limit in (0, 2):
        begin = len(lab.proxy.generations)
        lab.proxy.inject(*[Answer(503)] * (limit + 1))
        async with lab.client(retry=RetryPolicy(max_retries=limit, initial_delay=0.01)) as client:
            with fails_with(ServerError) as caught:
                await client.generate(lab.prompt, max_new_tokens=1)
        attempts = len(lab.proxy.generations) - begin
        expect(attempts == limit + 1, f"max_retries={limit}: {attempts} attempts arrived")
        expect(caught[0].attempts == attempts, f"the error says {caught[0].attempts} attempts, {attempts} arrived")


async def initial_retry_delay(lab: Lab) -> None:
    """The first repetition comes after the delay that the policy says."""
    lab.proxy.inject(Answer(503))
    async with lab.client(retry=RetryPolicy(initial_delay=0.3, jitter=0.0)) as client:
        await client.generate(lab.prompt, max_new_tokens=1)
    [gap] = lab.gaps()
    expect(_is_about(gap, 0.3), f"0.3 s were due, it took {gap:.2f} s")


async def backoff_factor(lab: Lab) -> None:
    """Each delay is so many times the last, up to the cap."""
    lab.proxy.inject(*[Answer(503)] * 3)
    policy = RetryPolicy(max_retries=3, initial_delay=0.1, factor=3.0, max_delay=0.5, jitter=0.0)
    async with lab.client(retry=policy) as client:
        await client.generate(lab.prompt, max_new_tokens=1)
    gaps = lab.gaps()
    for gap, due in zip(gaps, (0.1, 0.3, 0.5), strict=True):
        expect(_is_about(gap, due), f"0.1, 0.3 and 0.5 s were due, it took {[round(each, 2) for each in gaps]}")


async def error_handling_rate_limit(lab: Lab) -> None:
    """429: Retry-After is waited for, in seconds and as a date; nonsense is not, and too much is not either."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    now = format_datetime(datetime.now(UTC), usegmt=True)
    cases = ({"retry-after": "1"}, 1.0), ({"retry-after": date, "date": now}, 2.0), ({"retry-after": "soon"}, 0.05)
    async with lab.client() as client:
        for headers, due in cases:
            begin = len(lab.proxy.generations)
            lab.proxy.inject(Answer(429, "overloaded", headers))
            await client.generate(lab.prompt, max_new_tokens=1)
            gap = lab.gaps()[begin]
            expect(_is_about(gap, due), f"Retry-After: {headers['retry-after']}: {due} s were due, it took {gap:.2f} s")
        begin = len(lab.proxy.generations)
        lab.proxy.inject(Answer(429, "overloaded", {"retry-after": "86400"}))
        with fails_with(RateLimitError):
            await client.generate(lab.prompt, max_new_tokens=1)
        expect(len(lab.proxy.generations) == begin + 1, "a Retry-After of a day was not taken for a refusal")
    expect(client.stats().rate_limited == 4, f"{client.stats().rate_limited} answers with 429 are counted, not 4")


async def error_handling_auth(lab: Lab) -> None:
    """401 is an error of its own, and is not repeated."""
    lab.proxy.inject(Answer(401))
    async with lab.client() as client:
        with fails_with(AuthenticationError) as caught:
            await client.generate(lab.prompt, max_new_tokens=1)
    expect(len(lab.proxy.generations) == 1, f"it was sent {len(lab.proxy.generations)} times")
    expect(all(key not in f"{caught[0]!r} {caught[0]}" for key in lab.keys), "the error shows the key")


async def error_handling_404(lab: Lab) -> None:
    """A route that is not there, at the server itself; and an injected 404, not repeated."""
    async with lab.client() as client:
        with fails_with(NotFoundError):
            await client.request("GET", "/segue-check/no-such-route")
        lab.proxy.inject(Answer(404))
        with fails_with(NotFoundError):
            await client.generate(lab.prompt, max_new_tokens=1)
    expect(len(lab.proxy.generations) == 1, f"it was sent {len(lab.proxy.generations)} times")


async def error_handling_400(lab: Lab) -> None:
    """What cannot be asked is refused by the server itself with a reason, and is not repeated."""
    async with lab.client() as client:
        with fails_with(ValidationError) as caught:
            await client.generate(lab.prompt, max_new_tokens=1, temperature=-1.0)
        expect("temperature" in caught[0].message, f"the reason does not name the parameter: {caught[0].message}")
        with fails_with(ValidationError):
            await client.generate("", max_new_tokens=1)
    expect(len(lab.proxy.generations) == 2, f"2 requests were sent {len(lab.proxy.generations)} times")


async def error_handling_5xx(lab: Lab) -> None:
    """Errors of the server, and connections that break, are repeated; the caller sees the answer only."""
    faults = (Answer(500), Answer(502), Answer(503, "healthcheck"), Answer(504), Disconnect())
    async with lab.client() as client:
        for fault in faults:
            lab.proxy.inject(fault)
            result = await client.generate(lab.prompt, max_new_tokens=1)
            expect(result.response.attempts == 2, f"{fault}: {result.response.attempts} attempts, not 2")
        lab.proxy.inject(*[Disconnect()] * 3)
        with fails_with(APIConnectionError):
            await client.generate(lab.prompt, max_new_tokens=1)


def _is_about(seconds: float, due_s: float) -> bool:
    return due_s * 0.98 <= seconds <= due_s + SLACK_S


CHECKS = collect(
    max_retries,
    initial_retry_delay,
    backoff_factor,
    error_handling_auth,
    error_handling_404,
    error_handling_400,
    error_handling_rate_limit,
    error_handling_5xx,
)

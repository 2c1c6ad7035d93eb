"""Answers that come piece by piece, and what happens when they stop."""

from segue.client import GenerationError, IncompleteStreamError
from segue.conformance.check import collect, expect
from segue.conformance.faults import Answer, CutStream, ErrorEvent
from segue.conformance.lab import NUM_TOKENS, Lab, fails_with

__all__ = ["CHECKS"]


async def streaming(lab: Lab) -> None:
    """One event a token; together they are the text that the last one repeats."""
    async with (
        lab.client() as client,
        await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS, stream=True) as stream,
    ):
        events = [event async for event in stream]
    expect(len(events) > 1, f"{len(events)} event came")
    *begin, last = events
    expect(last.generated_text is not None, "the last event has no generated_text")
    expect(all(event.generated_text is None for event in begin), "an event before the last has generated_text")
    text = "".join(event.text for event in events)
    expect(
        text.strip() == str(last.generated_text).strip(),
        f"the pieces make {text!r}, the end says {last.generated_text!r}",
    )
    expect(
        last.details and last.details.generated_tokens == len(events), f"{len(events)} events, another count at the end"
    )
    stats = client.stats()
    expect(
        (stats.streams, stats.global_current_requests) == (1, 0), "the stream's slot is not given back, or not counted"
    )


async def streaming_cut(lab: Lab) -> None:
    """A stream that breaks is an error that keeps what has come; before the first event the call is repeated."""
    async with lab.client(lab.pool(lab.endpoint(max_concurrent=1))) as client:
        lab.proxy.inject(CutStream(after_events=1))
        with fails_with(IncompleteStreamError) as caught:
            async with await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS, stream=True) as stream:
                first = await anext(aiter(stream))
                await stream.final()
        [error] = caught
        assert isinstance(error, IncompleteStreamError)
        expect(error.partial_text == first.text, f"{first.text!r} had come, the error keeps {error.partial_text!r}")
        expect(len(lab.proxy.generations) == 1, "a stream that had begun was repeated")
        lab.proxy.inject(CutStream(after_events=0), Answer(503))
        async with await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS, stream=True) as stream:
            await stream.final()
        expect(stream.response.attempts == 3, f"before the first event: {stream.response.attempts} attempts, not 3")
        expect(client.stats().global_current_requests == 0, "the slot of the broken stream is not given back")


async def streaming_error(lab: Lab) -> None:
    """An error that the server reports in mid-stream is raised, not taken for text."""
    async with lab.client() as client:
        lab.proxy.inject(ErrorEvent(after_events=1))
        with fails_with(GenerationError):
            async with await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS, stream=True) as stream:
                await stream.final()
    stats = client.stats()
    expect((stats.failed_requests, stats.successful_requests) == (1, 0), "the statistics count a success")


async def streaming_abandoned(lab: Lab) -> None:
    """A caller who leaves half way frees the slot and the connection."""
    async with lab.client(lab.pool(lab.endpoint(max_concurrent=1))) as client:
        async with await client.generate(lab.prompt, max_new_tokens=200, stream=True) as stream:
            await anext(aiter(stream))
        expect(client.stats().global_current_requests == 0, "the slot is not given back")
        await lab.proxy.until(lambda: lab.proxy.num_at_once == 0)
        await client.generate(lab.prompt, max_new_tokens=1)


CHECKS = collect(streaming, streaming_cut, streaming_error, streaming_abandoned)

"""Server-sent events: what the engine's steps become on the wire, in TGI's dialect and in OpenAI's.

A dialect renders the static parts of its events once a request; per token it only fills in what changes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypedDict, TypeVar

from msgspec.json import Encoder
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from segue.core.errors import IncompleteGenerationError, IncompleteStreamError, RequestError
from segue.server.admission import Ask
from segue.server.generation import Generation, Token
from segue.server.openai_words import OpenAIWords
from segue.server.sinks import BodyWriter, Events, EventSink, response_sink, until_client_leaves
from segue.server.state import Server
from segue.server.token_lane import TokenEvent

__all__ = [
    "DONE",
    "ChatEvents",
    "ChatShape",
    "Dialect",
    "EventStream",
    "GenerateEvents",
    "OpenAIEvents",
    "StreamUsage",
    "chat_logprob",
    "error_object",
    "stream_events",
    "unless_client_leaves",
    "usage",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_KEEP_ALIVE_S = 15.0
_HEAD_S = 0.25
"""A response's head waits so long for the first event: the kernel's part of a piece takes 15 us, whatever is in it."""
# A fifth faster for a token than ``msgspec.json.encode``, which makes an encoder for each call.
encode = Encoder().encode
DONE = b"data: [DONE]\n\n"
"""The last event of OpenAI's streams."""


class Dialect(Protocol):
    """How one request's steps, or its failure, are written."""

    def render(self, generation: Generation, tokens: Sequence[Token]) -> bytes:
        """The events of one step, of which ``tokens`` are the generation's newest."""

    def error(self, error: RequestError) -> bytes:
        """The event that says why nothing more follows."""

    @property
    def token_event(self) -> TokenEvent | None:
        """The event of a token between the first and the last one; None where it hangs on more than the token."""


class GenerateEvents:
    """``/generate_stream``: one event a token, the last with the whole text."""

    # fmt: off
    token_event: TokenEvent = (
        b'data: {"index":', "index", b',"token":{"id":', "id", b',"text":', "text", b',"logprob":', "logprob",
        b',"special":', "special", b'},"generated_text":null,"details":null}\n\n',
    )
    # fmt: on

    def __init__(self, *, wants_details: bool, prefix: str) -> None:
        """``prefix`` goes in front of the generated text: the prompt, or nothing."""
        self._wants_details = wants_details
        self._prefix = prefix

    def render(self, generation: Generation, tokens: Sequence[Token]) -> bytes:
        is_end = generation.finish_reason is not None
        before = generation.num_tokens - len(tokens)
        if not is_end and not generation.top_tokens:
            events = [
                b'data: {"index":%d,"token":%b,"generated_text":null,"details":null}\n\n' % (index, encode(token))
                for index, token in enumerate(tokens, before + 1)
            ]
            return events[0] if len(events) == 1 else b"".join(events)
        top_tokens = generation.top_tokens[before:]
        events = []
        for number, token in enumerate(tokens, 1):
            top = b',"top_tokens":%b' % encode(top_tokens[number - 1]) if top_tokens else b""
            end = self._end(generation) if is_end and number == len(tokens) else b'"generated_text":null,"details":null'
            events.append(b'data: {"index":%d,"token":%b%b,%b}\n\n' % (before + number, encode(token), top, end))
        return b"".join(events)

    def _end(self, generation: Generation) -> bytes:
        details = {
            "finish_reason": generation.finish_reason,
            "generated_tokens": generation.num_tokens,
            "seed": generation.seed,
            "input_length": generation.num_inputs,
        }
        text = encode(self._prefix + generation.text())
        return b'"generated_text":%b,"details":%b' % (text, encode(details if self._wants_details else None))

    def error(self, error: RequestError) -> bytes:
        return b"data: %b\n\n" % encode(error_object(error))


class OpenAIEvents:
    """What OpenAI's streams share."""

    def __init__(self, words: OpenAIWords) -> None:
        self._words = words

    def error(self, error: RequestError) -> bytes:
        return b"data: %b\n\n" % encode(self._words.error_event(error))


class StreamUsage:
    """The usage of all choices of a stream together."""

    def __init__(self, num_choices: int, choices_per_prompt: int) -> None:
        self._num_missing = num_choices
        self._choices_per_prompt = choices_per_prompt
        self._generations: dict[int, Generation] = {}

    def add(self, index: int, generation: Generation) -> dict[str, int] | None:
        """The choice ``index`` has ended. The usage, when it was the last."""
        self._generations[index] = generation
        self._num_missing -= 1
        if self._num_missing > 0:
            return None
        return usage([each for _, each in sorted(self._generations.items())], self._choices_per_prompt)


class ChatShape(TypedDict):
    """What the chunks of one choice share."""

    chunk_id: str
    model: str
    system_fingerprint: str
    wants_logprobs: bool
    usage: StreamUsage | None
    """None: not asked for."""
    index: int
    """Of the choice."""


class ChatEvents(OpenAIEvents):
    """``/v1/chat/completions``: one chunk a token; a last chunk without choices carries the usage, if asked for."""

    def __init__(
        self,
        words: OpenAIWords,
        *,
        chunk_id: str,
        model: str,
        system_fingerprint: str,
        wants_logprobs: bool,
        usage: StreamUsage | None,
        index: int = 0,
    ) -> None:
        """The fields of ``ChatShape``."""
        super().__init__(words)
        self._wants_logprobs = wants_logprobs
        self._usage = usage
        self._index = index
        head = {
            "object": "chat.completion.chunk",
            "id": chunk_id,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": system_fingerprint,
        }
        self._chunk = b'data: %b,"choices":' % encode(head)[:-1]
        self._delta_head = b'%b[{"index":%d,"delta":' % (self._chunk, index)
        self._head = self._delta_head + b'{"role":"assistant","content":'
        self._tail = b'},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        self.token_event: TokenEvent | None = None if wants_logprobs else (self._head, "shown_text", self._tail)

    def render(self, generation: Generation, tokens: Sequence[Token]) -> bytes:
        is_end = generation.finish_reason is not None
        if not is_end and not self._wants_logprobs:
            head, tail = self._head, self._tail
            if len(tokens) == 1:
                content = b'""' if tokens[0].special else encode(tokens[0].text)
                return head + content + tail
            contents = [b'""' if token.special else encode(token.text) for token in tokens]
            return head + (tail + head).join(contents) + tail
        before = generation.num_tokens - len(tokens)
        events = []
        for number, token in enumerate(tokens, 1):
            content = b'""' if token.special else encode(token.text)
            logprobs = b"null"
            if self._wants_logprobs:
                logprobs = encode({"content": [chat_logprob(generation, before + number - 1)]})
            reason = b"null"
            if is_end and number == len(tokens):
                reason = b'"%b"' % self._words.finish_reason(generation.finish_reason).encode()
            events.append(
                b'%b%b},"logprobs":%b,"finish_reason":%b}],"usage":null}\n\n' % (self._head, content, logprobs, reason)
            )
        if is_end:
            events.append(self._usage_event(generation))
        return b"".join(events)

    def _usage_event(self, generation: Generation) -> bytes:
        """After the end of the choice: the last chunk of all, if it is asked for and due."""
        total = None if self._usage is None else self._usage.add(self._index, generation)
        return b"" if total is None else b'%b[],"usage":%b}\n\n' % (self._chunk, encode(total))


def chat_logprob(generation: Generation, index: int) -> dict[str, Any]:
    """OpenAI's logprob object of one token."""
    token = generation.tokens[index]
    top_tokens = generation.top_tokens[index] if generation.top_tokens else []
    return {
        "token": token.text,
        "logprob": token.logprob,
        "top_logprobs": [{"token": top.text, "logprob": top.logprob} for top in top_tokens],
    }


def usage(generations: Sequence[Generation], choices_per_prompt: int = 1) -> dict[str, int]:
    """OpenAI's count of tokens, summed; the choices of a prompt follow each other, and it counts once."""
    num_prompt = sum(each.num_inputs for each in generations[::choices_per_prompt])
    num_completion = sum(each.num_tokens for each in generations)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
    }


def error_object(error: RequestError) -> dict[str, str]:
    """TGI's error body."""
    return {"error": str(error), "error_type": error.error_type}


class _Writing:
    """The events of one generation on their way to a sink."""

    __slots__ = ("_dialect", "_generation", "_sink", "is_complete")

    def __init__(self, generation: Generation, dialect: Dialect, sink: EventSink) -> None:
        self._generation = generation
        self._dialect = dialect
        self._sink = sink
        self.is_complete = False

    def write(self, tokens: list[Token]) -> bool:
        """Whether more may be written now."""
        events = self._dialect.render(self._generation, tokens)
        if self._generation.finish_reason is None:
            if events:
                self._sink.write(events)
        else:
            self._sink.add(events)  # the end of the response comes in the loop's next turn
            # Already here: a client may leave as soon as it has the last event.
            self._generation.record_success_later()
            self.is_complete = True
        return not self._sink.is_full


async def stream_events(server: Server, ask: Ask, dialect: Dialect, sink: EventSink) -> None:
    """Write the events of one generation: a piece a step, or one for the error. The status is 200 in either case."""
    metrics = server.metrics
    metrics.request_count.add()
    writing: _Writing | None = None
    try:
        with server.admission.permits(ask.parameters, streaming=True):
            generation = Generation(server, await server.admission.admit(ask))
            writing = _Writing(generation, dialect, sink)
            if (event := dialect.token_event) is not None:
                generation.use_lane(event, sink)
            async with aclosing(generation):
                while await generation.read(writing.write):
                    await sink.drain()
    except RequestError as error:
        server.record_failure(ask.name, error)
        sink.write(dialect.error(IncompleteStreamError() if isinstance(error, IncompleteGenerationError) else error))
    except asyncio.CancelledError:
        if writing is None or not writing.is_complete:
            metrics.dropped()
        raise
    except Exception:
        logger.exception("A stream failed")
        metrics.failure(IncompleteStreamError())
        sink.write(dialect.error(IncompleteStreamError()))


class EventStream:
    """An ASGI response that sends ``events`` until they end or the client leaves, which cancels them at once."""

    def __init__(
        self,
        events: Events,
        headers: Mapping[str, str],
        *,
        last: bytes = b"",
        keep_alive_s: float = _KEEP_ALIVE_S,
    ) -> None:
        """``last`` follows the events. After ``keep_alive_s`` of silence a comment is sent."""
        self._events = events
        self._headers = {
            "content-type": "text/event-stream",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            **headers,
        }
        self._last = last
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._headers.items()]
        pump = asyncio.current_task()
        assert pump is not None
        has_left = False

        def leave() -> None:
            nonlocal has_left
            has_left = True
            pump.cancel()

        sink = response_sink(scope, receive, send)
        sink.begin(leave)
        keep_alive = _KeepAlive(sink, send, self._keep_alive_s)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._events(sink)
            await sink.drain()
            await send({"type": "http.response.body", "body": self._last, "more_body": False})
        except asyncio.CancelledError:
            if not has_left or pump.uncancel() > 0:
                raise
        finally:
            keep_alive.end()
            sink.end()


class _KeepAlive:
    """Sends the head of a response that is slow to begin, and then a comment whenever nothing was written for so long.

    Until then it is no more than a timer.
    """

    def __init__(self, sink: BodyWriter, send: Send, after_s: float) -> None:
        self._sink = sink
        self._send = send
        self._after_s = after_s
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(min(_HEAD_S, after_s), self._begin)
        self._sending: asyncio.Task[None] | None = None

    def end(self) -> None:
        self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def _begin(self) -> None:
        self._sink.flush()
        self._look()

    def _look(self) -> None:
        silence_s = time.monotonic() - self._sink.written_time
        if silence_s < self._after_s:
            self._timer = self._loop.call_later(self._after_s - silence_s, self._look)
        else:
            self._sending = self._loop.create_task(self._comment())

    async def _comment(self) -> None:
        await self._send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
        self._sink.written_time = time.monotonic()
        self._timer = self._loop.call_later(self._after_s, self._look)


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T], on_leave: Callable[[], None]) -> T:
    """The result of ``work``.

    When the client leaves first, ``work`` is cancelled, ``on_leave`` called and ClientDisconnect raised.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_client_leaves(receive))
    try:
        await asyncio.wait([task, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            on_leave()
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)

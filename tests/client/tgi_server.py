"""A server on the loopback that answers in TGI's shapes, remembers what it was asked, and fails on demand.

It counts on its own, so that what a client says about itself can be compared with what really arrived.
"""

import asyncio
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

WORDS = (" one", " twö", " 三", " 🙂")


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    at: float
    connection: int

    @property
    def key(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    @property
    def parameters(self) -> dict[str, Any]:
        return self.body.get("parameters") or {}


@dataclass(frozen=True)
class Reply:
    """``pieces`` are sent one by one, each flushed; ``cut`` closes the connection where the next would come.

    ``hold`` is waited for before the head, or after ``hold_after`` pieces. Before each piece ``period_s`` pass.
    """

    status: int = 200
    pieces: tuple[bytes, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    is_stream: bool = False
    cut: bool = False
    hold: threading.Event | None = None
    hold_after: int | None = None
    period_s: float = 0.0


def json_reply(body: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, (json.dumps(body).encode(),), {"content-type": "application/json", **named})


def error_reply(status: int, error_type: str, text: str = "failed", **headers: str) -> Reply:
    return json_reply({"error": text, "error_type": error_type}, status, **headers)


def token(index: int) -> dict[str, Any]:
    return {"id": index, "text": WORDS[index % len(WORDS)], "logprob": -0.5, "special": False}


def text(num_tokens: int) -> str:
    return "".join(WORDS[index % len(WORDS)] for index in range(num_tokens))


def num_prompt_tokens(prompt: str) -> int:
    return len(prompt.split())


def generated(prompt: str, parameters: dict[str, Any]) -> dict[str, Any]:
    num_tokens = parameters.get("max_new_tokens") or 3
    details = {
        "finish_reason": "length",
        "generated_tokens": num_tokens,
        "seed": parameters.get("seed"),
        "prefill": [],
        "tokens": [token(index) for index in range(num_tokens)],
    }
    if (best_of := parameters.get("best_of") or 1) > 1:
        details["best_of_sequences"] = [
            {"generated_text": f" other {n}", **details, "top_tokens": []} for n in range(1, best_of)
        ]
    answer: dict[str, Any] = {"generated_text": text(num_tokens)}
    return answer | ({"details": details} if parameters.get("details") else {})


def events(prompt: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    num_tokens = parameters.get("max_new_tokens") or 3
    made: list[dict[str, Any]] = [
        {"index": index + 1, "token": token(index), "generated_text": None, "details": None}
        for index in range(num_tokens)
    ]
    made[-1]["generated_text"] = text(num_tokens)
    made[-1]["details"] = {
        "finish_reason": "length",
        "generated_tokens": num_tokens,
        "seed": None,
        "input_length": num_prompt_tokens(prompt),
    }
    return made


def sse(bodies: Iterable[Any], *, done: bool = False, prefix: str = "data: ") -> tuple[bytes, ...]:
    lines = [f"{prefix}{json.dumps(body, ensure_ascii=False)}\n\n".encode() for body in bodies]
    return (*lines, f"{prefix}[DONE]\n\n".encode()) if done else tuple(lines)


def stream_reply(pieces: Iterable[bytes], **how: Any) -> Reply:
    return Reply(pieces=tuple(pieces), headers={"content-type": "text/event-stream"}, is_stream=True, **how)


def chat_chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    num_tokens = body.get("max_tokens") or 3
    chunks = [_chunk([_choice({"role": "assistant", "content": token(i)["text"]})]) for i in range(num_tokens)]
    chunks[-1]["choices"][0]["finish_reason"] = "length"
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**_chunk([]), "usage": chat_usage(body)})
    return chunks


def _chunk(choices: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"id": "", "object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": "3.3-native"}
    return {**head, "choices": choices, "usage": None}


def _choice(delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}


def chat_usage(body: dict[str, Any]) -> dict[str, int]:
    prompt = sum(num_prompt_tokens(str(message["content"])) for message in body["messages"])
    completion = body.get("max_tokens") or 3
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def tgi(seen: Seen) -> Reply:
    """What a healthy TGI 3.3 answers."""
    match seen.path:
        case "/generate":
            answer = json_reply(generated(seen.body["inputs"], seen.parameters))
            answer.headers["x-prompt-tokens"] = str(num_prompt_tokens(seen.body["inputs"]))
            answer.headers["x-generated-tokens"] = str(seen.parameters.get("max_new_tokens") or 3)
            return answer
        case "/generate_stream":
            return stream_reply(sse(events(seen.body["inputs"], seen.parameters)))
        case "/v1/chat/completions" if seen.body.get("stream"):
            return stream_reply(sse(chat_chunks(seen.body), done=True))
        case "/v1/chat/completions":
            message = {"role": "assistant", "content": text(seen.body.get("max_tokens") or 3)}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
            head = {
                "id": "",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "system_fingerprint": "3.3-native",
            }
            return json_reply({**head, "choices": [choice], "usage": chat_usage(seen.body)})
        case "/v1/completions":
            return _completions(seen.body)
        case "/tokenize":
            return json_reply(_spans(seen.body["inputs"]))
        case "/chat_tokenize":
            templated = "".join(f"<{m['role']}>{m['content']}" for m in seen.body["messages"])
            return json_reply({"tokenize_response": _spans(templated), "templated_text": templated})
        case "/info":
            return json_reply({"model_id": "m", "version": "3.3.6", "max_input_tokens": 100, "max_best_of": 2})
        case "/health":
            return Reply()
        case "/v1/models":
            return json_reply(
                {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "m"}]}
            )
        case "/metrics":
            series = b'# TYPE tgi_request_count counter\ntgi_request_count 3\ntgi_batch{size="a b"} 1.5\n'
            return Reply(pieces=(series,), headers={"content-type": "text/plain"})
    return Reply(404)


def _completions(body: dict[str, Any]) -> Reply:
    prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
    head = {"id": "", "object": "text_completion", "created": 1, "model": "m", "system_fingerprint": "3.3-native"}
    num_tokens = body.get("max_tokens") or 3
    usage = {"prompt_tokens": len(prompts), "completion_tokens": num_tokens * len(prompts), "total_tokens": 0}
    if not body.get("stream"):
        made = [
            {"index": n, "text": text(num_tokens), "logprobs": None, "finish_reason": "length"}
            for n in range(len(prompts))
        ]
        return json_reply({**head, "choices": made, "usage": usage})
    chunks: list[dict[str, Any]] = []
    for position in range(num_tokens):
        for index in range(len(prompts)):
            choice = {"index": index, "text": token(position)["text"], "logprobs": None, "finish_reason": ""}
            if position == num_tokens - 1:
                choice["finish_reason"] = "length"
            chunks.append({**head, "choices": [choice]})
    chunks[-1]["usage"] = usage
    return stream_reply(sse(chunks, done=True))


def _spans(content: str) -> list[dict[str, Any]]:
    return [{"id": ord(c), "text": c, "start": i, "stop": i + 1} for i, c in enumerate(content)]


class TgiServer:
    """``replies`` are used up first, one for each POST; then ``handler`` answers. Runs in a thread of its own."""

    def __init__(self, handler: Callable[[Seen], Reply] = tgi, port: int = 0) -> None:
        self.handler = handler
        self.replies: deque[Reply | Callable[[Seen], Reply]] = deque()
        self.requests: list[Seen] = []
        self.statuses: Counter[int] = Counter()
        self.max_at_once = 0
        self.num_disconnects = 0
        """Streams that the client left before their end."""
        self.num_connections = 0
        self.hold: threading.Event | None = None
        """Set: every POST waits for it before it is answered."""
        self._port = port
        self._at_once = 0
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def posts(self) -> list[Seen]:
        return [seen for seen in self.requests if seen.method == "POST"]

    @property
    def open_connections(self) -> int:
        return len(self._writers)

    @contextmanager
    def held(self) -> Iterator[threading.Event]:
        """Inside, POSTs are answered only once the event is set; it is at the end."""
        event = self.hold = threading.Event()
        try:
            yield event
        finally:
            self.hold = None
            event.set()

    def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Until something that the server does makes ``condition`` true."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), "the server never came to it"

    def start(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=2048))
        self._port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._tell(num_connections=self.num_connections + 1)
        connection = self.num_connections
        try:
            while (seen := await self._read(reader, connection)) is not None:
                if not await self._answer(seen, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self._tell()
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, connection: int) -> Seen | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode().rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        body = json.loads(content) if content else None
        return Seen(method, path, headers, body, time.monotonic(), connection)

    async def _answer(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.requests.append(seen)
        self._at_once += 1
        self._tell(max_at_once=max(self.max_at_once, self._at_once))
        try:
            reply: Reply | Callable[[Seen], Reply] = self.handler
            if seen.method == "POST":
                if self.hold is not None:
                    await self._wait(self.hold, reader)
                if self.replies:
                    reply = self.replies.popleft()
            reply = reply(seen) if callable(reply) else reply
            self.statuses[reply.status] += 1
            return await self._send(reply, reader, writer)
        except ConnectionError:
            self._tell(num_disconnects=self.num_disconnects + 1)
            return False
        finally:
            self._at_once -= 1
            self._tell()

    async def _send(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if reply.hold is not None and reply.hold_after is None:
            await self._wait(reply.hold, reader)
        headers = dict(reply.headers)
        if reply.is_stream:
            headers["transfer-encoding"] = "chunked"
        else:
            headers["content-length"] = str(sum(map(len, reply.pieces)) + reply.cut)
        lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        for position, piece in enumerate(reply.pieces):
            if reply.hold is not None and reply.hold_after == position:
                await writer.drain()
                await self._wait(reply.hold, reader)
            await asyncio.sleep(reply.period_s)
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if reply.is_stream else piece)
            await writer.drain()
        if reply.cut:
            return False
        if reply.is_stream:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _wait(self, event: threading.Event, reader: asyncio.StreamReader) -> None:
        """For the event, or for the client to go away.

        A client that leaves with bytes unread resets the connection: the reader then has an exception, not an end.
        """
        while not event.is_set():
            if reader.at_eof() or reader.exception() is not None:
                raise ConnectionError
            await asyncio.sleep(0.002)

    def _tell(self, **changes: Any) -> None:
        with self._changed:
            for name, value in changes.items():
                setattr(self, name, value)
            self._changed.notify_all()

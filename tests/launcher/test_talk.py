"""The terminal's side of a conversation; a whole server answers in tests/e2e."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from segue.core.config import ConnectConfig
from segue.launcher.talk import ChatOptions, GenerateOptions, TalkError, chat, generate


class FakeServer:
    """Answers every request with ``status`` and ``body``, but ``/info``."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.requests: list[tuple[str, Any]] = []
        self.url = ""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            info = {"model_id": "some/model", "max_total_tokens": 10, "max_input_tokens": 9, "version": "3.3.6"}
            self._send(200, json.dumps(info).encode(), "application/json")

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            fake.requests.append((self.path, json.loads(self.rfile.read(length))))
            kind = "text/event-stream" if fake.status == 200 else "application/json"
            self._send(fake.status, fake.body, kind)

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{http.server_address[1]}"
    yield fake
    http.shutdown()
    thread.join()
    http.server_close()


def chat_stream(*pieces: str) -> bytes:
    chunks = [
        {"id": "", "object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": "f"}
        | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}]}
        for piece in pieces
    ]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"  # type: ignore[index]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"


def test_a_conversation(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.body = chat_stream("Hello", " you")
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n\nagain\n/clear\nnew\n"))
    chat(ChatOptions(system="Be brief.", max_tokens=7, temperature=0.5), ConnectConfig(url=server.url))
    assert capsys.readouterr().out == "Hello you\n" * 3
    bodies = [body for _, body in server.requests]
    system, hi, hello = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello you"},
    )
    assert [body["messages"] for body in bodies] == [
        [system, hi],
        [system, hi, hello, {"role": "user", "content": "again"}],
        [system, {"role": "user", "content": "new"}],
    ]
    assert all((body["max_tokens"], body["temperature"]) == (7, 0.5) for body in bodies)
    assert all("top_p" not in body for body in bodies)


def test_generate_sends_what_was_given_and_no_more(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    event = {"index": 1, "token": {"id": 5, "text": " a", "logprob": -1.0, "special": False}, "details": None}
    server.body = f"data:{json.dumps(event | {'generated_text': ' a'})}\n\n".encode()
    generate("Once", GenerateOptions(max_new_tokens=1, seed=3), ConnectConfig(url=server.url))
    assert capsys.readouterr().out == " a\n"
    ((_, body),) = server.requests
    assert body["inputs"] == "Once"
    parameters = {name: value for name, value in body["parameters"].items() if value is not None}
    assert parameters.pop("details", True)
    assert parameters.pop("return_full_text", False) is False
    assert parameters.pop("do_sample", False) is False
    assert parameters == {"max_new_tokens": 1, "seed": 3}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"", "asks for a key: give --api-key, or set SEGUE_API_KEY"),
        (422, b'{"error": "Input validation error: x", "error_type": "validation"}', "Input validation error: x"),
        (429, b'{"error": "Model is overloaded", "error_type": "overloaded"}', "Model is overloaded"),
    ],
)
def test_errors_of_the_server(server: FakeServer, status: int, body: bytes, message: str) -> None:
    server.status, server.body = status, body
    with pytest.raises(TalkError, match=message):
        generate("x", GenerateOptions(), ConnectConfig(url=server.url))
    assert len(server.requests) == 1


def test_no_prompt() -> None:
    with pytest.raises(TalkError, match="there is no prompt"):
        generate("", GenerateOptions(), ConnectConfig())

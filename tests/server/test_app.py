"""The whole application: which paths there are, who may call them, and browsers."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest
from serving import Serving, fails, until

from segue.core.output import RequestOutput
from segue.core.request import Request
from segue.server.app import OPERATIONS, PAGES

Serve = Callable[..., Serving]

WITH_KEY = {
    ("POST", "/"),
    ("POST", "/generate"),
    ("POST", "/generate_stream"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("POST", "/chat_tokenize"),
    ("POST", "/invocations"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/vertex"),
    ("POST", "/v2/models/{model_name}/versions/{model_version}/infer"),
}
WITHOUT_KEY = {
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/ping"),
    ("GET", "/info"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/docs"),
    ("GET", "/docs/"),
    ("GET", "/api-doc/openapi.json"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/{model_name}/versions/{model_version}"),
    ("GET", "/v2/models/{model_name}/versions/{model_version}/ready"),
}


async def call(app: Serving, method: str, path: str, **options: object) -> httpx.Response:
    return await app.http.request(method, path, **options)  # type: ignore[arg-type]


def test_the_tables_name_every_operation() -> None:
    named = {(each.method, each.path) for each in (*OPERATIONS, *PAGES)}
    others = {
        ("GET", "/v1/models/{model_id:path}"),
        ("GET", "/api/integrations/tgi/v1/provider/{provider}/recommend"),
    }
    assert named == WITH_KEY | WITHOUT_KEY | others


@pytest.mark.parametrize(("method", "path"), sorted(WITH_KEY))
async def test_H1_routes_that_need_the_key(serve: Serve, method: str, path: str) -> None:
    app = serve(api_key=("Secret",))
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Secret"}, {"authorization": "Bearer "}):
        reply = await call(app, method, path, json={}, headers=headers)
        assert (reply.status_code, reply.content) == (401, b"")
    for value in ("Bearer Secret", "bearer secret", "BEARER SECRET"):
        assert (await call(app, method, path, json={}, headers={"authorization": value})).status_code == 422
    assert (await call(serve(), method, path, json={})).status_code == 422


@pytest.mark.parametrize(("method", "path"), sorted(WITHOUT_KEY))
async def test_H1_routes_that_are_open(serve: Serve, method: str, path: str) -> None:
    assert (await call(serve(api_key=("secret",)), method, path)).status_code == 200


async def test_H1_several_keys(serve: Serve) -> None:
    app = serve(api_key=("one", "Two"))
    for headers, status in (
        ({"authorization": "Bearer one"}, 422),
        ({"authorization": "bearer TWO"}, 422),
        ({"x-api-key": "Two"}, 422),
        ({"authorization": "Bearer one,Two"}, 401),
        ({"authorization": "Bearer three"}, 401),
        ({"x-api-key": ""}, 401),
        ({}, 401),
    ):
        assert (await call(app, "POST", "/generate", json={}, headers=headers)).status_code == status


async def test_H1_a_key_that_is_not_ascii(serve: Serve) -> None:
    app = serve(api_key=("schlüssel",))
    headers = [(b"authorization", "Bearer schlüssel".encode()), (b"content-type", b"application/json")]
    assert (await app.http.post("/generate", content=b"{}", headers=headers)).status_code == 422
    headers[0] = (b"authorization", b"Bearer schl\xff\xfessel")
    assert (await app.http.post("/generate", content=b"{}", headers=headers)).status_code == 401


@pytest.mark.parametrize("path", ["/nothing", "/generate/", "/v1", "/v1/chat", "//", "/docs/x"])
async def test_R15_unknown_paths(serve: Serve, path: str) -> None:
    for method in ("GET", "POST"):
        reply = await serve().http.request(method, f"http://test{path}")
        assert (reply.status_code, reply.content) == (404, b"")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/generate", "POST"),
        ("DELETE", "/", "GET,HEAD,POST"),
        ("POST", "/health", "GET,HEAD"),
        ("PUT", "/v1/models/a/b", "GET,HEAD"),
    ],
)
async def test_R15_wrong_methods(serve: Serve, method: str, path: str, allow: str) -> None:
    reply = await call(serve(), method, path)
    assert (reply.status_code, reply.content, reply.headers["allow"]) == (405, b"", allow)


async def test_head_is_get(serve: Serve) -> None:
    assert (await serve().http.head("/health")).status_code == 200


async def test_H2_any_origin_by_default(serve: Serve) -> None:
    reply = await serve().http.get("/health", headers={"origin": "http://a.example"})
    assert reply.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/health", "/v1/models/unknown", "/nowhere"])
async def test_H2_answers_without_an_origin_say_that_it_matters(serve: Serve, path: str) -> None:
    reply = await serve().http.get(path)
    assert reply.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in reply.headers


async def test_H2_preflight(serve: Serve) -> None:
    headers = {
        "origin": "http://a.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,authorization,x-stainless-os",
    }
    reply = await call(serve(api_key=("secret",)), "OPTIONS", "/generate", headers=headers)
    assert reply.status_code == 200
    allowed = reply.headers
    assert allowed["access-control-allow-origin"] == "*"
    assert {each.strip() for each in allowed["access-control-allow-methods"].split(",")} == {"GET", "POST"}
    names = {each.strip().lower() for each in allowed["access-control-allow-headers"].split(",")}
    assert {"content-type", "authorization", "x-stainless-os"} <= names


async def test_H2_a_list_of_origins(serve: Serve) -> None:
    app = serve(cors_allow_origin=("http://a.example", "http://b.example"))
    for origin, is_allowed in (("http://b.example", True), ("http://c.example", False)):
        reply = await app.http.get("/health", headers={"origin": origin})
        assert reply.headers.get("access-control-allow-origin") == (origin if is_allowed else None)


async def test_a_fault_of_ours_is_500_and_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    app = serve()
    del app.engine.info
    reply = await app.post("/generate", {"inputs": "a"})
    assert (reply.status_code, reply.json()) == (500, {"error": "Internal server error", "error_type": "internal"})
    assert "POST /generate failed" in caplog.text
    [event] = await app.events("/generate_stream", {"inputs": "a"})
    assert event["error_type"] == "incomplete_generation_stream"


async def test_the_end_of_the_application_lets_the_engine_go(serve: Serve) -> None:
    app = serve()
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return messages.pop(0)

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    assert len(app.engine.on_step) == 1
    await app.app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert app.engine.on_step == []


async def overload(app: Serving) -> None:
    """A request that holds the only permit, and stays."""
    app.engine.gate.clear()
    running = asyncio.ensure_future(app.post("/generate", {"inputs": "a"}))
    await until(lambda: bool(app.engine.requests))
    app.running = running  # type: ignore[attr-defined]


async def cut_off(app: Serving) -> None:
    """The engine ends the next sequence without a last word."""

    def script(request: Request) -> Iterator[RequestOutput]:
        app.engine.abort(request.request_id)
        yield from ()

    app.engine.script = script


async def fall_ill(app: Serving) -> None:
    app.engine.is_healthy = False


async def fail(app: Serving) -> None:
    app.engine.script = fails("Server error: boom")


async def do_nothing(app: Serving) -> None:
    pass


GRAMMAR = {"type": "json", "value": {"properties": {}}}
CHAT = {"messages": [{"role": "user", "content": "a"}]}
ERRORS = [
    # (what happens before, path, body, status, error_type, error)
    (do_nothing, "/generate", {"inputs": ""}, 422, "validation", "Input validation error: `inputs` cannot be empty"),
    (fail, "/generate", {"inputs": "a"}, 424, "generation", "Request failed during generation: Server error: boom"),
    (overload, "/generate", {"inputs": "a"}, 429, "overloaded", "Model is overloaded"),
    (cut_off, "/generate", {"inputs": "a"}, 500, "incomplete_generation", "Incomplete generation"),
    (cut_off, "/generate_stream", {"inputs": "a"}, 200, "incomplete_generation_stream", "Incomplete generation stream"),
    (
        do_nothing,
        "/chat_tokenize",
        {"messages": [{"role": "bad", "content": ""}]},
        422,
        "template_error",
        "Template error",
    ),
    (
        do_nothing,
        "/v1/chat/completions",
        {
            **CHAT,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "response_format": GRAMMAR,
        },
        422,
        "tool_error",
        "Tool error: Grammar and tools are mutually exclusive",
    ),
    (
        do_nothing,
        "/v1/completions",
        {"prompt": "a", "suffix": "b"},
        422,
        "suffix not supported",
        "Suffix is not supported and can be achieved by preprocessing the prompt.",
    ),
    (
        do_nothing,
        "/v1/completions",
        {"prompt": ["a"] * 5},
        422,
        "batch size exceeded",
        "Number of prompts exceeds the maximum allowed batch size of 4",
    ),
    (fall_ill, "/health", None, 503, "healthcheck", "unhealthy"),
    (fall_ill, "/generate", {"inputs": "a"}, 424, "generation", "Request failed during generation: Server error"),
]


@pytest.mark.parametrize(
    ("prepare", "path", "body", "status", "error_type", "text"), ERRORS, ids=[f"{each[1]}-{each[4]}" for each in ERRORS]
)
async def test_H5_every_error_has_its_type_and_status(
    serve: Serve,
    prepare: Callable[[Serving], Awaitable[None]],
    path: str,
    body: object,
    status: int,
    error_type: str,
    text: str,
) -> None:
    app = serve(max_concurrent_requests=1, openai_dialect="tgi")
    await prepare(app)
    reply = await (app.http.get(path) if body is None else app.post(path, body))
    app.engine.gate.set()
    assert reply.status_code == status
    error = json.loads(reply.text.removeprefix("data: "))
    assert error["error_type"] == error_type
    assert error["error"].startswith(text)
    assert ("retry-after" in reply.headers) == (status == 429)

"""Each check passes on a good server with a good client, and fails where what it is about is broken."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from client.tgi_server import Reply, Seen, TgiServer, error_reply, json_reply, sse, stream_reply, tgi

from segue.client import AsyncClient, Endpoint, EndpointPool, RetryPolicy
from segue.conformance.check import SUCCESS, Check, verdict
from segue.conformance.checks import STANDARD, queueing
from segue.conformance.fault_proxy import FaultProxy
from segue.conformance.lab import Lab, Target, prompt_for
from segue.conformance.standard import run_standard

CHECKS = {check.name: check for check in STANDARD}
SEED_SYSTEMS = {
    "multiplexing_endpoint_creation", "usage_statistics", "endpoint_routing", "different_keys_used", "queue_enabled",
    "request_queue", "max_concurrent_requests", "current_requests", "max_retries", "initial_retry_delay",
    "backoff_factor", "queue_processing", "endpoint_handler_creation", "test_endpoint", "test_endpoint_params",
    "post_request", "post_request_headers", "request_id_tracking", "format_request_simple", "format_request_params",
    "parameter_formatting", "streaming", "error_handling_auth", "error_handling_404", "internal_test",
    "hftgi_multiplexer", "chat_method", "error_handling_rate_limit", "error_handling_400", "image_processing",
}  # fmt: skip
"""Names that the result files of the hf_tgi and gemini test suites have."""


def test_every_name_of_the_seed_systems_is_checked() -> None:
    assert len(CHECKS) == len(STANDARD)
    assert CHECKS.keys() >= SEED_SYSTEMS


@pytest.mark.parametrize("name", CHECKS)
async def test_segue_passes(segue: Target, name: str) -> None:
    results = await run_standard(segue, [CHECKS[name]])
    assert [verdict(result) for result in results.values()] == [SUCCESS], results


async def test_entry_of_the_multiplexer_has_the_documented_shape(segue: Target) -> None:
    entry = (await run_standard(segue, [CHECKS["hftgi_multiplexer"]]))["hftgi_multiplexer"]
    assert set(entry) == {"status", "timestamp", "results", "key_count", "keys", "round_robin", "usage_stats"}
    assert entry["keys"] == ["key_1", "key_2", "key_3"]
    assert entry["round_robin"] == {"clients_used": entry["keys"] * 2, "success": True}
    assert entry["usage_stats"]["hf_tgi"]["key_2"]["usage"]["successful_requests"] == 2
    json.dumps(entry)


async def _check(check: Check[Lab], lab_class: type[Lab], target: Target, **settings: Any) -> str:
    """What ``run_standard`` would say, with another lab."""
    try:
        async with FaultProxy(target.root, patience_s=1.0, **settings) as proxy:
            await check.run(lab_class(target, proxy))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return SUCCESS


class _OneKey(Lab):
    def endpoint(self, key_number: int = 0, **settings: Any) -> Endpoint:
        return super().endpoint(0, **settings)


class _NoRetries(Lab):
    def client(self, pool: EndpointPool | None = None, retry: RetryPolicy | None = None) -> AsyncClient:
        return super().client(pool, RetryPolicy(max_retries=0))


class _EagerRetries(Lab):
    """Repeats everything at once, and for long."""

    def client(self, pool: EndpointPool | None = None, retry: RetryPolicy | None = None) -> AsyncClient:
        policy = RetryPolicy(max_retries=6, initial_delay=0, max_retry_after=0, statuses=frozenset(range(400, 600)))
        return super().client(pool, policy)


class _NoLimits(Lab):
    def endpoint(self, key_number: int = 0, **settings: Any) -> Endpoint:
        endpoint = super().endpoint(key_number, **settings)
        return replace(endpoint, max_concurrent=50, queue_enabled=True, queue_size=None)


class _LastComeFirst(Lab):
    def client(self, pool: EndpointPool | None = None, retry: RetryPolicy | None = None) -> AsyncClient:
        priorities = iter(range(0, -100, -1))

        class Client(AsyncClient):
            async def generate(self, prompt: str, **options: Any) -> Any:
                return await super().generate(prompt, priority=next(priorities), **options)

        return Client(pool=pool or self.pool())


class _LongMemory(Lab):
    def endpoint(self, key_number: int = 0, **settings: Any) -> Endpoint:
        return super().endpoint(key_number, **{name: value for name, value in settings.items() if name != "breaker"})


BROKEN_CLIENTS: list[tuple[type[Lab], str]] = [
    (_OneKey, "different_keys_used"),
    (_OneKey, "endpoint_routing"),
    (_OneKey, "usage_statistics"),
    (_OneKey, "endpoint_handler_creation"),
    (_OneKey, "hftgi_multiplexer"),
    (_NoRetries, "max_retries"),
    (_NoRetries, "initial_retry_delay"),
    (_NoRetries, "error_handling_rate_limit"),
    (_NoRetries, "error_handling_5xx"),
    (_NoRetries, "request_id_tracking"),
    (_EagerRetries, "max_retries"),
    (_EagerRetries, "initial_retry_delay"),
    (_EagerRetries, "backoff_factor"),
    (_EagerRetries, "error_handling_auth"),
    (_EagerRetries, "error_handling_404"),
    (_EagerRetries, "error_handling_400"),
    (_EagerRetries, "error_handling_rate_limit"),
    (_NoLimits, "queue_enabled"),
    (_NoLimits, "request_queue"),
    (_NoLimits, "queue_timeout"),
    (_NoLimits, "max_concurrent_requests"),
    (_NoLimits, "current_requests"),
    (_LastComeFirst, "queue_processing"),
    (_LongMemory, "circuit_breaker"),
]


@pytest.fixture(scope="module")
def passed() -> set[str]:
    """Names of checks that a good client was seen to pass in ``_check``."""
    return set()


@pytest.mark.parametrize(("lab", "name"), BROKEN_CLIENTS, ids=lambda each: getattr(each, "__name__", each))
async def test_a_broken_client_fails(
    segue: Target, lab: type[Lab], name: str, passed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in passed:
        assert await _check(CHECKS[name], Lab, segue) == SUCCESS
        passed.add(name)
    monkeypatch.setattr(queueing, "PATIENCE_S", 0.5)  # what does not fail at once is waited for to the end
    assert await _check(CHECKS[name], lab, segue) != SUCCESS


def _good(seen: Seen) -> Reply:
    """``tgi`` with the little that the checks need beyond it."""
    if seen.path == "/generate" and seen.parameters.get("temperature", 1) < 0:
        return error_reply(422, "validation", "`temperature` must be strictly positive")
    if seen.path == "/generate" and not seen.body["inputs"]:
        return error_reply(422, "validation", "`inputs` cannot be empty")
    if seen.path == "/generate":
        return _change(seen, lambda body: _with_top_tokens(body, seen.parameters.get("top_n_tokens", 0)))
    if seen.path == "/tokenize":
        words = seen.body["inputs"].split()
        return json_reply([{"id": 1, "text": word, "start": 0, "stop": 1} for word in words])
    if seen.path == "/info":
        return json_reply({"model_id": "m", "version": "3.3.6"})
    return tgi(seen)


def _change(seen: Seen, change: Callable[[dict[str, Any]], object]) -> Reply:
    reply = tgi(seen)
    body = json.loads(reply.pieces[0])
    change(body)
    return replace(reply, pieces=(json.dumps(body).encode(),))


def _with_top_tokens(body: dict[str, Any], count: int) -> None:
    if "details" in body:
        body["details"]["top_tokens"] = [[token] * count for token in body["details"]["tokens"]]


def _cut_details(body: dict[str, Any]) -> None:
    body.pop("details", None)


_COUNTER = iter(range(1, 10**6))


def _stream(events: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Seen], Reply]:
    def handler(seen: Seen) -> Reply:
        if seen.path != "/generate_stream":
            return _good(seen)
        made = [json.loads(piece.removeprefix(b"data: ")) for piece in tgi(seen).pieces]
        return stream_reply(sse(events(made)))

    return handler


def _only(path: str, handler: Callable[[Seen], Reply]) -> Callable[[Seen], Reply]:
    return lambda seen: handler(seen) if seen.path == path else _good(seen)


def _last_text(text: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda events: [*events[:-1], {**events[-1], "generated_text": text}]


BROKEN_SERVERS: list[tuple[str, Callable[[Seen], Reply], str]] = [
    ("unwell", _only("/health", lambda _: Reply(503)), "test_endpoint"),
    ("other model", _only("/info", lambda _: json_reply({"model_id": "another"})), "test_endpoint"),
    ("no details", _only("/generate", lambda seen: _change(seen, _cut_details)), "test_endpoint"),
    (
        "too many tokens",
        _only("/generate", lambda seen: _change(seen, lambda b: b["details"].update(generated_tokens=99))),
        "test_endpoint",
    ),
    (
        "seed ignored",
        _only("/generate", lambda seen: _change(seen, lambda b: b.update(generated_text=str(next(_COUNTER))))),
        "test_endpoint_params",
    ),
    ("no top tokens", _only("/generate", tgi), "test_endpoint_params"),
    ("no text", _only("/generate", lambda _: json_reply({"text": "x"})), "post_request"),
    ("not even JSON", _only("/generate", lambda _: Reply(200, (b"hello",))), "post_request"),
    ("no 404", lambda seen: json_reply({}) if seen.path.startswith("/segue") else _good(seen), "error_handling_404"),
    ("no validation", _only("/generate", tgi), "error_handling_400"),
    ("one event", _stream(lambda events: events[-1:]), "streaming"),
    ("no end", _stream(lambda events: events[:-1]), "streaming"),
    ("another text at the end", _stream(_last_text("else")), "streaming"),
    ("a stream says something else", _stream(_last_text("else")), "internal_test"),
    ("wrong count", _only("/tokenize", lambda _: json_reply([])), "internal_test"),
    (
        "wrong count of tokens",
        _only("/generate", lambda s: replace(_good(s), headers={"x-generated-tokens": "1"})),
        "usage_statistics",
    ),
    (
        "no role",
        _only("/v1/chat/completions", lambda s: json_reply({"choices": []}) if not s.body.get("stream") else tgi(s)),
        "chat_method",
    ),
    ("images break it", _only("/v1/chat/completions", lambda _: error_reply(500, "unknown")), "image_processing"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "handler", "name"), BROKEN_SERVERS, ids=[f"{n}-{w}" for w, _, n in BROKEN_SERVERS])
async def test_a_broken_server_fails(server: TgiServer, what: str, handler: Callable[[Seen], Reply], name: str) -> None:
    server.handler = _good
    target = Target(server.url, "m")
    assert verdict((await run_standard(target, [CHECKS[name]]))[name]) == SUCCESS
    server.handler = handler
    assert verdict((await run_standard(target, [CHECKS[name]]))[name]) == "Failed"


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        (error_reply(422, "template_error", "Template error: template not found"), "chat_method"),
        (Reply(404), "chat_method"),
        (error_reply(422, "validation", "no images"), "image_processing"),
    ],
)
async def test_what_a_server_does_not_have_is_skipped_with_its_reason(
    server: TgiServer, reply: Reply, name: str
) -> None:
    server.handler = _only("/v1/chat/completions", lambda _: reply)
    result = (await run_standard(Target(server.url, "m"), [CHECKS[name]]))[name]
    assert result.startswith("Skipped: the model ")


async def test_a_server_that_is_away_fails_the_check_and_not_the_run() -> None:
    with TgiServer() as gone:
        target = Target(gone.url, "m")
    told: list[str] = []
    results = await run_standard(
        target, [CHECKS["post_request"], CHECKS["streaming"]], on_result=lambda name, *_: told.append(name)
    )
    assert told == ["post_request", "streaming"]
    assert all(result.startswith("Failed: ServerError: the server cannot be reached") for result in results.values())


@pytest.mark.parametrize(
    ("model", "text", "prompt"),
    [
        ("gpt2", "a", "a"),
        ("google/t5-efficient-tiny", "a", "summarize: a"),
        ("sample-t5", "translate: a", "translate: a"),
        ("T5", "summarize: a", "summarize: a"),
    ],
)
def test_t5_is_told_what_to_do(model: str, text: str, prompt: str) -> None:
    assert prompt_for(model, text) == prompt


async def test_keys_of_the_caller_are_used_and_passed_on(server: TgiServer) -> None:
    server.handler = _good
    target = Target(server.url, "m", api_key="main", keys=("k1", "k2", "k3"))
    await run_standard(target, [CHECKS["different_keys_used"]])
    assert sorted(str(seen.key) for seen in server.posts) == ["k1", "k1", "k2", "k2", "k3", "k3"]


async def test_without_keys_the_server_sees_its_own_only(server: TgiServer) -> None:
    server.handler = _good
    for key in (None, "main"):
        server.requests.clear()
        await run_standard(Target(server.url, "m", api_key=key), [CHECKS["different_keys_used"]])
        assert {seen.key for seen in server.posts} == {key}


def test_root_of_a_target() -> None:
    roots = [Target(url, "m").root for url in ("http://h/", "http://h/generate", "http://h/base/v1/", "http://h/x")]
    assert roots == ["http://h", "http://h", "http://h/base", "http://h/x"]
    assert Target("https://router.huggingface.co/v1", "m").is_hosted

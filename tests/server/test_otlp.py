"""Traces (spec 5.4), as a real OTLP collector receives them."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from otlp_collector import TIMEOUT_S, Collector
from serving import Connection, Serving, fails, says, until

from segue.server import otlp
from segue.server.otlp import TraceExporter
from segue.server.tracing import MAX_TEXT_CHARS, RequestTrace

Serve = Callable[..., Serving]
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.stop(None).wait()


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TraceExporter]]:
    """Exporters send each trace at once. Those of all applications are in the list, and closed in the end."""
    made: list[TraceExporter] = []

    class Kept(TraceExporter):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(otlp, "MAX_BATCH", 1)
    monkeypatch.setattr(otlp, "TraceExporter", Kept)
    yield made
    for each in made:
        each.close(TIMEOUT_S)


@pytest.fixture
def traced(serve: Serve, collector: Collector, prompt: list[TraceExporter]) -> Callable[..., Serving]:
    """Makes an application that sends its traces to ``collector``."""
    return lambda **given: serve(otlp_endpoint=collector.endpoint, **given)


def sequence(handler: str) -> set[str]:
    """The spans of a sequence that came to its end."""
    inner = ["validate", "validate/tokenize", "queued", "infer", "infer/batch", "infer/batch/prefill"]
    return {handler, *(f"{handler}/{each}" for each in (*inner, "infer/batch/decode"))}


CHAT = {"messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    ("path", "body", "handler", "streams"),
    [
        ("/generate", {"inputs": "a"}, "generate", False),
        ("/", {"inputs": "a"}, "generate", False),
        ("/generate_stream", {"inputs": "a"}, "generate_stream", True),
        ("/", {"inputs": "a", "stream": True}, "generate_stream", True),
        ("/v1/chat/completions", CHAT, "chat_completions", False),
        ("/v1/chat/completions", {**CHAT, "stream": True}, "chat_completions", True),
        ("/v1/completions", {"prompt": "a"}, "completions", False),
        ("/v1/completions", {"prompt": "a", "stream": True}, "completions", True),
        ("/vertex", {"instances": [{"inputs": "a"}]}, "vertex_compatibility", False),
    ],
)
async def test_T1_tgis_spans(
    traced: Serve, collector: Collector, path: str, body: object, handler: str, streams: bool
) -> None:
    assert (await traced().post(path, body)).status_code == 200
    tree = await collector.trace()
    root = f"POST {path}"
    expected = {root, *(f"{root}/{each}" for each in sequence(handler))}
    assert tree.paths() == expected | ({f"{root}/{handler}/async_stream"} if streams else set())
    assert not any(span.is_error for span in tree.spans)
    for span in tree.spans:
        parent = tree.parent(span)
        assert span.proto.start_time_unix_nano <= span.proto.end_time_unix_nano
        if parent is not None:
            assert parent.proto.start_time_unix_nano <= span.proto.start_time_unix_nano
            assert span.proto.end_time_unix_nano <= parent.proto.end_time_unix_nano


async def test_T1_the_handlers_fields(traced: Serve, collector: Collector) -> None:
    app = traced(script=says("hello"))
    await app.post("/generate", {"inputs": "abc", "parameters": {"top_k": 3, "seed": 2**63}})
    tree = await collector.trace()
    fields = tree.one("generate").attributes
    assert fields["parameters"] == f'{{"top_k":3,"seed":{2**63}}}'
    assert fields["seed"] == str(2**63)
    for name in ("total_time", "validation_time", "queue_time", "inference_time", "time_per_token"):
        assert fields[name].endswith("s"), name
    assert tree.one("batch").attributes == {"batch_size": 1}
    assert tree.one("prefill").attributes == {"input_length": 4, "cached_tokens": 0}
    assert tree.one("decode").attributes == {"generated_tokens": 6}


async def test_T1_the_http_span(traced: Serve, collector: Collector) -> None:
    await traced(otlp_service_name="my-service").post("/generate", {"inputs": "a"}, headers={"user-agent": "curl/8"})
    span = (await collector.trace()).one("POST /generate")
    assert span.proto.kind == ProtoSpan.SPAN_KIND_SERVER
    assert span.service == "my-service"
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/generate",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "user_agent.original": "curl/8",
    }


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_T1_traceparent_is_the_parent(traced: Serve, collector: Collector, flags: str) -> None:
    """Always sampled, as by TGI, whatever the flags say."""
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-{flags}"}
    await traced().post("/generate", {"inputs": "a"}, headers=headers)
    tree = await collector.trace()
    assert {span.proto.trace_id.hex() for span in tree.spans} == {TRACE_ID}
    assert tree.one("POST /generate").proto.parent_span_id.hex() == PARENT_ID


@pytest.mark.parametrize("given", [f"ff-{TRACE_ID}-{PARENT_ID}-01", "rubbish", f"00-{TRACE_ID}-{PARENT_ID}", "é" * 600])
async def test_T1_a_traceparent_that_is_none(traced: Serve, collector: Collector, given: str) -> None:
    await traced().post("/generate", {"inputs": "a"}, headers={"traceparent": given.encode()})
    root = (await collector.trace()).one("POST /generate")
    assert root.proto.parent_span_id == b""
    assert root.proto.trace_id.hex() != TRACE_ID


async def test_T1_each_sequence_has_its_spans(traced: Serve, collector: Collector) -> None:
    app = traced(script=says("hello"))
    await app.post("/v1/completions", {"prompt": ["a", "b", "c"]})
    tree = await collector.trace()
    assert len(tree.all("completions")) == 1
    assert len(tree.all("infer")) == len(tree.all("tokenize")) == 3


async def test_T1_a_request_that_is_refused(traced: Serve, collector: Collector) -> None:
    await traced().post("/generate", {"inputs": ""})
    tree = await collector.trace()
    handler = "POST /generate/generate"
    assert tree.paths() == {"POST /generate", handler, f"{handler}/validate", f"{handler}/send_error"}
    error = tree.one("send_error")
    assert error.attributes == {
        "error": "Input validation error: `inputs` cannot be empty",
        "error_type": "validation",
    }
    assert error.is_error
    assert tree.one("generate").is_error
    assert not tree.one("POST /generate").is_error


async def test_T1_what_waits_is_small(traced: Serve, collector: Collector) -> None:
    stop = ["x" * 1_000_000]
    await traced().post("/generate", {"inputs": "a", "parameters": {"stop": stop}})
    assert len((await collector.trace()).one("generate").attributes["parameters"]) == MAX_TEXT_CHARS


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_T1_a_generation_that_fails(traced: Serve, collector: Collector, path: str) -> None:
    await traced(script=fails("Server error: boom", after="ab")).post(path, {"inputs": "a"})
    tree = await collector.trace()
    assert tree.one("send_error").attributes["error_type"] == "generation"
    assert tree.one("decode").attributes == {"generated_tokens": 2}


async def test_T1_a_body_that_cannot_be_read(traced: Serve, collector: Collector) -> None:
    await traced().post("/generate", [])
    tree = await collector.trace()
    assert tree.paths() == {"POST /generate", "POST /generate/generate"}
    assert tree.one("POST /generate").attributes["http.response.status_code"] == 422


async def test_T1_a_client_that_leaves(traced: Serve, collector: Collector) -> None:
    app = traced(script=says("hello", ends=False))
    app.engine.gate.clear()
    connection = Connection(app.app, "/generate_stream", {"inputs": "a"})
    await until(lambda: bool(app.engine.requests))
    await connection.leave()
    tree = await collector.trace()
    handler = tree.one("generate_stream")
    assert (handler.is_error, handler.proto.status.message) == (True, "the client left")
    assert tree.all("queued")
    assert not tree.all("infer")


async def test_T1_probes_have_no_trace(traced: Serve, collector: Collector) -> None:
    app = traced()
    for path in ("/health", "/metrics", "/info", "/v1/models", "/nowhere"):
        await app.http.get(path)
    await app.post("/tokenize", {"inputs": "a"})
    assert (await collector.trace()).paths() == {"POST /tokenize", "POST /tokenize/tokenize"}


async def test_T1_what_waits_is_sent_at_the_end(serve: Serve, collector: Collector) -> None:
    exporter = TraceExporter(collector.endpoint, "service", "1", linger_s=TIMEOUT_S)
    exporter.export(trace())
    assert collector.is_empty()
    await asyncio.to_thread(exporter.close, TIMEOUT_S)
    assert (await collector.trace()).paths() == {"POST /generate", "POST /generate/generate"}


async def test_T1_a_collector_that_is_down_hurts_nobody(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, prompt: list[TraceExporter]
) -> None:
    caplog.set_level(logging.DEBUG)
    exporter = Failing()
    monkeypatch.setattr(otlp, "OTLPSpanExporter", lambda *args, **options: exporter)
    app = serve(otlp_endpoint="http://127.0.0.1:1")
    for _ in range(3):
        assert (await app.post("/generate", {"inputs": "a"})).status_code == 200
    await exporter.until_asked(3)
    exporter.is_failing = False
    await app.post("/generate", {"inputs": "a"})
    await asyncio.to_thread(prompt.pop().close, TIMEOUT_S)
    said = [record.message for record in caplog.records if record.name == "segue.server.otlp"]
    assert said == [
        "Traces cannot be exported to http://127.0.0.1:1; serving goes on without them",
        "Traces are exported to http://127.0.0.1:1 again",
    ]


async def test_T1_a_real_collector_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    """The library's own complaints are not heard."""
    traces = TraceExporter("http://127.0.0.1:1", "service", "1", linger_s=0.0)
    for _ in range(3):
        traces.export(trace())
    await asyncio.to_thread(traces.close, 0.5)
    assert {record.name for record in caplog.records} <= {"segue.server.otlp"}


async def test_T1_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(otlp, "MAX_WAITING", 3)
    monkeypatch.setattr(otlp, "MAX_BATCH", 1)
    exporter = Failing()
    exporter.is_failing = False
    exporter.gate.clear()
    traces = TraceExporter("http://127.0.0.1:1", "service", "1", exporter=exporter)
    traces.export(trace())
    await exporter.until_asked(1)
    for _ in range(10):
        traces.export(trace())
    exporter.gate.set()
    await asyncio.to_thread(traces.close, TIMEOUT_S)
    assert exporter.num_asked == 4
    assert [record.message for record in caplog.records] == [
        "7 traces were dropped: more came than http://127.0.0.1:1 took"
    ]


def test_T1_without_an_endpoint_nothing_of_it_is_loaded() -> None:
    code = (
        "import segue.server.app, sys; print([name for name in sys.modules if name.startswith(('opentelem', 'grpc'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def trace() -> RequestTrace:
    return RequestTrace(method="POST", route="/generate", handler="generate", headers={}, start_time=0.0)


class Failing(SpanExporter):
    """A collector that is down, until ``is_failing`` is False; it answers while ``gate`` is open."""

    def __init__(self) -> None:
        self.is_failing = True
        self.gate = threading.Event()
        self.gate.set()
        self.num_asked = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.num_asked += 1
        assert self.gate.wait(TIMEOUT_S)
        return SpanExportResult.FAILURE if self.is_failing else SpanExportResult.SUCCESS

    async def until_asked(self, count: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self.num_asked < count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

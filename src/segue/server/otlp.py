"""Traces to an OTLP collector over gRPC: TGI's spans (spec 5.4), made and sent in a thread of its own.

    POST /generate                           server; child of the caller's `traceparent`
    └── generate                             TGI's name of the handler, with its times
        ├── async_stream                     from the first byte of a stream to its last
        ├── validate ── tokenize             once a sequence, as all that follow
        ├── queued
        ├── infer ── batch ── prefill, decode
        └── send_error                       what the caller was told

The engine's spans are made from times that its outputs carry. What Segue does not do has no span: sequences never wait
for the prefill of others (TGI's ``waiting``), and no batch is filtered or merged (``filter_batch``, ``concatenate``).

Standard variables of OpenTelemetry (``OTEL_EXPORTER_OTLP_HEADERS``, ``…_CERTIFICATE``, ``OTEL_RESOURCE_ATTRIBUTES``)
are heard by the library. Imports OpenTelemetry and gRPC, which take 0.2 s: import it only where traces are exported.
"""

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from segue.server.tracing import Failure, GenerationRecord, RequestTrace

__all__ = ["TraceExporter"]

MAX_WAITING = 2048
"""Traces that wait to be sent; more are dropped."""
MAX_BATCH = 32
"""Traces in one message. Encoding holds the interpreter's lock: about 0.4 ms a trace."""
LINGER_S = 1.0
"""For more traces to go with the first one."""
CLOSE_TIMEOUT_S = 3.0

logger = logging.getLogger(__name__)


class TraceExporter:
    """Sends the traces of requests. Nothing of it waits for the collector, nor fails with it."""

    def __init__(
        self,
        endpoint: str,
        service_name: str,
        version: str,
        *,
        exporter: SpanExporter | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        """``endpoint``: ``http://host:4317``, or with https. ``exporter``: in place of OTLP's over gRPC."""
        _silence("opentelemetry.exporter.otlp.proto.grpc.exporter")
        self._endpoint = endpoint
        self._exporter = exporter or OTLPSpanExporter(endpoint, insecure=not endpoint.startswith("https://"))
        self._spans = _SpanWriter(service_name, version)
        self._waiting: queue.Queue[RequestTrace | None] = queue.Queue(MAX_WAITING)
        self._linger_s = linger_s
        self._is_failing = False
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._run, name="trace export", daemon=True)
        self._thread.start()

    def export(self, trace: RequestTrace) -> None:
        """Send it some time; drop it when too many wait already. Called in the event loop's thread."""
        try:
            self._waiting.put_nowait(trace)
        except queue.Full:
            self._num_dropped += 1

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Send what waits, as far as ``timeout_s`` goes. Blocks."""
        deadline = time.monotonic() + timeout_s
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            logger.debug("The collector takes nothing, what waits for it is dropped")
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._exporter.shutdown()

    def _run(self) -> None:
        is_open = True
        while is_open:
            traces: list[RequestTrace] = []
            is_open = self._take(traces)
            if traces:
                self._send(traces)

    def _take(self, traces: list[RequestTrace]) -> bool:
        """Wait for a trace, then a little for more. False: there will be no more."""
        deadline = None
        while len(traces) < MAX_BATCH:
            try:
                trace = self._waiting.get(timeout=deadline and max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if trace is None:
                return False
            traces.append(trace)
            deadline = deadline or time.monotonic() + self._linger_s
        return True

    def _send(self, traces: list[RequestTrace]) -> None:
        spans: list[ReadableSpan] = []
        for trace in traces:
            spans += self._spans.write(trace)
            time.sleep(0)  # lets the event loop have the interpreter
        try:
            is_sent = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:
            logger.debug("The export of traces failed", exc_info=True)
            is_sent = False
        if not is_sent and not self._is_failing:
            logger.warning("Traces cannot be exported to %s; serving goes on without them", self._endpoint)
        elif is_sent and self._is_failing:
            logger.info("Traces are exported to %s again", self._endpoint)
        self._is_failing = not is_sent
        dropped, self._num_dropped = self._num_dropped, 0
        if dropped and is_sent:
            logger.warning("%d traces were dropped: more came than %s took", dropped, self._endpoint)


class _SpanWriter:
    """A request's spans, out of what was noted of it."""

    def __init__(self, service_name: str, version: str) -> None:
        resource = Resource.create({SERVICE_NAME: service_name, SERVICE_VERSION: version})
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._finished = _Finished()
        provider.add_span_processor(self._finished)
        self._tracer = provider.get_tracer("segue")
        self._propagator = TraceContextTextMapPropagator()
        self._epoch_ns = 0

    def write(self, trace: RequestTrace) -> list[ReadableSpan]:
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        # TGI does not read `tracestate`.
        context = self._propagator.extract({"traceparent": trace.headers.get("traceparent", "")}, Context())
        attributes: dict[str, AttributeValue] = {
            "http.request.method": trace.method,
            "http.route": trace.route,
            "url.scheme": "http",
            "network.protocol.version": "1.1",
        }
        if "user-agent" in trace.headers:
            attributes["user_agent.original"] = trace.headers["user-agent"]
        if trace.status is not None:
            attributes["http.response.status_code"] = trace.status
        span = self._start(f"{trace.method} {trace.route}", trace.start_time, context, attributes, SpanKind.SERVER)
        if trace.status is not None and trace.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        self._handler(span, trace)
        self._end(span, trace.end_time)
        return self._finished.take()

    def _handler(self, parent: Span, trace: RequestTrace) -> None:
        records = trace.records
        names = [each.name for each in records] + [each.name for each in trace.failures]
        name = names[0] if names else trace.handler
        span = self._start(name, trace.start_time, _inside(parent), _handler_fields(records))
        if trace.stream_time is not None:
            self._span("async_stream", span, trace.stream_time, trace.end_time)
        for record in records:
            self._generation(span, record, trace.end_time)
        for failure in trace.failures:
            if not records:
                self._span("validate", span, trace.start_time, failure.time)
            self._failure(span, failure)
        if not trace.is_complete and not trace.failures:
            span.set_status(Status(StatusCode.ERROR, "the client left"))
        self._end(span, trace.end_time)

    def _generation(self, parent: Span, record: GenerationRecord, request_end: float) -> None:
        validate = self._start("validate", record.received_time, _inside(parent))
        if record.tokenize_times is not None:
            self._span("tokenize", validate, *record.tokenize_times)
        self._end(validate, record.validated_time)
        end = request_end if record.end_time is None else record.end_time
        scheduled = end if record.scheduled_time is None else max(record.scheduled_time, record.validated_time)
        self._span("queued", parent, record.validated_time, scheduled)
        if record.scheduled_time is None:
            return
        infer = self._start("infer", scheduled, _inside(parent))
        batch = self._start("batch", scheduled, _inside(infer), {"batch_size": record.batch_size})
        first = end if record.first_token_time is None else record.first_token_time
        prompt = {"input_length": record.num_inputs, "cached_tokens": record.num_cached_tokens}
        self._span("prefill", batch, scheduled, first, prompt)
        if record.num_tokens > 1:
            self._span("decode", batch, first, end, {"generated_tokens": record.num_tokens})
        self._end(batch, end)
        self._end(infer, end)

    def _failure(self, parent: Span, failure: Failure) -> None:
        attributes = {"error": failure.text, "error_type": failure.error_type}
        span = self._start("send_error", failure.time, _inside(parent), attributes)
        for each in (span, parent):
            each.set_status(Status(StatusCode.ERROR, failure.text))
        self._end(span, failure.time)

    def _span(
        self, name: str, parent: Span, start: float, end: float, attributes: Mapping[str, AttributeValue] | None = None
    ) -> None:
        self._end(self._start(name, start, _inside(parent), attributes), end)

    def _start(
        self,
        name: str,
        start: float,
        context: Context,
        attributes: Mapping[str, AttributeValue] | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        return self._tracer.start_span(name, context, kind, attributes, start_time=self._wall_ns(start))

    def _end(self, span: Span, end: float) -> None:
        span.end(self._wall_ns(end))

    def _wall_ns(self, monotonic_s: float) -> int:
        return self._epoch_ns + int(monotonic_s * 1e9)


class _Finished(SpanProcessor):
    """Keeps what ended until it is taken."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans


def _handler_fields(records: Sequence[GenerationRecord]) -> dict[str, AttributeValue]:
    """TGI's, of the sequence that ended last, as the log has them."""
    if not records:
        return {}
    return dict(max(records, key=lambda each: each.end_time or 0.0).fields)


def _inside(span: Span) -> Context:
    return api.set_span_in_context(span, Context())


def _silence(name: str) -> None:
    """The library reports every failed attempt; one warning is enough. A level that was set stays."""
    library = logging.getLogger(name)
    if library.level == logging.NOTSET:
        library.setLevel(logging.CRITICAL + 1)

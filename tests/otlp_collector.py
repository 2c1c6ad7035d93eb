"""A real OTLP collector, in the test's process, and the traces that it received."""

import asyncio
import queue
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

TIMEOUT_S = 60.0


@dataclass
class Span:
    """One span as the collector got it."""

    proto: ProtoSpan
    service: str

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def attributes(self) -> dict[str, Any]:
        return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in self.proto.attributes}

    @property
    def is_error(self) -> bool:
        return self.proto.status.code == Status.STATUS_CODE_ERROR


class Collector(services.TraceServiceServicer):  # type: ignore[misc]
    """Keeps the spans of each trace, which come in one message."""

    def __init__(self) -> None:
        self._traces: queue.Queue[list[Span]] = queue.Queue()
        self.server = grpc.server(futures.ThreadPoolExecutor(1))
        services.add_TraceServiceServicer_to_server(self, self.server)
        self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request: Any, context: Any) -> Any:
        traces: dict[bytes, list[Span]] = {}
        for resource in request.resource_spans:
            (service,) = (
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            )
            for scope in resource.scope_spans:
                for span in scope.spans:
                    traces.setdefault(span.trace_id, []).append(Span(span, service))
        for spans in traces.values():
            self._traces.put(spans)
        return messages.ExportTraceServiceResponse()

    async def trace(self) -> "Tree":
        return Tree(await asyncio.to_thread(self._traces.get, timeout=TIMEOUT_S))

    def is_empty(self) -> bool:
        return self._traces.empty()


class Tree:
    """The spans of one trace."""

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans
        self._by_id = {each.proto.span_id: each for each in spans}

    def parent(self, span: Span) -> Span | None:
        return self._by_id.get(span.proto.parent_span_id)

    def paths(self) -> set[str]:
        """Of each span its name and those above it."""
        return {self._path(span) for span in self.spans}

    def _path(self, span: Span) -> str:
        parent = self.parent(span)
        return span.name if parent is None else f"{self._path(parent)}/{span.name}"

    def all(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        (span,) = self.all(name)
        return span

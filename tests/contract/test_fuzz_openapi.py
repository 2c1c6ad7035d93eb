"""Every route, by whatever our own OpenAPI document allows and whatever it does not, over real connections.

The document must be true (statuses, media types, schemas of answers and of each event), no answer may be a 5xx, none
may hang, and what was held must be free in the end.
"""

from collections.abc import Iterator

import pytest
import schemathesis
from contract.live import TIMEOUT_S, LiveServer, fake_server
from hypothesis import HealthCheck, settings
from pydantic import TypeAdapter
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from segue.server.app import OPERATIONS
from segue.server.openapi import event_type, openapi_document

pytestmark = pytest.mark.slow

DOCUMENT = schemathesis.openapi.from_dict(openapi_document(OPERATIONS, "1"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    negative_data_rejection,
    unsupported_method,
    allow_header_conformance,
]
EVENTS = {(each.method, each.path): TypeAdapter(event_type(each)) for each in OPERATIONS if each.event is not None}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with fake_server(tmp_path_factory.mktemp("tokenizer"), has_grammars=True) as running:
        yield running


@DOCUMENT.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_any_request_is_answered_as_the_document_says(case: schemathesis.Case, server: LiveServer) -> None:
    reply = case.call(base_url=server.url, timeout=TIMEOUT_S)
    if reply.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        # As TGI's, our document describes the data of an event; the library takes it for the event's fields.
        case.validate_response(reply, checks=CHECKS)
        events = reply.text.split("\n\n")
        assert events.pop() == ""
        for event in events:
            data = event.rpartition("data: ")[2]
            assert data == "[DONE]" or EVENTS[case.method, case.path].validate_json(data)
    else:
        case.validate_response(reply, checks=[*CHECKS, response_schema_conformance])


async def test_nothing_is_held_in_the_end(server: LiveServer) -> None:
    """Runs after the others of this file, on the same server."""
    await server.until_idle()
    assert server.metric("segue_kv_blocks_used") == 0
    assert server.metric("tgi_queue_size") == 0
    assert server.metric("tgi_batch_current_size") == 0
    bodies = {"inputs": "still here", "parameters": {"best_of": 2, "do_sample": True}}
    async with server.client() as client:
        assert (await client.post("/generate", json=bodies)).json() == {"generated_text": "still here"}

import dataclasses
from collections.abc import Callable

import pytest
from packaging.version import Version
from serving import INFO, Serving

from segue.protocol.openai import ModelsInfo
from segue.protocol.tgi import Info

Serve = Callable[..., Serving]


@pytest.mark.parametrize("path", ["/health", "/ping", "/"])
async def test_R7_health(serve: Serve, path: str) -> None:
    app = serve()
    reply = await app.http.get(path)
    assert (reply.status_code, reply.content) == (200, b"")
    app.engine.is_healthy = False
    reply = await app.http.get(path)
    assert (reply.status_code, reply.json()) == (503, {"error": "unhealthy", "error_type": "healthcheck"})


async def test_R8_info_has_exactly_tgis_keys(serve: Serve) -> None:
    app = serve(sha="abc", pipeline_tag="text-generation", max_best_of=3)
    reply = await app.http.get("/info")
    body = reply.json()
    assert Version(body.pop("version")) >= Version("2.0.1")
    assert body == {
        "model_id": "test/model",
        "model_sha": "abc",
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": 128,
        "max_best_of": 3,
        "max_stop_sequences": 4,
        "max_input_tokens": 200,
        "max_total_tokens": 2000,
        "validation_workers": 2,
        "max_client_batch_size": 4,
        "router": "text-generation-router",
        "sha": None,
        "docker_label": None,
    }
    assert set(reply.json()) == set(Info.model_fields) - {"quantize"}


async def test_info_of_a_quantized_model(serve: Serve) -> None:
    app = serve()
    app.engine.info = dataclasses.replace(INFO, quantize="int8")
    reply = await app.http.get("/info")
    assert reply.json()["quantize"] == "int8"
    assert set(reply.json()) == set(Info.model_fields)


async def test_R9_models(serve: Serve) -> None:
    app = serve()
    reply = await app.http.get("/v1/models")
    entry = {"id": "test/model", "object": "model", "created": 0, "owned_by": "test/model"}
    assert reply.json() == {"object": "list", "data": [entry]}
    ModelsInfo.model_validate_json(reply.content)
    assert (await app.http.get("/v1/models/test/model")).json() == entry
    missing = await app.http.get("/v1/models/other")
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "The model `other` does not exist")


async def test_R10_metrics_are_prometheus_text(serve: Serve) -> None:
    reply = await serve().http.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")

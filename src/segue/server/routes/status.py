"""What is served and how it is doing: ``/info``, ``/v1/models``, ``/health``, ``/metrics``."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from segue.core.errors import RequestError, UnhealthyError
from segue.server.replies import empty_reply, json_reply
from segue.server.state import Server

__all__ = ["health", "info", "metrics", "model", "models"]


class UnknownModelError(RequestError):
    """A model that is not served here."""

    status = 404
    error_type = "model_not_found"


async def health(server: Server, request: Request) -> ASGIApp:
    """200 and nothing else, or 503."""
    if not server.engine.is_healthy:
        raise UnhealthyError
    return empty_reply(200)


async def info(server: Server, request: Request) -> ASGIApp:
    """The model and the limits; exactly TGI's keys, and ``quantize`` where the weights are quantized."""
    config, engine, served = server.config, server.engine.info, server.model
    quantize = {} if engine.quantize is None else {"quantize": engine.quantize}
    return json_reply(
        {
            "model_id": served.model_id,
            "model_sha": served.sha,
            "model_pipeline_tag": served.pipeline_tag,
            "max_concurrent_requests": config.max_concurrent_requests,
            "max_best_of": config.max_best_of,
            "max_stop_sequences": config.max_stop_sequences,
            "max_input_tokens": engine.max_input_tokens,
            "max_total_tokens": engine.max_total_tokens,
            "validation_workers": config.validation_workers,
            "max_client_batch_size": config.max_client_batch_size,
            "router": "text-generation-router",
            "version": server.version,
            "sha": None,
            "docker_label": None,
            **quantize,
        }
    )


async def models(server: Server, request: Request) -> ASGIApp:
    """The served model, as a list."""
    return json_reply({"object": "list", "data": [_model(server)]})


async def model(server: Server, request: Request) -> ASGIApp:
    """The served model. Raises UnknownModelError for any other."""
    model_id = request.path_params["model_id"]
    if model_id != server.model.model_id:
        raise UnknownModelError(f"The model `{model_id}` does not exist")
    return json_reply(_model(server))


async def metrics(server: Server, request: Request) -> ASGIApp:
    """All metrics for Prometheus."""
    others = [] if server.siblings is None else await server.siblings.states()
    return Response(server.metrics.text(others), media_type="text/plain; version=0.0.4")


def _model(server: Server) -> dict[str, Any]:
    model_id = server.model.model_id
    return {"id": model_id, "object": "model", "created": 0, "owned_by": model_id}

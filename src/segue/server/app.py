"""The HTTP application: every route and every middleware, in one place."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from itertools import groupby

from msgspec.json import encode
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segue.core.config import ServeConfig
from segue.engine.handle import EngineHandle
from segue.protocol import anthropic, openai, tgi
from segue.protocol.failures import AnthropicErrorResponse, ErrorMessage, OpenAIErrorResponse, TypedEvent
from segue.protocol.platforms import (
    InferenceRequest,
    InferenceResponse,
    LiveResponse,
    MetadataServerResponse,
    ModelMetadataResponse,
    SagemakerRequest,
    SagemakerResponse,
    SagemakerStreamResponse,
    VertexRequest,
    VertexResponse,
)
from segue.protocol.responses import Response as ResponsesReply
from segue.protocol.responses import ResponsesRequest
from segue.server.openapi import openapi_document
from segue.server.operations import Endpoint, Operation
from segue.server.replies import empty_reply
from segue.server.routes import (
    chat,
    completions,
    generate,
    messages,
    pages,
    platforms,
    recommend,
    responses,
    status,
    tokenize,
)
from segue.server.siblings import Siblings
from segue.server.state import ServedModel, Server

__all__ = ["OPERATIONS", "PAGES", "build_app"]

_GENERATION_ERRORS = (422, 424, 429, 500)

_KSERVE_MODEL = "/v2/models/{model_name}/versions/{model_version}"

OPERATIONS = (
    Operation(
        "POST",
        "/",
        generate.compat_generate,
        "Generate text, at once or as a stream where `stream` is true",
        request=tgi.CompatGenerateRequest,
        reply=list[tgi.GenerateResponse],
        event=tgi.StreamResponse,
        errors=_GENERATION_ERRORS,
        needs_key=True,
    ),
    Operation(
        "POST",
        "/generate",
        generate.generate,
        "Generate text",
        request=tgi.GenerateRequest,
        reply=tgi.GenerateResponse,
        errors=_GENERATION_ERRORS,
        needs_key=True,
    ),
    Operation(
        "POST",
        "/generate_stream",
        generate.generate_stream,
        "Generate text as a stream of server-sent events, one a token",
        request=tgi.GenerateRequest,
        event=tgi.StreamResponse,
        errors=_GENERATION_ERRORS,
        needs_key=True,
    ),
    Operation(
        "POST",
        "/v1/chat/completions",
        chat.chat_completions,
        "Continue a conversation",
        request=openai.ChatRequest,
        reply=openai.ChatCompletion,
        event=openai.ChatCompletionChunk,
        errors=_GENERATION_ERRORS,
        is_openai=True,
        needs_key=True,
    ),
    Operation(
        "POST",
        "/v1/completions",
        completions.completions,
        "Continue one or more prompts",
        request=openai.CompletionRequest,
        reply=openai.CompletionFinal,
        event=openai.Chunk,
        errors=_GENERATION_ERRORS,
        is_openai=True,
        needs_key=True,
    ),
    Operation(
        "POST",
        "/v1/responses",
        responses.responses,
        "OpenAI's Responses API, for text and calls of functions",
        request=ResponsesRequest,
        reply=ResponsesReply,
        event=TypedEvent,
        errors=_GENERATION_ERRORS,
        is_openai=True,
        needs_key=True,
    ),
    Operation(
        "POST",
        "/v1/messages",
        messages.messages,
        "Anthropic's Messages API, for text and calls of functions",
        request=anthropic.MessagesRequest,
        reply=anthropic.MessagesResponse,
        event=TypedEvent,
        errors=_GENERATION_ERRORS,
        error=AnthropicErrorResponse,
        needs_key=True,
    ),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        messages.count_tokens,
        "Count the tokens of a conversation",
        request=anthropic.CountTokensRequest,
        reply=anthropic.TokenCount,
        errors=(422,),
        error=AnthropicErrorResponse,
        needs_key=True,
    ),
    Operation(
        "POST",
        "/tokenize",
        tokenize.tokenize,
        "Tokenize a text",
        request=tgi.GenerateRequest,
        reply=tgi.TokenizeResponse,
        errors=(422,),
        needs_key=True,
    ),
    Operation(
        "POST",
        "/chat_tokenize",
        chat.chat_tokenize,
        "Make a conversation into a prompt and tokenize it",
        request=openai.ChatRequest,
        reply=openai.ChatTokenizeResponse,
        errors=(422,),
        needs_key=True,
        operation_id="get_chat_tokenize",
    ),
    Operation(
        "POST",
        "/invocations",
        platforms.invocations,
        "SageMaker: as /, /v1/chat/completions or /v1/completions, by the body",
        request=SagemakerRequest,
        reply=SagemakerResponse,
        event=SagemakerStreamResponse,
        errors=_GENERATION_ERRORS,
        error=tgi.ErrorResponse | OpenAIErrorResponse,
        needs_key=True,
        operation_id="sagemaker_compatibility",
    ),
    Operation(
        "POST",
        "/vertex",
        platforms.vertex,
        "Vertex AI: generate one text an instance",
        request=VertexRequest,
        reply=VertexResponse,
        errors=_GENERATION_ERRORS,
        needs_key=True,
        operation_id="vertex_compatibility",
    ),
    Operation("GET", "/v2", platforms.server_metadata, "KServe: the server", reply=MetadataServerResponse),
    Operation("GET", "/v2/health/live", platforms.live, "KServe: it lives", reply=LiveResponse),
    Operation("GET", "/v2/health/ready", platforms.ready, "KServe: it lives", reply=LiveResponse),
    Operation("GET", _KSERVE_MODEL, platforms.model_metadata, "KServe: the model", reply=ModelMetadataResponse),
    Operation("GET", _KSERVE_MODEL + "/ready", platforms.model_ready, "KServe: it lives", reply=LiveResponse),
    Operation(
        "POST",
        _KSERVE_MODEL + "/infer",
        platforms.infer,
        "KServe: generate one text an input",
        request=InferenceRequest,
        reply=InferenceResponse,
        errors=_GENERATION_ERRORS,
        needs_key=True,
    ),
    Operation(
        "GET",
        "/v1/models",
        status.models,
        "The served models",
        reply=openai.ModelsInfo,
        operation_id="openai_get_model_info",
    ),
    Operation(
        "GET",
        "/v1/models/{model_id:path}",
        status.model,
        "A served model",
        reply=openai.ModelInfo,
        errors=(404,),
        is_openai=True,
    ),
    Operation("GET", "/info", status.info, "The model and the limits", reply=tgi.Info, operation_id="get_model_info"),
    Operation("GET", "/health", status.health, "200 when requests can be answered", errors=(503,)),
    Operation("GET", "/ping", status.health, "As /health", errors=(503,), operation_id="ping"),
    Operation("GET", "/", pages.root, "As /health; in a browser, a page to talk with the model", errors=(503,)),
    Operation(
        "GET",
        "/api/integrations/tgi/v1/provider/{provider}/recommend",
        recommend.recommend,
        "Limits and a machine for a model",
        errors=(400, 422),
        error=ErrorMessage,
        query=("model_id", "gpu_memory", "num_gpus", "mode"),
        needs_key=True,
        operation_id="recommend",
    ),
    Operation("GET", "/metrics", status.metrics, "Metrics for Prometheus", text=True),
)


@cache
def _api_document(version: str) -> bytes:
    return encode(openapi_document(OPERATIONS, version))


async def api_document(server: Server, request: Request) -> ASGIApp:
    """What this API is, for programs."""
    return Response(_api_document(server.version), media_type="application/json")


PAGES = (
    Operation("GET", "/api-doc/openapi.json", api_document, "The OpenAPI document"),
    Operation("GET", "/docs", pages.docs, "A page to read and try the API"),
    Operation("GET", "/docs/", pages.docs, "A page to read and try the API"),
)
"""Not part of the OpenAPI document."""


def _vertex_operations(config: ServeConfig) -> list[Operation]:
    """Where Vertex AI says that it will call; there they go before what is on the path anyway."""
    operations = []
    if config.aip_predict_route is not None:
        predict = Operation("POST", config.aip_predict_route, platforms.vertex, "As /vertex", needs_key=True)
        operations.append(predict)
    if config.aip_health_route is not None:
        operations.append(Operation("GET", config.aip_health_route, status.health, "As /health"))
    return operations


def build_app(
    config: ServeConfig, engine: EngineHandle, model: ServedModel, siblings: Siblings | None = None
) -> ASGIApp:
    """The application of one server. ``engine`` must be ready: its ``info`` is read here. It stays the caller's."""
    server = Server(config, engine, model, siblings)
    server.start()

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        if siblings is not None:
            await siblings.open(server.metrics.state)
        yield
        if siblings is not None:
            await siblings.close()
        await server.close()

    operations = (*OPERATIONS, *PAGES, *_vertex_operations(config))
    by_path = groupby(sorted(operations, key=lambda each: each.path), key=lambda each: each.path)
    endpoints = {path: Endpoint(server, list(same_path)) for path, same_path in by_path}
    return Router(
        routes=[Route(path, endpoint) for path, endpoint in endpoints.items()],
        redirect_slashes=False,
        default=_not_found,
        lifespan=lifespan,
        middleware=[
            Middleware(
                _CORS,
                allow_origins=config.cors_allow_origin or ("*",),
                allow_methods=("GET", "POST"),
                # TGI allows content-type alone, with which no browser can send an API key or use OpenAI's library.
                allow_headers=("*",),
            ),
            Middleware(_KnownPaths, endpoints=endpoints),
        ],
    )


class _CORS(CORSMiddleware):
    """With little to do where no browser asks."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or any(name == b"origin" for name, _ in scope["headers"]):
            await super().__call__(scope, receive, send)
            return

        async def send_varied(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"vary", b"Origin")]
            await send(message)

        await self.app(scope, receive, send_varied)


class _KnownPaths:
    """Goes straight to an endpoint whose path is the request's, where the router would try one route after another."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._endpoints = {path: endpoint for path, endpoint in endpoints.items() if "{" not in path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" and not scope["root_path"] else None
        await (endpoint or self._app)(scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
    else:
        await empty_reply(404)(scope, receive, send)

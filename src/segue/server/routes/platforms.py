"""Routes that hosting platforms call: SageMaker, Vertex AI, KServe V2."""

import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import OverloadedError, RequestError
from segue.protocol.openai import ChatRequest, CompletionRequest
from segue.protocol.platforms import (
    GenerateVertexInstance,
    InferenceInput,
    InferenceRequest,
    SagemakerRequest,
    VertexRequest,
)
from segue.protocol.tgi import GenerateParameters
from segue.server.admission import Ask
from segue.server.bodies import read_json
from segue.server.concurrency import all_or_none
from segue.server.generation import generate
from segue.server.replies import error_reply, json_reply
from segue.server.routes.chat import chat_ask, run_chat
from segue.server.routes.completions import run_completions
from segue.server.routes.generate import run_compat_generate
from segue.server.state import Server
from segue.server.stream import unless_client_leaves

__all__ = ["infer", "invocations", "live", "model_metadata", "model_ready", "ready", "server_metadata", "vertex"]


class NoInstancesError(RequestError):
    """A request of Vertex AI without instances."""

    status = 422
    error_type = "Input validation error"


class Utf8Error(RequestError):
    """Bytes that are no text."""

    status = 422
    error_type = "utf8"


class LengthMismatchError(RequestError):
    """Not as many outputs as inputs."""

    status = 422
    error_type = "length mismatch"


async def invocations(server: Server, request: Request) -> ASGIApp:
    """What ``/``, ``/v1/chat/completions`` or ``/v1/completions`` would answer, with its errors."""
    body = (await read_json(request, SagemakerRequest, server.config.payload_limit)).root
    if not isinstance(body, ChatRequest | CompletionRequest):
        return await run_compat_generate(server, request, body)
    try:
        if isinstance(body, ChatRequest):
            return await run_chat(server, request, body)
        return await run_completions(server, request, body)
    except RequestError as error:
        return error_reply(error, server.words.error(error))


async def vertex(server: Server, request: Request) -> ASGIApp:
    """One text an instance, in order. Errors have their own status, where TGI says 500 whatever they are."""
    body = await read_json(request, VertexRequest, server.config.payload_limit)
    if not body.instances:
        raise NoInstancesError("Input validation error")
    _check_permits(server, "vertex_compatibility", len(body.instances))
    asks = [await _vertex_ask(server, instance) for instance in body.instances]
    work = all_or_none([generate(server, ask) for ask in asks])
    answers = await unless_client_leaves(request.receive, work, server.metrics.dropped)
    return json_reply({"predictions": [answer.best.text() for answer in answers]})


async def infer(server: Server, request: Request) -> ASGIApp:
    """KServe's inference: one output an input, in order."""
    body = await read_json(request, InferenceRequest, server.config.payload_limit)
    if len(body.inputs) != len(body.outputs):
        raise LengthMismatchError("Inputs and outputs length mismatch")
    _check_permits(server, "kserve_model_infer", len(body.inputs))
    received_time = time.monotonic()
    asks = [
        Ask(name="kserve_model_infer", inputs=_text_of(each), parameters=body.parameters, received_time=received_time)
        for each in body.inputs
    ]
    work = all_or_none([generate(server, ask) for ask in asks])
    answers = await unless_client_leaves(request.receive, work, server.metrics.dropped)
    outputs = [
        _output(wanted.name, answer.best.text(), as_string=bool(given.data) and isinstance(given.data[0], str))
        for given, wanted, answer in zip(body.inputs, body.outputs, answers, strict=True)
    ]
    return json_reply({"id": body.id, "outputs": outputs})


async def live(server: Server, request: Request) -> ASGIApp:
    """It answers, so it lives."""
    return json_reply({"live": True})


async def ready(server: Server, request: Request) -> ASGIApp:
    """TGI's key is ``live`` here too."""
    return json_reply({"live": True})


async def model_ready(server: Server, request: Request) -> ASGIApp:
    """There is one model, whatever its name."""
    return json_reply({"live": True})


async def server_metadata(server: Server, request: Request) -> ASGIApp:
    """What serves."""
    extensions = ["health", "models", "metrics"]
    return json_reply({"name": "text-generation-inference", "version": server.version, "extensions": extensions})


async def model_metadata(server: Server, request: Request) -> ASGIApp:
    """The names of the path again."""
    path = request.path_params
    names = {"name": path["model_name"], "version": path["model_version"]}
    return json_reply({**names, "extensions": ["infer", "ready"]})


def _check_permits(server: Server, name: str, num_sequences: int) -> None:
    """Raises OverloadedError where there are not so many permits at all.

    Each sequence would find that out for itself: with 100 000 of them nobody else was answered for seconds.
    """
    if num_sequences > server.config.max_concurrent_requests:
        error = OverloadedError()
        server.record_failure(name, error)
        raise error


async def _vertex_ask(server: Server, instance: GenerateVertexInstance | ChatRequest) -> Ask:
    if isinstance(instance, ChatRequest):
        return await chat_ask(server, instance)
    parameters = instance.parameters or GenerateParameters()
    # TGI always samples here; it also drops every parameter but the length and the seed, which this does not.
    if "do_sample" not in parameters.model_fields_set:
        parameters = parameters.model_copy(update={"do_sample": True})
    return Ask(
        name="vertex_compatibility", inputs=instance.inputs, parameters=parameters, received_time=time.monotonic()
    )


def _text_of(given: InferenceInput) -> str:
    data: list[Any] = given.data
    if data and isinstance(data[0], str):
        return "".join(data)
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise Utf8Error(str(error)) from None


def _output(name: str, text: str, *, as_string: bool) -> dict[str, Any]:
    if as_string:
        return {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}
    data = list(text.encode())
    return {"name": name, "shape": [1, len(data)], "datatype": "BYTES", "data": data}

"""``/tokenize``."""

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.protocol.tgi import GenerateRequest
from segue.server.bodies import read_json
from segue.server.replies import json_reply
from segue.server.state import Server

__all__ = ["tokenize"]


async def tokenize(server: Server, request: Request) -> ASGIApp:
    """The tokens of ``inputs``, with their places in it."""
    body = await read_json(request, GenerateRequest, server.config.payload_limit)
    return json_reply(await server.encode_with_offsets(body.inputs, add_special_tokens=True))

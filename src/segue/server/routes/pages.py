"""Pages for people: ``/docs``, and ``/`` in a browser. They load nothing from anywhere else."""

from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp

from segue.server.routes.status import health
from segue.server.state import Server

__all__ = ["docs", "root"]


async def docs(server: Server, request: Request) -> ASGIApp:
    """To read and try the API; reads ``/api-doc/openapi.json`` in the browser."""
    return HTMLResponse(_html("docs.html"))


async def root(server: Server, request: Request) -> ASGIApp:
    """To talk with the model, for who asks for HTML; for all others the health, as in TGI."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_html("playground.html"), headers={"vary": "accept"})
    return await health(server, request)


@cache
def _html(name: str) -> str:
    return files("segue.server").joinpath(name).read_text("utf-8")

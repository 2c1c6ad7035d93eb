"""``/docs``: the API page, which loads nothing from anywhere else."""

from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp

from segue.server.state import Server

__all__ = ["page"]


async def page(server: Server, request: Request) -> ASGIApp:
    """One HTML file; it reads ``/api-doc/openapi.json`` in the browser."""
    return HTMLResponse(_html())


@cache
def _html() -> str:
    return files("segue.server").joinpath("docs.html").read_text("utf-8")

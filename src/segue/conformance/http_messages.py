"""As much of HTTP/1.1 as the fault proxy speaks with its clients (RFC 9112): one exchange a connection."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

__all__ = ["HOP_BY_HOP", "LAST_CHUNK", "BadRequest", "RequestMessage", "chunk", "read_request", "response_head"]

# RFC 9110 section 7.6.1, and what belongs to one connection's framing.
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection", "content-length"}
)
LAST_CHUNK = b"0\r\n\r\n"


class BadRequest(Exception):
    """What came is no request that this can read."""


@dataclass(frozen=True, slots=True)
class RequestMessage:
    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    content: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        """None where the content is not JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


async def read_request(reader: asyncio.StreamReader) -> RequestMessage | None:
    """None when the client closes instead. Raises BadRequest."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise BadRequest("the head is too long") from None
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[1].startswith("/"):
        raise BadRequest(f"no request line: {first[:100]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers:
        raise BadRequest("the body must come with its Content-Length")
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise BadRequest(f"Content-Length is {length!r}")
    try:
        content = await reader.readexactly(int(length))
    except asyncio.IncompleteReadError:
        return None
    return RequestMessage(parts[0], parts[1], headers, content)


def response_head(status: int, headers: Iterable[tuple[str, str]], length: int | None) -> bytes:
    """``length`` None: the body comes in chunks."""
    framing = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
    lines = [f"{name}: {value}" for name, value in (*headers, framing, ("connection", "close"))]
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return "\r\n".join([f"HTTP/1.1 {status} {phrase}", *lines, "", ""]).encode("latin-1")


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)
